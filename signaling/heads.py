"""Heads of HTTP requests, of which a node reads three things, and the plain answers it gives. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

MAX_HEAD_BYTES = 8192
OK, NOT_FOUND, TOO_LARGE = "200 OK", "404 Not Found", "431 Request Header Fields Too Large"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Head(NamedTuple):
    """What a request asks for; `forwarded` is the address that the last proxy on the way saw, or empty."""

    path: bytes
    websocket: bool
    forwarded: str


def parse_head(data: bytes) -> Head:
    """Of anything; what is no request has an empty path."""
    lines = data.split(b"\r\n")
    request = lines[0].split(b" ")
    path = request[1].split(b"?")[0] if len(request) == 3 else b""
    forwarded = [value for name, _, value in (line.partition(b":") for line in lines[1:]) if _is(name)]
    last = forwarded[-1].split(b",")[-1].strip().decode("latin-1") if forwarded else ""
    return Head(path, b"upgrade: websocket" in data.lower(), _address(last))


def _is(name: bytes) -> bool:
    return name.strip().lower() == b"x-forwarded-for"


def _address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        return ""


def answer(status: str, body: str, kind: str) -> bytes:
    """One response; the connection ends with it."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + data


def answer_json(status: str, body: Mapping[str, object]) -> bytes:
    """One response as a line of JSON."""
    return answer(status, json.dumps(body) + "\n", "application/json")
