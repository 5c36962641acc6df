"""Tasks to begin with: the built-in ones by name, and one made to fit a data file. Pure.

A task made from a file publishes what its [data] section says: number of classes, shape, column names, and bounds of
the inputs, which `infer` has rounded outwards so that they do not give away the extreme row.
"""

from __future__ import annotations

import difflib

import msgspec

from discod.errors import BadData
from discod.train.task import DataSpec, ModelSpec, RoundSpec, TaskSpec, TrainingSpec

FEW_ROWS = 500  # below it a hidden layer learns the rows by heart
MIN_PEERS, MAX_PEERS = 2, 255

DIGITS_DATA = DataSpec(classes=10, shape=(8, 8), dtype="uint8", high=(16.0,))

DIGITS = TaskSpec(
    name="digits",
    title="Handwritten digits, 8x8",
    summary="Which digit is it? 1797 scans from the UCI optical recognition set, bundled as the sample `digits`.",
    data=DIGITS_DATA,
    model=ModelSpec("mlp", (64,)),
    training=TrainingSpec(learning_rate=0.3, batch_size=32),
    round=RoundSpec(rounds=40, round_duration=8),
    target=0.88,
    seed=1,
)

BUILTIN = {task.name: task for task in (DIGITS,)}


def builtin_task(name: str, peers: int = 3) -> TaskSpec:
    """The built-in task `name` for at least `peers` peers. Raises: BadData for an unknown name or number."""
    if name not in BUILTIN:
        near = difflib.get_close_matches(name, BUILTIN, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"built in: {', '.join(BUILTIN)}; or make one: task new NAME --from FILE"
        )
        raise BadData(f"there is no built-in task `{name}`", hint, code="no-task")
    return for_peers(BUILTIN[name], peers)


def for_peers(task: TaskSpec, peers: int) -> TaskSpec:
    """The same task, with no round of fewer than `peers` peers. Raises: BadData."""
    if not MIN_PEERS <= peers <= MAX_PEERS:
        why = f"a task for {peers} peers is not possible: it needs {MIN_PEERS} to {MAX_PEERS}"
        raise BadData(why, "alone: discod train TASK --local", code="bad-task")
    return msgspec.structs.replace(task, round=msgspec.structs.replace(task.round, min_peers=peers))


def infer_task(name: str, data: DataSpec, rows: int, peers: int = 3) -> TaskSpec:
    """A task that fits data of this schema: logistic regression for few rows, else one hidden layer.

    Raises: BadData for an impossible name or number of peers.
    """
    model = ModelSpec("logreg") if rows < FEW_ROWS else ModelSpec("mlp", (64,))
    task = TaskSpec(name=name, data=data, model=model, training=TrainingSpec(learning_rate=0.1, batch_size=32))
    try:
        msgspec.convert(msgspec.to_builtins(task), TaskSpec)
    except msgspec.ValidationError as error:
        hint = "a name has lower case letters, digits, - and _; inputs have at most three sides"
        raise BadData(f"no task `{name}` can be made: {error}", hint, code="bad-task") from error
    return for_peers(task, peers)
