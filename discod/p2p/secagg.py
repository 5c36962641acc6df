"""The secrets of the secure sum: who can open what, and nothing else (docs/protocol.md, the secure sum).

Double masking after Bonawitz et al. 2017 (CCS; eprint 2017/281), the server being sharded over chunk owners. Peer i of
the set U1 that starts hides its words q_i (mod 2^32) as

    y_i = q_i + PRG(b_i) + sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij)        order by PeerId

s_ij comes from the mask keys of i and j, b_i from i alone. Every peer deals Shamir shares of its b and of its mask key
to all others before it shares anything. When t peers consent to one sum over U they show, for each peer of U, their
share of its b; for each peer that dropped out, their share of its mask key; never both for one peer. Anybody then
takes PRG(b_i) and the left-over pair masks off the sum, which is all that can be opened.

Keys live in memory only, belong to one Advert, and die with its attempt. Sans-IO; entropy is passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from discod.errors import Broken, Refused
from discod.masks import Masks
from discod.p2p.certificate import start_hash
from discod.shamir import join, split
from discod.wire.codec import digest
from discod.wire.rounds import RoundKeys

KEY_BYTES, SHARE_BYTES = 32, 33
BOX_BYTES = 2 * SHARE_BYTES + 16  # two shares and the tag
FIELD = 2**255 - 19
TRIES = 128  # sets of t shares that are tried when some rebuild nothing: all that leave one out, of 128 peers
NONCE = bytes(12)  # a box key seals one box

PROBE = X25519PrivateKey.from_private_bytes(b"\x40" * KEY_BYTES)  # no secret: with it, points of low order give zero

Entropy = Callable[[int], bytes]


class Secrets:
    """What one Advert promises: a mask key, a box key, and the seed of the own mask."""

    def __init__(self, entropy: Entropy) -> None:
        self.mask = X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))
        self.box = X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))
        self.seed = entropy(KEY_BYTES)
        mask, box = (key.public_key().public_bytes_raw() for key in (self.mask, self.box))
        self.public = RoundKeys(mask, box, commitment(self.seed))

    def __repr__(self) -> str:
        return "<Secrets>"


def commitment(seed: bytes) -> bytes:
    """What an Advert says of a seed: enough to recognise it when it is rebuilt."""
    return digest("discod/commitment/1", seed)


def check_keys(keys: Mapping[bytes, RoundKeys | None], fresh: Collection[bytes]) -> None:
    """Whether the keys of the `fresh` peers can be used beside all others that are known.

    Raises:
        Refused, naming the peer: no keys, or of the wrong length, not canonical, of low order, or another peer's.
    """
    uses = Counter(public for theirs in keys.values() if theirs is not None for public in (theirs.mask, theirs.box))
    for peer in fresh:
        theirs = keys[peer]
        if theirs is None or len(theirs.commitment) != KEY_BYTES:
            raise Refused(peer, "an advert without the keys of the secure sum")
        for public in (theirs.mask, theirs.box):
            if len(public) != KEY_BYTES or int.from_bytes(public, "little") >= FIELD:
                raise Refused(peer, "a round key that is not in canonical form")
            if uses[public] > 1:
                raise Refused(peer, "a round key that occurs twice")
            try:
                PROBE.exchange(X25519PublicKey.from_public_bytes(public))
            except ValueError:
                raise Refused(peer, "a round key of low order") from None


class SecureSum:
    """One peer's side of one attempt: `roster` sorted, `keys` checked, t = `threshold`."""

    def __init__(
        self,
        rid: bytes,
        me: bytes,
        roster: Sequence[bytes],
        threshold: int,
        secrets: Secrets,
        keys: Mapping[bytes, RoundKeys],
        entropy: Entropy,
    ) -> None:
        self._rid, self._me, self._roster, self._threshold = rid, me, tuple(roster), threshold
        self._secrets, self._keys = secrets, dict(keys)
        self._index = {peer: index for index, peer in enumerate(self._roster)}
        self._dealt = tuple(
            zip(
                split(secrets.seed, len(roster), threshold, entropy),
                split(secrets.mask.private_bytes_raw(), len(roster), threshold, entropy),
                strict=True,
            )
        )
        self._held: dict[bytes, tuple[bytes, bytes]] = {me: self._dealt[self._index[me]]}  # dealer -> shares of b, key
        self._shown: dict[bytes, tuple[bytes, ...]] = {}  # who unmasked -> one share for each of U1
        self._right: tuple[int, ...] = ()  # whose shares have given a secret: tried first for the next
        self._failed: tuple[int, Refused] | None = None  # with how many that had shown, and why
        self.started: tuple[bytes, ...] = ()  # U1, sorted; empty before the Start
        self.start = b""  # u1h

    def __repr__(self) -> str:
        return f"<SecureSum of {len(self._roster)}>"

    # -- dealing

    def boxes(self) -> list[tuple[bytes, bytes]]:
        """(receiver, box) for each other peer: my shares for it, which only it can open."""
        others = [peer for peer in self._roster if peer != self._me]
        return [(peer, self._seal(peer, b"".join(self._dealt[self._index[peer]]))) for peer in others]

    def take_box(self, dealer: bytes, box: bytes) -> None:
        """Keep what a peer dealt to me. Raises: Broken, see `open_box`."""
        self._held[dealer] = self.open_box(dealer, box)

    def open_box(self, dealer: bytes, box: bytes) -> tuple[bytes, bytes]:
        """The shares in a box: of the dealer's seed, of its mask key.

        Raises: Broken when it is not for me, from this dealer, under this rid.
        """
        if len(box) != BOX_BYTES:
            raise Broken(dealer, f"shares of {len(box)} bytes, not {BOX_BYTES}")
        key = self._box_key(dealer, dealer, self._me)
        try:
            plain = ChaCha20Poly1305(key).decrypt(NONCE, box, self._header(dealer, self._me))
        except InvalidTag:
            raise Broken(dealer, "shares that cannot be opened") from None
        return plain[:SHARE_BYTES], plain[SHARE_BYTES:]

    @property
    def held(self) -> frozenset[bytes]:
        """Whose shares I hold, mine included."""
        return frozenset(self._held)

    # -- masking

    def begin(self, started: Collection[bytes]) -> None:
        """The Start: these peers mask with one another, and nobody else's update can be in the sum."""
        assert not self.started, "a round starts once"
        assert self.held.issuperset(started), "nobody starts without everybody's shares"
        self.started = tuple(peer for peer in self._roster if peer in started)
        self.start = start_hash(self._rid, self.started, self._roster)

    def masks(self) -> Masks:
        """The streams that hide my words."""
        others = [peer for peer in self.started if peer != self._me]
        pairs = {peer: self._pair_key(self._secrets.mask, self._me, peer) for peer in others}
        plus = tuple(key for peer, key in pairs.items() if peer > self._me)
        minus = tuple(key for peer, key in pairs.items() if peer < self._me)
        return Masks((self._seed_key(self._secrets.seed), *plus), minus)

    # -- opening

    def shares_for(self, included: Collection[bytes]) -> tuple[bytes, ...]:
        """What I show to open the sum over `included`: one share for each of U1, of its seed or of its mask key."""
        return tuple(self._held[peer][0 if peer in included else 1] for peer in self.started)

    def show(self, peer: bytes, shares: tuple[bytes, ...]) -> None:
        """Take what a peer of U1 shows for the sum that is being opened. Raises: Broken (form)."""
        if len(shares) != len(self.started) or any(len(share) != SHARE_BYTES for share in shares):
            raise Broken(peer, "an unmask with shares of the wrong number or length")
        self._shown.setdefault(peer, shares)

    @property
    def can_open(self) -> bool:
        """Whether t peers have shown their shares."""
        return len(self._shown) >= self._threshold

    def opening(self, included: Collection[bytes]) -> Masks:
        """The streams that come off a sum over `included`.

        Raises:
            Refused: the shares that a peer dealt rebuild neither its seed nor its mask key; it is named.
        """
        if self._failed is None or self._failed[0] < len(self._shown):
            try:
                return self._opening(included)
            except Refused as error:
                self._failed = len(self._shown), error
        raise self._failed[1]

    def _opening(self, included: Collection[bytes]) -> Masks:
        plus: list[bytes] = []
        minus: list[bytes] = []
        for position, dealer in enumerate(self.started):
            if dealer in included:
                minus.append(self._seed_key(self._rebuild(position, dealer, self._is_seed)))
                continue
            secret = X25519PrivateKey.from_private_bytes(self._rebuild(position, dealer, self._is_mask_key))
            for peer in self.started:
                if peer in included:  # it added the stream of a pair with a higher dealer, and subtracted it else
                    (minus if dealer > peer else plus).append(self._pair_key(secret, dealer, peer))
        return Masks(tuple(plus), tuple(minus))

    def _rebuild(self, position: int, dealer: bytes, is_right: Callable[[bytes, bytes], bool]) -> bytes:
        """A secret from any t shares that give the one which the dealer's Advert promised."""
        shares = {self._index[peer]: shown[position] for peer, shown in sorted(self._shown.items())}
        for chosen in islice(_choices(self._right, tuple(shares), self._threshold), TRIES):
            try:
                secret = join({index: shares[index] for index in chosen}, self._threshold)
            except Broken:
                continue
            if is_right(dealer, secret):
                self._right = chosen
                return secret
        raise Refused(dealer, "shares that rebuild nothing it has promised")

    def _is_seed(self, dealer: bytes, secret: bytes) -> bool:
        return commitment(secret) == self._keys[dealer].commitment

    def _is_mask_key(self, dealer: bytes, secret: bytes) -> bool:
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return public == self._keys[dealer].mask

    # -- keys

    def _seed_key(self, seed: bytes) -> bytes:
        return _derive(seed, b"discod/self/1", self._rid)

    def _pair_key(self, secret: X25519PrivateKey, mine: bytes, peer: bytes) -> bytes:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(self._keys[peer].mask))
        return _derive(shared, b"discod/pair/1", self._rid, self.start, min(mine, peer), max(mine, peer))

    def _box_key(self, other: bytes, dealer: bytes, receiver: bytes) -> bytes:
        shared = self._secrets.box.exchange(X25519PublicKey.from_public_bytes(self._keys[other].box))
        return _derive(shared, b"discod/share/1", self._rid, dealer, receiver)

    def _seal(self, receiver: bytes, plain: bytes) -> bytes:
        key = self._box_key(receiver, self._me, receiver)
        return ChaCha20Poly1305(key).encrypt(NONCE, plain, self._header(self._me, receiver))

    def _header(self, dealer: bytes, receiver: bytes) -> bytes:
        return b"".join((self._rid, dealer, receiver))


def _choices(first: tuple[int, ...], indices: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Sets of `size` indices: `first`, then all that leave out nobody, one, two: only few show false shares."""
    tried: set[tuple[int, ...]] = {()}
    for left_out in chain.from_iterable(combinations(indices, count) for count in range(len(indices) - size + 1)):
        for chosen in (first, tuple(index for index in indices if index not in left_out)[:size]):
            if chosen not in tried:
                tried.add(chosen)
                yield chosen


def _derive(secret: bytes, *info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, b"".join(info)).derive(secret)
