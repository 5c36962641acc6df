from typing import Any

import pytest

from discod.daemon.routing import Router, RunEvent, scope_of
from discod.errors import Broken
from discod.identity import Identity, seal
from discod.p2p.mesh import BulkArrived, LinkUp, Received
from discod.wire.links import BulkHeader, Post
from discod.wire.rounds import NO_RID, Advert, Links, Message, Signed, make_envelope

ME, A, B, C = (Identity.from_seed(bytes([n]) * 32) for n in range(4))
SCOPE, OTHER = scope_of(b"m" * 32, b"t" * 32), scope_of(b"m" * 32, b"u" * 32)
ADVERT = Advert(1, bytes(16), 0, bytes(32), bytes(32), ())


class Run:
    def __init__(self) -> None:
        self.got: list[RunEvent] = []

    def deliver(self, event: RunEvent) -> None:
        self.got.append(event)

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        return memoryview(bytearray(header.size))


def said(by: Identity, body: Message, scope: bytes = SCOPE) -> Signed:
    return seal(by, make_envelope(scope, NO_RID, by.peer_id, body))


@pytest.fixture
def desk() -> tuple[Router, Run, list[Any]]:
    passed: list[Any] = []
    router, run = Router(ME.peer_id, lambda *call: passed.append(call)), Run()
    router.know(SCOPE, lambda: frozenset({ME.peer_id, A.peer_id, B.peer_id}))
    router.register(SCOPE, run)
    return router, run, passed


def test_scopes_differ_by_mesh_and_by_task() -> None:
    assert len({SCOPE, OTHER, scope_of(b"t" * 32, b"m" * 32)}) == 3


def test_a_message_reaches_the_run_of_its_scope_only(desk: tuple[Router, Run, list[Any]]) -> None:
    router, run, _ = desk
    mine = Received(A.peer_id, Post(b"", said(A, ADVERT)))
    assert router.route(mine)
    assert not router.route(mine)  # heard before
    router.route(Received(A.peer_id, Post(b"", said(A, ADVERT, OTHER))))
    assert run.got == [mine, mine]
    assert router.heard(SCOPE) == [A.peer_id]
    assert router.heard(OTHER) == []


def test_who_is_no_trainer_of_the_mesh_is_not_listened_to(desk: tuple[Router, Run, list[Any]]) -> None:
    router, run, passed = desk
    router.route(Received(C.peer_id, Post(b"", said(C, ADVERT))))
    router.route(Received(C.peer_id, Post(B.peer_id, said(C, ADVERT))))
    assert (run.got, passed, router.heard(SCOPE)) == ([], [], [])
    header = BulkHeader(SCOPE, bytes(32), "piece", 0, 8)
    assert router.expect(C.peer_id, header) is None
    place = router.expect(A.peer_id, header)
    assert place is not None
    assert len(place) == 8


def test_a_message_for_another_trainer_is_handed_on_unread(desk: tuple[Router, Run, list[Any]]) -> None:
    router, run, passed = desk
    signed = said(A, Links(1, (), 0, bytes(32), False))
    router.route(Received(A.peer_id, Post(B.peer_id, signed)))
    router.route(Received(A.peer_id, Post(C.peer_id, signed)))  # no trainer
    assert passed == [(B.peer_id, Post(b"", signed))]
    assert run.got == []


def test_what_was_passed_on_by_another_is_no_acceptance_of_its_carrier(desk: tuple[Router, Run, list[Any]]) -> None:
    router, run, _ = desk
    assert not router.route(Received(B.peer_id, Post(b"", said(A, ADVERT))))
    assert router.heard(SCOPE) == []
    assert len(run.got) == 1


def test_links_go_to_every_run_and_bulk_to_its_own(desk: tuple[Router, Run, list[Any]]) -> None:
    router, run, _ = desk
    up = LinkUp(A.peer_id, "direct")
    arrived = BulkArrived(A.peer_id, BulkHeader(SCOPE, bytes(32), "sum", 1, 8), bytes(32))
    router.route(up)
    router.route(arrived)
    router.route(BulkArrived(A.peer_id, BulkHeader(OTHER, bytes(32), "sum", 1, 8), bytes(32)))
    assert run.got == [up, arrived]
    router.unregister(SCOPE)
    router.route(arrived)
    assert len(run.got) == 2


def test_bytes_that_are_no_envelope_break_the_link(desk: tuple[Router, Run, list[Any]]) -> None:
    router, _, _ = desk
    with pytest.raises(Broken):
        router.route(Received(A.peer_id, Post(b"", Signed(b"\x00", bytes(64)))))
