"""Reading HOST:PORT texts from the configuration and the command line. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from discod.identity.links import DEFAULT_PORT

LISTEN_PORT = 7340
OFF = "off"

_HOST = r"(?P<host>\[[0-9a-fA-F:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9_.-]+)"
_HOST_PORT = re.compile(_HOST + r"(?::(?P<port>[0-9]{1,5}))?")
_URL = re.compile(r"(?P<scheme>wss?)://" + _HOST + r"(?::(?P<port>[0-9]{1,5}))?/?")


class SignalingAddress(NamedTuple):
    """Where a signaling node is; `tls` is false for ws:// only."""

    host: str
    port: int
    tls: bool


def parse_listen(text: str) -> tuple[str, int] | None:
    """Read `network.listen`: (host, port), IPv6 without brackets, None for "off". Raises: ValueError saying why."""
    if text == OFF:
        return None
    match = _HOST_PORT.fullmatch(text)
    if match is None or match["port"] is None:
        raise ValueError('it must be HOST:PORT (IPv6 in brackets: [::]:7340) or "off"')
    return match["host"].strip("[]"), _port(match["port"])


def parse_signaling(text: str) -> SignalingAddress:
    """Read HOST, HOST:PORT, ws://HOST:PORT or wss://HOST:PORT. Raises: ValueError saying why."""
    match = _URL.fullmatch(text) or _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError("it must be HOST, HOST:PORT, wss://HOST:PORT or ws://HOST:PORT")
    port = _port(match["port"]) if match["port"] else DEFAULT_PORT
    if port == 0:
        raise ValueError("port 0 cannot be dialled")
    return SignalingAddress(match["host"].strip("[]"), port, match.groupdict().get("scheme") != "ws")


def _port(text: str) -> int:
    if int(text) > 65535:
        raise ValueError(f"port {text} does not exist")
    return int(text)
