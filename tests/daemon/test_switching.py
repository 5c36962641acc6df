"""When a task falls back to its node, and when it returns: in any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discod.daemon.switching import SETTLE_SECONDS, Switch, Way

AFTER = 20.0
steps = st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from([True, False, None])), max_size=40)


def test_lasting_absence_goes_to_the_node_and_a_lasting_quorum_returns() -> None:
    switch = Switch(AFTER, 0.0)
    switch.tick(AFTER - 0.1)
    assert switch.way.value == "mesh"
    switch.tick(AFTER)
    assert (switch.way.value, switch.switches) == ("node", 1)
    switch.quorum(True, 50.0)
    assert switch.deadline == 50.0 + SETTLE_SECONDS
    switch.quorum(False, 54.0)
    switch.quorum(True, 58.0)
    switch.tick(62.9)
    assert switch.way.value == "node"
    switch.tick(63.0)
    assert (switch.way.value, switch.switches) == ("mesh", 2)


@given(steps)
def test_every_switch_follows_a_condition_that_lasted(events: list[tuple[float, bool | None]]) -> None:
    switch, now, quorum, since, switches = Switch(AFTER, 0.0), 0.0, False, 0.0, 0
    for wait, said in events:
        now += wait
        before, lasted = switch.way, now - since
        if said is None:
            switch.tick(now)
        else:
            switch.quorum(said, now)
        if switch.way is not before:
            switches += 1
            assert lasted >= (AFTER if before is Way.MESH else SETTLE_SECONDS)
            assert quorum is (before is Way.NODE)
        if said is not None and said is not quorum:
            quorum, since = said, now
        assert switch.switches == switches
