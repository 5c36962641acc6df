"""Which addresses are dialled, and which are told to others."""

from __future__ import annotations

from discod.p2p.addresses import advertised, dialable, split_address


def test_only_plain_numbers_are_dialled_and_loopback_only_from_here() -> None:
    entries = ("10.0.0.1:7340", "127.0.0.1:7340", "[::1]:1", "[fe80::1]:1", "224.0.0.1:1", "0.0.0.0:1", "a.example:1")
    assert dialable(entries, loopback=False) == ["10.0.0.1:7340"]
    assert dialable(entries, loopback=True) == ["10.0.0.1:7340", "127.0.0.1:7340", "[::1]:1"]
    assert dialable(("10.0.0.1:0", "x", "[::ffff:127.0.0.1]:5", "10.0.0.1"), loopback=False) == []


def test_advertised_addresses_are_each_named_once() -> None:
    assert advertised(["10.0.0.1", "10.0.0.1", "2001:db8::1"], 7340, loopback=False) == (
        "10.0.0.1:7340",
        "[2001:db8::1]:7340",
    )
    assert advertised(["10.0.0.1"], 0, loopback=False) == ()


def test_addresses_are_read_with_and_without_a_port() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("::1", 8765) == ("::1", 8765)
    assert split_address("host", 8765) == ("host", 8765)
    assert split_address("[::1]", 8765) == ("::1", 8765)
