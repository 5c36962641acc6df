"""The federated exchange: the contract, points 1 to 6 of protocol.md 7 end to end, and a node that comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from trio.testing import MockClock

import signaling.depot as depot_module
from discod.errors import BadData, BudgetExhausted, UserError
from discod.identity import show_id
from discod.ring import FULL_WEIGHT, weight_word
from discod.train.rounds import JointState
from tests.daemon.circle import D, in_place
from tests.daemon.guild import Apprentice, guild, hosted_task, until
from tests.signaling.hosted import BERT
from tests.train.exchanges import check_exchange


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)
    monkeypatch.setattr(depot_module, "in_thread", in_place)


async def all_at_once(*shares: tuple[Apprentice, float]) -> list[JointState | None]:
    """What these peers get for their steps, side by side."""
    found: dict[str, JointState | None] = {}

    async def one(peer: Apprentice, step: float) -> None:
        found[peer.name] = await peer.share(step)

    async with trio.open_nursery() as nursery:
        for each in shares:
            nursery.start_soon(one, *each)
    return [found[peer.name] for peer, _ in shares]


def rounds(states: list[JointState | None]) -> list[int | None]:
    return [None if state is None else state.round for state in states]


@pytest.mark.parametrize("mode", ["asynchronous", "synchronous"])
async def test_three_exchanges_keep_the_contract(tmp_path: Path, autojump_clock: MockClock, mode: str) -> None:
    came: dict[str, list[JointState | None]] = {}

    async def drive(peer: Apprentice) -> None:
        came[peer.name] = await check_exchange(peer.exchange, D)

    async with guild(tmp_path, 3, hosted_task(3, mode=mode)) as g:
        async with trio.open_nursery() as nursery:
            for peer in g.peers:
                nursery.start_soon(drive, peer)
        versions = [rounds(states) for states in came.values()]
        if mode == "synchronous":
            assert versions == [[1, 2, 3]] * 3
            assert [peer.value for peer in g.peers] == [6.0] * 3  # 1 + 2 + 3, as each of them has trained
        else:
            newest = [max(filter(None, states), default=0) for states in versions]
            assert max(newest) >= 1
            assert all(states == sorted(states, key=lambda n: n or 99) or None in states for states in versions)


async def test_version_is_that_of_the_last_model_pulled_and_pushing_does_not_change_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        assert await anna.share(1.0) is None  # pushed, pulled, nothing newer
        assert (anna.exchange.round, anna.exchange.status().waits_there) == (0, True)
        newer = await bert.share(3.0)
        assert newer is not None
        assert (newer.round, newer.contributors) == (1, tuple(sorted((anna.who.peer_id, bert.who.peer_id))))
        assert (anna.exchange.round, bert.exchange.round, bert.value) == (0, 1, 2.0)


async def test_peer_goes_on_with_its_current_parameters_when_nothing_is_newer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        assert await anna.share(0.5) is None
        assert anna.parameters[0] == 1.5
        await bert.share(2.5)  # in anna's slot is the second push, all that she learned since version 0
        assert bert.value == 2.0
        assert [told["weight"] for told in anna.told("federated.pushed")] == [FULL_WEIGHT] * 2


async def test_stale_push_is_refused_and_the_peer_goes_on_from_the_version_it_then_fetches(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The reference answers with a version that it refuses again."""
    async with guild(tmp_path, 3, hosted_task(2)) as g:
        anna, bert, carl = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        spent = len(carl.store.spent(carl.task.id))
        newer = await carl.share(100.0)
        assert newer is not None
        assert (newer.round, carl.parameters[0]) == (1, 2.0)
        assert carl.told("federated.refused")[0]["code"] == "stale"
        assert len(carl.store.spent(carl.task.id)) == spent, "nothing left this peer"
        assert await carl.share(1.0) is None
        assert carl.exchange.status().waits_there


async def test_update_is_measured_from_the_first_parameters_in_the_first_round_never_from_zero(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2), first=7.0) as g:
        await g.peers[0].share(1.0)
        await g.peers[1].share(3.0)
        assert g.peers[1].value == 9.0


async def test_nobody_waits_for_a_slow_peer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 3, hosted_task(2)) as g:
        anna, bert, _ = g.peers
        began = trio.current_time()
        for number in range(3):
            await anna.share(1.0)
            assert rounds([await bert.share(1.0)]) == [number + 1]
            await anna.begin()
            await anna.share(0.0)  # stale: adopts
        assert trio.current_time() - began < 1


