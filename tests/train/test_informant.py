from collections.abc import Callable

import msgspec
import pytest

from discod.train.informant import Informant, Snapshot, TrainingPoint, ValidationPoint

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def training(round: int, batch: int = 0) -> TrainingPoint:
    return TrainingPoint(round, batch, samples=8, loss=0.5, accuracy=0.75)


def test_the_average_of_peers_includes_the_current_round() -> None:
    informant = Informant("t", rounds=9, round_duration=4)
    for round, peers in enumerate([(A, B, C), (A, B), (A, B, C), (B, C)], 1):
        informant.update(round, training(round), None, peers)
    now = informant.snapshot()
    assert (now.peers_current, now.peers_total, now.peers_average) == (2, 3, 2.5)
    assert Informant("t", 9, 4).snapshot().peers_average == 0


def test_a_lost_round_counts_no_peers() -> None:
    informant = Informant("t", rounds=9, round_duration=4)
    informant.update(1, training(1), None, (A, B, C))
    informant.update(1, training(1), None)
    now = informant.snapshot()
    assert (now.round, now.peers_current, now.peers_average, len(now.training)) == (1, 3, 3.0, 2)


def test_the_last_ten_messages_are_kept() -> None:
    informant = Informant("t", rounds=9, round_duration=4)
    for number in range(13):
        informant.say(f"message {number}")
    assert informant.snapshot().messages == tuple(f"message {n}" for n in range(3, 13))


def test_step_counts_within_the_round_and_is_full_while_sharing() -> None:
    informant = Informant("t", rounds=9, round_duration=4, batch=8)
    informant.does("training")
    assert informant.snapshot().step == 0
    informant.trained(batch=11, samples=24, loss=0.3, accuracy=0.9)
    assert informant.snapshot().step == 3
    informant.trained(batch=12, samples=8, loss=0.2, accuracy=0.95)
    informant.does("sharing")
    now = informant.snapshot()
    assert (now.step, now.batch, now.samples, now.loss, now.accuracy) == (4, 12, 32, 0.2, 0.95)


def test_a_snapshot_is_the_whole_run_in_json() -> None:
    informant = Informant("t", rounds=9, round_duration=4)
    informant.traffic(sent=1200, received=900)
    informant.worker_restarted()
    informant.update(1, training(1, 4), ValidationPoint(1, 0.9, 0.4, 0.6, 0.8, joint=True), (A, B))
    now = informant.snapshot()
    assert msgspec.json.decode(msgspec.json.encode(now), type=Snapshot) == now
    assert (now.bytes_sent, now.bytes_received, now.worker_restarts) == (1200, 900, 1)
    assert now.messages == ("worker killed: restarted, round kept",)
    assert now.validation[0].accuracy_before == 0.4


@pytest.mark.parametrize("change", ["say", "does", "trained", "traffic", "restarted", "update"])
def test_every_change_raises_the_revision(change: str) -> None:
    informant = Informant("t", rounds=9, round_duration=4)
    before = informant.snapshot()
    changes: dict[str, Callable[[], object]] = {
        "say": lambda: informant.say("x"),
        "does": lambda: informant.does("waiting"),
        "trained": lambda: informant.trained(1, 1, 0.1, 0.2),
        "traffic": lambda: informant.traffic(1, 2),
        "restarted": informant.worker_restarted,
        "update": lambda: informant.update(1, training(1), None),
    }
    changes[change]()
    assert informant.snapshot().revision > before.revision
    assert before.revision == 0  # a snapshot does not change under its reader
