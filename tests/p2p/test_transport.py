from __future__ import annotations

import datetime
import os
import ssl

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from trio.testing import memory_stream_pair

from discod.errors import Broken
from discod.identity import Identity
from discod.p2p.transport import HEADER, Frames, TlsStream, client_context
from discod.p2p.trust import Trust, _issuer, load_pair
from discod.wire.links import BULK, CONTROL, DATA
from tests.p2p.pairs import identity, shaken, tls_pair, trusting

A, B, C = identity(1), identity(2), identity(3)


async def handshake(one: TlsStream, two: TlsStream) -> tuple[str, str]:
    """Both sides' complaint, empty when content; a client hears of its refusal with the first read."""
    said = {}

    async def side(name: str, stream: TlsStream) -> None:
        said[name] = ""
        try:
            await stream.do_handshake()
            await stream.send_all(b"hello")
            await stream.receive_some()
        except Broken as error:
            said[name] = error.why
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, "one", one)
        nursery.start_soon(side, "two", two)
    return said["one"], said["two"]


async def test_members_recognise_each_other_by_their_keys() -> None:
    trust_a, trust_b = trusting(A, B), trusting(B, A)
    one, two = tls_pair(trust_a, trust_b)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        nursery.start_soon(two.do_handshake)
    assert trust_a.peer(one.peer_certificate()) == B.peer_id
    assert trust_b.peer(two.peer_certificate()) == A.peer_id


async def test_stranger_is_refused_and_told_so() -> None:
    client, server = await handshake(*tls_pair(trusting(C, B), trusting(B, A)))
    assert "not a member's" in server
    assert "does not take us for a member" in client


async def test_listener_who_is_a_stranger_is_refused() -> None:
    client, server = await handshake(*tls_pair(trusting(A, B), trusting(C, A)))
    assert "not a member's" in client
    assert "does not take us for a member" in server


async def test_revoked_key_is_refused_by_later_handshakes_and_others_stay() -> None:
    trust = trusting(B, A, C)
    trust.set_keys([C.public])
    assert "not a member's" in (await handshake(*tls_pair(trusting(A, B), trust)))[1]
    assert await handshake(*tls_pair(trusting(C, B), trust)) == ("", "")


async def test_key_added_later_is_accepted_on_the_live_context() -> None:
    trust = trusting(B, A)
    server = trust.server
    trust.set_keys([A.public, C.public])
    assert trust.server is server
    assert await handshake(*tls_pair(trusting(C, B), trust)) == ("", "")


def forged(issuer: x509.Name, signer: Identity, key: Identity) -> bytes:
    """A certificate for `key` that names `issuer` and is signed by `signer`, with the key, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, A.peer_id.hex())])
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.private.public_key(), 7)
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC))
        .sign(signer.private, None)
    )
    return key.key_pem + certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("signer", [C, A], ids=["a stranger signs", "a member signs for another key"])
async def test_impersonation_by_issuer_name_is_refused(signer: Identity) -> None:
    """Naming a member as issuer does not help a stranger; a member's signature makes no identity for another key."""
    context = client_context()
    context.verify_mode = ssl.CERT_NONE
    load_pair(context, forged(_issuer(A.peer_id), signer, C))
    ours, theirs = memory_stream_pair()
    one = TlsStream(ours, context, server_side=False)
    trust = trusting(B, A)
    two = TlsStream(theirs, trust.server, server_side=True)

    async def listen() -> None:
        await two.do_handshake()
        trust.peer(two.peer_certificate())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        with pytest.raises(Broken, match="not a member's"):
            await listen()
    await one.aclose()
    await two.aclose()


async def test_old_tls_is_refused() -> None:
    trust = trusting(B, A)
    context = client_context()
    load_pair(context, trusting(A, B)._pair)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, theirs = memory_stream_pair()
    client, server = await handshake(
        TlsStream(ours, context, server_side=False), TlsStream(theirs, trust.server, server_side=True)
    )
    assert client
    assert server


async def test_bulk_arrives_in_its_buffer_whatever_the_size() -> None:
    data = os.urandom(3 * (256 << 10) + 1234)
    buffer = bytearray(len(data) + 7)
    async with shaken(A, B) as (one, two), trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, data)
        await two.receive_into(memoryview(buffer)[7:])
    assert bytes(buffer[7:]) == data


async def test_frames_pass_in_order_and_are_counted() -> None:
    async with shaken(A, B) as (one, two):
        sender, receiver = Frames(one), Frames(two)
        await sender.send(CONTROL, b"abc")
        await sender.send(DATA, b"12345")
        await sender.send_many([b"x", b"yz"])
        got = []
        for _ in range(4):
            kind, length = await receiver.receive_header()
            got.append((kind, await receiver.receive_body(length)))
        assert got == [(CONTROL, b"abc"), (DATA, b"12345"), (CONTROL, b"x"), (CONTROL, b"yz")]
        assert sender.sent == receiver.received == {CONTROL: 5 + 3 + 5 + 1 + 5 + 2, DATA: 5 + 5}


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (HEADER.pack((1 << 20) + 2, CONTROL), "frame of"),
        (HEADER.pack(1025 + 1, BULK), "frame of"),
        (HEADER.pack((256 << 10) + 2, DATA), "frame of"),
        (HEADER.pack(0xFFFFFFFF, DATA), "frame of"),
        (HEADER.pack(0, CONTROL), "frame of 0"),
        (HEADER.pack(3, 9), "unknown kind"),
    ],
)
async def test_bad_header_breaks_before_memory_is_taken(head: bytes, why: str) -> None:
    async with shaken(A, B) as (one, two):
        await one.send_all(head)
        with pytest.raises(Broken, match=why):
            await Frames(two).receive_header()


async def test_truncated_frame_and_clean_end_are_broken() -> None:
    async with shaken(A, B) as (one, two):
        await one.send_all(HEADER.pack(10, CONTROL) + b"abc")
        await one.aclose()
        frames = Frames(two)
        assert await frames.receive_header() == (CONTROL, 9)
        with pytest.raises(Broken, match="closed"):
            await frames.receive_body(9)


async def test_end_without_goodbye_and_changed_bytes_are_broken() -> None:
    async with shaken(A, B) as (one, two):
        await one.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(Broken, match="TLS"):
            await two.receive_some()
    async with shaken(A, B) as (one, two):
        await one.transport.aclose()
        with pytest.raises(Broken, match="closed"):
            await two.receive_some()


async def test_what_was_cancelled_on_its_way_is_followed_by_nothing() -> None:
    async with shaken(A, B) as (one, two):
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.send_all(b"never leaves")
        await one.aclose()
        with pytest.raises(Broken, match="the other side closed the connection"):
            await two.receive_into(memoryview(bytearray(1)))


async def test_bytes_that_are_no_tls_break_the_handshake() -> None:
    ours, theirs = memory_stream_pair()
    stream = TlsStream(theirs, Trust(B).server, server_side=True)
    await ours.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(Broken, match="handshake failed"):
        await stream.do_handshake()
    await stream.aclose()
