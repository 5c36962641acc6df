"""Whose pieces are safe, and the proposals that rest on it. Pure functions.

A piece is safe when its owner has receipted it; an owner's own piece, when the next in order has.
"""

from __future__ import annotations

from collections.abc import Iterable

from discod.p2p.certificate import bitmap, consent_hash, from_bitmap, manifests_hash
from discod.p2p.owners import Owners
from discod.p2p.tally import Tally
from discod.p2p.terms import Terms
from discod.wire.rounds import Propose, View


def complete(owners: Owners, tally: Tally, peer: bytes, gone: frozenset[bytes]) -> bool:
    """Whether every piece of `peer` is held by its owner, when the peers in `gone` own nothing."""
    return peer in tally.manifests and all(
        holder == peer or tally.receipted(holder, chunk, peer)
        for chunk in owners.chunks
        for holder in owners.holders(chunk, peer, gone)
    )


def whole_peers(owners: Owners, tally: Tally, roster: Iterable[bytes], gone: frozenset[bytes]) -> frozenset[bytes]:
    """The peers whose updates can be in the sum."""
    return frozenset(peer for peer in roster if complete(owners, tally, peer, gone))


def most_consented(terms: Terms, start: bytes, tally: Tally, views: Iterable[View]) -> frozenset[bytes] | None:
    """The U with most Consents in these Views, in whichever view it was proposed; None where nobody has consented."""
    for propose in tally.offers():
        if (named := sum_named_by(terms, start, tally, propose)) is not None:
            tally.offered[named[0]] = named[1]
    return tally.most_consented(views)


def silent_owners(owners: Owners, tally: Tally, terms: Terms, gone: frozenset[bytes]) -> set[bytes]:
    """Owners without whose receipts too few peers would be complete; none while enough are."""
    if len(whole_peers(owners, tally, terms.roster, gone)) >= terms.threshold:
        return set()
    places = (0, 1) if owners.witness else (0,)
    named = [(chunk, owners.owner(chunk, gone, place)) for chunk in owners.chunks for place in places]
    return {
        owner
        for chunk, owner in named
        if owner != terms.me and sum(tally.receipted(owner, chunk, p) for p in terms.roster) < terms.threshold - 1
    }


def proposal(terms: Terms, tally: Tally, gone: frozenset[bytes], view: int, included: frozenset[bytes]) -> Propose:
    """Sum over exactly these peers, with the evidence for it."""
    hashes = [tally.manifests[peer][0] for peer in terms.roster if peer in included]
    bits = bitmap(included, terms.roster), manifests_hash(hashes), bitmap(gone, terms.roster)
    return Propose(view, *bits, tally.evidence(included))


def sum_named_by(terms: Terms, start: bytes, tally: Tally, propose: Propose) -> tuple[bytes, frozenset[bytes]] | None:
    """uh and U of a proposal; None while its manifests are not all here, or when they are not the ones it names."""
    included = from_bitmap(propose.included, terms.roster)
    hashes = [tally.manifest_hash(peer) for peer in terms.roster if peer in included]
    held = [h for h in hashes if h is not None]
    if len(held) < max(len(hashes), terms.threshold) or manifests_hash(held) != propose.manifests:
        return None
    return consent_hash(terms.rid, start, propose.included, propose.manifests), included
