"""Who calls a roster when an attempt has come to nothing."""

from __future__ import annotations

import pytest

from discod.p2p import effects as fx
from discod.wire.rounds import Roster, parse_envelope
from tests.p2p.stage import Stage


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_has_lost_an_attempt_waits_for_its_turn_however_late_its_advert_is(seed: int) -> None:
    """The first quorum has begun long ago. Two that call the same Adverts do not agree on who proposes."""
    stage = Stage(3, seed, min_peers=3)
    stage.boot()
    assert stage.run(60.0, stage.together)
    lost = next(iter(stage.attempts().values())).terms
    away = next(actor for peer, actor in stage.actors.items() if peer != lost.leader)
    stage.crash(away.peer)
    assert stage.run(60.0, lambda: not stage.attempts())
    away.boot()
    stage.heal()
    stage.actors[lost.leader].running.calling.mine.earliest = stage.now + 10  # its Advert completes the quorum
    since = stage.now
    assert stage.run(60.0, stage.together)
    sent = [e.signed for at, _, e in stage.seen if at > since and isinstance(e, fx.Send)]
    rosters = [envelope for envelope in map(parse_envelope, sent) if envelope.kind == Roster.kind]
    assert rosters
    assert lost.leader not in {roster.sender for roster in rosters}
