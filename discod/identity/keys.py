"""An Ed25519 key: its id, its labelled signatures and its self-signed TLS certificate (protocol.md 1, 2).

One class serves peers, mesh roots, invites and signaling nodes. A signature is over label | H(message), and every
use has its own label, so that none can stand for another; TLS and X.509 sign byte strings that begin with spaces or
0x30, never with "discod/". The certificate is a pure function of the key. No secret appears in a repr.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from discod.errors import NoIdentity
from discod.identity.ids import peer_id, short_id
from discod.identity.keyfile import passing_file, read_secret, write_new_secret

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class Identity:
    """A key pair; `peer_id` (32 bytes) names it, `public` (32 bytes) is its public key."""

    __slots__ = ("_certificate", "peer_id", "private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()
        self.peer_id = peer_id(self.public)
        self._certificate: bytes | None = None

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Return the key of a 32-byte Ed25519 seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> Identity:
        """Make a new key from OS entropy and keep it at `path` (0600, never overwrites).

        Raises: UserError (file-exists), PermissionProblem.
        """
        identity = cls.from_seed(os.urandom(SEED_BYTES))
        write_new_secret(path, identity.key_pem)
        return identity

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read the key kept at `path`.

        Raises: NoIdentity when there is none or it is damaged, PermissionProblem when its mode or owner is wrong.
        """
        return cls.from_pem(read_secret(path), str(path))

    @classmethod
    def from_pem(cls, pem: bytes, where: str) -> Identity:
        """Read a key written by `key_pem`; `where` names it in the error. Raises: NoIdentity when it is damaged."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            hint = (
                f"put back your copy of it; without one: move {where} away and run discod init (you will be a new peer)"
            )
            raise NoIdentity(f"{where} is damaged: it does not hold an Ed25519 private key", hint, code="bad-identity")
        return cls(private)

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS#8 PEM, unencrypted: for a 0600 file only."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_der(self) -> bytes:
        """The self-signed certificate (CA false, notAfter 9999); the same bytes every time."""
        if self._certificate is None:
            self._certificate = _certificate(self.private, self.peer_id)
        return self._certificate

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return x509.load_der_x509_certificate(self.certificate_der).public_bytes(serialization.Encoding.PEM)

    def pair_file(self, directory: Path) -> AbstractContextManager[Path]:
        """Give key and certificate as one PEM file for `SSLContext.load_cert_chain`, deleted when the block ends."""
        return passing_file(directory, self.key_pem + self.certificate_pem)

    def sign(self, label: bytes, message: bytes) -> bytes:
        """Return the (64,) byte signature over label | H(message)."""
        return self.private.sign(label + hashlib.sha256(message).digest())

    def __repr__(self) -> str:
        return f"<Identity {short_id(self.peer_id)}>"


def verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` is the key's over label | H(message); wrong lengths are just false."""
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, label + hashlib.sha256(message).digest())
    except InvalidSignature:
        return False
    return True


def certificate_key(der: bytes) -> bytes | None:
    """Return the (32,) Ed25519 public key of a certificate, None for anything else; names and issuers are not read."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def _certificate(private: Ed25519PrivateKey, identity: bytes) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.hex())])
    builder = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=private.public_key())
        .serial_number(int.from_bytes(identity[:16], "big") | 1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    return builder.sign(private, None).public_bytes(serialization.Encoding.DER)
