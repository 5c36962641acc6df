"""The daemon: the only place where p2p and train meet. It joins store, identity, mesh, control and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discod.errors import UserError

if TYPE_CHECKING:
    from discod.config import Config, Paths


def serve(paths: Paths, config: Config) -> None:
    """Run the daemon of one home until it is told to stop.

    Raises:
        UserError: always, in this version: the parts exist, the process that joins them does not.
    """
    raise UserError(
        "this version of discod has no daemon yet: peers cannot train together with it",
        "discod train TASK --local trains alone; CHANGELOG.md says what works",
        code="no-daemon",
    )
