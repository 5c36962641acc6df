"""What is charged: every step that a sent update holds, once; content, whatever it is called; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from discod.daemon.charging import Charging, Content, content_of, noise_for_data
from discod.daemon.turn import told
from discod.errors import BadData, BudgetExhausted, LedgerDamaged, LocalError, UserError
from discod.privacy.accountant import epsilon_of
from discod.privacy.plan import Noise
from discod.store import SpentRow, Store
from discod.train.datasets import infer, load, split
from discod.train.task import PrivacySpec, TaskSpec
from discod.train.templates import builtin_task
from tests.daemon.circle import D, Peer, circle, in_place, task_of

CONTENT = Content(b"c" * 32, "/srv/scans.npz")
NOISE = Noise(0.1, 2.0, 100, 1e-5, 1.0)
HUGE = np.float32(3e38)


def private(momentum: float = 0.0) -> TaskSpec:
    spec = public()
    training = msgspec.structs.replace(spec.training, momentum=momentum)
    return msgspec.structs.replace(spec, training=training, privacy=PrivacySpec("record", noise_multiplier=2.0))


def public() -> TaskSpec:
    return msgspec.structs.replace(builtin_task("digits", 2), privacy=PrivacySpec())


def charging(momentum: float = 0.0, content: Content | None = CONTENT) -> Charging:
    made = Charging(private(momentum))
    made.begin(content, [], 0, at_base=True)
    made.trains(NOISE)
    return made


def epsilon(steps: int) -> float:
    """What so many of its steps cost; a budget's delta is the same."""
    return epsilon_of(NOISE.per_round(steps), NOISE.delta, NOISE.overflow * steps)


def sent(made: Charging, batches: int) -> float:
    """How many steps an update of this batch is charged for."""
    cost = made.charge(batches)
    made.paid(batches)
    assert cost is not None
    steps = cost.record[0] / NOISE.per_round(1)[0]
    assert cost.delta == pytest.approx(NOISE.overflow * steps)
    return steps


actions = st.lists(st.one_of(st.integers(1, 9), st.sampled_from(["send", "replace"])), max_size=40)


@given(actions, st.booleans())
def test_every_step_that_a_sent_update_holds_is_charged_once(done: list[int | str], momentum: bool) -> None:
    made = charging(0.9 if momentum else 0.0)
    batches, held, released, paid = 0, set[int](), set[int](), 0.0
    for action in done:
        if isinstance(action, int):
            held |= set(range(batches, batches + action))
            batches += action
        elif action == "send":
            released |= held
            paid += sent(made, batches)
        else:
            made.start_anew(batches)
            held = held if momentum else set()  # velocities remember
    assert paid == pytest.approx(len(released))
    assert made.epsilon == pytest.approx(epsilon(len(released)))


def row(batches: int) -> SpentRow:
    return SpentRow(b"b" * 32, batches, bytes([batches]) * 32, 0.1, None)


def test_a_restart_pays_for_what_a_checkpoint_holds_and_not_again_for_what_was_sent() -> None:
    made = Charging(private())
    made.begin(CONTENT, [row(8), row(16)], 20, at_base=True)  # 4 steps after the last Manifest are given up
    made.trains(NOISE)
    assert sent(made, 28) == pytest.approx(8)
    made.begin(CONTENT, [row(8)], 20, at_base=False)  # the checkpoint may hold all 12
    assert sent(made, 28) == pytest.approx(20)


def test_what_costs_nothing() -> None:
    plain = Charging(public())
    plain.trains(None)
    assert plain.charge(8) is None
    assert plain.shown() is None
    assert plain.epsilon is None
    sample = charging(content=None)
    assert sample.charge(8) is None
    sample.paid(8)
    shown = sample.shown()
    assert shown is not None
    assert (shown["unit"], shown["steps"], shown["z"]) == ("record", 100, 2.0)
    assert 0 < shown["spent"] < shown["epsilon"]


def test_an_update_that_nobody_trained_is_our_bug() -> None:
    with pytest.raises(LocalError):
        Charging(private()).charge(8)


def test_data_that_change_while_they_are_trained_on_end_the_run() -> None:
    made = charging()
    made.trains(NOISE)
    with pytest.raises(BadData, match="changed"):
        made.trains(Noise(0.2, 2.0, 100, 1e-5, 1.0))


def rows(seed: int = 1) -> dict[str, Any]:
    return {
        "x": np.random.default_rng(seed).integers(0, 17, (40, 8, 8)).astype(np.uint8),
        "y": np.arange(40) % 10,
    }


