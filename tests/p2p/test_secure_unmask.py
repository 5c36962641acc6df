"""Attacks on consenting and unmasking: nobody shows a share for anything but the one sum that t have agreed to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from discod.errors import Broken, PeerError
from discod.p2p import effects as fx
from discod.p2p.certificate import bitmap
from discod.p2p.election import GRACE_SECONDS
from discod.p2p.secagg import BOX_BYTES, SHARE_BYTES
from discod.p2p.terms import CERTIFY_SECONDS, Phase
from discod.wire.codec import digest
from discod.wire.rounds import (
    NO_RID,
    Consent,
    Have,
    Manifest,
    Message,
    Propose,
    Shares,
    Start,
    Unmask,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppeteers import Puppeteers, called, entered, opened, proposed
from tests.p2p.puppets import ERA, Puppets
from tests.p2p.table import picture, refused, sign

ONE = digest("test/one")


def test_nothing_is_shown_before_t_have_consented() -> None:
    p = proposed()
    assert p.unmasked() == []
    for signed in p.consents(p.others[:1], p.uh(p.everybody)):
        p.hear(signed)
    assert p.unmasked() == []  # mine and another one, of three
    for signed in p.consents(p.others[1:2], p.uh(p.everybody)):
        p.hear(signed)
    (shown,) = p.unmasked()
    assert (shown.uh, len(shown.consents)) == (p.uh(p.everybody), 3)


def test_nothing_is_shown_for_a_sum_that_i_have_not_consented_to() -> None:
    """The leader changes U after the Consents: what I have agreed to is not what the others have."""
    p = proposed()
    some = p.everybody[:3]
    for signed in p.consents(p.others, p.uh(some)):
        p.hear(signed)
    assert p.attempt.tally.opened == p.uh(some)
    assert p.unmasked() == []
    shown = {peer: sign(peer, p.unmask(peer, some, p.others), p.rid) for peer in p.others}
    p.hear(shown.pop(p.leader))  # it carries a second Propose of this view
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]
    assert all("second, different propose" in refused(p.machine, signed, p.now) for signed in shown.values())
    assert p.unmasked() == []


def test_a_second_propose_of_a_view_is_proof_and_gets_no_consent() -> None:
    p = proposed()
    p.say(p.leader, p.propose(0, p.everybody[:3]))
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]
    assert [parse_body(parse_envelope(s)) for s in p.sent(Consent)] == [Consent(p.uh(p.everybody))]


def test_i_show_my_shares_once() -> None:
    p = opened()
    for peer in p.others:
        p.say(peer, p.unmask(peer, p.everybody))
    p.wait(20.0)
    assert len(p.unmasked()) == 1


def test_what_i_show_is_of_the_seeds_of_u_alone_and_of_the_mask_keys_of_the_rest() -> None:
    p = entered(peers=5)
    gone = next(peer for peer in p.others if peer != p.leader)
    some = [peer for peer in p.everybody if peer != gone]
    p.share([peer for peer in p.others if peer in some])
    for chunk in p.chunks_of(gone):
        p.receipt(gone, chunk, some)
    p.wait(2.1)  # nobody waits for its own pieces any longer
    p.say(p.leader, p.propose(0, some))
    for signed in p.consents([peer for peer in p.others if peer in some], p.uh(some)):
        p.hear(signed)
    (shown,) = p.unmasked()
    side = p.attempt.starting.secure
    assert side is not None
    held = side._held
    for peer, share in zip(p.everybody, shown.shares, strict=True):
        seed, key = held[peer]
        assert share == (seed if peer in some else key)
        assert (key if peer in some else seed) not in shown.shares


def test_fewer_consents_than_t_open_nothing_for_whoever_is_shown_them() -> None:
    p = proposed()
    peer = p.others[0]
    for few in (p.others[:0], p.others[:1], p.others[:2]):
        body = p.unmask(peer, p.everybody, few)
        assert "does not fit" in refused(p.machine, sign(peer, body, p.rid), p.now)


def without_its_own(p: Puppeteers, peer: bytes) -> Unmask:
    return p.unmask(peer, p.everybody, [other for other in p.everybody if other != peer])


def of_another_sum(p: Puppeteers, peer: bytes) -> Unmask:
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, consents=p.consents(p.others, p.uh(p.everybody[:3])))


def of_another_round(p: Puppeteers, peer: bytes) -> Unmask:
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, consents=tuple(sign(q, Consent(true.uh), ONE) for q in p.others))


def one_consent_thrice(p: Puppeteers, peer: bytes) -> Unmask:
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, consents=p.consents([peer], true.uh) * 3)


def a_share_too_few(p: Puppeteers, peer: bytes) -> Unmask:
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, shares=true.shares[1:])


def a_share_too_many(p: Puppeteers, peer: bytes) -> Unmask:
    """Both shares of somebody."""
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, shares=(*true.shares, p.sums[peer]._held[p.me][1]))


def a_short_share(p: Puppeteers, peer: bytes) -> Unmask:
    true = p.unmask(peer, p.everybody)
    return msgspec.structs.replace(true, shares=(bytes(SHARE_BYTES - 1), *true.shares[1:]))


def a_manifest_for_its_propose(p: Puppeteers, peer: bytes) -> Unmask:
    return msgspec.structs.replace(p.unmask(peer, p.everybody), propose=sign(peer, p.manifest(peer), p.rid))


def a_propose_of_another_sum(p: Puppeteers, peer: bytes) -> Unmask:
    """By itself, for a view that it does not lead: t have consented, but not to this."""
    offer = sign(peer, p.propose(3, p.everybody[:3]), p.rid, 3)
    return msgspec.structs.replace(p.unmask(peer, p.everybody), propose=offer)


@pytest.mark.parametrize(
    "lie",
    [
        a_propose_of_another_sum,
        without_its_own,
        of_another_sum,
        of_another_round,
        one_consent_thrice,
        a_share_too_few,
        a_share_too_many,
        a_short_share,
        a_manifest_for_its_propose,
    ],
)
def test_an_unmask_that_its_consents_do_not_carry_is_refused(lie: Callable[[Puppeteers, bytes], Unmask]) -> None:
    p = proposed()
    peer = p.others[0]
    refused(p.machine, sign(peer, lie(p, peer), p.rid), p.now)
    p.say(peer, p.unmask(peer, p.everybody))
    assert peer in p.attempt.tally.unmasks


def test_a_second_unmask_is_proof_and_its_signer_is_banned() -> None:
    p = opened()
    liar = p.others[0]
    true = p.unmask(liar, p.everybody)
    p.say(liar, true)
    second = msgspec.structs.replace(true, shares=tuple(reversed(true.shares)))
    p.say(liar, second)
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [liar]
    assert liar in p.machine.calling.election.banned
    assert p.attempt.tally.unmasks[liar] == true


def test_the_consents_in_an_unmask_count_as_if_they_had_been_sent() -> None:
    """Who has missed them can still consent and show its shares."""
    p = entered()
    p.share()
    consenting = list(p.others)
    p.say(p.others[0], p.unmask(p.others[0], p.everybody, consenting))
    assert p.attempt.phase is Phase.OPENED
    assert len(p.unmasked()) == 1


def test_the_sum_opens_with_the_shares_of_t_and_not_before() -> None:
    p = opened()
    for peer in p.others[:1]:
        p.say(peer, p.unmask(peer, p.everybody))
    assert p.all(fx.Combine) == []  # mine and another one, of three
    p.say(p.others[1], p.unmask(p.others[1], p.everybody))
    assert p.all(fx.Combine)
    assert all(effect.opening is not None for effect in p.all(fx.Combine))


def false_shares(p: Puppeteers, liar: bytes) -> Unmask:
    true = p.unmask(liar, p.everybody)
    return msgspec.structs.replace(true, shares=tuple(s[:-1] + bytes([s[-1] ^ 1]) for s in true.shares))


def test_false_shares_among_the_first_t_do_not_end_the_round() -> None:
    """Found by this test: it ended at once, and an honest dealer was named, though true shares were on their way."""
    p = opened()
    liar, *honest = p.others
    p.say(liar, false_shares(p, liar))
    p.say(honest[0], p.unmask(honest[0], p.everybody))
    assert p.notes("dealer.exposed") == []
    assert p.all(fx.Combine) == []
    p.say(honest[1], p.unmask(honest[1], p.everybody))
    assert p.notes("dealer.exposed") == []
    assert p.all(fx.Combine)


def test_a_dealer_whose_shares_rebuild_nothing_is_named_and_the_round_lost() -> None:
    p = Puppeteers(4, rank=1)
    p.call()
    dealer = p.others[0]
    p.sums[dealer]._dealt = tuple((b"\0" + p.entropy(32), key) for _, key in p.sums[dealer]._dealt)
    p.sums[dealer]._held[dealer] = p.sums[dealer]._dealt[p.everybody.index(dealer)]
    p.deal()
    p.begin()
    p.share()
    p.say(p.leader, p.propose(0, p.everybody))
    for signed in p.consents(p.others, p.uh(p.everybody)):
        p.hear(signed)
    for peer in p.others:
        p.say(peer, p.unmask(peer, p.everybody))
    assert [peer for peer, _ in p.notes("dealer.exposed")] == [dealer]
    assert ["cannot be opened" in close.reason for close in p.all(fx.Close)] == [True]
    assert p.all(fx.Combine) == []


def test_false_shares_and_nobody_else_that_shows_any_end_the_round_by_its_deadline() -> None:
    p = opened()
    liar, honest, _ = p.others
    p.say(liar, false_shares(p, liar))
    p.say(honest, p.unmask(honest, p.everybody))
    p.wait(CERTIFY_SECONDS + 1.0)
    assert [close.reason for close in p.all(fx.Close)] == ["no certificate in time"]
    assert p.all(fx.Combine) == []


# Other rounds


MESSAGES: dict[str, Callable[[Puppeteers, bytes], tuple[Message, int]]] = {
    "shares": lambda p, peer: (Shares(bytes(BOX_BYTES)), p.everybody.index(p.me)),
    "have": lambda p, peer: (Have(b"\x0f"), 0),
    "start": lambda p, peer: (p.start(), 0),
    "manifest": lambda p, peer: (p.manifest(peer), 0),
    "propose": lambda p, peer: (p.propose(0, p.everybody), 0),
    "consent": lambda p, peer: (Consent(p.uh(p.everybody)), 0),
    "unmask": lambda p, peer: (p.unmask(peer, p.everybody), 0),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_a_message_of_another_round_does_not_touch_a_secure_one(what: str) -> None:
    p = proposed()
    peer = p.leader
    body, slot = MESSAGES[what](p, peer)
    before = picture(p.attempt)
    for rid in (ONE, NO_RID, ERA):
        assert p.say(peer, body, slot, rid) == []
    assert picture(p.attempt) == before


def test_what_was_said_in_a_lost_round_is_nothing_in_the_next() -> None:
    """A leader replays an old round, byte for byte: its id is another one's, and so are all keys."""
    p = opened()
    old = {e.signed for e in p.all(fx.Send)} | {sign(q, p.unmask(q, p.everybody), p.rid) for q in p.others}
    roster, haves = p.roster(p.everybody), [p.have(peer) for peer in p.others]
    p.do(p.machine.failed(p.rid, "lost", p.now))
    p.wait(30.0)
    p.do(p.machine.training_began(p.now))
    p.do(p.machine.update_ready(p.now))
    for signed in (roster, *haves, *old):
        try:
            p.hear(signed)
        except PeerError:
            continue
    p.wait(GRACE_SECONDS)
    assert p.machine.attempt is None
    assert len(p.unmasked()) == 1


