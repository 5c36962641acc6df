"""Ways out through an HTTP proxy: which one the environment names for a host, and CONNECT.

    -> CONNECT HOST:PORT HTTP/1.1     (with Proxy-Authorization when the proxy's URL holds a name and a password)
    <- HTTP/1.1 200 ...               (from here on the bytes are the node's)

`https_proxy` comes before `HTTPS_PROXY`, as for curl; hosts in `no_proxy` or `NO_PROXY` and this machine are dialled
directly. The name and the password in a proxy's URL are in no repr and in no error.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import unquote, urlsplit

import trio

from discod.errors import Broken
from discod.p2p.addresses import is_loopback_host, join_address, split_address

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HEAD_BYTES = 8192


class Proxy:
    """Where it is, whether it is spoken to over TLS, and what proves to it who asks."""

    def __init__(self, host: str, port: int, *, tls: bool, credentials: str = "") -> None:
        self.host, self.port, self.tls = host, port, tls
        self._credentials = credentials

    @property
    def address(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return join_address(self.host, self.port)

    def request(self, target: str) -> bytes:
        """The head that asks for a way to `target`, HOST:PORT."""
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if self._credentials:
            head += f"Proxy-Authorization: Basic {b64encode(self._credentials.encode()).decode()}\r\n"
        return head.encode() + b"\r\n"

    def __repr__(self) -> str:
        return f"<Proxy {self.address}>"


def proxy_for(address: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to a node at "HOST:PORT", None for the direct way.  Raises: Broken when it is misspelled."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    host, port = split_address(address)
    if not url or is_loopback_host(host) or _is_excepted(host, port, environ):
        return None
    return _parse(url)


def _parse(url: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    if not port or not parts.hostname or parts.scheme not in DEFAULT_PORTS:
        raise Broken(None, "HTTPS_PROXY names no proxy: write http://HOST:PORT, or unset it")
    credentials = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(parts.hostname, port, tls=parts.scheme == "https", credentials=credentials)


def _is_excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    entries = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    return any(_matches(host.lower(), port, entry.strip().lower()) for entry in entries)


def _matches(host: str, port: int, entry: str) -> bool:
    """A name stands for what is below it too; numbers may be networks; a port, if there is one, must fit."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name, colon, wanted = entry.rpartition(":")
        if colon and wanted.isdecimal():
            return int(wanted) == port and _matches(host, port, name)
        name = entry.removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


async def open_way(proxy: Proxy, target: str) -> tuple[trio.abc.Stream, trio.SocketStream]:
    """A stream to `target` through the proxy, and the socket below it.

    Raises: Broken. Nothing stays open then, nor when cancelled.
    """
    try:
        tcp = await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise Broken(None, f"cannot connect to the proxy {proxy.address}: {error.strerror or error}") from None
    try:
        return await _connect(proxy, target, tcp), tcp
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(tcp)
        raise Broken(None, f"the proxy {proxy.address}: {error.__cause__ or error}") from None
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _connect(proxy: Proxy, target: str, tcp: trio.SocketStream) -> trio.abc.Stream:
    stream: trio.abc.Stream = tcp
    if proxy.tls:
        context = ssl.create_default_context()  # who a proxy is, its certificate says: SSL_CERT_FILE is read here
        stream = trio.SSLStream(tcp, context, server_hostname=proxy.host, https_compatible=True)
    await stream.send_all(proxy.request(target))
    _check(proxy, await _head(stream))
    return stream


async def _head(stream: Any) -> bytes:
    """The answer's head, byte by byte: what follows it is not ours to read."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < MAX_HEAD_BYTES and (byte := await stream.receive_some(1)):
        head += byte
    return head


def _check(proxy: Proxy, head: bytes) -> None:
    line = head.split(b"\r\n", 1)[0].split(b" ", 2)
    status = line[1].decode("ascii", "replace")[:3] if len(line) > 1 and line[0].startswith(b"HTTP/1.") else ""
    if not head.endswith(b"\r\n\r\n") or not status.isdecimal():
        raise Broken(None, f"the proxy {proxy.address} does not speak as one: is HTTPS_PROXY right?")
    if status == "407":
        raise Broken(
            None, f"the proxy {proxy.address} wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST"
        )
    if not status.startswith("2"):
        raise Broken(None, f"the proxy {proxy.address} gives no way to the node (HTTP {status}): is it allowed there?")
