"""The bodies of the control API's requests."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from discod.identity import INVITE_SECONDS, Role

JOIN_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0


class NoBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing more to say."""


class NewMesh(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/meshes"""

    name: str
    signaling: str


class NewInvite(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/invites"""

    mesh: str | None = None
    uses: int = 1
    expires_seconds: float = float(INVITE_SECONDS)
    role: Role = "trainer"


class Join(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/join"""

    link: str
    wait_seconds: Annotated[float, Meta(gt=0, le=LONGEST_WAIT_SECONDS)] = JOIN_SECONDS

    def __repr__(self) -> str:
        return "<Join>"  # the link is a secret


class NewTask(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/tasks"""

    toml: str
    mesh: str | None = None


class RaiseBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/privacy/{ref}/raise"""

    to: float
    reason: str


class Accept(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/tasks/{ref}/accept"""

    data: str
    mesh: str | None = None
