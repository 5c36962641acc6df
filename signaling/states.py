"""What a node keeps of its federated buffers: one SQLite file, WAL with synchronous=FULL.

    keep   a contribution with its vector             one transaction, durable when it returns -> only now Pushed
    make   the new version, with empty slots          the same transaction as the push that filled the buffer
           (kill -9 before the commit: neither happened; after it: both did, and it is never made a second time)

Vectors stay here and are read one at a time. Blocking: called in a thread, any one; one transaction runs at a time.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from discod.errors import UserError
from discod.wire.federated import HostedTask, version_state
from signaling.buffer import Buffer, Contribution, Counted, Effect, Kept, Make

FILE = "buffers.sqlite"
SCHEMA = (
    "CREATE TABLE buffer (id INTEGER PRIMARY KEY, mesh BLOB, scope BLOB, origin BLOB, floats INTEGER, version INTEGER,"
    " state BLOB, parent BLOB, hash BLOB, total BLOB, parts TEXT, used REAL, UNIQUE (scope, origin, floats)) STRICT",
    "CREATE TABLE slot (buffer INTEGER REFERENCES buffer ON DELETE CASCADE, peer BLOB, seq INTEGER, base INTEGER,"
    " since INTEGER, weight INTEGER, hash BLOB, time REAL, signature BLOB, vector BLOB,"
    " PRIMARY KEY (buffer, peer)) STRICT",
    "CREATE TABLE pusher (buffer INTEGER REFERENCES buffer ON DELETE CASCADE, peer BLOB, last INTEGER,"
    " counted_seq INTEGER, counted_version INTEGER, counted_base INTEGER, PRIMARY KEY (buffer, peer)) STRICT",
    "CREATE TABLE record (mesh BLOB, data BLOB, PRIMARY KEY (mesh, data)) STRICT",
)
FIND = "SELECT id FROM buffer WHERE scope = ? AND origin = ? AND floats = ?"
CONTRIBUTION = "peer, seq, base, since, weight, hash, time"


@dataclass(frozen=True, slots=True)
class Place:
    """Which buffer: a task in a mesh (`scope`), from a state that all start from, so many float32."""

    mesh: bytes
    scope: bytes
    origin: bytes
    floats: int

    @property
    def size(self) -> int:
        return 4 * self.floats


@dataclass(frozen=True, slots=True)
class Version:
    """What is published: `total` is the sum of all means so far, zeros in version 0."""

    number: int
    state: bytes
    parent: bytes
    hash: bytes
    total: bytes
    contributors: tuple[bytes, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """What a new buffer begins with: nothing, or in a fallback a certified state, whose round is its version."""

    version: int = 0
    hash: bytes = bytes(32)
    total: bytes | None = None


GENESIS = Start()


@dataclass(frozen=True, slots=True)
class Arrived:
    """A vector whose contribution the buffer took, and its peer's signature on it."""

    vector: bytes | bytearray
    signature: bytes


class NoRoom(UserError):
    """The disk of the node is full, or a mesh has as many buffers as it may: nothing was kept."""

    code = "no-room"


