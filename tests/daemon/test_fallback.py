"""A task with a fallback: real links, stores, rounds and a real depot; links are cut, the node comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from discod.identity import make_offer, show_id
from discod.p2p.mesh import LinkDown, LinkUp
from discod.train.task import TaskSpec, encode_task
from discod.wire.federated import FallbackSpec
from tests.daemon.circle import Circle, Peer, circle, task_of, until
from tests.daemon.guild import Town
from tests.signaling.hosted import NODE, Node

AFTER = 30.0


def fallback_task(min_peers: int = 3, **rule: Any) -> TaskSpec:
    spec = FallbackSpec(node=show_id(NODE.peer_id), after_seconds=AFTER, **rule)
    return msgspec.structs.replace(task_of(min_peers), fallback=spec)


class Split:
    """A circle whose links the test cuts and mends, and the node."""

    def __init__(self, made: Circle, town: Town) -> None:
        self.circle, self.peers, self.town = made, made.peers, town
        self.rounds: dict[str, list[int]] = {peer.name: [] for peer in made.peers}

    def part(self) -> None:
        """No link is left."""
        for peer in self.peers:
            for other in self.peers:
                if other is not peer:
                    peer.exchange.deliver(LinkDown(other.id, "cut"))

    def heal(self) -> None:
        for peer in self.peers:
            for other in self.peers:
                if other is not peer:
                    peer.exchange.deliver(LinkUp(other.id, "direct"))

    async def train(self, peer: Peer, rounds: int) -> None:
        """Train until so many rounds are certified; what was seen on the way is kept."""
        seen = self.rounds[peer.name]
        while peer.exchange.round < rounds:
            await peer.begin()
            await trio.sleep(1)
            peer.exchange.batches += 4
            await peer.share(0.25)
            seen.append(peer.exchange.round)

    async def train_all(self, rounds: int, peers: Iterable[Peer] | None = None, seconds: float = 600) -> None:
        with trio.fail_after(seconds):
            async with trio.open_nursery() as nursery:
                for peer in peers or self.peers:
                    nursery.start_soon(self.train, peer, rounds)

    def ways(self) -> set[str]:
        return {peer.exchange.status().way for peer in self.peers}

    def hashes(self) -> set[bytes]:
        return {peer.exchange.base for peer in self.peers}

    def check_never_back(self) -> None:
        assert all(seen == sorted(seen) for seen in self.rounds.values()), self.rounds


@asynccontextmanager
async def split(directory: Path, task: TaskSpec) -> AsyncIterator[Split]:
    (directory / "node").mkdir()
    async with circle(directory, 3, task, opened=False) as made, trio.open_nursery() as nursery:
        town = Town(Node(directory / "node", nursery))
        creator = made.peers[0]
        offer = make_offer(creator.who, creator.members.mesh_id, encode_task(task), 5)
        for peer in made.peers:
            net: Any = peer.mesh
            peer.members.add(offer)
            net.nodes, net.call = town.nodes, town.call
        await made.open()
        yield Split(made, town)
        nursery.cancel_scope.cancel()


async def test_parted_peers_go_on_through_the_node_and_return_with_one_hash(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with split(tmp_path, fallback_task(mode="synchronous")) as s:
        await s.train_all(2)
        assert s.ways() == {"mesh"}
        s.part()
        await s.train_all(5)
        assert s.ways() == {"node"}
        assert len(s.hashes()) == 1
        assert all(len(peer.told("fallback.entered")) == 1 for peer in s.peers)
        s.heal()
        await s.train_all(7)
        await until(lambda: len(s.hashes()) == 1)
        assert s.ways() == {"mesh"}
        assert all(len(peer.told("fallback.left")) == 1 for peer in s.peers)
        assert {peer.exchange.status().switches for peer in s.peers} == {2}
        s.check_never_back()


async def test_without_links_and_node_all_wait_and_go_on_with_either(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with split(tmp_path, fallback_task(mode="synchronous")) as s:
        await s.train_all(1)
        s.part()
        await s.town.fall()
        with trio.move_on_after(500):
            await s.train_all(2)
        assert {peer.exchange.round for peer in s.peers} == {1}
        assert {peer.exchange.status().phase for peer in s.peers} == {"away"}
        s.town.rise()
        await s.train_all(2)
        s.check_never_back()
        assert len(s.hashes()) == 1


async def test_asynchronous_fallback_ends_with_one_hash_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with split(tmp_path, fallback_task()) as s:
        await s.train_all(1)
        s.part()
        await s.train_all(4)
        s.heal()
        await s.train_all(6)
        await until(lambda: len(s.hashes()) == 1)
        s.check_never_back()


async def test_links_that_come_and_go_do_not_switch(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with split(tmp_path, fallback_task()) as s:
        await s.train_all(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.train_all, 4)
            for _ in range(10):
                s.part()
                await trio.sleep(AFTER / 2)
                s.heal()
                await trio.sleep(2)
        assert {peer.exchange.status().switches for peer in s.peers} == {0}


async def test_who_stayed_at_the_old_base_follows_the_versions_of_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Two pushed and went on; the third stood still: the node's signature is its certificate."""
    task = fallback_task(2, mode="synchronous", deadline_seconds=5.0)
    async with split(tmp_path, task) as s:
        await s.train_all(1)
        s.part()
        await s.train_all(3, s.peers[:2])
        assert s.peers[2].exchange.round == 1
        s.heal()
        await until(lambda: s.peers[2].exchange.round == 3)
        assert len(s.hashes()) == 1
        s.check_never_back()


async def test_returning_alone_from_the_node_the_heavier_branch_of_the_mesh_wins(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    task = fallback_task(2, max_age_seconds=3.0)
    async with split(tmp_path, task) as s:
        await s.train_all(1, s.peers)
        *pair, alone = s.peers
        for one in pair:
            one.exchange.deliver(LinkDown(alone.id, "cut"))
            alone.exchange.deliver(LinkDown(one.id, "cut"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.town.keep_time)
            await s.train_all(4, [alone])
            nursery.cancel_scope.cancel()
        assert alone.exchange.status().way == "node"
        await s.train_all(3, pair)
        (heavier,) = {peer.exchange.base for peer in pair}
        s.heal()
        await until(lambda: alone.exchange.base == heavier)


async def test_restarted_peer_stands_on_the_version_it_had(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with split(tmp_path, fallback_task(mode="synchronous")) as s:
        await s.train_all(1)
        s.part()
        await s.train_all(3)
        anna = s.peers[0]
        state = anna.exchange.base
        await anna.stop()
        await s.circle.open(anna)
        assert (anna.exchange.round, anna.exchange.base) == (3, state)
        s.part()
        await s.train_all(4)
        assert len(s.hashes()) == 1
