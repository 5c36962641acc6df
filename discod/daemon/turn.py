"""The trainer's place in an exchange: what it offers while it waits, and the answer that lets it go on."""

from __future__ import annotations

import trio

from discod.errors import BudgetExhausted, LedgerDamaged, UserError
from discod.train.rounds import JointState
from discod.train.vector import Vector

LAST = (BudgetExhausted, LedgerDamaged)  # errors after which this peer may send nothing more


def told(error: UserError) -> str:
    """What other peers hear of an error. Where data lie and what they have cost is nobody's business."""
    return error.code if isinstance(error, LAST) else error.message


class Turn:
    """Empty, or an offered update: `local` (d,) of `weight` samples."""

    def __init__(self) -> None:
        self.local: Vector | None = None
        self.weight = 0
        self._answer: JointState | None = None
        self._error: UserError | None = None
        self._answered = trio.Event()

    @property
    def waits(self) -> bool:
        """Whether the trainer waits for an answer."""
        return self.local is not None

    def offer(self, local: Vector, weight: int) -> None:
        """The trainer waits from now on."""
        self.local, self.weight, self._answered = local, weight, trio.Event()
        self._answer = self._error = None
        self._error = None

    def settle(self, answer: JointState | None) -> None:
        """Let the trainer go on, if it waits; the last word before it runs again counts."""
        if self.waits:
            self._answer = answer
            self._answered.set()

    def fail(self, error: UserError) -> None:
        """The update could not be sent: the trainer trains on, unless no other may be sent either."""
        if isinstance(error, LAST):
            self._error = error
        self.settle(None)

    async def answer(self) -> JointState | None:
        """Wait, as long as it takes: the peers decide. Raises: BudgetExhausted, LedgerDamaged."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        return self._answer

    def end(self) -> None:
        """The trainer waits no more; its vector is its own again."""
        self.local = None
