"""Attacks on the roster, the keys, the shares and the Start of a secure sum, and with messages of other rounds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from discod.p2p import effects as fx
from discod.p2p.certificate import bitmap, era_of
from discod.p2p.election import GRACE_SECONDS
from discod.p2p.secagg import BOX_BYTES
from discod.wire.codec import digest
from discod.wire.rounds import (
    Advert,
    Consent,
    Have,
    Leave,
    Manifest,
    Proof,
    Reassign,
    RoundKeys,
    Shares,
    Signed,
    Start,
    View,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppeteers import Puppeteers, called, entered
from tests.p2p.puppets import BASE, ERA, Puppets
from tests.p2p.table import refused, sign
from tests.p2p.world import SCOPE

ONE = digest("test/one")


def judged(p: Puppets, signed: Signed) -> str:
    """Why a Roster is not answered, once my grace has ended; empty when it is."""
    p.hear(signed)
    p.wait(GRACE_SECONDS)
    rid = parse_envelope(signed).rid
    if p.machine.attempt is not None and p.rid == rid:
        return ""
    bodies = [parse_body(parse_envelope(s)) for s in p.sent(Leave) if parse_envelope(s).rid == rid]
    return next(body.reason for body in bodies if isinstance(body, Leave))


# The roster


def test_two_rosters_with_one_advert_get_one_answer() -> None:
    """With one set of keys under two round ids a single colluder would open the difference."""
    p = Puppeteers(5, rank=1)
    p.ready()
    first, second = p.roster(p.everybody), p.roster([*p.others[:3], p.me])
    assert judged(p, first) == ""
    assert judged(p, second) == "busy, or my advert is used"
    dealt = {parse_envelope(signed).rid for signed in p.sent(Shares)}
    assert dealt == {parse_envelope(first).rid}


def test_my_keys_are_of_one_attempt_ever() -> None:
    p = entered()
    first = p.adverts[p.me]
    p.do(p.machine.failed(p.rid, "lost", p.now))
    p.wait(3.0)
    again = p.sent(Advert)[-1]
    one, other = (parse_body(parse_envelope(signed)) for signed in (first, again))
    assert isinstance(one, Advert)
    assert isinstance(other, Advert)
    assert one.keys is not None
    assert other.keys is not None
    assert {one.keys.mask, one.keys.box, one.keys.commitment}.isdisjoint(
        (other.keys.mask, other.keys.box, other.keys.commitment)
    )


def test_a_roster_packed_with_the_leaders_friends_is_refused() -> None:
    p = Puppeteers(7, rank=1)
    p.ready()
    assert judged(p, p.roster([p.leader, p.me, *p.others[1:3]])) == "a roster without most of the peers that are ready"


def test_two_are_no_secure_roster_whatever_the_task_says() -> None:
    """Of two, each would know the other's update from the sum."""
    p = Puppeteers(3, rank=1, min_peers=2)
    p.ready()
    assert judged(p, p.roster([p.leader, p.me])) == "a roster of 2, at least 3 are needed"
    alone = Puppeteers(2, rank=0, min_peers=2)
    alone.ready()
    alone.wait(60.0)
    assert alone.machine.attempt is None


@pytest.mark.parametrize("threshold", [1, 2, 4])
def test_a_lowered_or_raised_threshold_is_another_round_id_and_refused(threshold: int) -> None:
    p = Puppeteers(4, rank=1)
    p.ready()
    why = refused(p.machine, p.roster(p.everybody, threshold), p.now)
    assert why == "a roster under another id: the threshold or the adverts differ"


def test_a_roster_on_another_base_or_of_other_parameters_is_refused() -> None:
    """A base is named by the hash of its parameters, so that other ones are another base, and another era."""
    p = Puppeteers(4, rank=1)
    p.ready()
    peer = p.others[0]
    for base, era in ((ONE, era_of(SCOPE, 0, ONE)), (ONE, ERA), (BASE, era_of(SCOPE, 1, BASE))):
        body = Advert(900, bytes(16), 0, base, p.machine.keyring.members_digest(), (), p.keys(peer))
        true, p.adverts[peer] = p.adverts[peer], sign(peer, body, era, 900)
        refused(p.machine, p.roster(p.everybody), p.now)
        p.adverts[peer] = true
    assert judged(p, p.roster(p.everybody)) == ""


