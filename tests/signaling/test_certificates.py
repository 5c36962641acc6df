"""Certificate files are looked at before they are used; each trouble is one sentence."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from discod.errors import Exit, UsageError, UserError
from signaling.certificates import Pair, pair_context, parse_pair
from tests.signaling.running import certificate_files


def test_a_pair_is_two_paths() -> None:
    assert parse_pair("a.pem,b.key") == Pair(Path("a.pem"), Path("b.key"))
    for text in ("a.pem", "a.pem,", ",b.key", ""):
        with pytest.raises(UsageError, match="--tls cannot be"):
            parse_pair(text)


def test_a_good_pair_is_taken(tmp_path: Path) -> None:
    assert pair_context(Pair(*certificate_files(tmp_path, "good"))).minimum_version is ssl.TLSVersion.TLSv1_2


def test_each_trouble_is_named(tmp_path: Path) -> None:
    certificate, key = certificate_files(tmp_path, "good")
    _, other = certificate_files(tmp_path, "other")
    past = certificate_files(tmp_path, "past", start=timedelta(days=-2), end=timedelta(days=-1))
    future = certificate_files(tmp_path, "future", start=timedelta(days=1), end=timedelta(days=2))
    nothing = tmp_path / "nothing"
    nothing.write_text("nothing")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    for pair, why in (
        ((tmp_path / "none.pem", key), r"cannot read .*none\.pem: No such file"),
        ((certificate, tmp_path), "cannot read .*: Is a directory"),
        ((nothing, key), "nothing holds no certificate in PEM form"),
        ((certificate, nothing), "nothing holds no private key in PEM form"),
        ((certificate, locked), "encrypted with a passphrase"),
        ((certificate, other), r"other\.key is not the key of .*good\.pem"),
        (past, f"expired on {datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"),
        (future, r"is valid from .* UTC on"),
    ):
        with pytest.raises(UserError, match=why) as raised:
            pair_context(Pair(*pair))
        assert raised.value.exit is Exit.BAD_CONFIG
        assert raised.value.hint
        assert "\n" not in raised.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    certificate, key = certificate_files(tmp_path, "good")
    key.chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*good\.key: Permission denied") as raised:
        pair_context(Pair(certificate, key))
    assert raised.value.exit is Exit.PERMISSION
