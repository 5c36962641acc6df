"""Sealing and opening the envelopes that round messages travel in; their form and labels stand in discod.wire."""

from __future__ import annotations

from discod.errors import Broken, LocalError
from discod.identity.ids import peer_id
from discod.identity.keys import Identity, verify
from discod.wire.codec import encode
from discod.wire.rounds import Envelope, Signed, parse_envelope, sign_label


def seal(identity: Identity, envelope: Envelope) -> Signed:
    """Sign an envelope of ours. Raises: LocalError when it names another sender."""
    if envelope.sender != identity.peer_id:
        raise LocalError("an envelope is signed by the sender it names")
    data = encode(envelope)
    return Signed(data, identity.sign(sign_label(envelope.kind), data))


def open_signed(signed: Signed, public_key: bytes) -> Envelope:
    """Return the envelope if the holder of `public_key`, (32,) bytes, is its sender and signed it.

    Raises: Broken for a bad form, sender or signature, Refused when it is not canonical.
    """
    envelope = parse_envelope(signed)
    if envelope.sender != peer_id(public_key):
        raise Broken(envelope.sender, "an envelope whose sender is not the key's owner")
    if not verify(public_key, sign_label(envelope.kind), signed.envelope, signed.signature):
        raise Broken(envelope.sender, f"a {envelope.kind} with a bad signature")
    return envelope
