"""The TLS of a node: its own key, or certificate files of somebody's authority, looked at before they are used."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from discod.errors import BadConfig, PermissionProblem, UsageError
from discod.identity import Identity


class Pair(NamedTuple):
    """A certificate with those that lead to its authority, and its key: two PEM files."""

    certificate: Path
    key: Path


def parse_pair(text: str) -> Pair:
    """Of "CERT,KEY".  Raises: UsageError."""
    certificate, comma, key = text.partition(",")
    if not comma or not certificate or not key:
        raise UsageError(f"--tls cannot be {text!r}", "write two PEM files: --tls CERT,KEY")
    return Pair(Path(certificate), Path(key))


def own_context(identity: Identity, directory: Path) -> ssl.SSLContext:
    """TLS with the node's own certificate, made from its key."""
    context = _context()
    with identity.pair_file(directory) as path:
        context.load_cert_chain(path)
    return context


def pair_context(pair: Pair, now: datetime | None = None) -> ssl.SSLContext:
    """TLS with certificate files.

    Raises: PermissionProblem, BadConfig in one sentence: unreadable, no PEM, encrypted, not one pair, expired.
    """
    certificate = _certificate(pair.certificate, _read(pair.certificate))
    if _public(_key(pair.key, _read(pair.key))) != _public(certificate):
        raise BadConfig(f"{pair.key} is not the key of {pair.certificate}", "give the two files of one pair: CERT,KEY")
    _check_dates(pair.certificate, certificate, now or datetime.now(UTC))
    context = _context()
    try:
        context.load_cert_chain(pair.certificate, pair.key)
    except ssl.SSLError as error:
        raise BadConfig(f"OpenSSL does not take {pair.certificate}: {error.reason}", "renew the certificate") from None
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = f"cannot read {path}: {os.strerror(error.errno or 0)}"
        if isinstance(error, PermissionError):
            raise PermissionProblem(why, f"let the node's user read it: ls -l {path}") from None
        raise BadConfig(why, "write the paths of two PEM files: --tls CERT,KEY") from None


def _certificate(path: Path, data: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise BadConfig(f"{path} holds no certificate in PEM form", "the first of the two files is CERT") from None


def _key(path: Path, data: bytes) -> object:
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        hint = "write it without: openssl pkey -in KEY -out PLAIN, mode 0600"
        raise BadConfig(f"{path} is encrypted with a passphrase, which nobody is there to type", hint) from None
    except ValueError:
        raise BadConfig(f"{path} holds no private key in PEM form", "the second of the two files is KEY") from None


def _public(holder: object) -> bytes:
    found: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return found


def _check_dates(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if certificate.not_valid_after_utc <= now:
        raise BadConfig(f"the certificate in {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}", "renew it")
    if certificate.not_valid_before_utc > now:
        when = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
        raise BadConfig(f"the certificate in {path} is valid from {when} UTC on", "is this machine's clock right?")
