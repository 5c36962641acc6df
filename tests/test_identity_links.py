"""The invite link: made, read, and every way of spoiling it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import BadInvite, Exit
from discod.identity import Identity, make_link, parse_link
from discod.identity.ids import to_symbols

VECTOR = (
    "discod+ws://[::1]:8765/j/6HTGZ65XB7YFSM53DMHDANFMK7CN"
    ".D8W07NFGB682MV73DNYY9Q93JJ8X9FFJNC11HMSGXNEETS7AAFG70KG2#000G40R40M30EZ209185GR38E1WA8124GK2GAHC5RTR34D1P70X3RFGK"
)
MESH, NODE = (Identity.from_seed(bytes([n]) * 32).peer_id for n in (1, 2))
SEED = bytes(range(32))
LINK = make_link("signal.example.org", 8765, MESH, NODE, SEED)


def test_vector() -> None:
    assert make_link("::1", 8765, MESH, NODE, SEED, tls=False) == VECTOR


@given(st.sampled_from(["signal.example.org", "127.0.0.1", "::1", "localhost"]), st.integers(1, 65535), st.booleans())
def test_a_link_reads_back(host: str, port: int, tls: bool) -> None:
    link = parse_link(f"  {make_link(host, port, MESH, NODE, SEED, tls=tls)}\n")
    assert (link.host, link.port, link.tls, link.signaling, link.seed) == (host, port, tls, NODE, SEED)
    assert link.is_for(MESH)
    assert not link.is_for(NODE)
    assert link.key.public == Identity.from_seed(SEED).public


def test_the_port_may_be_left_out_and_quotes_do_not_matter() -> None:
    assert parse_link(f"'{LINK.replace(':8765', '')}'") == parse_link(LINK)
    assert parse_link(LINK).address == "signal.example.org:8765"
    assert parse_link(make_link("::1", 1, MESH, NODE, SEED)).address == "[::1]:1"


@pytest.mark.parametrize("cut", [LINK.partition("#")[0], LINK.partition("#")[0] + "#"])
def test_a_link_cut_by_a_shell_says_so(cut: str) -> None:
    with pytest.raises(BadInvite, match="shell takes an unquoted #") as caught:
        parse_link(cut)
    assert "prompt" in caught.value.hint
    assert caught.value.exit == Exit.BAD_INVITE


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "no invite link"),
        ("hello", "no invite link"),
        ("https://signal.example.org/j/x", "no invite link"),
        (LINK.replace("discod://", "discod+tcp://"), "no invite link"),
        (LINK.replace("signal.example.org", ""), "no invite link"),
        (LINK.replace("signal.", "user@signal."), "no invite link"),
        (LINK.replace(":8765", ":87654"), "port 87654"),
        (LINK.replace(":8765", ":0"), "port 0"),
        (LINK.replace("/j/", "/k/"), "cut or changed"),
        (LINK[:50], "cut or changed"),
        (LINK.replace(".org:8765/j/", ".org:8765"), "no invite link"),
        ("discod://signal.example.org:8765#abc", "cut or changed"),
        (LINK[:-1], "55 symbols, 56 are needed"),
        (LINK + "AA", "58 symbols"),
        ("x" * 2000, "no invite link"),
    ],
)
def test_a_spoiled_link_says_what_is_wrong(bad: str, why: str) -> None:
    with pytest.raises(BadInvite, match=why):
        parse_link(bad)


@given(st.integers(0, len(LINK) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_symbol_in_an_id_or_the_seed_is_found(place: int, symbol: str) -> None:
    start = LINK.index("/j/") + 3
    place = max(place, start)
    spoiled = LINK[:place] + symbol + LINK[place + 1 :]
    try:
        link = parse_link(spoiled)
    except BadInvite:
        return
    assert link == parse_link(LINK)  # the same symbol, its lower case, or O for 0


@given(st.integers(0, 55), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_error_and_no_repr_shows_the_seed(place: int, symbol: str) -> None:
    seed = to_symbols(SEED)
    spoiled = seed[:place] + symbol + seed[place + 1 :]
    try:
        text = repr(parse_link(LINK.replace(seed, spoiled)))
    except BadInvite as error:
        text = error.message + error.hint + repr(error.__cause__)
    assert not any(seed[i : i + 4] in text for i in range(52))