def bad_keys(p: Puppeteers) -> dict[str, tuple[RoundKeys | None, str]]:
    theirs, copied = p.keys(p.others[0]), parse_body(parse_envelope(p.adverts[p.me]))
    assert isinstance(copied, Advert)
    assert copied.keys is not None
    change = msgspec.structs.replace
    return {
        "none": (None, "an advert without the keys of the secure sum"),
        "of low order": (change(theirs, mask=bytes(32)), "a round key of low order"),
        "not canonical": (change(theirs, box=b"\xff" * 32), "a round key that is not in canonical form"),
        "mine": (change(theirs, mask=copied.keys.mask), "a round key that occurs twice"),
        "my box's": (change(theirs, mask=copied.keys.box), "a round key that occurs twice"),
        "one for both": (change(theirs, box=theirs.mask), "a round key that occurs twice"),
    }


@pytest.mark.parametrize("what", ["none", "of low order", "not canonical", "mine", "my box's", "one for both"])
def test_an_advert_with_bad_keys_is_refused_alone_and_in_a_roster(what: str) -> None:
    p = Puppeteers(4, rank=1)
    p.ready()
    liar = p.others[0]
    keys, why = bad_keys(p)[what]
    body = Advert(900, bytes(16), 0, BASE, p.machine.keyring.members_digest(), (), keys)
    signed = sign(liar, body, ERA, 900)
    assert refused(p.machine, signed, p.now) == why
    p.adverts[liar] = signed
    assert refused(p.machine, p.roster(p.everybody), p.now) == why


def test_an_advert_with_keys_is_refused_for_a_task_that_has_no_use_for_them() -> None:
    p, keys = Puppets(4, rank=1), Puppeteers().keys(BASE)
    p.ready()
    liar = p.others[0]
    signed = sign(liar, Advert(900, bytes(16), 0, BASE, p.machine.keyring.members_digest(), (), keys), ERA, 900)
    why = "an advert with keys, for a task without a secure sum"
    assert refused(p.machine, signed, p.now) == why
    p.adverts[liar] = signed
    assert refused(p.machine, p.roster(p.everybody), p.now) == why


def test_a_peer_that_copies_keys_is_called_by_nobody_nor_is_its_victim() -> None:
    """Who copied cannot be known; the leader that saw both calls the others."""
    p = Puppeteers(5, rank=0, min_peers=3)
    victim, thief, *rest = p.others
    p.ready([victim, *rest])
    seen = p.machine.calling.election.adverts
    stolen = parse_body(parse_envelope(p.adverts[victim]))
    assert isinstance(stolen, Advert)
    copy = msgspec.structs.replace(stolen, seq=900, nonce=b"\x09" * 16)
    held = type(seen[victim])(sign(thief, copy, ERA, 900), ERA, copy)
    valid = p.machine.calling.election.with_own_keys({**seen, thief: held})
    assert set(valid) == {p.me, *rest}


# Shares and the Start


def test_shares_that_do_not_open_change_nothing() -> None:
    """Found by this test: they took the place of the true ones that came after them."""
    p = Puppeteers(4, rank=1)
    p.call()
    dealer = p.others[0]
    (true,) = (box for receiver, box in p.sums[dealer].boxes() if receiver == p.me)
    slot = p.everybody.index(p.me)
    for box, why in ((bytes(BOX_BYTES), "cannot be opened"), (true[1:], f"shares of {BOX_BYTES - 1} bytes")):
        assert why in refused(p.machine, sign(dealer, Shares(box), p.rid, slot), p.now)
    p.say(dealer, Shares(true), slot)
    assert p.attempt.starting.secure is not None
    assert dealer in p.attempt.starting.secure.held


def test_shares_for_another_peer_or_from_a_stranger_to_the_roster_are_refused() -> None:
    p = Puppeteers(4, rank=1)
    p.call()
    dealer, other = p.others[0], p.others[1]
    (box,) = (box for receiver, box in p.sums[dealer].boxes() if receiver == p.me)
    place = p.everybody.index(other)
    assert "does not fit" in refused(p.machine, sign(dealer, Shares(box), p.rid, place), p.now)


def test_a_member_outside_the_roster_deals_nothing() -> None:
    p = Puppeteers(5, rank=1)
    p.ready()
    out = p.others[-1]
    p.hear(p.roster([peer for peer in p.everybody if peer != out]))
    for body, slot in ((Shares(bytes(BOX_BYTES)), p.attempt.terms.roster.index(p.me)), (Have(b"\x0f"), 0)):
        refused(p.machine, sign(out, body, p.rid, slot), p.now)


def test_second_shares_for_me_are_refused() -> None:
    p = called()
    dealer = p.others[0]
    p.sums[dealer]._dealt = tuple((key, b) for b, key in p.sums[dealer]._dealt)
    (box,) = (box for receiver, box in p.sums[dealer].boxes() if receiver == p.me)
    why = refused(p.machine, sign(dealer, Shares(box), p.rid, p.everybody.index(p.me)), p.now)
    assert why == "a second, different shares for one slot"


