"""The state directory: what a peer knows and has, safe against a kill at any moment.

    STATE/discod.sqlite      everything but vectors          STATE/identity.key    (discod.identity)
    STATE/states/TASK/HASH   joint states                    STATE/roots/MESH.key  root keys of meshes made here
    STATE/working/TASK       working checkpoints             STATE/lock            who runs here
    STATE/models/NUMBER      saved models

All calls block; the daemon makes them in threads. Any thread may call, one transaction runs at a time.
"""

from __future__ import annotations

from pathlib import Path

from discod.store.budgets import Budget, Budgets
from discod.store.database import Database
from discod.store.files import make_directory, remove_leftovers
from discod.store.ledger import Datasets, Meshes, Runs, Tasks
from discod.store.lock import home_lock
from discod.store.models import Models
from discod.store.rows import (
    Amend,
    Base,
    Charge,
    DatasetRow,
    FigureRow,
    Header,
    MeshRow,
    ModelRow,
    Raise,
    RunRow,
    Share,
    SpentRow,
    TaskRow,
    Working,
)
from discod.store.states import States
from discod.store.tensors import load_tensors, save_tensors

DATABASE = "discod.sqlite"


class Store(Meshes, Datasets, Tasks, Runs, States, Models, Budgets):
    """The open state directory of one home."""


def open_store(directory: Path, *, locked: bool = False) -> Store:
    """Open the state directory, made when missing; `locked`: the caller holds home_lock, so leftovers are removed.

    Raises: NewerState, BadData (damaged), PermissionProblem, UserError (disk-full).
    """
    make_directory(directory)
    if locked:
        remove_leftovers(directory)
    return Store(directory, Database(directory / DATABASE))


__all__ = [
    "Amend",
    "Base",
    "Budget",
    "Charge",
    "DatasetRow",
    "FigureRow",
    "Header",
    "MeshRow",
    "ModelRow",
    "Raise",
    "RunRow",
    "Share",
    "SpentRow",
    "Store",
    "TaskRow",
    "Working",
    "home_lock",
    "load_tensors",
    "open_store",
    "save_tensors",
]
