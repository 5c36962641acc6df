"""The README's tutorial works as it stands: its fenced commands, verbatim, against homes on one machine.

A fence says whose terminal it is: ```console machine=NAME [background] [stdin=invite]. Lines that begin with "$ " are
run by bash, in an empty directory of that machine's own. SIGNALING is the address that the tutorial has the reader set;
the link that `discod invite` printed is what a joiner pastes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from discod.demo.place import temporary_root

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```console machine=(?P<machine>\w+)(?P<flags>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
PEERS = ("a", "b", "c")
STEP_SECONDS = 120


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


class Machines:
    """Homes, terminals and what runs in the background of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signaling = f"127.0.0.1:{free_port()}"
        self.invite = ""
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
            ["bash", "-c", command],
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
            if command.startswith("discod invite"):
                self.invite = next(line for line in shown.splitlines() if line.startswith("discod"))

    def leave_running(self, machine: str, command: str) -> None:
        self.background.append(
            subprocess.Popen(
                ["bash", "-c", command],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self.terminal(machine),  # type: ignore[call-overload]  # cwd and env
            )
        )
        wait_for(self.signaling)

    def end(self) -> None:
        """End what was left running; a machine that is off already does not mind."""
        for machine in PEERS:
            subprocess.run(
                ["bash", "-c", "discod down"],
                check=False,
                capture_output=True,
                timeout=STEP_SECONDS,
                **self.terminal(machine),  # type: ignore[call-overload]  # cwd and env
            )
        for process in self.background:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str) -> None:
    """Until something listens there."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)  # nothing tells when another process listens
    raise AssertionError(f"nothing listens on {address}")


@pytest.fixture
def machines() -> Iterator[Machines]:
    with temporary_root() as root:
        found = Machines(root)
        try:
            yield found
        finally:
            found.end()


def test_fences_are_read() -> None:
    text = "```console machine=b stdin=invite\n$ discod join\nshown\n$ ls\n```\n```console\n$ no\n```\n"
    assert steps(text) == [Step("b", frozenset({"stdin=invite"}), ("discod join", "ls"))]


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the tutorial's commands are run by bash")
def test_three_machines_by_hand(machines: Machines) -> None:
    tutorial = steps((REPOSITORY / "README.md").read_text("utf-8"))
    assert {step.machine for step in tutorial} >= set(PEERS)
    for step in tutorial:
        machines.perform(step)
    shown = [json.loads(machines.type(machine, "discod model list --json")) for machine in PEERS]
    hashes = {answer["data"][0]["hash"] for answer in shown}
    assert len(hashes) == 1
