"""A daemon that is killed, wherever it stands in a round: the others go on, and it comes back to the same model."""

from __future__ import annotations

import pytest

from discod.train.task import TaskSpec
from tests.faults.crew import Crew, Peer, a_task

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.xdist_group("faults")]

ROUND = 4  # that the kill lands in
PHASES = ("contribute", "spent", "combine", "applied", "adopt", "adopted")


def kill_in(phase: str, crew: Crew, task: TaskSpec) -> Peer:
    """All three train until c is in this phase of ROUND; it is killed there."""
    victim = crew.peers["c"]
    victim.start(stop=f"{phase}:{ROUND}")
    crew.meet()
    crew.train(task)
    crew.until(lambda: victim.process.is_stopped, f"c stops in {phase}")
    victim.process.end()
    return victim


def nothing_was_sent_twice(victim: Peer, task: TaskSpec) -> bool:
    """Every update that it has sent has batches in it that were in none before."""
    sent = [row.batches for row in victim.spent(task)]
    return sent == sorted(set(sent))


def test_two_go_on_without_the_third_which_comes_back_to_the_same_model(three: Crew) -> None:
    task = a_task(rounds=24)
    victim = three.peers["c"]
    three.meet()
    three.train(task)
    three.reach(3, "a", "b", "c")
    victim.process.end()
    three.reach(three.peers["a"].round + 3, "a", "b")
    victim.start()
    three.until(lambda: victim.all("round.finished", roster=["a", "b", "c"]), "c takes part again")
    three.finish()
    assert nothing_was_sent_twice(victim, task)


@pytest.mark.parametrize("phase", PHASES)
def test_two_go_on_wherever_the_third_is_killed(three: Crew, phase: str) -> None:
    task = a_task(rounds=24)
    victim = kill_in(phase, three, task)
    three.reach(three.peers["a"].round + 3, "a", "b")
    victim.start()
    three.until(lambda: victim.all("round.finished", roster=["a", "b", "c"]), "c takes part again")
    three.finish()
    assert nothing_was_sent_twice(victim, task)


@pytest.mark.parametrize("phase", ["spent", "applied", "adopt", "adopted"])
def test_where_all_are_needed_they_wait_for_the_one_that_was_killed(three: Crew, phase: str) -> None:
    task = a_task("secure", rounds=ROUND + 3, min_peers=3)
    victim = kill_in(phase, three, task)
    before = victim.spent(task)
    others = [three.peers[name] for name in "ab"]
    three.until(
        lambda: all(peer.round >= ROUND or peer.all("round.closed") for peer in others), "a and b go on, or give it up"
    )
    victim.start()
    three.finish()
    sent = victim.spent(task)
    assert sent[: len(before)] == before
    if phase in ("spent", "applied"):  # the round was held again, and what was to go into it could not be sent any more
        assert sent[len(before)].base == before[-1].base
    assert nothing_was_sent_twice(victim, task)