STARTS: dict[str, Callable[[Puppeteers], tuple[bytes, Start, str]]] = {
    "by another than the leader": lambda p: (p.others[-1], p.start(), "does not fit"),
    "of fewer than t": lambda p: (p.leader, p.start(p.everybody[:2]), "a start of 2, 3 are needed"),
    "without a Have": lambda p: (p.leader, less(p), "without the Haves of all it names"),
    "with a Have of another round": lambda p: (p.leader, foreign(p), "evidence of another kind or round"),
    "with a Consent for a Have": lambda p: (p.leader, consenting(p), "evidence of another kind or round"),
    "with one peer's Have for all": lambda p: (p.leader, repeated(p), "without the Haves of all it names"),
    "with a forged Have": lambda p: (p.leader, forged(p), "bad signature"),
    "of peers that miss somebody's shares": lambda p: (p.leader, missing(p), "without the Haves of all it names"),
    "with bits beyond the roster": lambda p: (p.leader, Start(b"\x1f", p.start().haves), "bitmap does not fit"),
}


def less(p: Puppeteers) -> Start:
    return Start(p.start().started, p.start().haves[1:])


def foreign(p: Puppeteers) -> Start:
    return Start(p.start().started, (sign(p.everybody[0], Have(b"\x0f"), ONE), *p.start().haves[1:]))


def consenting(p: Puppeteers) -> Start:
    return Start(p.start().started, (*p.consents(p.others[:1], ONE), *p.start().haves))


def repeated(p: Puppeteers) -> Start:
    return Start(p.start().started, p.start().haves[:1] * 4)


def forged(p: Puppeteers) -> Start:
    first, *rest = p.start().haves
    return Start(p.start().started, (Signed(first.envelope, bytes(64)), *rest))


def missing(p: Puppeteers) -> Start:
    first, second, *_ = p.others
    short = p.have(first, [peer for peer in p.everybody if peer != second])
    haves = [short if parse_envelope(s).sender == first else s for s in p.start().haves]
    return Start(p.start().started, tuple(haves))


@pytest.mark.parametrize("what", STARTS)
def test_a_start_that_its_haves_do_not_carry_is_refused(what: str) -> None:
    p = called()
    sender, start, why = STARTS[what](p)
    assert why in refused(p.machine, sign(sender, start, p.rid), p.now)
    p.begin()
    assert p.attempt.tally.started == {*p.everybody}


def test_a_second_start_is_proof_against_the_leader_and_changes_nothing() -> None:
    p = entered()
    before = p.attempt.tally.start
    p.say(p.leader, p.start(p.everybody[:3]))
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]
    assert len(p.sent(Proof)) == 1
    assert p.attempt.tally.start == before
    assert len(p.all(fx.Contribute)) == 1


def test_a_start_without_me_masks_nothing_of_mine() -> None:
    p = called()
    p.begin([peer for peer in p.everybody if peer != p.me])
    assert [close.reason for close in p.all(fx.Close)] == ["the round started without this peer"]
    assert p.all(fx.Contribute) == []


def test_nothing_masked_leaves_before_the_start() -> None:
    p = called()
    p.wait(3.0)
    assert p.all(fx.Contribute) == []
    assert p.sent(Manifest) == []


def test_who_hears_another_start_masks_with_others_and_is_in_no_sum_with_us() -> None:
    """The leader shows each half of the roster its own set: their Manifests name different starts."""
    p = entered()
    other = Manifest(digest("test/another start"), p.manifest(p.others[0]).chunks)
    assert "does not fit" in refused(p.machine, sign(p.others[0], other, p.rid), p.now)


def test_one_peer_cannot_crowd_out_what_others_say_before_the_start() -> None:
    """Found by reading: what may wait for the Start was counted for all peers together."""
    p = called()
    chatty, honest = p.others[0], p.others[1]
    for slot in range(200):
        p.say(chatty, View(1, None, None), slot)
    uh = digest("test/uh")
    p.say(honest, Consent(uh))
    p.begin()
    assert set(p.attempt.tally.consents.get(uh, ())) == {honest}


def test_a_reassign_that_comes_before_the_start_is_heard_after_it() -> None:
    """Found by reading: it was kept, and no chunk moved."""
    p = called()
    gone = p.others[-1]
    p.say(p.leader, Reassign(0, bitmap([gone], p.everybody)))
    p.begin()
    assert p.attempt.owners.gone == {gone}
