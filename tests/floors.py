"""The floors of docs/architecture.md as a table, and the laws over it, each a function from sources to sentences.

A tree is {module name: source text}. Nothing is imported: the sources are only parsed. tests/test_architecture.py
applies every law to the real tree, and to made-up trees that break it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

Tree = dict[str, str]


class Room(NamedTuple):
    """Modules that may import one another and whatever lies on a lower floor. "x.*" is the package x with all in it."""

    floor: int
    name: str
    modules: tuple[str, ...]
    pure: bool = False


ROOMS = (
    Room(7, "cli", ("discod.__main__", "discod.cli.*", "discod.demo.*")),
    Room(6, "daemon", ("discod.daemon.*",)),
    Room(6, "signaling command", ("signaling.__main__",)),
    Room(5, "config", ("discod.config.*",)),
    Room(5, "store", ("discod.store.*",)),
    Room(5, "control", ("discod.control.*",)),
    Room(5, "client", ("discod.client",)),
    Room(
        4,
        "p2p shell",
        (
            "discod.p2p.dial",
            "discod.p2p.events",
            "discod.p2p.hearsay",
            "discod.p2p.hosting",
            "discod.p2p.joining",
            "discod.p2p.link",
            "discod.p2p.linkinfo",
            "discod.p2p.mesh",
            "discod.p2p.outbox",
            "discod.p2p.paths",
            "discod.p2p.presence",
            "discod.p2p.proxy",
            "discod.p2p.session",
            "discod.p2p.transport",
            "discod.p2p.trust",
            "discod.p2p.websocket",
        ),
    ),
    Room(
        4,
        "train shell",
        (
            "discod.train.compiler",
            "discod.train.datasets.*",
            "discod.train.engine.*",
            "discod.train.layers",
            "discod.train.models.*",
            "discod.train.plan",
            "discod.train.standin",
            "discod.train.trainer",
            "discod.train.worker",
            "discod.train.worker_process",
        ),
    ),
    Room(
        4,
        "signaling shell",
        (
            "signaling.certificates",
            "signaling.connection",
            "signaling.depot",
            "signaling.node",
            "signaling.process",
            "signaling.relay",
            "signaling.server",
            "signaling.states",
        ),
    ),
    Room(
        3,
        "p2p",
        (
            "discod.p2p.addresses",
            "discod.p2p.agreeing",
            "discod.p2p.attempt",
            "discod.p2p.ballot",
            "discod.p2p.calling",
            "discod.p2p.certificate",
            "discod.p2p.chain",
            "discod.p2p.early",
            "discod.p2p.effects",
            "discod.p2p.election",
            "discod.p2p.hauling",
            "discod.p2p.hosted",
            "discod.p2p.newcomer",
            "discod.p2p.owners",
            "discod.p2p.safety",
            "discod.p2p.rendezvous",
            "discod.p2p.round",
            "discod.p2p.rules",
            "discod.p2p.secagg",
            "discod.p2p.standing",
            "discod.p2p.starting",
            "discod.p2p.tally",
            "discod.p2p.terms",
            "discod.p2p.voice",
        ),
        pure=True,
    ),
    Room(
        3,
        "train",
        (
            "discod.train.batches",
            "discod.train.chacha",
            "discod.train.contradictions",
            "discod.train.explaining",
            "discod.train.informant",
            "discod.train.poisson",
            "discod.train.joint",
            "discod.train.rounds",
            "discod.train.task",
            "discod.train.taskfile",
            "discod.train.templates",
            "discod.train.totals",
            "discod.train.vector",
            "discod.train.worker_messages",
        ),
        pure=True,
    ),
    Room(
        3,
        "signaling",
        (
            "signaling.admission",
            "signaling.buffer",
            "signaling.heads",
            "signaling.limits",
            "signaling.lobby",
            "signaling.mean",
            "signaling.seats",
            "signaling.shown",
            "signaling.tally",
            "signaling.turns",
        ),
        pure=True,
    ),
    Room(2, "identity", ("discod.identity.*",)),
    Room(2, "ring", ("discod.masks", "discod.ring", "discod.robust", "discod.shamir"), pure=True),
    Room(1, "wire", ("discod.wire.*",), pure=True),
    Room(1, "logs", ("discod.logs",)),
    Room(1, "privacy", ("discod.privacy.*",), pure=True),
    Room(
        0,
        "ground",
        ("discod", "discod.aggregators", "discod.errors", "discod.p2p", "discod.train", "signaling"),
        pure=True,
    ),
)

HOUSES = ("discod.p2p", "discod.train", "signaling")  # strangers to one another; they meet only in discod.daemon
GROUND_FLOORS = 2  # what signaling may see of discod
IMPURE = frozenset(
    ("asyncio", "multiprocessing", "random", "secrets", "socket", "ssl", "subprocess", "threading", "time", "trio")
) | {"tinygrad"}
TINYGRAD_ROOMS = ("discod.train.engine.*", "discod.train.models.*")
NUMPY_MODULES = ("numpy", "discod.masks", "discod.ring", "discod.robust", "signaling.mean")
ON_DEMAND = ("signaling.mean",)  # loaded only by a node that hosts federated buffers, when the first version is made
MAX_LINES = 400


def covers(pattern: str, module: str) -> bool:
    package = pattern.removesuffix(".*")
    return module == package or (pattern != package and module.startswith(package + "."))


def room_of(module: str) -> Room | None:
    return next((room for room in ROOMS if any(covers(pattern, module) for pattern in room.modules)), None)


def is_named(module: str) -> bool:
    """Whether the table names this very module."""
    return any(module == pattern.removesuffix(".*") for room in ROOMS for pattern in room.modules)


def house_of(module: str) -> str | None:
    return next((house for house in HOUSES if module == house or module.startswith(house + ".")), None)


class Import(NamedTuple):
    source: str
    target: str
    line: int
    at_import: bool  # outside every function and every `if TYPE_CHECKING:`


def is_deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, at_import
        yield from statements(child, at_import and not is_deferred(child))


def base_package(module: str, level: int, tree: Tree) -> str:
    """What the dots of a relative import stand for."""
    is_package = any(other.startswith(module + ".") for other in tree)
    parts = module.split(".")
    return ".".join(parts[: len(parts) - level + is_package])


def named(node: ast.AST, module: str, tree: Tree) -> list[str]:
    """Modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = ".".join(filter(None, (base_package(module, node.level, tree) if node.level else "", node.module)))
    inner = [f"{package}.{alias.name}" for alias in node.names]
    return list(dict.fromkeys(name if name in tree or is_named(name) else package for name in inner))


