"""Lies about pieces, sums, proposals and rosters: each is refused, or the round goes on without the liar."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from discod.errors import Broken, PeerError
from discod.p2p import effects as fx
from discod.p2p.certificate import bitmap, from_bitmap
from discod.p2p.election import GRACE_SECONDS
from discod.p2p.terms import VIEWS
from discod.wire.codec import digest
from discod.wire.rounds import (
    NO_RID,
    Advert,
    Consent,
    Have,
    Leave,
    Manifest,
    Message,
    Propose,
    Reassign,
    Receipt,
    Roster,
    Signed,
    Sum,
    View,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppets import BASE, ERA, Puppets
from tests.p2p.table import picture, refused, sign, sum_name
from tests.p2p.world import FakeKeyring

ONE = digest("test/one")


def entered(rank: int = 0, peers: int = 4) -> Puppets:
    p = Puppets(peers, rank)
    p.enter()
    return p


def my_chunk(p: Puppets) -> int:
    return next(chunk for chunk in p.attempt.owners.chunks if p.attempt.owners.current(chunk) == p.me)


def opened(rank: int = 1) -> tuple[Puppets, bytes]:
    """t Consents to a sum over everybody; its uh."""
    p = entered(rank)
    p.share()
    propose = p.propose(0, p.everybody)
    if p.leader != p.me:
        p.say(p.leader, propose)
    uh = p.uh(p.everybody)
    for peer in p.others:
        p.say(peer, Consent(uh))
    assert p.attempt.tally.opened == uh
    return p, uh


def test_a_piece_that_differs_from_its_manifest_breaks_the_link() -> None:
    p = entered()
    liar = p.others[0]
    p.say(liar, p.manifest(liar))
    before = picture(p.machine)
    with pytest.raises(Broken, match="differs from its manifest") as error:
        p.bulk(liar, my_chunk(p), ONE)
    assert error.value.peer == liar
    assert picture(p.machine) == before


def test_a_sum_that_differs_from_what_its_owner_signed_breaks_the_link() -> None:
    p, uh = opened()
    owner = p.others[0]
    (chunk,) = (c for c in p.attempt.owners.chunks if p.attempt.owners.current(c) == owner)
    p.say(owner, Sum(uh, chunk, sum_name(p.rid, p.everybody, chunk)), chunk)
    with pytest.raises(Broken, match="differs from what its owner signed") as error:
        p.bulk(owner, chunk, ONE, "sum")
    assert error.value.peer == owner
    assert not p.attempt.tally.has_sum(chunk)


def test_bulk_is_expected_in_its_own_size_and_place_alone() -> None:
    p = entered()
    liar, other = p.others[:2]
    p.say(liar, p.manifest(liar))
    mine, size = my_chunk(p), p.size(my_chunk(p))
    assert p.machine.expects(liar, p.rid, "piece", mine, size)
    for wrong in (0, 1, size - 4, size + 4, -size, 1 << 40):
        assert not p.machine.expects(liar, p.rid, "piece", mine, wrong)
    for peer, rid, kind, chunk in (
        (other, p.rid, "piece", mine),  # without a Manifest
        (liar, ONE, "piece", mine),
        (liar, p.rid, "snapshot", mine),
        (liar, p.rid, "sum", mine),  # never announced
        (liar, p.rid, "piece", -1),
        (liar, p.rid, "piece", len(p.everybody)),
    ):
        assert not p.machine.expects(peer, rid, kind, chunk, size)
    safety = next(c for c in p.attempt.owners.chunks if p.attempt.owners.current(c, 1) == p.me)
    owner = p.attempt.owners.current(safety)
    p.say(owner, p.manifest(owner))
    for chunk in p.attempt.owners.chunks:  # of others' chunks, the owner's own piece of the one whose copy I keep
        for peer in (liar, owner):
            expected = chunk == mine or (chunk == safety and peer == owner)
            assert p.machine.expects(peer, p.rid, "piece", chunk, p.size(chunk)) == expected
    p.bulk(liar, mine)
    assert not p.machine.expects(liar, p.rid, "piece", mine, size)  # it is here


def test_the_round_goes_on_without_the_piece_that_never_comes() -> None:
    p = entered()
    liar, *honest = p.others
    p.contribute()
    for peer in honest:
        p.say(peer, p.manifest(peer))
        p.pieces(peer)
    p.say(liar, p.manifest(liar))  # and no piece
    for owner in p.others:
        for chunk in p.chunks_of(owner):
            p.receipt(owner, chunk, (p.me, *honest))
    p.wait(1.9)
    assert p.sent(Propose) == []
    p.wait(0.2)  # the straggle is over
    (propose,) = [parse_body(parse_envelope(signed)) for signed in p.sent(Propose)]
    assert isinstance(propose, Propose)
    assert from_bitmap(propose.included, p.attempt.terms.roster) == {*p.everybody} - {liar}
    for peer in honest:
        p.say(peer, Consent(p.uh([p.me, *honest])))
    assert [combine.included for combine in p.all(fx.Combine)] == [tuple(q for q in p.everybody if q != liar)]


def test_a_sum_over_fewer_than_t_gets_no_consent() -> None:
    for included in (2, 3):
        p = entered(rank=1)
        p.share()
        p.say(p.leader, p.propose(0, [p.leader, *p.others[1:]][:included]))
        assert len(p.sent(Consent)) == (included >= 3)
        p.say(p.leader, Consent(p.uh([p.leader, p.others[1]])))
        assert p.attempt.tally.opened is None


def test_a_sum_over_pieces_that_nobody_holds_gets_no_consent() -> None:
    p = entered(rank=1)
    p.contribute()
    for peer in p.others:
        p.say(peer, p.manifest(peer))
    p.say(p.leader, p.propose(0, p.everybody))
    assert p.sent(Consent) == []


def test_a_sum_over_other_manifests_gets_no_consent() -> None:
    p = entered(rank=1)
    p.share()
    right = p.propose(0, p.everybody)
    p.say(p.leader, Propose(0, right.included, ONE, right.gone, ()))
    assert p.sent(Consent) == []


LIES: dict[str, Callable[[Puppets], tuple[bytes, Message, int]]] = {
    "a Propose by another than its view's leader": lambda p: (p.others[1], p.propose(0, p.everybody), 0),
    "a Propose in another view's slot": lambda p: (p.leader, p.propose(0, p.everybody), 4),
    "a Propose for a view that no clock reaches": lambda p: (
        p.attempt.view_order[VIEWS % 4],
        p.propose(VIEWS, p.everybody),
        VIEWS,
    ),
    "a Propose that leaves too few owners": lambda p: (p.leader, gone(p, 2), 0),
    "a Reassign that leaves too few owners": lambda p: (
        p.leader,
        Reassign(0, bitmap(p.everybody[:2], p.everybody)),
        0,
    ),
    "a Reassign by another than its view's leader": lambda p: (p.others[1], Reassign(0, bitmap((), p.everybody)), 0),
    "a Propose that carries a Consent": lambda p: (p.leader, p.propose(0, p.everybody, (consent(p),)), 0),
    "a Propose that carries another round's Manifest": lambda p: (
        p.leader,
        p.propose(0, p.everybody, (sign(p.leader, p.manifest(p.leader), ONE),)),
        0,
    ),
    "a View with another peer's Consent": lambda p: (p.others[1], View(1, consent(p), None), 1),
    "a View with too few owners left in its Propose": lambda p: (
        p.others[1],
        View(1, None, sign(p.leader, gone(p, 2), p.rid)),
        1,
    ),
    "a View of no number": lambda p: (p.leader, View(0, None, None), 0),
    "a View that no clock reaches": lambda p: (p.leader, View(VIEWS, None, None), VIEWS),
    "a Manifest with a chunk too few": lambda p: (p.leader, Manifest(p.attempt.tally.start, (ONE,) * 3), 0),
    "a Manifest for another start": lambda p: (p.leader, Manifest(ONE, (ONE,) * 4), 0),
    "a Manifest with a short hash": lambda p: (p.leader, Manifest(p.attempt.tally.start, (b"short",) * 4), 0),
    "a Receipt for a chunk that is not": lambda p: (p.leader, Receipt(4, ()), (4 << 16) + 1),
    "a Receipt in another chunk's slot": lambda p: (p.leader, Receipt(1, ()), 1),
    "a Receipt for a stranger": lambda p: (p.leader, Receipt(0, ((ONE, ONE),)), 1),
    "a Sum of a chunk that is not": lambda p: (p.leader, Sum(ONE, 4, ONE), 4),
    "a Sum of a negative chunk": lambda p: (p.leader, Sum(ONE, -1, ONE), -1),
    "a Consent in a second slot": lambda p: (p.leader, Consent(ONE), 1),
    "a bitmap that is too long": lambda p: (p.leader, Propose(0, b"\x0f\x00", ONE, b"\x00", ()), 0),
    "a bitmap with bits beyond the roster": lambda p: (p.leader, Propose(0, b"\x1f", ONE, b"\x00", ()), 0),
}


def consent(p: Puppets) -> Signed:
    return sign(p.leader, Consent(ONE), p.rid)


def gone(p: Puppets, count: int) -> Propose:
    right = p.propose(0, p.everybody)
    return Propose(0, right.included, right.manifests, bitmap(p.everybody[:count], p.everybody), ())


@pytest.mark.parametrize("what", LIES)
def test_what_does_not_fit_the_round_is_refused(what: str) -> None:
    p = entered(rank=1)
    sender, body, slot = LIES[what](p)
    assert sender != p.me
    refused(p.machine, sign(sender, body, p.rid, slot), p.now)


def test_whoever_signed_a_message_answers_for_what_it_carries() -> None:
    """Its link is dropped, not that of the peer it names or of the one that passed it on."""
    p = entered(rank=2)
    liar = p.others[1]
    forged = Signed(sign(p.leader, Consent(ONE), p.rid).envelope, bytes(64))
    for body in (View(1, None, forged), Propose(1, b"", b"", b"", ()), Roster((forged,))):
        with pytest.raises(PeerError) as error:
            p.say(liar, body, 1)
        assert error.value.peer == liar


def test_a_number_below_zero_is_no_message() -> None:
    """Found by the first law: a round of -1 crashed whoever heard the Advert, a lost round of -1 made a leader."""
    p = Puppets()
    liar, digest_ = p.others[0], p.machine.keyring.members_digest()
    for body in (
        Advert(500, bytes(16), -1, BASE, digest_, ()),
        Advert(500, bytes(16), 1 << 63, BASE, digest_, ()),
        Advert(500, bytes(16), 0, BASE, digest_, ((liar, -5),)),
    ):
        assert "not a message" in refused(p.machine, sign(liar, body, ERA, 500), p.now)


def called(p: Puppets, signed: Signed) -> str:
    """Judged when my grace has ended: the reason that is given to all, empty when it is answered."""
    p.hear(signed)
    p.wait(GRACE_SECONDS)
    rid = parse_envelope(signed).rid
    if p.machine.attempt is not None and p.rid == rid:
        return ""
    bodies = [parse_body(parse_envelope(s)) for s in p.sent(Leave) if parse_envelope(s).rid == rid]
    return next((body.reason for body in bodies if isinstance(body, Leave)), "nothing")


def test_a_roster_with_a_lowered_threshold_is_refused() -> None:
    p = Puppets(4, rank=1)
    p.ready()
    for threshold in (2, 4):
        why = refused(p.machine, p.roster(p.everybody, threshold), p.now)
        assert why == "a roster under another id: the threshold or the adverts differ"
    assert called(p, p.roster(p.everybody)) == ""


def test_my_advert_is_in_one_roster_ever() -> None:
    p = Puppets(5, rank=1)
    p.ready()
    first, second = p.roster(p.everybody), p.roster([*p.others[:3], p.me])
    assert called(p, first) == ""
    assert called(p, second) == "busy, or my advert is used"
    p.do(p.machine.failed(p.rid, "lost", p.now))
    assert p.machine.attempt is None
    assert called(p, first) == "lost"
    assert called(p, second) == "busy, or my advert is used"


def test_who_has_left_a_round_says_the_same_goodbye_to_whoever_passes_its_roster_on() -> None:
    """Found by reading: it signed a second one, "busy", in the same slot, which may come first."""
    p = Puppets(4, rank=1)
    p.ready()
    roster = p.roster(p.everybody)
    p.hear(roster)
    rid = p.rid
    p.do(p.machine.failed(rid, "lost", p.now))
    said = [s for s in p.sent(Leave) if parse_envelope(s).rid == rid]
    again = [e.signed for e in p.hear(roster) if isinstance(e, fx.Send) and e.to in p.others]
    assert again == said * 3


def test_an_advert_in_a_roster_without_me_is_not_used_again() -> None:
    """The liar packs two of my peers into a roster of its own, and then into one with me."""
    p = Puppets(5, rank=1, min_peers=3)
    p.ready()
    p.hear(p.roster([peer for peer in p.others if peer != p.others[3]]))
    assert called(p, p.roster([p.leader, p.others[1], p.me])) != ""
    assert p.machine.attempt is None
    p.hear(p.advert(p.others[1], 7))
    p.hear(p.advert(p.others[2], 7))
    p.wait(GRACE_SECONDS)
    assert p.machine.attempt is None or p.leader not in p.attempt.terms.roster


def test_a_roster_without_most_of_the_ready_peers_is_refused() -> None:
    for size, why in ((4, "a roster without most of the peers that are ready"), (5, "")):
        p = Puppets(7, rank=1)
        p.ready()
        assert called(p, p.roster([p.leader, p.me, *p.others[1 : size - 1]])) == why


def test_a_roster_below_the_least_number_of_peers_is_refused() -> None:
    p = Puppets(4, rank=1, min_peers=4)
    p.ready()
    assert called(p, p.roster([p.leader, p.me, p.others[1]])) == "a roster of 3, at least 4 are needed"


def test_a_roster_called_by_a_peer_outside_it_is_refused() -> None:
    p = Puppets(4, rank=1)
    p.ready()
    assert called(p, p.roster([p.me, *p.others[1:]])) == "called by a peer that is not in it"


def test_a_roster_with_a_peer_that_trains_no_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p = Puppets(4, rank=1)
    p.ready()
    monkeypatch.setattr(FakeKeyring, "trainers", lambda self: self.everybody - {p.others[1]})
    assert called(p, p.roster(p.everybody)) == "a roster with a peer that is no trainer"


def test_a_roster_of_adverts_that_do_not_belong_together_is_refused() -> None:
    p = Puppets(4, rank=1)
    p.ready()
    a, b, c, d = (p.adverts[peer] for peer in p.everybody)
    for adverts in (
        (),
        (b, a, c, d),
        (a, a, b, c, d),
        (a, b, c, Signed(d.envelope, bytes(64))),
        (a, b, c, sign(p.everybody[3], Have(b""), ERA)),
        (a, b, c, sign(p.everybody[3], Advert(900, bytes(16), 1, BASE, ONE, ()), ERA, 900)),
        (a, b, c, sign(p.everybody[3], Advert(900, bytes(15), 0, BASE, ONE, ()), ERA, 900)),
    ):
        refused(p.machine, sign(p.leader, Roster(adverts), NO_RID), p.now)


def test_a_roster_with_a_second_advert_of_one_number_is_refused_as_a_whole() -> None:
    """Found by reading: the Adverts before that one in the Roster were kept."""
    p = Puppets(4, rank=1)
    p.ready()
    first, *_, last = (peer for peer in p.everybody if peer != p.me)
    seq = parse_envelope(p.adverts[last]).slot
    p.advert(first, 5)  # a newer one, not heard yet
    body = Advert(seq, b"\x09" * 16, 0, BASE, p.machine.keyring.members_digest(), ())
    p.adverts[last] = sign(last, body, ERA, seq)
    assert refused(p.machine, p.roster(p.everybody), p.now) == "two adverts with one sequence number"