async def test_what_is_in_a_version_already_is_not_sent_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 2, hosted_task(2, cutoff=2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await bert.share(3.0)  # version 1 = 2.0; anna trains on from version 0
        assert rounds([await anna.share(0.25)]) == [1]  # she pushed what she learned since, then pulled
        assert len(anna.told("federated.pushed")) == 2
        await bert.share(1.0)
        told = bert.told("round.certified")[-1]
        assert bert.value == pytest.approx(2.0 + (0.25 / np.sqrt(2) + 1.0) / 2)
        assert told["weights"] == pytest.approx({"anna": FULL_WEIGHT / np.sqrt(2), "p0": float(FULL_WEIGHT)})


async def test_weights_are_samples_capped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(4.0, weight=25)
        await bert.share(8.0, weight=10**9)
        small = weight_word(25, 100)
        assert bert.value == pytest.approx((4 * small + 8 * FULL_WEIGHT) / (small + FULL_WEIGHT))


async def test_synchronous_peers_get_the_same_versions_round_by_round(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 3, hosted_task(2, mode="synchronous")) as g:
        for number in range(1, 4):
            states = await all_at_once(*zip(g.peers, (1.0, 2.0, 6.0), strict=True))
            assert rounds(states) == [number] * 3
            assert [peer.value for peer in g.peers] == [3.0 * number] * 3
        assert len({peer.exchange.base for peer in g.peers}) == 1


async def test_leaver_does_not_stall_a_synchronous_round(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 3, hosted_task(2, mode="synchronous", deadline_seconds=1e4)) as g:
        anna, bert, carl = g.peers
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_at_once, (anna, 1.0), (bert, 2.0))
            await until(lambda: "waiting" in bert.exchange.status().phase or bool(bert.told("federated.pushed")))
            carl.exchange.retire()
        assert (anna.value, bert.value) == (1.5, 1.5)
        assert trio.current_time() - began < 100


async def test_newcomer_begins_with_the_newest_version(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 3, hosted_task(2)) as g:
        anna, bert, carl = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        newer = await carl.begin()
        assert newer is not None
        assert (newer.round, carl.parameters[0]) == (1, 2.0)
        assert await carl.begin() is None


async def test_training_goes_on_while_the_node_is_away_and_nothing_acknowledged_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await g.town.fall()
        await bert.share(0.0)
        await until(lambda: not anna.is_in and not bert.is_in)
        began = trio.current_time()
        assert await bert.share(2.0) is None
        assert await bert.share(1.0) is None
        assert bert.parameters[0] == 3.0
        assert trio.current_time() - began < 0.1
        assert bert.exchange.status().phase == "away"
        assert not bert.exchange.status().waits_there
        g.town.rise()
        await g.let_in()
        newer = await bert.share(0.5)
        assert newer is not None
        assert (newer.round, bert.value) == (1, (1.0 + 3.5) / 2)
        assert {told["why"] for told in bert.told("node.lost")} == {"closed"}


