"""Seeded random runs of many real round machines: one state per rid, nothing counted twice, never stuck."""

from __future__ import annotations

import itertools

import pytest

from discod.p2p.terms import Phase
from discod.wire.rounds import NO_RID, Done, Links, make_envelope
from tests.p2p.stage import Stage
from tests.p2p.world import SCOPE, FakeKeyring, World

RUNS = 60
SECURE_RUNS = 30


def calm(world: World, seconds: float, rounds: int) -> None:
    """Faults have stopped: everybody goes on from one base, within `seconds`."""
    for host in world.hosts.values():
        host.slow = 1.0
        if host.machine is None:
            host.boot()
    world.heal()
    assert world.run(seconds, world.one_base), f"no common base; {world.closed}"
    start = max(host.round for host in world.alive())  # a losing branch may have been the longer one
    assert world.run(seconds, lambda: min(h.round for h in world.alive()) >= start + rounds), world.closed
    assert world.run(60.0, world.one_base), f"no common base; {world.closed}"


def test_three_peers_agree_without_faults() -> None:
    world = World(3, seed=1, min_peers=3)
    world.boot()
    assert world.run(120.0, lambda: min(h.round for h in world.alive()) >= 20)
    assert set(world.closed) == {"certified"}


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_faults(seed: int) -> None:
    world = World(2 + seed % 8, seed, words=17 * (1 + seed % 5))
    world.boot()
    peers = list(world.hosts)
    for _ in range(12):
        world.run(world.random.uniform(0.1, 12.0))
        fault(world, peers)
    calm(world, 600.0, 8)


def test_peers_agree_on_secure_sums_without_faults() -> None:
    world = World(5, seed=1, min_peers=5, secure=True)
    world.boot()
    assert world.run(120.0, lambda: min(h.round for h in world.alive()) >= 20)
    assert set(world.closed) <= {"certified", "another base"}  # four of five certify what the slowest then fetches


@pytest.mark.parametrize("seed", range(1000, 1000 + SECURE_RUNS))
def test_random_faults_of_secure_sums(seed: int) -> None:
    world = World(3 + seed % 6, seed, min_peers=3, words=17 * (1 + seed % 5), secure=True)
    world.boot()
    peers = list(world.hosts)
    for _ in range(12):
        world.run(world.random.uniform(0.1, 12.0))
        fault(world, peers)
    calm(world, 600.0, 8)


def test_a_member_that_moved_on_unheard_does_not_hold_me_in_its_attempt() -> None:
    """Found by seed 37: its Leave was lost with the link, and before the t-th Manifest no deadline runs."""
    world = World(2, seed=3)
    world.boot()
    waiting, other = world.hosts.values()
    waiting.slow, other.slow = 0.0, 1000.0

    def shared() -> bool:
        machine = waiting.machine
        return machine is not None and machine.attempt is not None and machine.attempt.spent

    assert world.run(2000.0, shared)
    assert waiting.machine is not None
    assert waiting.machine.attempt is not None
    attempt = waiting.machine.attempt
    moved = Links(10**9, (waiting.peer,), 7, b"elsewhere".ljust(32), True)
    envelope = make_envelope(SCOPE, NO_RID, other.peer, moved, moved.seq)
    signed = FakeKeyring(other.peer, frozenset(world.hosts)).sign(envelope)
    waiting.perform(waiting.machine.receive(signed, world.now))
    assert attempt.closed


@pytest.mark.parametrize("seed", range(8))
def test_who_missed_the_dones_of_its_round_asks_how_the_others_went_on(seed: int) -> None:
    """Found by a soak: cut off with its Done out, it waited for the deadline while the others went on."""
    stage = Stage(5, seed, min_peers=3)
    stage.boot()
    victim, *others = stage.actors.values()
    assert stage.run(60.0, lambda: min(actor.round for actor in stage.actors.values()) >= 2)
    stage.silent = lambda _, to, envelope: to == victim.peer and envelope.kind == Done.kind

    def signed() -> bool:
        attempt = victim.running.attempt
        return attempt is not None and attempt.phase is Phase.SIGNED

    assert stage.run(60.0, lambda: signed() and min(other.round for other in others) > victim.round)
    base = victim.round
    assert stage.run(5.0, lambda: victim.round > base)
    assert stage.run(60.0, stage.one_base)


def fault(world: World, peers: list[bytes]) -> None:
    rng = world.random
    match rng.randrange(7):
        case 0:
            victim = rng.choice(peers)
            if world.hosts[victim].machine is not None:
                world.crash(victim)
        case 1:
            for host in world.hosts.values():
                if host.machine is None:
                    host.boot()
        case 2:
            side = set(rng.sample(peers, rng.randrange(1, len(peers))))
            for a, b in itertools.combinations(peers, 2):
                if (a in side) != (b in side):
                    world.cut_link(a, b)
        case 3:
            world.heal()
        case 4:
            world.cut_link(*rng.sample(peers, 2))
        case 5:
            world.hosts[rng.choice(peers)].slow = rng.choice([1.0, 5.0, 30.0])
        case 6:
            a, b = rng.sample(peers, 2)  # a link that flaps
            world.take_down(a, b)
            world.after(rng.uniform(0.05, 5.0), lambda: world.bring_up(a, b))
