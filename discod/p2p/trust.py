"""Whom TLS lets in: contexts that accept exactly the members' keys, made from public keys alone.

A peer presents one certificate for its Ed25519 key, signed by that same key under an issuer's name of its own. The
anchor that OpenSSL looks up for that name is made here, by whoever verifies, from the member's public key; so no
certificate has to be stored or gossiped, and a member set is all one needs to be linked. (protocol.md 2 loads the
members' own certificates instead; the anchors' signatures are filler, OpenSSL does not read them.)

An anchor lets its member sign certificates for other keys. That gains it nothing: identity is H(key of the leaf),
taken after the handshake proved that key, and it must be a member's (docs/security.md, links). Names and issuers are
not read.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from discod.errors import Broken
from discod.identity import Identity, certificate_key, peer_id
from discod.identity.keyfile import passing_file
from discod.identity.keys import NOT_AFTER, NOT_BEFORE
from discod.p2p.transport import client_context, server_context

_FILLER = Ed25519PrivateKey.from_private_bytes(bytes(32))  # signs anchors, whose signatures nobody reads


class Trust:
    """The two TLS contexts of a daemon. Adding a key works at once; removing one rebuilds them for later handshakes."""

    def __init__(self, identity: Identity) -> None:
        self._pair = identity.key_pem + leaf_certificate(identity).public_bytes(serialization.Encoding.PEM)
        self._keys: set[bytes] = set()
        self._rebuild()

    def set_keys(self, keys: Iterable[bytes]) -> None:
        """Accept exactly these (32,) public keys from now on."""
        wanted = set(keys)
        if not self._keys <= wanted:
            self._keys = set()
            self._rebuild()
        for key in sorted(wanted - self._keys):
            for context in (self.client, self.server):
                context.load_verify_locations(cadata=anchor(key))
        self._keys = wanted

    def peer(self, certificate: bytes) -> bytes:
        """The PeerId of the leaf certificate of a finished handshake.

        Raises:
            Broken: its key is not one of ours, whoever signed it.
        """
        key = certificate_key(certificate)
        if key is None or key not in self._keys:
            raise Broken(None, "their key is not a member's")
        return peer_id(key)

    def _rebuild(self) -> None:
        self.client, self.server = client_context(), server_context()
        for context in (self.client, self.server):
            load_pair(context, self._pair)


def leaf_certificate(identity: Identity) -> x509.Certificate:
    """The certificate a peer presents: its key, signed by its key, under the issuer that `anchor` names."""
    key = identity.private.public_key()
    return (
        _builder(key, subject=_name(identity.peer_id.hex()), issuer=_issuer(identity.peer_id))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        .sign(identity.private, None)
    )


def anchor(public: bytes) -> bytes:
    """What OpenSSL trusts so that the holder of this (32,) public key is let in, DER."""
    key, name = Ed25519PublicKey.from_public_bytes(public), _issuer(peer_id(public))
    certificate = (
        _builder(key, subject=name, issuer=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(_FILLER, None)
    )
    return certificate.public_bytes(serialization.Encoding.DER)


def load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """Give the context its key and certificate. ssl reads them from a file only: one in memory where there is such."""
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        with tempfile.TemporaryDirectory() as directory, passing_file(Path(directory), pem) as path:
            return context.load_cert_chain(path)
    file = os.memfd_create("discod-key", os.MFD_CLOEXEC)
    try:
        os.write(file, pem)
        return context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _builder(key: Ed25519PublicKey, *, subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    serial = int.from_bytes(peer_id(key.public_bytes_raw())[:16], "big") | 1
    return x509.CertificateBuilder(issuer, subject, key, serial, NOT_BEFORE, NOT_AFTER)


def _issuer(peer: bytes) -> x509.Name:
    return _name(f"discod {peer[:16].hex()}")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
