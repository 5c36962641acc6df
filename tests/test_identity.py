"""Keys, ids, certificates, key files and sealed envelopes."""

from __future__ import annotations

import hashlib
import os
import pickle
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import BadData, Broken, Exit, LocalError, NoIdentity, PermissionProblem, Refused, UserError
from discod.identity import (
    Identity,
    certificate_key,
    open_signed,
    parse_id,
    peer_id,
    seal,
    short_id,
    show_id,
    verify,
)
from discod.identity.ids import ALPHABET, from_symbols, to_symbols
from discod.wire.codec import encode
from discod.wire.rounds import Have, Signed, make_envelope

SEED = bytes(range(32))
VECTOR_ID = "AS3N-N9TM-CD3M-RP0M-5VXE-VYAY-APWF-YTCM-9NH0-WYKD-VCMG-6SEN-C87E-260X"
VECTOR_SIGNATURE = (
    "4498da8bb0aad51f7558ae6672650156225d6b3c993d758d5c06ae79f11b73e0"
    "a354af327b6484f4f282177b8d9a56e1122d50bfc04aa8440ba98044d719fa0f"
)
VECTOR_CERTIFICATE = "d643bac51ff45aeb430806c85a2a099af3c03135329260b5e553e4a2b044945a"
ids = st.binary(min_size=32, max_size=32)


def test_vectors_of_a_fixed_seed() -> None:
    identity = Identity.from_seed(SEED)
    assert identity.public.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert identity.peer_id.hex() == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"
    assert show_id(identity.peer_id) == VECTOR_ID
    assert short_id(identity.peer_id) == VECTOR_ID[:9]
    assert identity.sign(b"discod/test/1", b"message").hex() == VECTOR_SIGNATURE
    assert hashlib.sha256(identity.certificate_der).hexdigest() == VECTOR_CERTIFICATE


@given(ids)
def test_a_shown_id_reads_back(value: bytes) -> None:
    assert parse_id(show_id(value)) == value
    assert parse_id(show_id(value).lower().replace("-", " ")) == value
    assert show_id(value).startswith(short_id(value))


@given(st.integers(1, 64).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
def test_symbols_of_any_length_read_back(value: bytes) -> None:
    assert from_symbols(to_symbols(value), len(value)) == value


@given(ids, st.integers(0, 55), st.integers(1, 31))
def test_every_mistyped_symbol_is_found(value: bytes, place: int, shift: int) -> None:
    text = list(show_id(value).replace("-", ""))
    text[place] = ALPHABET[(ALPHABET.index(text[place]) + shift) % 32]
    with pytest.raises(BadData, match="mistyped"):
        parse_id("".join(text))


@given(ids, st.integers(0, 54))
def test_every_swap_of_neighbours_is_found(value: bytes, place: int) -> None:
    text = list(show_id(value).replace("-", ""))
    if text[place] == text[place + 1]:
        return
    text[place], text[place + 1] = text[place + 1], text[place]
    with pytest.raises(BadData):
        parse_id("".join(text))


@given(ids)
def test_blocks_in_the_wrong_order_are_found(value: bytes) -> None:
    text = show_id(value).replace("-", "")
    with pytest.raises(BadData):
        parse_id(text[14:28] + text[:14] + text[28:])


def test_bad_ids_say_what_is_wrong() -> None:
    text = show_id(peer_id(SEED))
    for bad, why in ((text[:-1], "55 symbols"), (text + "7", "57 symbols"), ("U" + text[1:], "'U'"), ("", "0 symbols")):
        with pytest.raises(BadData, match=why) as caught:
            parse_id(bad)
        assert caught.value.code == "bad-id"
    assert parse_id(text.replace("1", "l").replace("0", "o")) == peer_id(SEED)


def test_bits_that_mean_nothing_are_refused() -> None:
    block = [31] * 12 + [31]
    loose = to_symbols(b"\xff" * 8)  # 64 bits in 13 symbols: one spare bit
    assert from_symbols(loose, 8) == b"\xff" * 8
    from discod.identity.ids import _check

    with pytest.raises(BadData, match="mean nothing"):
        from_symbols("".join(ALPHABET[d] for d in [*block, _check(0, block)]), 8)


@given(st.binary(max_size=100), st.binary(min_size=1, max_size=20))
def test_a_signature_holds_for_its_label_and_message_only(message: bytes, label: bytes) -> None:
    identity = Identity.from_seed(SEED)
    signature = identity.sign(label, message)
    assert verify(identity.public, label, message, signature)
    assert not verify(identity.public, label + b"x", message, signature)
    assert not verify(identity.public, label, message + b"x", signature)
    assert not verify(Identity.from_seed(b"\1" * 32).public, label, message, signature)
    assert not verify(identity.public, label, message, signature[:-1])
    assert not verify(identity.public[:-1], label, message, signature)


def test_the_certificate_holds_the_key_and_nothing_random() -> None:
    identity = Identity.from_seed(SEED)
    assert identity.certificate_der == Identity.from_seed(SEED).certificate_der
    assert certificate_key(identity.certificate_der) == identity.public
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    assert certificate.not_valid_after_utc.year == 9999
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate_key(b"junk") is None


def test_two_pinned_peers_complete_a_mutual_tls_handshake(tmp_path: Path) -> None:
    one, two, other = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
    client, server = _handshake(tmp_path, one, two, [one, two, other])
    assert certificate_key(client.getpeercert(binary_form=True) or b"") == two.public
    assert certificate_key(server.getpeercert(binary_form=True) or b"") == one.public
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ssl.SSLError):
        _handshake(tmp_path, one, two, [two])


