"""The invite link: `discod://HOST:PORT/j/MESHID.SIGID#SEED`, with `discod+ws://` for plain WebSocket (protocol.md 1).

MESHID is 128 bits of H(root public key), SIGID the id of the signaling node's key, SEED the invite's 32-byte
secret, each in the symbols of ids.py with check symbols. The seed stands in the fragment, which clients never send;
no error or repr shows it.
"""

from __future__ import annotations

import hmac
import re

from msgspec import Struct

from discod.errors import BadData, BadInvite
from discod.identity.ids import ID_BYTES, from_symbols, to_symbols
from discod.identity.keys import SEED_BYTES, Identity

MESH_BYTES = 16
MAX_LINK = 1_024  # characters
DEFAULT_PORT = 8765
SCHEMES = {"discod": True, "discod+ws": False}  # scheme -> TLS to the signaling node

_FORM = re.compile(
    r"(?P<scheme>[a-z+]+)://(?P<host>\[[0-9a-fA-F:.%]+\]|[^/:@\[\]#?]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>/.*)?"
)
_ASK = "ask for the link again and paste it whole at the prompt of: discod join"


class InviteLink(Struct, frozen=True):
    """A parsed link. `mesh` is the first 16 bytes of the mesh id, `signaling` the (32,) id of the node's key."""

    host: str
    port: int
    tls: bool
    mesh: bytes
    signaling: bytes
    seed: bytes

    @property
    def address(self) -> str:
        """The signaling node as "host:port", IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def key(self) -> Identity:
        """The invite's key pair, made from the seed."""
        return Identity.from_seed(self.seed)

    def is_for(self, mesh: bytes) -> bool:
        """Say whether the full (32,) mesh id is the one of this link."""
        return hmac.compare_digest(mesh[:MESH_BYTES], self.mesh)

    def __repr__(self) -> str:
        return f"<InviteLink {self.address} {to_symbols(self.mesh)}>"

    def __rich_repr__(self) -> list[tuple[str, str]]:  # msgspec's own shows the seed
        return [("address", self.address)]


def make_link(host: str, port: int, mesh: bytes, signaling: bytes, seed: bytes, *, tls: bool = True) -> str:
    """Return the link text; mesh and signaling are (32,) ids, seed the invite's 32 secret bytes."""
    link = InviteLink(host.strip("[]"), port, tls, mesh[:MESH_BYTES], signaling, seed)
    scheme = "discod" if tls else "discod+ws"
    return f"{scheme}://{link.address}/j/{to_symbols(link.mesh)}.{to_symbols(signaling)}#{to_symbols(seed)}"


def parse_link(text: str) -> InviteLink:
    """Read a link; white space around it does not matter.

    Raises: BadInvite saying which part is wrong; the secret part is never repeated.
    """
    text = text.strip().strip("'\"")
    before, mark, seed = text.partition("#")
    match = _FORM.fullmatch(before) if len(text) <= MAX_LINK else None
    if match is None or match["scheme"] not in SCHEMES:
        raise BadInvite("this is no invite link: it does not have the form discod://HOST:PORT/j/...", _ASK)
    mesh, signaling = _path(match["rest"] or "")
    if not mark or not seed:
        why = "the link ends at '#', its secret part is missing: a shell takes an unquoted # for a comment"
        raise BadInvite(
            why, "run discod join without the link and paste it at the prompt, or put it in 'single quotes'"
        )
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise BadInvite(f"the link's port {port} does not exist", _ASK)
    secret = _part(seed, SEED_BYTES, "secret part (after #)", secret=True)
    return InviteLink(match["host"].strip("[]"), port, SCHEMES[match["scheme"]], mesh, signaling, secret)


def _path(rest: str) -> tuple[bytes, bytes]:
    mesh, dot, signaling = rest.removeprefix("/j/").partition(".")
    if not rest.startswith("/j/") or not dot:
        raise BadInvite("the link is cut or changed: after the host it must say /j/MESH.SIGNALING#SECRET", _ASK)
    return _part(mesh, MESH_BYTES, "mesh id"), _part(signaling, ID_BYTES, "signaling id")


def _part(text: str, size: int, what: str, *, secret: bool = False) -> bytes:
    try:
        return from_symbols(text, size, what=what, secret=secret)
    except BadData as error:
        raise BadInvite(f"the link is damaged: {error.message}", _ASK) from None
