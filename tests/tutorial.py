"""The tutorial of the README as a program: its fenced commands, verbatim, each on the machine that its fence names.

A fence says whose terminal it is: ```console machine=NAME [background] [stdin=invite]. Lines that begin with "$ " are
run by bash, in an empty directory of that machine's own. SIGNALING is the address that the tutorial has the reader set;
the link that `discod invite` printed is what a joiner pastes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.faults.crew import Where, here

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```console machine=(?P<machine>\w+)(?P<flags>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
PEERS = ("a", "b", "c")
STEP_SECONDS = 120
START_SECONDS = 30


class Step(NamedTuple):
    """One fence: whose terminal, what is special about it, what is typed."""

    machine: str
    flags: frozenset[str]
    commands: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """The fences of a document that name a machine."""
    return [
        Step(
            fence["machine"],
            frozenset(fence["flags"].split()),
            tuple(line[2:] for line in fence["body"].splitlines() if line.startswith("$ ")),
        )
        for fence in FENCE.finditer(text)
    ]


def tutorial() -> list[Step]:
    """Those of the README."""
    found = steps((REPOSITORY / "README.md").read_text("utf-8"))
    assert {step.machine for step in found} >= set(PEERS)
    return found


class Machines:
    """Homes, terminals and what runs in the background of them."""

    def __init__(self, root: Path, signaling: str, where: Where = here) -> None:
        self.root, self.signaling, self.where = root, signaling, where
        self.invite = ""
        self.shown: dict[tuple[str, str], str] = {}  # (machine, command) -> what it printed
        self.background: list[subprocess.Popen[bytes]] = []

    def terminal(self, machine: str) -> dict[str, object]:
        place = self.root / machine
        (place / "work").mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        extra = {"DISCOD_HOME": str(place / "home"), "SIGNALING": self.signaling, "PATH": path}
        return {"cwd": place / "work", "env": {**os.environ, **extra}}

    def type(self, machine: str, command: str, stdin: str = "") -> str:
        """Run one command; what it printed."""
        done = subprocess.run(
            [*self.where(machine), "bash", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
            **self.terminal(machine),  # type: ignore[call-overload]  # cwd and env
        )
        assert done.returncode == 0, f"{machine}$ {command}\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    def perform(self, step: Step) -> None:
        for command in step.commands:
            if "background" in step.flags:
                self.leave_running(step.machine, command)
                continue
            shown = self.type(step.machine, command, self.invite if "stdin=invite" in step.flags else "")
            self.shown[step.machine, command] = shown
            if command.startswith("discod invite"):
                self.invite = next(line for line in shown.splitlines() if line.startswith("discod"))

    def leave_running(self, machine: str, command: str) -> None:
        self.background.append(
            subprocess.Popen(
                [*self.where(machine), "bash", "-c", command],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self.terminal(machine),  # type: ignore[call-overload]  # cwd and env
            )
        )
        self.wait_for(machine)

    def wait_for(self, machine: str) -> None:
        """Until something listens at SIGNALING, which is on this machine."""
        host, _, port = self.signaling.rpartition(":")
        knock = [*self.where(machine), "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"]
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(knock, check=False, stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < deadline, f"nothing listens on {self.signaling}"
            time.sleep(0.05)  # nothing tells when another process listens

    def end(self) -> None:
        """End what was left running; a machine that is off already does not mind."""
        for machine in PEERS:
            subprocess.run(
                [*self.where(machine), "bash", "-c", "discod down"],
                check=False,
                capture_output=True,
                timeout=STEP_SECONDS,
                **self.terminal(machine),  # type: ignore[call-overload]  # cwd and env
            )
        for process in self.background:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
