"""audit = "witness": two peers sum each chunk, and a sum counts only when both have signed the same hash."""

from __future__ import annotations

import pytest

from discod.p2p import effects as fx
from tests.p2p.test_simulation import calm, fault
from tests.p2p.world import Host, World

LIE = b"\xee" * 32


class Crooked(Host):
    """Sums wrongly, and signs it."""

    def _hash(self, kind: str, rid: bytes, chunk: int, tokens: frozenset[tuple[bytes, int]]) -> bytes:
        return LIE if kind == "sum" else super()._hash(kind, rid, chunk, tokens)


def listen(world: World) -> list[tuple[bytes, fx.Note]]:
    """(who, note) of all notes from now on."""
    heard: list[tuple[bytes, fx.Note]] = []
    for host in world.hosts.values():
        perform = host.perform

        def spy(effects: list[fx.Effect], host: Host = host, perform: object = perform) -> None:
            heard.extend((host.peer, effect) for effect in effects if isinstance(effect, fx.Note))
            assert callable(perform)
            perform(effects)

        host.perform = spy  # type: ignore[method-assign]
    return heard


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("peers", [3, 5])
def test_honest_peers_certify_with_a_witness(secure: bool, peers: int) -> None:
    world = World(peers, seed=5, min_peers=peers, secure=secure, witness=True)
    world.boot()
    assert world.run(120.0, lambda: min(h.round for h in world.alive()) >= 10)
    assert set(world.closed) <= {"certified", "another base"}


@pytest.mark.parametrize("seed", range(2000, 2012))
def test_random_faults_with_a_witness(seed: int) -> None:
    world = World(3 + seed % 5, seed, min_peers=3, words=17 * (1 + seed % 5), secure=bool(seed % 2), witness=True)
    world.boot()
    peers = list(world.hosts)
    for _ in range(12):
        world.run(world.random.uniform(0.1, 12.0))
        fault(world, peers)
    calm(world, 600.0, 8)


@pytest.mark.parametrize("secure", [False, True])
def test_a_forged_sum_is_adopted_by_nobody_and_both_signers_are_named(secure: bool) -> None:
    world = World(4, seed=3, min_peers=4, secure=secure, witness=True)
    liar = next(iter(world.hosts))
    world.hosts[liar].__class__ = Crooked
    notes = listen(world)
    world.boot()
    world.run(60.0)
    assert world.adopted == 0
    disputes = [(who, note) for who, note in notes if note.event == "sum.disputed" and who != liar]
    assert {note.peer == liar for _, note in disputes} == {True, False}, "both of them, since nobody knows who lies"
    assert any(note.peer == liar and LIE.hex() in note.text for _, note in disputes)
    assert any("signed different sums" in why for why in world.closed)


def test_without_a_witness_the_same_forgery_is_noticed_by_nobody() -> None:
    """What status says as "sums not audited": the certificate only proves that all hold the same state."""
    world = World(4, seed=3, min_peers=4)
    world.hosts[next(iter(world.hosts))].__class__ = Crooked
    notes = listen(world)
    world.boot()
    world.run(60.0)
    assert world.adopted > 0
    assert all(note.event != "sum.disputed" for _, note in notes)
