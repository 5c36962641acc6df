"""Models by reference: the name of a task whose model is saved here, NAME@ROUND, or a .safetensors file.

A file carries its task in its metadata, so a model can be used on a machine that knows nothing else of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from discod.cli import home
from discod.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from discod.store import ModelRow, Store
    from discod.train.task import TaskSpec

SUFFIX = ".safetensors"
TASK_KEY = "toml"  # metadata: the task file of the model


class Saved(NamedTuple):
    """A model: what it was asked for by, its task, its tensors, its metadata."""

    ref: str
    task: TaskSpec
    tensors: dict[str, NDArray[Any]]
    info: dict[str, str]

    @property
    def vector(self) -> NDArray[np.float32]:
        """The parameters as the worker wants them, (d,). Raises: BadData when they are not the task's."""
        from discod.train.layers import layout

        place = layout(self.task)
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        if found != dict(zip(place.names, place.shapes, strict=True)):
            raise BadData(f"the tensors of {self.ref} are not those of its task", "export the model again")
        return place.flatten(self.tensors)

    @property
    def hash(self) -> str:
        """SHA-256 of the vector; the same on every peer that has this model."""
        return hashlib.sha256(self.vector.astype("<f4").tobytes()).hexdigest()


def load(ref: str) -> Saved:
    """The model of `ref`. Raises: BadData when there is none, or when it is damaged."""
    from discod.store import load_tensors
    from discod.train.taskfile import load_task

    if ref.endswith(SUFFIX):
        tensors, info = load_tensors(Path(ref))
        if TASK_KEY not in info:
            raise BadData(f"{ref} does not say which task it is of", "export it with: discod model export")
        return Saved(ref, load_task(info[TASK_KEY], f"the task in {ref}"), tensors, info)
    with home.store() as store:
        return of_row(store, _row(store, ref))


def all_saved() -> list[tuple[ModelRow, Saved]]:
    """All models saved here, oldest first."""
    with home.store() as store:
        return [(row, of_row(store, row)) for row in store.models()]


def of_row(store: Store, row: ModelRow) -> Saved:
    """The model of a row of the store. Raises: BadData when its file or its task is not there."""
    from discod.train.taskfile import decode_task

    known = store.task(row.task)
    if known is None:
        raise BadData(f"the task of model '{row.name}' is not known here any more", "use the file that was exported")
    tensors, info = store.load_model(row)
    return Saved(row.name, decode_task(known.spec), tensors, info)


def _row(store: Store, ref: str) -> ModelRow:
    """The newest model that `ref` names. Raises: BadData when there is none."""
    name, _, round_ = ref.partition("@")
    rows = [row for row in store.models() if row.name == name and (not round_ or str(row.round) == round_)]
    if rows:
        return rows[-1]
    there = ", ".join(sorted({row.name for row in store.models()}))
    hint = f"there are: {there}" if there else "a model is saved when a task is finished: discod train TASK"
    raise BadData(f"there is no model '{ref}' here", hint, code="no-model")


def metadata(saved: Saved) -> Mapping[str, str]:
    """What an exported file says of itself."""
    from discod.train.taskfile import dump_task

    return {**saved.info, TASK_KEY: dump_task(saved.task), "sha256": saved.hash}
