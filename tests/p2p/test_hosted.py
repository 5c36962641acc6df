"""The node's signature in place of a certificate: what it proves, and what nobody else can make of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discod.errors import Refused
from discod.identity import Identity
from discod.p2p.chain import Chain
from discod.p2p.hosted import Host, Said, check_hosted, hosted_certificate
from discod.wire.federated import VERSION_LABEL, version_state
from discod.wire.rounds import Certificate, Head, head_hash

SCOPE, HOSTED = b"s" * 32, b"h" * 32
NODE, OTHER = Identity.from_seed(b"n" * 32), Identity.from_seed(b"o" * 32)
HOST = Host(NODE.peer_id, HOSTED, 1.0)
BASE = Head(SCOPE, 4, b"p" * 32, 0.5, b"v" * 32)
ORIGIN = head_hash(BASE)
nobody: Any = None


def version(number: int, by: Identity = NODE, origin: bytes = ORIGIN) -> tuple[Head, Certificate]:
    said = Said(by.public, b"b" * 32, bytes([number]) * 32, ())
    name = version_state(HOSTED, origin, number, said.before, said.hash)
    return hosted_certificate(SCOPE, HOST, origin, number, said, by.sign(VERSION_LABEL, name))


def test_versions_of_one_state_descend_from_each_other_and_from_it() -> None:
    chain = Chain(BASE, host=HOST)
    for number in (7, 5):
        head, certificate = version(number)
        chain.learn([certificate], head, SCOPE, nobody, False)
    assert chain.path(head_hash(version(7)[0])) == [head_hash(version(7)[0]), head_hash(version(5)[0]), ORIGIN]
    assert chain.choose({b"1": head_hash(version(5)[0]), b"2": head_hash(version(7)[0])}) == head_hash(version(7)[0])
    assert chain.is_version_after_base(head_hash(version(5)[0]))
    chain.advance(version(7)[0], ())
    assert not chain.is_version_after_base(head_hash(version(5)[0]))


@pytest.mark.parametrize("field", ["round", "parent", "state", "adverts"])
def test_a_changed_certificate_of_the_node_is_refused(field: str) -> None:
    _, certificate = version(5)
    check_hosted(certificate, SCOPE, HOST)
    changed = {"round": 6, "parent": b"x" * 32, "state": b"x" * 32, "adverts": certificate.dones}[field]
    with pytest.raises(Refused):
        check_hosted(msgspec.structs.replace(certificate, **{field: changed}), SCOPE, HOST)


def test_another_key_or_a_task_without_fallback_makes_no_certificate() -> None:
    with pytest.raises(Refused, match="did not sign"):
        check_hosted(version(5, OTHER)[1], SCOPE, HOST)
    with pytest.raises(Refused, match="without a fallback"):
        check_hosted(version(5)[1], SCOPE, None)
