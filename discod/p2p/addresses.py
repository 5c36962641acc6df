"""Addresses as text, "HOST:PORT" with IPv6 in brackets, and which of a peer's we are willing to dial. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from discod.errors import UsageError

MAX_DIALLED = 8


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host without brackets, port.  Raises: UsageError."""
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or text.endswith("]") or (text.count(":") > 1 and text[0] != "[")):
        host, port = text, str(default_port)
    if not host.strip("[]") or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{text!r} is no address", "write HOST:PORT, for IPv6 [HOST]:PORT")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The text form."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback_host(host: str) -> bool:
    """Whether this host is this machine, by its name or number alone."""
    number = _number(host)
    return host == "localhost" or (number is not None and number.is_loopback)


def dialable(entries: tuple[str, ...], *, loopback: bool) -> list[str]:
    """Those of a peer's addresses we dial: numbers only, never link-local, multicast or unspecified ones.

    loopback: whether loopback ones count, because peer and record came from this machine.
    """
    good = []
    for entry in entries[:MAX_DIALLED]:
        try:
            host, port = split_address(entry)
        except UsageError:
            continue
        number = _number(host)
        if number is None or port == 0 or number.is_link_local or number.is_multicast or number.is_unspecified:
            continue
        if number.is_loopback and not loopback:
            continue
        good.append(join_address(host, port))
    return good


def advertised(hosts: list[str], port: int, *, loopback: bool) -> tuple[str, ...]:
    """What we say of ourselves: the hosts we are seen at, each once, that others may dial."""
    entries = tuple(dict.fromkeys(join_address(host, port) for host in hosts if host))
    return tuple(dialable(entries, loopback=loopback))


def _number(host: str) -> IPv4Address | IPv6Address | None:
    try:
        number = ip_address(host)
    except ValueError:
        return None
    return (number.ipv4_mapped or number) if isinstance(number, IPv6Address) else number
