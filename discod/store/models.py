"""Saved models: named tensors with the hash, the task and the certificate in their metadata."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from discod.store.files import NEW, fsync_directory, make_directory, saving
from discod.store.rows import ModelRow, Vectors
from discod.store.shelf import Shelf
from discod.store.states import NO_INFO
from discod.store.tensors import Arrays, load_tensors, save_tensors


class Models(Shelf):
    """Models that came out of runs; each has a number of its own, never used again."""

    def save_model(
        self,
        task: bytes,
        name: str,
        round_number: int,
        state: bytes,
        tensors: Arrays,
        now: float,
        info: Mapping[str, str] = NO_INFO,
    ) -> ModelRow:
        """Save a model of a task; `info` (such as the certificate) joins task, name, round and state in its metadata.

        Raises: UserError (disk-full), PermissionProblem; nothing is listed then.
        """
        about = {**info, "task": task.hex(), "name": name, "round": str(round_number), "state": state.hex()}
        directory = self.directory / "models"
        make_directory(directory)
        spare = directory / f"{NEW}{secrets.token_hex(8)}"
        save_tensors(spare, tensors, about)
        try:
            with self.database.transaction() as connection, saving(directory):
                sql = "INSERT INTO model (task, name, round, state, saved) VALUES (?, ?, ?, ?, ?)"
                number = connection.execute(sql, (task, name, round_number, state, now)).lastrowid
                assert number is not None
                os.replace(spare, self._model_path(number))
                fsync_directory(directory)
        finally:
            spare.unlink(missing_ok=True)
        return ModelRow(number, task, name, round_number, state, now, self._model_path(number))

    def models(self) -> list[ModelRow]:
        """Return all saved models, oldest first."""
        rows = self.database.rows("SELECT number, task, name, round, state, saved FROM model ORDER BY number")
        return [ModelRow(r[0], r[1], r[2], r[3], r[4], r[5], self._model_path(r[0])) for r in rows]

    def load_model(self, row: ModelRow) -> tuple[Vectors, dict[str, str]]:
        """Return tensors and metadata. Raises: BadData when the file is missing or damaged."""
        return load_tensors(row.path)

    def remove_model(self, number: int) -> None:
        """Forget a model and delete its file."""
        self.database.write("DELETE FROM model WHERE number = ?", number)
        self._model_path(number).unlink(missing_ok=True)

    def _model_path(self, number: int) -> Path:
        return self.directory / "models" / f"{number:06d}.safetensors"