def _context(identity: Identity, anchors: list[Identity], directory: Path, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
    with identity.pair_file(directory) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        context.load_cert_chain(path)
    for anchor in anchors:
        context.load_verify_locations(cadata=anchor.certificate_der)
    return context


def _handshake(
    directory: Path, one: Identity, two: Identity, anchors: list[Identity]
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _context(one, anchors, directory, server=False).wrap_bio(a, b)
    server = _context(two, anchors, directory, server=True).wrap_bio(b, a, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client, server


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = Identity.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load(path).peer_id == made.peer_id
    with pytest.raises(UserError, match="exists already") as caught:
        Identity.create(path)
    assert caught.value.code == "file-exists"
    assert Identity.load(path).peer_id == made.peer_id
    assert [p.name for p in tmp_path.iterdir()] == ["identity.key"]


def test_a_missing_key_is_exit_10(tmp_path: Path) -> None:
    with pytest.raises(NoIdentity) as caught:
        Identity.load(tmp_path / "identity.key")
    assert caught.value.exit == Exit.NO_IDENTITY
    assert caught.value.hint == "discod init"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_others_could_read_is_exit_77(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    Identity.create(path)
    path.chmod(mode)
    with pytest.raises(PermissionProblem, match=f"{mode:04o}") as caught:
        Identity.load(path)
    assert caught.value.exit == Exit.PERMISSION
    assert "chmod 600" in caught.value.hint


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.key"
    Identity.create(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionProblem, match="belongs to user"):
        Identity.load(path)


def test_a_symlink_a_directory_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    Identity.create(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    (tmp_path / "dir.key").mkdir(mode=0o700)
    for name in ("link.key", "dir.key"):
        with pytest.raises(PermissionProblem):
            Identity.load(tmp_path / name)
    with pytest.raises(PermissionProblem, match="cannot write"):
        Identity.create(tmp_path / "missing" / "identity.key")


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"\xff" * 20_000])
def test_a_damaged_key_is_exit_10_and_is_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(NoIdentity, match="damaged") as caught:
        Identity.load(path)
    assert caught.value.code == "bad-identity"
    assert path.read_bytes() == content


def test_a_crash_while_writing_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(PermissionProblem, match="No space left"):
        Identity.create(tmp_path / "identity.key")
    assert not (tmp_path / "identity.key").exists()


def test_no_secret_in_repr_or_pickle() -> None:
    identity = Identity.from_seed(SEED)
    assert repr(identity) == f"<Identity {short_id(identity.peer_id)}>"
    assert str(identity) == repr(identity)
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_an_envelope_opens_with_its_senders_key_only() -> None:
    identity, other = Identity.from_seed(SEED), Identity.from_seed(b"\2" * 32)
    envelope = make_envelope(b"s" * 32, b"r" * 32, identity.peer_id, Have(b"\7"))
    signed = seal(identity, envelope)
    assert open_signed(signed, identity.public) == envelope
    with pytest.raises(Broken):
        open_signed(signed, other.public)
    with pytest.raises(LocalError):
        seal(other, envelope)
    with pytest.raises(Broken, match="bad signature"):
        open_signed(Signed(signed.envelope, bytes(64)), identity.public)
    with pytest.raises(Broken):
        open_signed(Signed(signed.envelope[:-1], signed.signature), identity.public)


def test_an_envelope_signed_as_another_kind_is_refused() -> None:
    identity = Identity.from_seed(SEED)
    data = encode(make_envelope(b"s" * 32, b"r" * 32, identity.peer_id, Have(b"\7")))
    with pytest.raises(Broken, match="bad signature"):
        open_signed(Signed(data, identity.sign(b"discod/sig/1|done", data)), identity.public)


def test_an_envelope_that_is_not_canonical_is_refused() -> None:
    identity = Identity.from_seed(SEED)
    data = encode(make_envelope(b"s" * 32, b"r" * 32, identity.peer_id, Have(b"\7")))
    loose = b"\xdc\x00\x07" + data[1:]  # the array header in its longer form
    with pytest.raises(Refused):
        open_signed(Signed(loose, identity.sign(b"discod/sig/1|have", loose)), identity.public)
