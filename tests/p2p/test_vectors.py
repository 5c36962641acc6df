"""The vectors of docs/protocol.md for names and messages: what this code makes, and what hashlib alone makes."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from discod.identity import open_signed
from discod.wire.codec import SIGNATURE_BYTES, encode
from discod.wire.rounds import BODIES, Signed, parse_body, parse_envelope
from tests.p2p.vectors import FILE, MESH, TASK, Made, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
STORED = json.loads(FILE.read_text())
NAMES = {name: bytes.fromhex(value) for name, value in STORED["names"].items()}


@cache
def made() -> Made:
    return Made()


def stored(kind: str) -> Signed:
    octets = bytes.fromhex(STORED["messages"][kind])
    return Signed(octets[:-SIGNATURE_BYTES], octets[-SIGNATURE_BYTES:])


def slow_digest(label: str, *parts: bytes) -> bytes:
    return sha256(label.encode() + b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def message(signed: Signed) -> bytes:
    return slow_digest("discod/message/1", signed.envelope)


def test_the_vectors_are_what_this_code_makes() -> None:
    assert made().as_json() == STORED


def test_the_page_shows_them() -> None:
    lines = PAGE.read_text().splitlines()
    assert [line for line in page(made()) if line not in lines] == []


def test_every_kind_of_message_has_one() -> None:
    assert STORED["messages"].keys() == BODIES.keys()


@pytest.mark.parametrize("kind", BODIES)
def test_a_stored_message_is_canonical_and_signed_by_its_sender(kind: str) -> None:
    signed = stored(kind)
    envelope = parse_envelope(signed)
    who = made().people[envelope.sender]
    assert open_signed(signed, who.public) == envelope
    assert encode(parse_body(envelope)) == envelope.body
    assert encode(envelope) == signed.envelope


@pytest.mark.parametrize("kind", ["advert", "consent", "done", "unmask"])
def test_a_signature_is_of_its_kind_alone(kind: str) -> None:
    """Ed25519 over the label and the SHA-256 of the envelope, with the seed's key: nothing of ours is used."""
    signed = stored(kind)
    sender = parse_envelope(signed).sender
    seed = next(n for n in (1, 2, 3) if made().people[sender].public == public(n))
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key()
    hashed = sha256(signed.envelope).digest()
    key.verify(signed.signature, f"discod/sig/1|{kind}".encode() + hashed)
    with pytest.raises(InvalidSignature):
        key.verify(signed.signature, b"discod/sig/1|start" + hashed)


def public(number: int) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw()


def test_names_are_plain_hashes() -> None:
    roster, names = made().roster, NAMES
    assert names["scope"] == slow_digest("discod/scope/1", MESH, TASK)
    assert names["era"] == slow_digest("discod/era/1", names["scope"], bytes(8), names["state 0"])
    adverts = [message(signed) for signed in made().adverts]
    assert names["rid"] == slow_digest("discod/rid/1", names["era"], *adverts, (3).to_bytes(4, "little"))
    assert names["u1h"] == slow_digest("discod/u1/1", names["rid"], b"\x07")
    manifests = [message(signed) for signed in made().manifests]
    assert names["mh"] == slow_digest("discod/manifests/1", *manifests)
    assert names["uh"] == slow_digest("discod/consent/1", names["rid"], names["u1h"], b"\x07", names["mh"])
    assert names["state 1"] == slow_digest("discod/state/1", names["head 1"])
    assert roster == tuple(sorted(roster))


def test_the_masked_words_open_to_three_times_the_update() -> None:
    """-1/2 and -7/16 are clipped at -1/4; the last word is the sum of the weights."""
    total = [int.from_bytes(NAMES["sum"][at : at + 4], "little", signed=True) for at in range(0, 80, 4)]
    plain = [(k / 16 - 0.5 - 1 / 32) * 40000 / 65535 for k in range(19)]
    words = [3 * round(min(max(x, -0.25), 0.25) * 2**29 / 0.25) for x in plain]
    assert all(abs(a - b) <= 3 * 64 for a, b in zip(total[:19], words, strict=True))  # float32 has 24 bits
    assert total[19] == 120_000
