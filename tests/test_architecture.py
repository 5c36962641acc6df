"""The house stands: every law of tests/floors.py holds for the tree, and each of them notices a tree that breaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import floors
from tests.floors import FLOOR_LAWS, STYLE_LAWS, Tree

REPOSITORY = Path(__file__).resolve().parent.parent

Law = Callable[[Tree], Iterator[str]]


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_tree(*folders: str) -> Tree:
    paths = sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return {module_name(path): path.read_text() for path in paths}


def fresh(*arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running with these arguments."""
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = (line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("law", FLOOR_LAWS, ids=lambda law: law.__name__)
def test_house_obeys(law: Law) -> None:
    assert list(law(read_tree("discod", "signaling"))) == []


@pytest.mark.parametrize("law", STYLE_LAWS, ids=lambda law: law.__name__)
def test_everything_obeys(law: Law) -> None:
    tree = read_tree("discod", "signaling", "benchmarks", "tests") | {"run": (REPOSITORY / "run.py").read_text()}
    assert list(law(tree)) == []


def test_no_room_holds_a_module_twice() -> None:
    for module in read_tree("discod", "signaling"):
        rooms = [room.name for room in floors.ROOMS if any(floors.covers(each, module) for each in room.modules)]
        assert len(rooms) == 1, (module, rooms)


def test_every_row_of_the_table_names_something_that_exists() -> None:
    tree = read_tree("discod", "signaling")
    rows = {pattern.removesuffix(".*") for room in floors.ROOMS for pattern in room.modules}
    assert rows - tree.keys() == set()


def test_help_loads_neither_trio_nor_numpy_nor_tinygrad() -> None:
    loaded = fresh("-m", "discod", "--help")
    assert "click" in loaded  # the measure measures
    assert not loaded & {"trio", "numpy", "tinygrad", "cryptography"}


def test_signaling_loads_neither_numpy_nor_tinygrad() -> None:
    tree = read_tree("signaling")
    names = [name for name in tree if not name.endswith("__main__") and name not in floors.ON_DEMAND]
    loaded = fresh("-c", "; ".join(f"import {name}" for name in names))
    assert "signaling" in loaded
    assert not loaded & {"numpy", "tinygrad"}


GOOD: Tree = {
    "discod": '"""Doc."""\n__version__ = "1"\n',
    "discod.errors": "",
    "discod.wire": "from discod.wire.codec import encode\n",
    "discod.wire.codec": "from discod.errors import Broken\nimport msgspec\n",
    "discod.ring": "import numpy as np\n",
    "discod.identity": "import time\nfrom discod import errors\n",
    "discod.p2p": "",
    "discod.p2p.effects": "",
    "discod.p2p.round": "from .effects import Send\nfrom ..identity import Members\n",
    "discod.p2p.mesh": "import trio\nfrom discod.p2p.link import Link\nfrom discod.p2p.round import Round\n",
    "discod.p2p.link": "from discod.p2p import transport\n",
    "discod.p2p.transport": "async def f():\n try:\n  await g()\n except BaseException:\n  x()\n  raise\n",
    "discod.train.engine": "from tinygrad import Tensor\n",
    "discod.train.worker": "def main():\n from discod.train.engine import step\n",
    "discod.daemon": "from discod.p2p import mesh\nfrom discod.train import worker\n",
    "signaling.lobby": "def buffer():\n from discod import ring\n",
    "signaling.server": "import trio\nfrom signaling import lobby\nfrom discod.wire import encode\n",
}


@pytest.mark.parametrize("law", FLOOR_LAWS + STYLE_LAWS, ids=lambda law: law.__name__)
def test_no_law_minds_a_good_tree(law: Law) -> None:
    assert list(law(GOOD)) == []


BAD = [
    (floors.placed, "discod.p2p.gossip", ""),
    (floors.placed, "discod.utils", ""),
    (floors.placed, "discod.p2p.transport.tcp", ""),  # the table names the module, not a package
    (floors.downwards, "discod.errors", "import discod.wire"),
    (floors.downwards, "discod.wire.codec", "from discod.identity import ids"),
    (floors.downwards, "discod.ring", "from discod.identity import ids"),  # sideways
    (floors.downwards, "discod.control", "from discod import store"),  # sideways
    (floors.downwards, "discod.p2p.round", "from discod.p2p import mesh"),  # pure to shell
    (floors.downwards, "discod.identity.views", "from ..p2p.link import Link"),
    (floors.downwards, "discod.train.trainer", "def f():\n from discod.daemon import run"),  # late is no excuse
    (floors.downwards, "discod.p2p.mesh", "if TYPE_CHECKING:\n from discod.config import Config"),
    (floors.downwards, "signaling.lobby", "from signaling.server import serve"),
    (floors.downwards, "discod.p2p", "from discod.p2p.round import Round"),
    (floors.strangers, "discod.p2p.mesh", "from discod.train.task import TaskSpec"),
    (floors.strangers, "discod.p2p.mesh", "from discod.train import nothing"),
    (floors.strangers, "discod.train.trainer", "import discod.p2p.effects"),
    (floors.strangers, "signaling.server", "import discod.p2p.effects"),
    (floors.strangers, "discod.p2p.link", "from signaling.lobby import Lobby"),
    (floors.strangers, "signaling.__main__", "from discod.config import Config"),
    (floors.met_in_the_daemon, "discod.cli.train", "import discod.p2p.mesh\nimport discod.train.task"),
    *[(floors.pure, "discod.p2p.round", f"import {name}") for name in sorted(floors.IMPURE)],
    (floors.pure, "discod.train.task", "from time import monotonic"),
    (floors.pure, "signaling.lobby", "def f():\n import trio.socket"),
    (floors.pure, "discod.wire.codec", "import random as r"),
    (floors.tinygrad_in_the_worker, "discod.train.trainer", "from tinygrad.nn import optim"),
    (floors.tinygrad_in_the_worker, "discod.daemon", "def f():\n import tinygrad"),
    (floors.signaling_without_numpy, "signaling.lobby", "from discod import ring"),
    (floors.signaling_without_numpy, "signaling.server", "class A:\n import numpy.linalg"),
    (floors.signaling_without_numpy, "signaling.server", "from signaling import mean"),
    (floors.signaling_without_numpy, "discod.identity.keys", "try:\n import numpy\nexcept ImportError:\n pass"),
    (floors.only_a_version, "discod", "from discod.errors import UserError"),
    (floors.only_a_version, "discod", "def f(): pass"),
    (floors.short, "discod.daemon", "\n" * 401),
    (floors.narrow_excepts, "discod.daemon", "async def f():\n try:\n  await g()\n except Exception:\n  raise"),
    (
        floors.narrow_excepts,
        "discod.daemon",
        "async def f():\n try:\n  await g()\n except (OSError, Exception):\n  x()",
    ),
    (floors.narrow_excepts, "discod.daemon", "async def f():\n try:\n  x = [await g()]\n except:\n  raise KeyError"),
    (
        floors.narrow_excepts,
        "discod.daemon",
        "async def f():\n try:\n  async with g: x()\n except BaseException:\n  x()",
    ),
    (floors.narrow_excepts, "discod.daemon", "async def f():\n try:\n  await g()\n except* Exception:\n  x()"),
]


@pytest.mark.parametrize(("law", "module", "text"), BAD)
def test_each_law_notices_what_breaks_it(law: Law, module: str, text: str) -> None:
    [said] = law(GOOD | {module: text})
    assert module in said.replace("/__init__.py", "")


def test_unplaced_module_is_told_where_to_go() -> None:
    [said] = floors.placed({"discod.gossip": ""})
    assert "add it to ROOMS in tests/floors.py" in said


def test_function_inside_a_try_is_not_around_its_await() -> None:
    text = "try:\n async def f():\n  await g()\nexcept Exception:\n pass"
    assert list(floors.narrow_excepts({"discod.daemon": text})) == []
