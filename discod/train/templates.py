"""Tasks to begin with: the built-in ones by name, and one made to fit a data file. Pure.

A task made from a file publishes what its [data] section says: number of classes, shape, column names, and bounds of
the inputs, which `infer` has rounded outwards so that they do not give away the extreme row. It asks for record-level
privacy. Each built-in task has two forms: plain, and private with a batch size, rate and noise that were tried out.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

import msgspec

from discod.errors import BadData
from discod.train.task import LEAST_SECURE, DataSpec, ModelSpec, PrivacySpec, RoundSpec, TaskSpec, TrainingSpec

FEW_ROWS = 500  # below it a hidden layer learns the rows by heart
MIN_PEERS, MAX_PEERS = 2, 255
EPSILON = 3.0  # of a task that nobody has tuned

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

TUMOR_DATA = DataSpec(
    classes=2,
    shape=(30,),
    # Usual value and usual value plus usual deviation of each feature, to two digits, from the published set.
    low=(
        *(14.0, 19.0, 92.0, 650.0, 0.096, 0.1, 0.089, 0.049, 0.18, 0.063),
        *(0.41, 1.2, 2.9, 40.0, 0.007, 0.025, 0.032, 0.012, 0.021, 0.0038),
        *(16.0, 26.0, 110.0, 880.0, 0.13, 0.25, 0.27, 0.11, 0.29, 0.084),
    ),
    high=(
        *(18.0, 24.0, 120.0, 1000.0, 0.11, 0.16, 0.17, 0.088, 0.21, 0.07),
        *(0.68, 1.8, 4.9, 86.0, 0.01, 0.043, 0.062, 0.018, 0.029, 0.0064),
        *(21.0, 32.0, 140.0, 1400.0, 0.16, 0.41, 0.48, 0.18, 0.35, 0.1),
    ),
)

TUMOR = TaskSpec(
    name="tumor",
    title="Breast tumours, malignant or benign",
    summary="Malignant (0) or benign (1)? 569 biopsies, 30 features of cell nuclei each: the Wisconsin diagnostic set, "
    "bundled as the sample `tumor`.",
    data=TUMOR_DATA,
    model=ModelSpec("logreg"),
    training=TrainingSpec(learning_rate=1.0, batch_size=50),
    round=RoundSpec(rounds=10, round_duration=4),
    target=0.92,  # with noise one run in fifty ends below 0.93
    seed=3,
)

BUILTIN = {task.name: task for task in (DIGITS, TUMOR)}


class PrivateForm(NamedTuple):
    """What the private form of a built-in task has in place of the plain one's."""

    training: TrainingSpec
    round: RoundSpec
    privacy: PrivacySpec


PRIVATE_FORMS = {
    "digits": PrivateForm(
        TrainingSpec(learning_rate=2.0, batch_size=128, validation_split=0.0),  # all rows: q is smaller
        RoundSpec(rounds=80, round_duration=4),
        PrivacySpec("record", noise_multiplier=3.3, clip=0.5),  # epsilon 7.64 with 479 rows, a third
    ),
    "tumor": PrivateForm(
        TrainingSpec(learning_rate=1.5, batch_size=50, validation_split=0.0),
        RoundSpec(rounds=10, round_duration=4),
        PrivacySpec("record", epsilon=2.0, clip=0.5),  # z 4.72 with 152 rows, a third
    ),
}


def private_form(task: TaskSpec) -> TaskSpec:
    """The same task with record-level privacy: a built-in one's own form, else epsilon 3 and nothing else changed."""
    form = PRIVATE_FORMS.get(task.name) if BUILTIN.get(task.name) == task else None
    if form is None:
        return msgspec.structs.replace(task, privacy=PrivacySpec("record", epsilon=EPSILON))
    return msgspec.structs.replace(task, **form._asdict())


def builtin_task(name: str, peers: int = 3, private: bool = False) -> TaskSpec:
    """The built-in task `name`, plain or private, for at least `peers` peers.

    Raises: BadData for an unknown name or number.
    """
    if name not in BUILTIN:
        near = difflib.get_close_matches(name, BUILTIN, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"built in: {', '.join(BUILTIN)}; or make one: task new NAME --from FILE"
        )
        raise BadData(f"there is no built-in task `{name}`", hint, code="no-task")
    return for_peers(private_form(BUILTIN[name]) if private else BUILTIN[name], peers)


def for_peers(task: TaskSpec, peers: int) -> TaskSpec:
    """The same task, with no round of fewer than `peers` peers; two cannot sum in secret. Raises: BadData."""
    if not MIN_PEERS <= peers <= MAX_PEERS:
        why = f"a task for {peers} peers is not possible: it needs {MIN_PEERS} to {MAX_PEERS}"
        raise BadData(why, "alone: discod train TASK --local", code="bad-task")
    rounds = msgspec.structs.replace(task.round, min_peers=peers)
    sums = task.aggregation if peers >= LEAST_SECURE else msgspec.structs.replace(task.aggregation, aggregator="mean")
    return msgspec.structs.replace(task, round=rounds, aggregation=sums)


def infer_task(name: str, data: DataSpec, rows: int, peers: int = 3, private: bool = True) -> TaskSpec:
    """A task that fits data of this schema: logistic regression for few rows, else one hidden layer.

    Noise wants larger batches and steps. Raises: BadData for an impossible name or number of peers.
    """
    model = ModelSpec("logreg") if rows < FEW_ROWS else ModelSpec("mlp", (64,))
    rate, batch = (0.5, 64) if private else (0.1, 32)
    task = TaskSpec(name=name, data=data, model=model, training=TrainingSpec(learning_rate=rate, batch_size=batch))
    try:
        msgspec.convert(msgspec.to_builtins(task), TaskSpec)
    except msgspec.ValidationError as error:
        hint = "a name has lower case letters, digits, - and _; inputs have at most three sides"
        raise BadData(f"no task `{name}` can be made: {error}", hint, code="bad-task") from error
    return for_peers(private_form(task) if private else task, peers)