def test_plain_messages_of_mean_are_refused_in_a_secure_round() -> None:
    p = called()
    peer = p.others[0]
    refused(p.machine, sign(peer, Have(b""), p.rid), p.now)


@pytest.mark.parametrize("what", ["shares", "have", "start", "unmask"])
def test_messages_of_a_secure_sum_are_refused_in_a_round_of_mean(what: str) -> None:
    p = Puppets(4, rank=1)
    p.enter()
    p.share()
    body: Message = {
        "shares": Shares(bytes(BOX_BYTES)),
        "have": Have(b"\x0f"),
        "start": Start(b"\x0f", ()),
        "unmask": Unmask(ONE, (bytes(SHARE_BYTES),) * 4, sign(p.leader, p.propose(0, p.everybody), p.rid), ()),
    }[what]
    slot = p.everybody.index(p.me) if what == "shares" else 0
    refused(p.machine, sign(p.leader, body, p.rid, slot), p.now)


def test_masked_words_that_differ_from_their_manifest_break_the_link() -> None:
    p = entered()
    liar = p.others[0]
    p.say(liar, p.manifest(liar))
    mine = next(chunk for chunk in p.attempt.owners.chunks if p.attempt.owners.current(chunk) == p.me)
    with pytest.raises(Broken, match="differs from its manifest"):
        p.bulk(liar, mine, ONE)


def test_a_propose_over_peers_that_did_not_start_is_refused() -> None:
    p = called(peers=5)
    out = next(peer for peer in p.others if peer != p.leader)
    p.begin([peer for peer in p.everybody if peer != out])
    body = Propose(0, bitmap(p.everybody, p.everybody), ONE, b"\x00", ())
    assert "does not fit" in refused(p.machine, sign(p.leader, body, p.rid), p.now)
    assert "does not fit" in refused(p.machine, sign(out, Manifest(p.attempt.tally.start, (ONE,) * 5), p.rid), p.now)