def imports(tree: Tree) -> Iterator[Import]:
    for module, text in tree.items():
        for node, at_import in statements(ast.parse(text)):
            for target in named(node, module, tree):
                yield Import(module, target, getattr(node, "lineno", 0), at_import)


# The laws


def placed(tree: Tree) -> Iterator[str]:
    for module in tree:
        if room_of(module) is None:
            yield f"{module} stands on no floor: add it to ROOMS in tests/floors.py (docs/architecture.md, floors)"


def downwards(tree: Tree) -> Iterator[str]:
    for arrow in imports(tree):
        source, target = room_of(arrow.source), room_of(arrow.target)
        if source is None or target is None or source == target or target.floor < source.floor:
            continue
        where = f"{arrow.source}:{arrow.line}"
        yield f"{where} imports {arrow.target}: floor {source.floor} ({source.name}) to {target.floor} ({target.name})"


def strangers(tree: Tree) -> Iterator[str]:
    for arrow in imports(tree):
        source, target = house_of(arrow.source), house_of(arrow.target)
        if source and target and source != target:
            yield f"{arrow.source}:{arrow.line} imports {arrow.target}: {source} and {target} are strangers"
        elif source == "signaling" != target and (room_of(arrow.target) or ROOMS[-1]).floor > GROUND_FLOORS:
            yield f"{arrow.source}:{arrow.line} imports {arrow.target}: signaling sees only floors 0 to {GROUND_FLOORS}"


def met_in_the_daemon(tree: Tree) -> Iterator[str]:
    for module in tree:
        seen = {house_of(arrow.target) for arrow in imports({module: tree[module]})}
        if {"discod.p2p", "discod.train"} <= seen and not covers("discod.daemon.*", module):
            yield f"{module} imports p2p and train: they meet only in discod.daemon"


def pure(tree: Tree) -> Iterator[str]:
    for arrow in imports(tree):
        room = room_of(arrow.source)
        if room and room.pure and arrow.target.partition(".")[0] in IMPURE:
            yield f"{arrow.source}:{arrow.line} imports {arrow.target}: pure modules take time and entropy as arguments"


def tinygrad_in_the_worker(tree: Tree) -> Iterator[str]:
    for arrow in imports(tree):
        allowed = any(covers(pattern, arrow.source) for pattern in TINYGRAD_ROOMS)
        if arrow.target.partition(".")[0] == "tinygrad" and not allowed:
            yield f"{arrow.source}:{arrow.line} imports tinygrad: only the engine and the models may (worker process)"


def signaling_without_numpy(tree: Tree) -> Iterator[str]:
    for arrow in imports(tree):
        room = room_of(arrow.source)
        seen_by_signaling = room is not None and room.floor <= GROUND_FLOORS and room.name != "ring"
        loads = any(covers(name + ".*", arrow.target) for name in NUMPY_MODULES)
        if not arrow.at_import or not loads or arrow.source in ON_DEMAND:
            continue
        if seen_by_signaling or house_of(arrow.source) == "signaling":
            yield f"{arrow.source}:{arrow.line} imports {arrow.target}: importing signaling must not load numpy"


def only_a_version(tree: Tree) -> Iterator[str]:
    for node in ast.parse(tree.get("discod", "")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_version = isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["__version__"]
        if not is_docstring and not is_version:
            yield f"discod/__init__.py:{node.lineno} holds more than the version"


def short(tree: Tree) -> Iterator[str]:
    for module, text in tree.items():
        lines = text.count("\n")
        if lines > MAX_LINES:
            yield f"{module} has {lines} lines: {MAX_LINES} is the limit, 300 the aim"


def waits(node: ast.AST) -> bool:
    """Whether this code can be cancelled or can fail in an await, functions defined inside it apart."""
    if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
        return True
    inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return not inner and any(waits(child) for child in ast.iter_child_nodes(node))


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Exception always; everything (cleaning up) unless it is raised on."""
    caught = "BaseException" if handler.type is None else ast.unparse(handler.type)
    if "BaseException" in caught:
        last = handler.body[-1]
        return not (isinstance(last, ast.Raise) and last.exc is None)
    return "Exception" in caught.strip("()").replace(" ", "").split(",")


def narrow_excepts(tree: Tree) -> Iterator[str]:
    for module, text in tree.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Try | ast.TryStar) or not any(waits(child) for child in node.body):
                continue
            for handler in filter(is_broad, node.handlers):
                yield f"{module}:{handler.lineno} catches everything around an await: it would swallow our own bugs"


FLOOR_LAWS: tuple[Callable[[Tree], Iterator[str]], ...] = (
    placed,
    downwards,
    strangers,
    met_in_the_daemon,
    pure,
    tinygrad_in_the_worker,
    signaling_without_numpy,
    only_a_version,
)
STYLE_LAWS: tuple[Callable[[Tree], Iterator[str]], ...] = (short, narrow_excepts)
