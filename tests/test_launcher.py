"""The launcher against a small copy of the tree, with a pip and a discod that only note what they were asked.

The fakes are found through PYTHONPATH, which comes before the standard library: `python -m pip`, `-m ensurepip` and
`-m discod` in the launcher's children are these. No test reaches the network or installs anything.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
RUN_PY = REPOSITORY / "run.py"

FAKE_PIP = """
import os, sys
from pathlib import Path
calls = Path(os.environ["FAKE_CALLS"])
if "--version" in sys.argv:
    print("pip", os.environ.get("FAKE_PIP_VERSION", "23.2.1"), "from nowhere (python 3)")
    sys.exit(0 if "FAKE_PIP_MISSING" not in os.environ else 1)
calls.open("a").write(" ".join(sys.argv[1:]) + "\\n")
print("Collecting numpy==2.4.6")
print("  Downloading numpy-2.4.6-cp311-cp311-linux.whl.metadata (6.6 kB)")
print("Downloading numpy-2.4.6-cp311-cp311-linux.whl (16.5 MB)")
print("Using cached click-8.5.1-py3-none-any.whl (126 kB)", flush=True)
if "FAKE_PIP_WAITS" in os.environ:
    open(os.environ["FAKE_PIP_WAITS"]).read()
print("what went wrong" if "FAKE_PIP_EXIT" in os.environ else "Successfully installed")
sys.exit(int(os.environ.get("FAKE_PIP_EXIT", "0")))
"""
FAKE_ENSUREPIP = "import os, sys; sys.exit(int(os.environ.get('FAKE_ENSUREPIP_EXIT', '0')))"
FAKE_DISCOD = """
import os, sys
print(os.getpid(), os.getcwd(), *sys.argv[1:])
sys.exit(7)
"""


@dataclass
class Checkout:
    """A copy of the launcher in a tree of its own, and the fakes beside it."""

    root: Path
    environment: dict[str, str]

    @property
    def calls(self) -> list[str]:
        noted = Path(self.environment["FAKE_CALLS"])
        return noted.read_text().splitlines() if noted.exists() else []

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys._base_executable, str(self.root / "run.py"), *arguments],  # type: ignore[attr-defined]  # not typed
            env=self.environment | extra,
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **extra)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, fakes = tmp_path / "a checkout", tmp_path / "fakes"
    (root / "benchmarks").mkdir(parents=True)
    shutil.copy(RUN_PY, root)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("# two\nnumpy==2.4.6\nclick==8.5.1\n")
    (root / "benchmarks" / "masks.py").write_text("import sys; print(sys.argv[1:])")
    for name, text in (("pip", FAKE_PIP), ("ensurepip", FAKE_ENSUREPIP), ("discod", FAKE_DISCOD)):
        (fakes / name).mkdir(parents=True)
        (fakes / name / "__init__.py").touch()
        (fakes / name / "__main__.py").write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(fakes), "FAKE_CALLS": str(tmp_path / "calls")}
    return Checkout(root, environment)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("launcher", RUN_PY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "launcher", module)
    spec.loader.exec_module(module)
    return module


def test_launcher_parses_under_python_3_8_and_needs_only_the_standard_library() -> None:
    tree = ast.parse(RUN_PY.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_first_launch_installs_then_becomes_the_program(checkout: Checkout) -> None:
    process = checkout.start("discod", "data", "list")
    out, err = process.communicate(timeout=60)
    assert out == f"{process.pid} {checkout.root.parent} data list\n"  # the same process, in the user's directory
    assert process.returncode == 7
    assert "installing 2 packages, about" in err
    assert "numpy-2.4.6 (16.5 MB)" in err
    assert ": 16 MB downloaded" in err or ": 17 MB downloaded" in err  # what came from the cache does not count
    [call] = checkout.calls
    assert call.startswith(f"--python {checkout.root}/.venv/bin/python install ")
    assert call.endswith(f"-c {checkout.root}/constraints.txt -e .[dev]")


def test_second_launch_says_nothing_and_installs_nothing(checkout: Checkout) -> None:
    checkout.run("discod")
    again = checkout.run("demo", "--json")
    assert again.stderr == ""
    assert again.stdout.endswith(" demo --json\n")
    assert len(checkout.calls) == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_over_what_is_there(checkout: Checkout, name: str) -> None:
    checkout.run("discod")
    (checkout.root / ".venv" / "kept").touch()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    assert "updating .venv" in checkout.run("discod").stderr
    assert len(checkout.calls) == 2
    assert (checkout.root / ".venv" / "kept").exists()


def test_edited_sources_need_no_installation(checkout: Checkout) -> None:
    checkout.run("discod")
    (checkout.root / "discod.py").write_text("changed")
    assert checkout.run("discod").stderr == ""


def test_moved_checkout_is_installed_again(checkout: Checkout) -> None:
    checkout.run("discod")
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    checkout.run("discod")
    assert len(checkout.calls) == 2


def test_failed_installation_shows_the_reason_and_is_made_anew(checkout: Checkout) -> None:
    failed = checkout.run("discod", FAKE_PIP_EXIT="3")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "what went wrong" in failed.stderr
    assert "try:" in failed.stderr
    (checkout.root / ".venv" / "leftover").touch()
    assert checkout.run("discod").returncode == 7
    assert not (checkout.root / ".venv" / "leftover").exists()


def test_vanished_python_is_made_anew(checkout: Checkout) -> None:
    checkout.run("discod")
    (checkout.root / ".venv" / "bin" / "python3").unlink()  # "python" points at it
    assert checkout.run("discod").returncode == 7


def test_old_pip_falls_back_to_ensurepip(checkout: Checkout) -> None:
    assert checkout.run("discod", FAKE_PIP_VERSION="22.2").returncode == 7
    [call] = checkout.calls
    assert call.startswith("install ")  # the pip inside .venv


@pytest.mark.parametrize(
    ("extra", "said"),
    [({"FAKE_PIP_MISSING": "1", "FAKE_PIP_VERSION": "?"}, "has no pip"), ({"FAKE_PIP_VERSION": "20.0"}, "pip 20.0 is")],
)
def test_without_any_usable_pip_it_says_what_to_do(checkout: Checkout, extra: dict[str, str], said: str) -> None:
    refused = checkout.run("discod", FAKE_ENSUREPIP_EXIT="1", **extra)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "apt install python3-pip" in refused.stderr


def read_until(process: subprocess.Popen[str], said: str) -> None:
    assert process.stderr is not None
    assert any(said in line for line in process.stderr)


def test_of_two_launches_at_once_one_installs_and_the_other_waits(checkout: Checkout, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    first = checkout.start("discod", "first", FAKE_PIP_WAITS=str(gate))
    read_until(first, "numpy")
    second = checkout.start("discod", "second")
    read_until(second, "another launch is installing")
    gate.write_text("go")
    assert first.communicate(timeout=60)[0].endswith("first\n")
    assert second.communicate(timeout=60)[0].endswith("second\n")
    assert len(checkout.calls) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_installation_ends_pip_and_is_made_anew(
    checkout: Checkout, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = checkout.start("discod", FAKE_PIP_WAITS=str(gate))
    read_until(process, "numpy")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    with pytest.raises(OSError, match="No such device"):  # nobody reads the pipe any more: pip is gone
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    assert (checkout.root / ".venv" / "discod-stamp").read_text() == "installing"
    assert checkout.run("discod").returncode == 7


def test_benchmarks_are_run_by_name(checkout: Checkout) -> None:
    assert checkout.run("bench", "masks", "--peers", "8").stdout == "['--peers', '8']\n"


def test_unknown_benchmark_lists_the_names_and_installs_nothing(checkout: Checkout) -> None:
    for arguments in (["bench"], ["bench", "mask"], ["bench", "../run"]):
        refused = checkout.run(*arguments)
        assert refused.returncode == 2
        assert "there are: masks" in refused.stderr
    assert checkout.calls == []


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["tset"], 2), (["--help"], 0)])
def test_usage(checkout: Checkout, arguments: list[str], code: int) -> None:
    shown = checkout.run(*arguments)
    assert shown.returncode == code
    assert "usage: python3 run.py COMMAND" in (shown.stdout if code == 0 else shown.stderr)
    assert checkout.calls == []


def test_old_python_goes_on_in_a_newer_one(
    launcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = tmp_path / "python3.14", tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")  # as a shim without a version behind it
    good.write_text("#!/bin/sh\nexit 0\n")
    for path in (broken, good):
        path.chmod(0o755)
    became: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        became.append([path, *arguments])
        raise SystemExit

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["run.py", "demo", "--json"])
    with pytest.raises(SystemExit):
        launcher.need_python((3, 10))
    assert became == [[str(good), str(good), str(RUN_PY), "demo", "--json"]]


def test_old_python_alone_says_what_to_do(
    launcher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="1"):
        launcher.need_python((3, 8))
    said = capsys.readouterr().err
    assert "needs Python 3.11 or newer; this is 3.8" in said
    assert "try: install a newer Python" in said


def test_python_3_11_is_new_enough(launcher: ModuleType) -> None:
    launcher.need_python((3, 11))


def test_all_means_every_tier_and_the_tests_are_spread(launcher: ModuleType) -> None:
    processes = str(min(os.cpu_count() or 1, 4))
    spread = ["-n", processes, "--dist", "loadgroup"]
    start = ["-m", "pytest", "--rootdir", str(REPOSITORY)]
    assert launcher.pytest_arguments([]) == [*start, *spread]
    assert launcher.pytest_arguments(["--all", "-x"]) == [*start, *spread, "-m", "", "-x"]
    assert launcher.pytest_arguments(["-n0", "tests/p2p"]) == [*start, "-n0", "tests/p2p"]
    assert launcher.pytest_arguments(["--pdb"]) == [*start, "--pdb"]
    assert launcher.pytest_arguments(["--no-header"]) == [*start, *spread, "--no-header"]


def closure(extra: str) -> dict[str, str]:
    """Name and version of every distribution that discod[extra] needs here, itself apart."""
    found: dict[str, str] = {}
    waiting = [("discod", extra)]
    while waiting:
        name, wanted = waiting.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            key = canonicalize_name(requirement.name)
            if key in found or (requirement.marker and not requirement.marker.evaluate({"extra": wanted})):
                continue
            found[key] = metadata.version(requirement.name)
            waiting += [(requirement.name, part) for part in (requirement.extras or {""})]
    return found


def test_constraints_pin_exactly_the_closure() -> None:
    pins = [line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line]
    assert {canonicalize_name(name): version for name, version in pins} == closure("dev")