def test_content_is_what_rows_are_and_not_how_they_are_called_or_saved(tmp_path: Path) -> None:
    first, again, other = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"
    np.savez(first, **rows())
    np.savez_compressed(again, **rows())
    np.savez(other, **rows(2))
    (tmp_path / "link.npz").symlink_to(first)
    one, two, three, linked = (content_of(str(path)) for path in (first, again, other, tmp_path / "link.npz"))
    assert one is not None
    assert two is not None
    assert three is not None
    assert one.hash == two.hash != three.hash
    assert one == linked == (load(first, infer(first)).content_hash, str(first))
    assert content_of("sample:digits:1/3") is None


def test_content_does_not_depend_on_what_a_task_reads_of_it(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, scans=rows()["x"], labels=rows()["y"])  # `data add` cannot read this
    one = content_of(str(path))
    assert one is not None
    np.savez(path, scans=rows(2)["x"], labels=rows()["y"])
    two = content_of(str(path))
    assert two is not None
    assert one.hash != two.hash
    with pytest.raises(BadData, match="does not exist"):
        content_of(str(tmp_path / "gone.npz"))


def test_noise_follows_from_the_rows_that_are_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **rows())
    spec = private()
    rule = msgspec.structs.replace(spec.training, validation_split=0.25, batch_size=8)
    spec = msgspec.structs.replace(spec, training=rule)
    found = noise_for_data(spec, str(path))
    training, kept = split(load(path, spec.data), 0.25, spec.seed, by_row=True)
    assert isinstance(found, Noise)
    assert kept is not None
    assert found.q == 8 / len(training) > 8 / 40
    assert noise_for_data(public(), str(path)) is None


def test_peers_do_not_hear_where_data_lie() -> None:
    assert told(BudgetExhausted("the privacy budget of /srv/scans.npz is used up")) == "budget-exhausted"
    assert told(LedgerDamaged("the privacy ledger of /srv/scans.npz is damaged")) == "ledger-damaged"
    assert told(UserError("the update holds NaN")) == "the update holds NaN"


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


def charge_for(peer: Peer) -> Store:
    """From now on a peer's updates are charged; its store."""
    shelf: Any = peer.exchange._shop._shelf
    shelf._charging = charging()
    return peer.store


@pytest.mark.usefixtures("no_threads")
async def test_a_lost_round_stays_charged_and_the_next_pays_for_its_own_steps(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    first = np.zeros(D, np.float32)
    first[0] = -HUGE
    async with circle(tmp_path, 4, task_of(4), first) as c:
        anna, bert, carl, dora = c.peers
        store = charge_for(dora)
        await c.begin()
        dora.exchange.batches = 4
        anna.parameters[0] = bert.parameters[0] = HUGE  # two leave: the attempt is lost after dora has spent
        assert await c.share([(carl, 0.5, 100), (dora, 0.5, 100), (anna, 0.0, 1), (bert, 0.0, 1)]) == [None] * 4
        assert store.budget(CONTENT.hash).spent == pytest.approx(epsilon(4))
        for peer in (anna, bert):
            peer.parameters[0] = first[0]
        for peer in c.peers:
            assert await peer.begin() is None
        dora.exchange.batches = 12
        states = await c.share([(peer, 0.25, 100) for peer in c.peers])
        assert None not in states
        assert store.budget(CONTENT.hash).spent == pytest.approx(epsilon(12))
        assert len(store.spent(dora.task.id)) == 2


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("damaged", [False, True])
async def test_nothing_leaves_once_the_budget_is_used_up_or_unknown(
    damaged: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with circle(tmp_path, 3, task_of(3)) as c:
        anna, bert, carl = c.peers
        store = charge_for(anna)
        await c.begin()
        store.spend(b"o" * 32, row(1), charging().charge(4))
        if damaged:
            store.database.write("UPDATE share SET record = x'00'")
        anna.exchange.batches = 4 if damaged else 100_000
        caught: list[UserError] = []

        async def exhausted() -> None:
            with pytest.raises(LedgerDamaged if damaged else BudgetExhausted) as found:
                await anna.share(0.25)
            caught.append(found.value)
            anna.exchange.retire(told(found.value))

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exhausted)
                nursery.start_soon(bert.share, 0.25)
                nursery.start_soon(carl.share, 0.25)
        assert len(caught) == 1
        assert store.spent(anna.task.id) == []
        code = "ledger-damaged" if damaged else "budget-exhausted"
        assert ("anna", code) in [(note["peer"], note["why"]) for note in bert.told("peer.left")]
