"""The certified past of one task: where I stand, where the others stand, and which way to go when that differs.

A state is named by its hash; a certificate proves that it follows its parent. A certified *descendant* of the own base
is adopted; an *ancestor* is never a fork. Two branches are compared at their last common ancestor: a branch weighs the
linked members, self included, that stand anywhere on it; the heavier wins, a tie goes to the lower hash of its first
state (docs/protocol.md 5, fork rule). In a fallback the node's signature stands in for a certificate; of the versions
that it made from one state the higher descends from the lower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from discod.errors import Refused
from discod.p2p.certificate import Keyring, check_certificate
from discod.p2p.hosted import Host, check_hosted, is_hosted, said_of
from discod.wire.rounds import MAX_HEADERS, Certificate, Head, head_hash

MAX_HEADER_BYTES = 900 << 10  # of certificates in one State message


class Chain:
    """Verified certificates of the last rounds, on all branches seen, and the base."""

    def __init__(
        self, base: Head, headers: Iterable[Certificate] = (), roster: tuple[bytes, ...] = (), host: Host | None = None
    ) -> None:
        self.base, self.host = base, host
        self.base_hash = head_hash(base)
        self.headers: dict[bytes, Certificate] = {header.state: header for header in headers}
        self.heads: dict[bytes, Head] = {self.base_hash: base}
        self.last_roster = roster  # of the base's certificate

    def path(self, state: bytes) -> list[bytes]:
        """`state` and its ancestors as far as certificates reach, newest first."""
        found = [state]
        while (header := self.headers.get(found[-1])) is not None and len(found) <= 4 * MAX_HEADERS:
            found.append(self._before(header))
        return found

    def _before(self, header: Certificate) -> bytes:
        """The parent; of a version the next lower one that is known, for a peer may have skipped some."""
        if not is_hosted(header):
            return header.parent
        lower = [
            (other.round, name)
            for name, other in self.headers.items()
            if is_hosted(other) and other.parent == header.parent and other.round < header.round
        ]
        return max(lower)[1] if lower else header.parent

    def is_version_after_base(self, state: bytes) -> bool:
        """Whether the task's node made it from the base, or from a version before the base."""
        header = self.headers.get(state)
        return header is not None and is_hosted(header) and self.base_hash in self.path(state)[1:]

    def roster_of(self, certificate: Certificate, keyring: Keyring) -> tuple[bytes, ...]:
        """Whose updates could be in a state."""
        if is_hosted(certificate):
            return said_of(certificate).contributors
        return tuple(keyring.check(signed).sender for signed in certificate.adverts)

    def headers_after(self, state: bytes) -> tuple[Certificate, ...]:
        """My certificates after `state` (all that are kept, when it is not on my path), oldest first."""
        mine: list[Certificate] = []
        size = 0
        name = self.base_hash
        while name != state and (header := self.headers.get(name)) is not None and len(mine) < MAX_HEADERS:
            name = header.parent
            size += sum(len(s.envelope) + 80 for s in (*header.adverts, *header.dones))
            if size > MAX_HEADER_BYTES:
                break
            mine.append(header)
        return tuple(reversed(mine))

    def learn(self, headers: Iterable[Certificate], head: Head, scope: bytes, keyring: Keyring, majority: bool) -> None:
        """Take over another peer's chain.

        Raises:
            Refused or Broken: a certificate that does not verify, or does not follow the one before. Nothing is kept.
        """
        fresh: dict[bytes, Certificate] = {}
        previous: Certificate | None = None
        for header in headers:
            if previous is not None and not _follows(header, previous):
                raise Refused(None, "certificates that do not follow each other")
            if self.headers.get(header.state) != header:
                self._check(header, scope, keyring, majority)
                fresh[header.state] = header
            previous = header
        state = head_hash(head)
        if head.scope != scope or (previous is not None and (previous.state, previous.round) != (state, head.round)):
            raise Refused(None, "a head that is not the last certificate's state")
        for name, header in fresh.items():
            self.headers.setdefault(name, header)
        if state in self.headers:
            self.heads[state] = head

    def _check(self, header: Certificate, scope: bytes, keyring: Keyring, majority: bool) -> None:
        if is_hosted(header):
            check_hosted(header, scope, self.host)
        else:
            check_certificate(header, scope, keyring, majority)

    def add(self, certificate: Certificate) -> None:
        """A certificate that this peer assembled and checked itself."""
        self.headers.setdefault(certificate.state, certificate)

    def advance(self, head: Head, roster: tuple[bytes, ...]) -> None:
        """The base is now `head`; old headers are forgotten."""
        self.base, self.base_hash, self.last_roster = head, head_hash(head), roster
        self.heads = {self.base_hash: head}
        oldest = head.round - MAX_HEADERS
        self.headers = {s: h for s, h in self.headers.items() if h.round > oldest}

    def choose(self, positions: Mapping[bytes, bytes]) -> bytes:
        """The state to stand on, given where the linked members and I stand; the own base where nothing is better."""
        best = self.base_hash
        for state in sorted({s for s in positions.values() if s in self.headers and s != best}):
            if self._better(state, best, positions):
                best = state
        return best

    def _better(self, other: bytes, mine: bytes, positions: Mapping[bytes, bytes]) -> bool:
        ours, theirs = self.path(mine), self.path(other)
        if mine in theirs:
            return other != mine
        if other in ours:
            return False
        shared = next((state for state in theirs if state in ours), None)
        if shared is None and self._is_genesis(mine):
            return True  # a joiner, further behind than certificates are kept
        ours, theirs = _until(ours, shared), _until(theirs, shared)
        weights = [sum(branch[-1] in self.path(p) for p in positions.values()) for branch in (theirs, ours)]
        return (-weights[0], theirs[-1]) < (-weights[1], ours[-1])

    def _is_genesis(self, state: bytes) -> bool:
        return state == self.base_hash and self.base.round == 0


def _until(path: list[bytes], shared: bytes | None) -> list[bytes]:
    """The states of a branch after the last common ancestor, newest first."""
    return path[: path.index(shared)] if shared in path else path


def _follows(header: Certificate, previous: Certificate) -> bool:
    """Of a node's versions the numbers in between may be missing."""
    is_next = header.round > previous.round if is_hosted(header) else header.round == previous.round + 1
    return is_next and header.parent == previous.state
