#!/usr/bin/env python3
"""The launcher: makes .venv once, then becomes the program that was asked for.

Only the standard library and pip are needed: neither a compiler nor root nor ensurepip. The file must stay readable by
Python 3.8, so that an old interpreter can look for a newer one instead of showing a syntax error.

.venv/discod-stamp holds the digest of what the installation rests on (pyproject, constraints, Python version, place
of the checkout). It says "installing" while pip works: an installation that failed or was interrupted is never taken
for a good one and is made anew. All talk goes to stderr; stdout belongs to the program.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path
from typing import IO, List, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "discod-stamp"
LOG = VENV / "discod-install.log"
LOCK = ROOT / ".venv.lock"
CONSTRAINTS = ROOT / "constraints.txt"
BENCHMARKS = ROOT / "benchmarks"

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
OLDEST_PIP = (22, 3)  # the first that can install into another interpreter (--python)
INSTALLING = "installing"
DOWNLOAD_MB = 160  # measured on Linux x86_64 with the pinned closure
DISK_MB = 700
TEST_PROCESSES = 4  # at most; the default tier is sized for 2

USAGE = """usage: python3 run.py COMMAND [ARGS]

  demo ARGS        a signaling node and three peers learn together on this machine, live
  discod ARGS      the discod command
  test ARGS        the tests (pytest); --all adds the fault and lab tiers
  bench NAME ARGS  one script of benchmarks/
  check            ruff and mypy --strict

The first call installs everything into .venv (about {} MB to download, {} MB of disk)."""

CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "--strict"])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stop(text: str, code: int = 1) -> NoReturn:
    say(text)
    sys.exit(code)


# The interpreter


def newer_python() -> Optional[str]:
    """Path of a Python in PATH that is new enough and really starts (a pyenv shim may not)."""
    for minor in range(NEWEST_PYTHON[1], OLDEST_PYTHON[1] - 1, -1):
        path = shutil.which("python3.{}".format(minor))
        if path and subprocess.call([path, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return path
    return None


def need_python(version: Tuple[int, int]) -> None:
    """Returns if `version` is new enough, else goes on in a newer interpreter, else says what to do."""
    if version >= OLDEST_PYTHON:
        return
    path = newer_python()
    if path:
        os.execv(path, [path, str(ROOT / "run.py"), *sys.argv[1:]])
    stop(
        "discod needs Python {}.{} or newer; this is {}.{}, and PATH holds no python3.{} to python3.{}.\n"
        "try: install a newer Python (Debian 12 and Ubuntu 24.04 have one: apt install python3), then run this again "
        "with it: python3.12 run.py ...".format(*OLDEST_PYTHON, *version, OLDEST_PYTHON[1], NEWEST_PYTHON[1])
    )


def leave_own_venv() -> None:
    """Goes on in the interpreter that .venv was made from: nobody can renew the environment they stand in."""
    if Path(sys.prefix).resolve() == VENV:
        base = str(getattr(sys, "_base_executable", sys.executable))
        os.execv(base, [base, str(ROOT / "run.py"), *sys.argv[1:]])


# The installation


def wanted_stamp() -> str:
    digest = hashlib.sha256()
    for part in ((ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes(), python_name(), os.fsencode(ROOT)):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def python_name() -> bytes:
    return "{}.{}".format(*sys.version_info[:2]).encode()


def stamp() -> str:
    return STAMP.read_text() if STAMP.exists() else ""


def is_current() -> bool:
    return PYTHON.exists() and stamp() == wanted_stamp()


def reusable() -> bool:
    """Whether pip may install over what is there: a whole environment of this Python version."""
    settings_file = VENV / "pyvenv.cfg"
    if not PYTHON.exists() or not settings_file.exists() or stamp() == INSTALLING:
        return False
    settings = settings_file.read_text()
    return re.search(r"^version\s*=\s*{}\.\d".format(re.escape(python_name().decode())), settings, re.M) is not None


def outer_pip() -> Tuple[int, ...]:
    """Version of the pip of this interpreter; empty if it has none."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
        check=False,
    ).stdout
    found = re.match(r"pip (\d+)\.(\d+)", shown)
    return tuple(int(part) for part in found.groups()) if found else ()