async def test_push_whose_answer_was_lost_counts_once(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guild(tmp_path, 2, hosted_task(2, cutoff=3)) as g:
        anna, bert = g.peers
        line: Any = anna.exchange._line
        whole = line._answer

        async def deaf(*kinds: Any, **rest: Any) -> Any:
            said = await whole(*kinds, **rest)
            if [kind.__name__ for kind in kinds] == ["Pushed"]:
                await g.town.fall()
                g.town.rise()
                line._answer = whole
                return await whole(*kinds)
            return said

        line._answer = deaf
        assert await anna.share(1.0) is None
        assert not anna.told("federated.pushed")
        assert g.node.depot.counts()["waiting_updates"] == 1
        await bert.share(3.0)  # his conversation broke off too
        assert bert.value == 2.0
        await anna.share(0.5)
        await bert.share(1.0)
        assert bert.value == pytest.approx(2.0 + (0.5 / np.sqrt(2) + 1.0) / 2)


async def test_versions_never_go_back_and_a_node_that_forgot_is_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        await anna.share(0.0)
        await g.town.fall()
        for file in (tmp_path / "node").iterdir():
            file.unlink()
        g.town.rise()
        await g.let_in()
        assert await anna.share(1.0) is None
        assert (anna.exchange.round, anna.value) == (1, 2.0)
        assert anna.told("federated.refused")[-1]["code"] == "future"
        assert anna.told("node.behind") == [{"version": 0, "round": 1}]
        assert "lost what it had" in anna.exchange.status().last_loss


async def test_restarted_peer_goes_on_from_the_version_on_its_disk_with_higher_numbers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        await anna.share(0.0)
        state, certificate = anna.exchange.base, anna.exchange.certificate
        anna.stop()
        await g.node.settled()
        await g.open(anna)
        assert (anna.exchange.round, anna.exchange.base, anna.exchange.certificate) == (1, state, certificate)
        assert anna.parameters[0] == 2.0
        await anna.share(1.0)
        assert anna.exchange.status().waits_there


async def test_damaged_version_on_disk_is_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        bert.stop()
        (file,) = (tmp_path / "bert" / "states").glob("*/*.safetensors")
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(BadData, match="damaged"):
            await g._nursery.start(bert.serve)


async def test_update_is_spent_after_the_node_said_yes_and_before_it_leaves(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, _ = g.peers
        line: Any = anna.exchange._line
        order: list[tuple[str, int]] = []
        for name in ("offer", "push"):
            monkeypatch.setattr(line, name, _noted(name, getattr(line, name), anna, order))
        await anna.share(1.0)
        assert order == [("offer", 0), ("push", 1)]
        (row,) = anna.store.spent(anna.task.id)
        assert (row.base, row.batches) == (anna.exchange.base, anna.task.round_duration)


def _noted(name: str, whole: Any, peer: Apprentice, order: list[tuple[str, int]]) -> Any:
    async def call(*args: Any) -> Any:
        order.append((name, len(peer.store.spent(peer.task.id))))
        return await whole(*args)

    return call


async def test_exhausted_budget_ends_the_run_before_anything_leaves(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, _ = g.peers

        def exhausted(*_: Any) -> None:
            raise BudgetExhausted("nothing is left", "")

        monkeypatch.setattr(anna.store, "spend", exhausted)
        with pytest.raises(BudgetExhausted):
            await anna.share(1.0)
        assert g.node.depot.counts()["waiting_updates"] == 0


async def test_no_step_is_sent_beyond_those_the_noise_is_planned_for(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guild(tmp_path, 2, hosted_task(2)) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        await bert.share(3.0)
        monkeypatch.setattr(anna.exchange._versions, "covers", lambda batches: batches <= anna.task.round_duration)
        assert rounds([await anna.share(1.0)]) == [1]  # it still pulls
        assert len(anna.told("federated.unsent")) == 1
        assert g.node.depot.refused == {}


async def test_last_version_ends_the_task_for_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    task = hosted_task(2)
    short = msgspec.structs.replace(task, round=msgspec.structs.replace(task.round, rounds=1))
    async with guild(tmp_path, 2, short) as g:
        anna, bert = g.peers
        await anna.share(1.0)
        assert rounds([await bert.share(3.0)]) == [1]
        assert rounds([await anna.share(9.0)]) == [1]  # refused as finished, and pulled
        assert anna.told("federated.refused")[0]["code"] == "finished"
        assert rounds([await anna.share(9.0)]) == [1]
        assert anna.value == bert.value == 2.0


async def test_peer_whose_policy_wants_more_updates_in_a_version_does_not_take_part(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with guild(tmp_path, 1, hosted_task(2)) as g:
        g.peers[0].exchange._least = 3
        with pytest.raises(UserError, match="this peer's policy is 3"):
            await g.peers[0].exchange.run()


async def test_without_the_node_of_the_task_among_those_of_the_mesh_one_trains_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    task = hosted_task(2)
    other = msgspec.structs.replace(task.federated, node=show_id(BERT.peer_id))
    async with guild(tmp_path, 0, task) as g:
        peer = Apprentice(
            "anna", BERT, msgspec.structs.replace(task, federated=other), g.town, tmp_path / "x", _first()
        )
        await g._nursery.start(peer.serve)
        assert await peer.share(1.0) is None
        await until(lambda: bool(peer.exchange.status().last_loss))
        assert "key that the task names" in peer.exchange.status().last_loss
        peer.store.close()


def _first() -> Any:
    return np.zeros(D, np.float32)
