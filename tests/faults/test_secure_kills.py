"""Secure sums of five and seven daemons, of which as many are killed as a round may lose, wherever they stand in it.

t is 4 of 5 and 5 of 7. The others go on to the right sum over those that are left, or give the round up within its
deadline and hold the next one; the killed come back; all end with one model, and no update was sent twice.
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.faults.crew import Crew, Peer, a_task
from tests.faults.test_kills import nothing_was_sent_twice

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400), pytest.mark.xdist_group("faults")]

LOST_SECONDS = 120.0  # two that are killed may be neighbours in the order of owners: that round is given up after 30
ROUND = 2  # from which on the kill lands, in the first round in which the victim does such a thing
PHASES = (
    "say-shares",  # after its Advert
    "say-manifest",  # after Start, all encoded and spent
    "say-receipt",  # its chunks have left
    "say-consent",  # it has seen the Propose
    "say-unmask",  # it has consented
    "say-sum",  # as an owner: it has unmasked and summed its chunk
    "say-done",
    "adopt",
)
AS_LEADER = ("say-roster", "say-start", "say-propose")


def is_stopped(peer: Peer) -> bool:
    return peer.process.is_stopped


def lose(crew: Crew, victims: tuple[str, ...], phase: str) -> None:
    """Everybody trains; the victims are killed in this phase, the others certify three more rounds without them."""
    rounds = 44 if phase in AS_LEADER else 14  # one of five leads, by chance
    task = a_task("secure", rounds=rounds, min_peers=3)
    for name in victims:
        crew.peers[name].start(stop=f"{phase}:{ROUND}")
    crew.meet()
    crew.train(task)
    dead = [crew.peers[name] for name in victims]
    living = [name for name in crew.peers if name not in victims]
    for victim in dead:
        crew.until(partial(is_stopped, victim), f"{victim.name} stops in {phase}", 90.0)
        victim.process.end()
    goal = crew.peers[living[0]].round + 3
    crew.until(
        lambda: min(crew.peers[name].round for name in living) >= goal, f"{living} hold round {goal}", LOST_SECONDS
    )
    for victim in dead:
        victim.start()
    everybody = sorted(crew.peers)
    crew.until(
        lambda: all(v.all("round.finished", roster=everybody) or v.ended for v in dead), "all take part again", 90.0
    )
    crew.finish()
    assert all(nothing_was_sent_twice(victim, task) for victim in dead)


@pytest.mark.parametrize("phase", [*PHASES, *AS_LEADER])
def test_five_lose_one_wherever_it_stands_in_a_secure_sum(crew: Crew, phase: str) -> None:
    crew.open_node()
    for number, name in enumerate("abcde", 1):
        crew.add(name, part=f"digits:{number}/5")
    lose(crew, ("e",), phase)


@pytest.mark.parametrize("phase", ["say-receipt", "say-unmask"])
def test_seven_lose_two_wherever_they_stand_in_a_secure_sum(crew: Crew, phase: str) -> None:
    crew.open_node()
    for number, name in enumerate("abcdefg", 1):
        crew.add(name, part=f"digits:{number}/7")
    lose(crew, ("f", "g"), phase)