def pip_command() -> List[str]:
    """The pip that fills .venv: the one outside, else one that ensurepip puts inside, else advice."""
    version = outer_pip()
    if version >= OLDEST_PIP:
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if subprocess.call([str(PYTHON), "-m", "ensurepip"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
        return [str(PYTHON), "-m", "pip"]
    stop(
        "{}, and this Python has no ensurepip.\n"
        "try: apt install python3-pip (Debian, Ubuntu), dnf install python3-pip (Fedora), or another Python in PATH; "
        "then run this again.".format(
            "pip {}.{} is older than {}.{}".format(*version, *OLDEST_PIP) if version else "this Python has no pip"
        )
    )


def megabytes(line: str) -> float:
    """Size that pip names at the end of a line, "(16.6 MB)", in MB; 0 if none."""
    found = re.search(r"\(([\d.]+) (bytes|kB|MB|GB)\)$", line)
    return float(found.group(1)) * {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}[found.group(2)] if found else 0.0


class Progress:
    """Reads pip's output and shows it: one line that changes on a terminal, one line per package elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.done = 0
        self.downloaded_mb = 0.0
        self.text = "asking the package index"
        self.live = sys.stderr.isatty()
        self.ended = threading.Event()
        if self.live:
            threading.Thread(target=self.tick, daemon=True).start()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def tick(self) -> None:
        while not self.ended.wait(0.5):
            sys.stderr.write("\r\x1b[K  {:4.0f} s  {}".format(self.seconds, self.text)[:100])
            sys.stderr.flush()

    def show(self, text: str) -> None:
        self.text = text
        if not self.live:
            say("  {:4.0f} s  {}".format(self.seconds, text))

    def read(self, line: str) -> None:
        """Takes one line of pip's output."""
        found = re.match(r"(Downloading|Using cached|Processing) (?:\S*/)?([^/\s]+\.(?:whl|tar\.gz))( \(.*\))?$", line)
        if found:
            self.done += 1
            self.downloaded_mb += megabytes(line) if found.group(1) == "Downloading" else 0
            name = "-".join(found.group(2).split("-")[:2])
            self.show("{:2}  {}{}".format(self.done, name, found.group(3) or ""))
        elif line.startswith("Installing collected packages"):
            self.show("unpacking (about {} MB)".format(DISK_MB))

    def end(self) -> None:
        self.ended.set()
        if self.live:
            sys.stderr.write("\r\x1b[K")


def run_pip(pip: List[str], lock: IO[str], progress: Progress) -> int:
    """Installs into .venv and returns pip's exit code. The lock goes along: it is held for as long as pip lives."""
    command = [*pip, "install", "--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    command += ["--progress-bar", "off", "-c", str(CONSTRAINTS), "-e", ".[dev]"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        cwd=str(ROOT),
        env=dict(os.environ, PIP_USER="0"),
        pass_fds=[lock.fileno()],
        start_new_session=True,  # pip starts pip: the two must end together
    )
    try:
        with LOG.open("w") as log:
            for line in process.stdout or ():
                log.write(line)
                progress.read(line.strip())
        return process.wait()
    finally:
        progress.end()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate()  # until the last of them has closed its end


def disk_mb() -> float:
    return sum(path.lstat().st_blocks for path in VENV.rglob("*")) * 512 / 1e6


def prepare() -> None:
    """Makes an empty .venv, or keeps one that pip may install over; marks it as unfinished either way."""
    packages = len(re.findall("^[^#\n]+==", CONSTRAINTS.read_text(), re.M))
    if reusable():
        say("updating .venv: pyproject.toml, constraints.txt or the checkout's place changed")
    else:
        say("installing {} packages, about {} MB, once (into {})".format(packages, DOWNLOAD_MB, VENV))
        venv.create(str(VENV), clear=True, symlinks=True, with_pip=False)
    STAMP.write_text(INSTALLING)


def install(lock: IO[str]) -> None:
    prepare()
    pip = pip_command()
    progress = Progress()
    code = run_pip(pip, lock, progress)
    if code != 0:
        say("".join(LOG.read_text().splitlines(True)[-15:]))
        stop(
            "the installation failed (pip exit {}); all its output: {}\n"
            "try: read the lines above, then run this again; it starts afresh".format(code, LOG)
        )
    STAMP.write_text(wanted_stamp())
    summary = "installed in {:.0f} s: {:.0f} MB downloaded, {:.0f} MB on disk"
    say(summary.format(progress.seconds, progress.downloaded_mb, disk_mb()))


def set_up() -> None:
    """Makes .venv as pyproject and constraints say; of several launches at once, one installs and the others wait."""
    if is_current():
        return
    import fcntl

    leave_own_venv()
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another launch is installing; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current():
            install(lock)


# The commands


def become(*arguments: str) -> NoReturn:
    """Replaces this process: signals, terminal and exit code are the program's own."""
    sys.stdout.flush()
    os.execv(str(PYTHON), [str(PYTHON), *arguments])


def benchmark(arguments: List[str]) -> List[str]:
    names = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
    if not arguments or arguments[0] not in names:
        said = "no benchmark is named {!r}".format(arguments[0]) if arguments else "bench needs a name"
        stop("{}; there are: {}".format(said, ", ".join(names) or "none yet"), 2)
    return [str(BENCHMARKS / (arguments[0] + ".py")), *arguments[1:]]


def pytest_arguments(arguments: List[str]) -> List[str]:
    rest = [argument for argument in arguments if argument != "--all"]
    spread = not any(re.match(r"-n|--numprocesses|--pdb|-s$|--capture=no", argument) for argument in rest)
    processes = min(os.cpu_count() or 1, TEST_PROCESSES)
    return (
        ["-m", "pytest", "--rootdir", str(ROOT)]
        + (["-n", str(processes), "--dist", "loadgroup"] if spread else [])
        + (["-m", ""] if len(rest) < len(arguments) else [])
        + rest
    )


def check() -> int:
    """Runs every check and returns the first exit code that is not 0."""
    codes = [subprocess.call([str(PYTHON), "-m", *command], cwd=str(ROOT)) for command in CHECKS]
    return next((code for code in codes if code), 0)


def main(arguments: List[str]) -> int:
    usage = USAGE.format(DOWNLOAD_MB, DISK_MB)
    if not arguments or arguments[0] not in ("demo", "discod", "test", "bench", "check"):
        if arguments and arguments[0] in ("-h", "--help", "help"):
            print(usage)
            return 0
        stop(usage, 2)
    command, rest = arguments[0], arguments[1:]
    script = benchmark(rest) if command == "bench" else []
    set_up()
    if command == "bench":
        become(*script)
    if command == "check":
        return check()
    if command == "test":
        os.chdir(str(ROOT))
        become(*pytest_arguments(rest))
    become("-P", "-m", "discod", *(["demo"] if command == "demo" else []), *rest)


def terminated(*_: object) -> NoReturn:
    sys.exit(143)


if __name__ == "__main__":
    if os.name != "posix":
        stop("discod runs on Linux and macOS; on Windows use WSL.")
    need_python(sys.version_info[:2])
    signal.signal(signal.SIGTERM, terminated)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        stop("interrupted", 130)
