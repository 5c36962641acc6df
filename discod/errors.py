"""The three kinds of error, by whose fault it is; everything discod raises on purpose descends from one of them.

LocalError: our bug; nothing catches it, the task that met it crashes and the log says where.
PeerError:  another peer's fault; the message (Refused) or the link (Broken) is dropped and we go on.
UserError:  the person at the terminal can mend it; the text says what happened, why, and what to try.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line (sysexits where one fits); frozen at 0.1."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DEGRADED = 4
    TIMED_OUT = 5
    BELOW_TARGET = 6
    NO_IDENTITY = 10
    ALREADY_RUNNING = 11
    NOT_ALLOWED = 12
    BUDGET_EXHAUSTED = 13
    BAD_CONFIG = 64
    BAD_DATA = 65
    BAD_INVITE = 66
    SIGNALING_UNREACHABLE = 69
    INTERNAL = 70
    TRY_AGAIN = 75
    PERMISSION = 77
    NEWER_STATE = 78
    INTERRUPTED = 130
    TERMINATED = 143


class DiscodError(Exception):
    """Root of everything discod raises on purpose."""


class LocalError(DiscodError):
    """A bug of ours: an invariant does not hold. Never caught, except to log it and stop."""


class PeerError(DiscodError):
    """Another peer broke a rule. `why` is safe to log and to send back; `peer` is its PeerId, if known."""

    def __init__(self, peer: bytes | None, why: str) -> None:
        super().__init__(why)
        self.peer = peer
        self.why = why


class Refused(PeerError):
    """This message is refused: counted and answered, the link stays."""


class Broken(PeerError):
    """The link itself is broken (framing, signature, size): it is dropped and reported as lost."""


class UserError(DiscodError):
    """What the terminal prints: what happened and why (`message`), then what to try (`hint`).

    `code` is a stable kebab-case name for programs, `exit` the process's exit code.
    """

    code = "failed"
    exit = Exit.FAILED

    def __init__(self, message: str, hint: str = "", *, code: str | None = None, exit: Exit | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).code
        self.exit = Exit(type(self).exit if exit is None else exit)


class UsageError(UserError):
    """The command line itself is wrong."""

    code, exit = "usage", Exit.USAGE


class NotRunning(UserError):
    """No daemon answers in this home."""

    code, exit = "not-running", Exit.NOT_RUNNING


class TimedOut(UserError):
    """What was waited for did not happen in time; it may still happen."""

    code, exit = "timed-out", Exit.TIMED_OUT


class NoIdentity(UserError):
    """This home has no identity yet."""

    code, exit = "no-identity", Exit.NO_IDENTITY


class AlreadyRunning(UserError):
    """Another daemon holds this home."""

    code, exit = "already-running", Exit.ALREADY_RUNNING


class NotAllowed(UserError):
    """The role, the policy or the key at hand does not permit this."""

    code, exit = "not-allowed", Exit.NOT_ALLOWED


class BadConfig(UserError):
    """The configuration file or a DISCOD_ variable cannot be used."""

    code, exit = "bad-config", Exit.BAD_CONFIG


class BadData(UserError):
    """A data file, a task file or an argument does not have the shape that is needed."""

    code, exit = "bad-data", Exit.BAD_DATA


class LedgerDamaged(BadData):
    """The privacy ledger cannot be read as one: how much was spent is not known, so nothing may be sent."""

    code = "ledger-damaged"


class BudgetExhausted(UserError):
    """What is left of a data set's privacy budget does not cover what was about to be sent."""

    code, exit = "budget-exhausted", Exit.BUDGET_EXHAUSTED


class BadInvite(UserError):
    """The invite cannot be used: malformed, expired, used up, revoked, or for another mesh."""

    code, exit = "bad-invite", Exit.BAD_INVITE


class SignalingUnreachable(UserError):
    """No signaling node of the list answers."""

    code, exit = "signaling-unreachable", Exit.SIGNALING_UNREACHABLE


class PermissionProblem(UserError):
    """A file has the wrong owner or mode, or cannot be read or written."""

    code, exit = "permission", Exit.PERMISSION


class NewerState(UserError):
    """The state was written by a newer discod."""

    code, exit = "newer-state", Exit.NEWER_STATE


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person should read of several errors at once: a bug before all, else the first that can be mended."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if not isinstance(leaf, UserError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