class States:
    """The open file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self._transaction() as connection:
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute("PRAGMA user_version=1")
        self.path.chmod(0o600)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise NoRoom(f"cannot keep {self.path}: {error}", f"make room: df -h {self.path.parent}") from None
                raise

    def is_known(self, place: Place) -> bool:
        """Whether it has a buffer."""
        with self._lock:
            key = (place.scope, place.origin, place.floats)
            return self._connection.execute(FIND, key).fetchone() is not None

    def open(self, place: Place, now: float, most: int, in_use: Collection[int], start: Start = GENESIS) -> int:
        """The number of a buffer, made at its `start` if it is new; a mesh has `most` at most.

        Those that nobody pushed to or uses make way, others never do.  Raises: NoRoom.
        """
        key = (place.scope, place.origin, place.floats)
        with self._transaction() as connection:
            if (found := connection.execute(FIND, key).fetchone()) is None:
                self._make_way(connection, place.mesh, most, in_use)
                connection.execute(
                    "INSERT INTO buffer (mesh, scope, origin, floats, version, state, parent, hash, total, parts)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '[]')",
                    (place.mesh, *key, start.version, place.origin, bytes(32), start.hash, start.total),
                )
                found = connection.execute(FIND, key).fetchone()
            connection.execute("UPDATE buffer SET used = ? WHERE id = ?", (now, found[0]))
            return int(found[0])

    def _make_way(self, connection: sqlite3.Connection, mesh: bytes, most: int, in_use: Collection[int]) -> None:
        sql = "SELECT id, parts != '[]' FROM buffer WHERE mesh = ? ORDER BY used"  # no parts: as it began
        rows = connection.execute(sql, (mesh,)).fetchall()
        slots = {number for (number,) in connection.execute("SELECT DISTINCT buffer FROM slot")}
        empty = [number for number, is_used in rows if not is_used and number not in slots and number not in in_use]
        if len(rows) < most:
            return
        if not empty:
            raise NoRoom(f"this node hosts {most} buffers of this mesh already", "ask whoever runs the node")
        connection.execute("DELETE FROM buffer WHERE id = ?", (empty[0],))

    def load(self, number: int, task: HostedTask) -> Buffer:
        """The buffer as the last commit left it."""
        with self._lock:
            slots = self._connection.execute(f"SELECT {CONTRIBUTION} FROM slot WHERE buffer = ?", (number,))  # noqa: S608  (a constant)
            kept = [Contribution(*row) for row in slots]
            pushers = self._connection.execute(
                "SELECT peer, last, counted_seq, counted_version, counted_base FROM pusher WHERE buffer = ?", (number,)
            ).fetchall()
            (version,) = self._connection.execute("SELECT version FROM buffer WHERE id = ?", (number,)).fetchone()
        last = {peer: seq for peer, seq, *_ in pushers}
        counted = {peer: Counted(*rest) for peer, _, *rest in pushers if rest[0] is not None}
        return Buffer(task, version, kept, last, counted)

    def version(self, number: int) -> Version:
        """The newest version with its vector."""
        with self._lock:
            return self._version(self._connection, number)

    def _version(self, connection: sqlite3.Connection, number: int) -> Version:
        sql = "SELECT version, state, parent, hash, total, parts, floats FROM buffer WHERE id = ?"
        version, state, parent, hash_, total, parts, floats = connection.execute(sql, (number,)).fetchone()
        shares = json.loads(parts)
        contributors = tuple(bytes.fromhex(peer) for peer, _ in shares)
        weights = tuple(float(weight) for _, weight in shares)
        return Version(version, state, parent, hash_, total or bytes(4 * floats), contributors, weights)

    def commit(self, number: int, place: Place, effects: Sequence[Effect], arrived: Arrived | None) -> Version | None:
        """Make all that the buffer decided durable, or nothing of it; the new version, if there is one.

        Raises: NoRoom.
        """
        made = None
        with self._transaction() as connection:
            for effect in effects:
                match effect:
                    case Kept(contribution=contribution, again=False):
                        assert arrived is not None, "a contribution comes with its vector"
                        _keep(connection, number, contribution, arrived)
                    case Make():
                        made = self._make(connection, number, place, effect)
        return made

    def _make(self, connection: sqlite3.Connection, number: int, place: Place, make: Make) -> Version:
        from signaling.mean import advance

        before = self._version(connection, number)
        assert make.version == before.number + 1, "versions grow by one"
        sql = "SELECT vector FROM slot WHERE buffer = ? AND peer = ?"
        shares = list(zip(make.parts, make.factors, strict=True))
        vectors = (
            (connection.execute(sql, (number, part.peer)).fetchone()[0], factor, part.weight) for part, factor in shares
        )
        total = advance(before.total, vectors, make.rule)
        hash_ = sha256(total).digest()
        state = version_state(place.scope, place.origin, make.version, before.state, hash_)
        counts = [factor * (1 if make.rule else part.weight) for part, factor in shares]
        parts = json.dumps([(part.peer.hex(), count) for part, count in zip(make.parts, counts, strict=True)])
        connection.execute(
            "UPDATE buffer SET version = ?, state = ?, parent = ?, hash = ?, total = ?, parts = ? WHERE id = ?",
            (make.version, state, before.state, hash_, total, parts, number),
        )
        connection.execute("DELETE FROM slot WHERE buffer = ?", (number,))
        connection.executemany(
            "UPDATE pusher SET counted_seq = ?, counted_version = ?, counted_base = ? WHERE buffer = ? AND peer = ?",
            [(part.seq, make.version, part.base, number, part.peer) for part in make.parts],
        )
        return self._version(connection, number)

    def learn(self, mesh: bytes, records: Sequence[bytes]) -> None:
        """Keep records of a mesh: a revocation must outlive the node's process."""
        with self._transaction() as connection:
            rows = [(mesh, data) for data in records]
            connection.executemany("INSERT OR IGNORE INTO record VALUES (?, ?)", rows)

    def records(self, mesh: bytes) -> list[bytes]:
        """What is known of a mesh."""
        with self._lock:
            rows = self._connection.execute("SELECT data FROM record WHERE mesh = ?", (mesh,))
            return [data for (data,) in rows]


def _keep(connection: sqlite3.Connection, number: int, each: Contribution, arrived: Arrived) -> None:
    said = (each.peer, each.seq, each.base, each.since, each.weight, each.hash, each.time)
    connection.execute(
        f"INSERT OR REPLACE INTO slot (buffer, {CONTRIBUTION}, signature, vector)"  # noqa: S608  (a constant)
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, *said, arrived.signature, arrived.vector),
    )
    connection.execute(
        "INSERT INTO pusher (buffer, peer, last) VALUES (?, ?, ?)"
        " ON CONFLICT (buffer, peer) DO UPDATE SET last = excluded.last",
        (number, each.peer, each.seq),
    )
