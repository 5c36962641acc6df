"""The round machine of one task: Adverts, rosters, attempts, certificates, and which certified state to stand on.

    i -> all       Links, Advert       while local training of a round runs               (calling.py)
    leader -> all  Roster              after quorum and grace; its hash is the round id
                   ... one Attempt ...                                                    (attempt.py)
    i -> all       Done                t equal ones are the certificate                   (ballot.py)
    i <-> j        Ask / State, snapshot: j stands on a certified state unknown to i      (standing.py)

Sans-IO and level-triggered: an input records facts, `_advance` then does what they allow. The caller passes its
monotonic clock as `now` with every input, performs the returned effects in order, and calls `tick` at `deadline`. A
peer is in one attempt at a time. The rules are docs/protocol.md's; where one looks odd it answers an attack, or a stall
that the random simulation found (tests/p2p/test_simulation.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from discod.errors import PeerError, Refused
from discod.p2p import effects as fx
from discod.p2p.attempt import Attempt
from discod.p2p.ballot import Ballots
from discod.p2p.calling import Call, Calling
from discod.p2p.certificate import Keyring
from discod.p2p.chain import Chain
from discod.p2p.early import Early
from discod.p2p.rules import Rules, Spent
from discod.p2p.standing import Standing
from discod.p2p.tally import SIGNED_ONCE, Equivocation, signer_of_both
from discod.p2p.terms import Phase
from discod.p2p.voice import Voice
from discod.wire.rounds import (
    Advert,
    Ask,
    Done,
    Envelope,
    Head,
    Leave,
    Links,
    Message,
    Proof,
    Roster,
    Signed,
    State,
    head_hash,
    make_envelope,
    parse_body,
)

MANIFESTS_PER_BASE = 3  # then the update is given up


class Round:
    """See the module. All methods take `now` and return effects; a PeerError leaves the state unchanged."""

    def __init__(
        self, rules: Rules, keyring: Keyring, chain: Chain, spent: Spent, entropy: Callable[[int], bytes], seq: int
    ) -> None:
        """`seq` must be larger than any this identity has used before; `entropy(n)` gives n random bytes."""
        self.rules, self.keyring, self.chain, self.spent = rules, keyring, chain, spent
        self.attempt: Attempt | None = None
        self.ballots = Ballots(rules.scope, keyring)
        self.voice = Voice(rules.scope, keyring, seq)
        self.calling = Calling(rules, chain, self.voice, entropy)
        self.standing = Standing(rules, chain, self.voice, entropy)
        self._early = Early()
        self._contributing = False

    def start(self, now: float) -> list[fx.Effect]:
        self._say_links()
        return self._done(now)

    def training_began(self, now: float) -> list[fx.Effect]:
        """Local training of a round starts: this is when a peer adverts."""
        mine = self.calling.mine
        mine.since, mine.ready = now, False
        if not mine.training:
            mine.training = True
            self._say_links()
        return self._done(now)

    def update_ready(self, now: float) -> list[fx.Effect]:
        """Local training of a round has ended and its update may be contributed."""
        self.calling.mine.ready, self.calling.mine.took = True, now - self.calling.mine.since
        return self._done(now)

    def retired(self, why: str, now: float) -> list[fx.Effect]:
        """No more training: go on serving the certified state."""
        mine = self.calling.mine
        mine.training = mine.ready = False
        mine.advert = None
        self._leave(why, now)
        self._say_links()
        return self._done(now)

    def members_changed(self, now: float) -> list[fx.Effect]:
        """The member set is another: an Advert that names the old one, and is in no roster yet, is replaced."""
        self.calling.mine.advert = None
        return self._done(now)

    def contributed(self, rid: bytes, hashes: tuple[bytes, ...], now: float) -> list[fx.Effect]:
        """The update is encoded (SHA-256 of each chunk) and its spent record is on disk."""
        if (attempt := self._attempt(rid)) is not None:
            self._contributing = False
            attempt.contributed(hashes, now)
        return self._done(now)

    def combined(self, rid: bytes, chunk: int, hash_: bytes, now: float) -> list[fx.Effect]:
        if (attempt := self._attempt(rid)) is not None:
            attempt.combined(chunk, hash_, now)
        return self._done(now)

    def applied(self, rid: bytes, head: Head, now: float) -> list[fx.Effect]:
        """The new joint state of an attempt is on disk; my Done may leave."""
        if (attempt := self._attempt(rid)) is not None:
            self.ballots.get(rid).candidate = head
            attempt.applied(head_hash(head), now)
        return self._done(now)

    def failed(self, rid: bytes, why: str, now: float) -> list[fx.Effect]:
        """NaN in the update, a sum out of bounds, a full disk: leave at once, the round goes on without this peer."""
        if self._attempt(rid) is not None:
            self.calling.mine.ready = False
            self._leave(why, now)
        return self._done(now)

    def fetched(self, head: Head, now: float) -> list[fx.Effect]:
        """The snapshot of `head`, verified, is at hand: one asked for, or a version that the task's node made."""
        fetching, state = self.standing.fetching, head_hash(head)
        asked = fetching is not None and fetching.state == state
        if asked or (self.attempt is None and self.chain.is_version_after_base(state)):
            self._adopt(head, None, now)
        return self._done(now)

    def not_fetched(self, now: float) -> list[fx.Effect]:
        self.standing.fetching = None
        return self._done(now)

    def link(self, peer: bytes, now: float) -> list[fx.Effect]:
        """A link to a member is up: it gets everything I have said that still counts."""
        self.voice.linked.add(peer)
        self._say_links()
        if (advert := self.calling.mine.advert) is not None:
            self.voice.send(peer, advert.signed)
        self.voice.repeat_to(peer)
        for signed in self.ballots.own_dones():
            self.voice.send(peer, signed)
        if self.attempt is not None:
            self.attempt.relinked(peer, now)
        return self._done(now)

    def lost(self, peer: bytes, now: float) -> list[fx.Effect]:
        self.voice.linked.discard(peer)
        self.calling.election.links.pop(peer, None)
        self.standing.lost(peer)
        if self.attempt is not None:
            self.attempt.lost(peer, now)
        self._say_links()
        return self._done(now)

    def receive(self, signed: Signed, now: float) -> list[fx.Effect]:
        """A message from anybody. Raises Refused or Broken, and changes nothing, when it breaks a rule."""
        envelope = self.keyring.check(signed)
        if envelope.scope != self.rules.scope:
            raise Refused(envelope.sender, "another task")
        if envelope.sender == self.keyring.me:
            return []
        self._take(envelope, signed, now)
        return self._done(now)

    def expects(self, peer: bytes, rid: bytes, kind: str, chunk: int, size: int) -> bool:
        """Whether bulk with this header (`size` bytes) is to be received; nothing else may take memory."""
        attempt = self._attempt(rid)
        return attempt is not None and attempt.expects(kind, peer, chunk, size)

    def bulk_arrived(self, peer: bytes, rid: bytes, kind: str, chunk: int, hash_: bytes, now: float) -> list[fx.Effect]:
        """All words of a piece or a sum arrived. Raises Broken when they are not what was signed."""
        if (attempt := self._attempt(rid)) is not None:
            arrived = attempt.sum_arrived if kind == "sum" else attempt.piece
            arrived(peer, chunk, hash_, now)
        return self._done(now)

    def bulk_refused(self, peer: bytes, rid: bytes, kind: str, chunk: int, now: float) -> list[fx.Effect]:
        """The receiver did not expect what I sent: it is tried again a little later."""
        if (attempt := self._attempt(rid)) is not None:
            attempt.refused_bulk(kind, peer, chunk, now)
        return self._done(now)

    def tick(self, now: float) -> list[fx.Effect]:
        return self._done(now)

    @property
    def deadline(self) -> float:
        """When `tick` is due, on the caller's clock; inf when nothing is waited for."""
        attempt = self.attempt.deadline if self.attempt is not None else math.inf
        return min(self.calling.wake, self.standing.wake, attempt)

    def _take(self, envelope: Envelope, signed: Signed, now: float) -> None:
        """Its signer answers for all it carries, not whoever passed it on; a proof of equivocation is acted on."""
        try:
            self._dispatch(envelope, parse_body(envelope), signed, now)
        except Equivocation as proof:
            if proof.kind not in SIGNED_ONCE or not self._ban(proof.signer, now):
                raise
            self.voice.broadcast(Proof(proof.first, proof.second), self.voice.next_seq())
        except PeerError as error:
            error.peer = envelope.sender
            raise

    def _dispatch(self, envelope: Envelope, body: Message, signed: Signed, now: float) -> None:
        peer, attempt = envelope.sender, self.attempt
        match body:
            case Links():
                self._on_links(peer, body, now)
            case Advert():
                fresh = self.calling.on_advert(envelope, body, signed)
                if fresh and attempt is not None and peer in attempt.terms.roster:
                    attempt.leave(peer, now)  # it has lost the attempt that I am in, or was started again
            case Roster():
                call = self.calling.on_roster(envelope, body, signed)
                if not self.ballots.knows(call.rid):
                    self.calling.offered(call)
                elif (left := self.ballots.get(call.rid).left) is not None:  # whoever passes it on has not heard
                    self.voice.send_all(call.roster, left)
            case Done() if self.ballots.knows(envelope.rid):
                self._vote(envelope, body, signed)
            case Ask():
                self.standing.on_ask(peer, body, self.calling.election.links.get(peer))
            case State():
                self.standing.on_state(peer, body)
                for done in self.ballots.missed(body.headers):
                    self._replay(done, now)
            case Proof():
                self._ban(signer_of_both(body, self.keyring.check, self.rules.scope), now)
            case _ if attempt is not None and attempt.terms.rid == envelope.rid:
                news = isinstance(body, Leave) and peer not in attempt.left
                attempt.receive(envelope, body, signed, now)
                if news and isinstance(body, Leave):
                    self.voice.note("peer.left", peer, body.reason)
            case _ if not self.ballots.knows(envelope.rid):  # else it belongs to an attempt that is over here
                self._early.hold(envelope, signed)

    def _on_links(self, peer: bytes, links: Links, now: float) -> None:
        """Note where a peer stands; one that stands elsewhere, or trains no more, is out of the attempt I am in.

        Its Leave may have been lost with a link, and before the t-th Manifest no deadline runs. Once the sum is open
        this proves nothing: whoever has certified it stands elsewhere too.
        """
        fresh, attempt = self.calling.election.record_links(peer, links), self.attempt
        elsewhere = links.base != self.chain.base_hash or not links.training
        if fresh and elsewhere and attempt is not None and attempt.tally.opened is None:
            attempt.leave(peer, now)

    def _vote(self, envelope: Envelope, body: Done, signed: Signed) -> None:
        if (certificate := self.ballots.vote(envelope, body, signed)) is not None:
            self.chain.add(certificate)

    def _ban(self, peer: bytes, now: float) -> bool:
        """Keep it out of rosters for a day; whether that is news."""
        if news := self.calling.election.ban(peer, now):
            self.voice.note("peer.equivocated", peer, "signed two different messages for one slot")
        return news

    def _done(self, now: float) -> list[fx.Effect]:
        self._advance(now)
        out, self.voice.out = self.voice.out, []
        return out

    def _advance(self, now: float) -> None:
        if self.attempt is not None:
            self.attempt.tick(now)
            self._collect(now)
        self._settle(now)
        if self.attempt is not None or self.standing.fetching is not None:
            self.calling.refuse_all()
            self.calling.wake = math.inf
        elif (call := self.calling.advance(now)) is not None:
            self._enter(call, now)
        self._contribute()
        self._collect(now)

    def _settle(self, now: float) -> None:
        """At a round boundary: stand on the best certified state in sight."""
        own, attempt, look = self.ballots.certified(self.chain.base_hash), self.attempt, self.standing.settle
        running = attempt if attempt is not None and (attempt.spent or self._contributing) else None
        if own is not None and (running is None or self._attempt(own[1]) is not None):
            self._adopt(own[0], own[1], now)
        elif running and (running.finishing or self.ballots.get(running.terms.rid).certificate is None):
            look = self.standing.watch
        look({peer: links for peer, links in self.calling.election.links.items() if peer in self.voice.linked}, now)

    def _enter(self, call: Call, now: float) -> None:
        """Begin the attempt of a Roster that this peer answers or has called."""
        terms, me = self.calling.terms_of(call), self.keyring.me
        self.ballots.open(terms, self.chain.base, self.chain.base_hash, call.message.adverts)
        self.voice.out.append(fx.Open(call.rid, call.roster))
        self.voice.relay = call.sender
        self.voice.said = [(call.signed, None)]
        if call.sender != me:  # whoever has not got it from the leader gets it from the others
            self.voice.send_all((p for p in call.roster if p != call.sender), call.signed)
        secure, linked = self.calling.sum_for(call), frozenset(self.voice.linked)
        self.attempt = Attempt(terms, secure, linked, self._say, self._say_to, self.keyring.check, now)
        self.attempt.begin(now)
        for signed in self._early.take(call.rid):
            self._replay(signed, now)

    def _replay(self, signed: Signed, now: float) -> None:
        try:
            self._take(self.keyring.check(signed), signed, now)
        except PeerError as error:
            self.voice.note("message.refused", error.peer, error.why)

    def _contribute(self) -> None:
        attempt = self.attempt
        if attempt is not None and self.calling.mine.ready and attempt.wants_update and not self._contributing:
            self._contributing = True
            self.spent.manifests += 1
            self.voice.out.append(fx.Contribute(attempt.terms.rid, attempt.masks()))

    def _collect(self, now: float) -> None:
        """Take over what the attempt has emitted, and its end."""
        if (attempt := self.attempt) is None:
            return
        if attempt.phase is Phase.SIGNED and not self.ballots.get(attempt.terms.rid).reachable(attempt.alive()):
            attempt.close("too few are left to certify the new state")
        self.voice.out.extend(attempt.out)
        attempt.out.clear()
        if attempt.closed:
            self._end(attempt)
            self._after_loss(attempt, now)

    def _leave(self, why: str, now: float) -> None:
        if self.attempt is not None:
            self.attempt.close(why)
            self._collect(now)

    def _end(self, attempt: Attempt) -> None:
        """Say goodbye to the roster, unless it has my Done already."""
        ballot = self.ballots.get(attempt.terms.rid)
        if not ballot.signed:
            ballot.left = self.voice.sign(Leave(attempt.why), attempt.terms.rid, 0)
            self.voice.send_all(attempt.terms.roster, ballot.left)
        self.attempt, self.voice.said, self._contributing, self.voice.relay = None, [], False, None

    def _after_loss(self, attempt: Attempt, now: float) -> None:
        self.calling.ended(attempt.terms.leader, now)
        if attempt.spent:
            self.calling.mine.ready = False  # under this base only an update with a further round of batches may follow
            if self.spent.manifests >= MANIFESTS_PER_BASE:
                self.voice.out.append(fx.Retrain(self.calling.pause(now)))
                self.spent.manifests = 0

    def _adopt(self, head: Head, rid: bytes | None, now: float) -> None:
        """Change the base; the attempt under the old one is over."""
        certificate = self.chain.headers[head_hash(head)]
        keep = self.spent.manifests == 0
        if (attempt := self.attempt) is not None:
            attempt.close("certified" if attempt.terms.rid == rid else "another base")
            self.voice.out.extend(attempt.out)
            self._end(attempt)
        self.chain.advance(head, self.chain.roster_of(certificate, self.keyring))
        self.ballots.keep_only(certificate)
        self.calling.rebased(keep)
        self.standing.fetching = None
        self.spent.manifests = 0
        self._early.clear()
        self.voice.out.append(fx.Adopt(head, certificate, rid, keep))
        self._say_links()

    def _attempt(self, rid: bytes) -> Attempt | None:
        return self.attempt if self.attempt is not None and self.attempt.terms.rid == rid else None

    def _say(self, body: Message, slot: int) -> None:
        """Sign a message of the attempt for its whole roster, and count it here as well."""
        attempt = self.attempt
        assert attempt is not None
        envelope = make_envelope(self.rules.scope, attempt.terms.rid, self.keyring.me, body, slot)
        signed = self.keyring.sign(envelope)
        self.voice.said.append((signed, None))
        self.voice.send_all(attempt.terms.roster, signed)
        if isinstance(body, Done):
            self._vote(envelope, body, signed)
        else:
            attempt.record_own(envelope, body, signed)

    def _say_to(self, peer: bytes, body: Message, slot: int) -> None:
        """Sign a message of the attempt for one peer."""
        assert self.attempt is not None
        signed = self.voice.sign(body, self.attempt.terms.rid, slot)
        self.voice.said.append((signed, peer))
        self.voice.send(peer, signed)

    def _say_links(self) -> None:
        seq, chain = self.voice.next_seq(), self.chain
        linked, training = tuple(sorted(self.voice.linked)), self.calling.mine.training
        self.voice.broadcast(Links(seq, linked, chain.base.round, chain.base_hash, training), seq)
