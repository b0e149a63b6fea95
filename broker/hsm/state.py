"""The worker's own database: tenants, heads of their logs, burnt permits.

Guarantees: every write is on disk (WAL, synchronous=FULL) when the method returns; a permit burns
once; one head replaces another only if the latter is still the stored one. It stands outside the
broker's database, so that restoring that one is noticed. Does not notice when it is itself put
back to an older copy: whoever can do that has the worker's user, and so the PIN.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

from broker.hsm.errors import HsmError, HsmReason
from verifier.errors import VerifierError
from verifier.tlog.merkle import Frontier

_SCHEMA: Final = """
CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL) STRICT;
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    tree BLOB NOT NULL UNIQUE,
    log_key BLOB,              -- NULL until the pair is made
    g BLOB UNIQUE,             -- NULL until enrolled
    genesis BLOB,              -- the payload of the signed genesis
    kek INTEGER
) STRICT;
CREATE TABLE import_keys (
    cka_id BLOB PRIMARY KEY,
    g BLOB NOT NULL,
    spki BLOB UNIQUE           -- SHA-256; NULL until the pair is made
) STRICT, WITHOUT ROWID;
CREATE TABLE heads (
    g BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    frontier BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    state BLOB NOT NULL,
    time INTEGER NOT NULL,
    checkpoint BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE burnt (
    g BLOB NOT NULL,
    leaf INTEGER NOT NULL,
    PRIMARY KEY (g, leaf)
) STRICT, WITHOUT ROWID;
"""


@final
@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant as stored. `log_key`, `g`, `genesis` and `kek` are None until they are there."""

    name: str
    tree: bytes
    log_key: bytes | None
    g: bytes | None
    genesis: bytes | None
    kek: int | None


@final
@dataclass(frozen=True, slots=True)
class HeadRow:
    """Where a log stands: `state` is the digest of the state map at epoch `epoch`."""

    frontier: Frontier
    epoch: int
    state: bytes
    time: int
    checkpoint: bytes

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.frontier.size


EMPTY: Final = HeadRow(Frontier(), 0, bytes(32), 0, b"")
"""The head of a log without leaves."""


@final
class WorkerState:
    """The open database. One thread uses it."""

    __slots__ = ("_db",)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def create(cls, path: Path, identity: bytes) -> None:
        """Make the database at the ceremony.

        Raises:
            HsmError: `exists`.
        """
        if path.exists():
            raise HsmError(HsmReason.EXISTS, f"{path} is there already")
        with _connected(path) as db:
            db.executescript("BEGIN;" + _SCHEMA + "COMMIT;")
            db.execute("INSERT INTO identity VALUES (1, ?)", (identity,))

    @classmethod
    def open(cls, path: Path, identity: bytes) -> Self:
        """Open the database that belongs to the token whose marker says `identity`.

        Raises:
            HsmError: `state_missing` if it is gone, damaged or another token's.
        """
        if not path.is_file() or path.stat().st_size == 0:
            raise HsmError(
                HsmReason.STATE_MISSING,
                f"{path} is gone but the token is there: without its heads and burnt permits "
                "nothing is signed or released. Restore it",
            )
        try:
            db = _connect(path)
            found = db.execute("SELECT id FROM identity").fetchone()
        except sqlite3.Error as error:
            raise HsmError(HsmReason.STATE_MISSING, f"{path} is damaged: {error}") from error
        if found != (identity,):
            db.close()
            raise HsmError(HsmReason.STATE_MISSING, f"{path} belongs to another token")
        return cls(db)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def tenant_named(self, name: str) -> TenantRow | None:
        """Return the tenant of this name."""
        return self._tenant("name = ?", name)

    def tenant(self, g: bytes) -> TenantRow | None:
        """Return the enrolled tenant with this genesis digest."""
        return self._tenant("g = ?", g)

    def begin(self, name: str, tree: bytes) -> None:
        """Store a tenant to be. A crash after it leaves a row without a log key: made later."""
        with self._writing():
            self._db.execute("INSERT INTO tenants (name, tree) VALUES (?, ?)", (name, tree))

    def set_log_key(self, name: str, log_key: bytes) -> None:
        """Store the log key of a tenant to be."""
        with self._writing():
            self._db.execute("UPDATE tenants SET log_key = ? WHERE name = ?", (log_key, name))

    def enrol(self, name: str, g: bytes, genesis: bytes, kek: int) -> None:
        """Enrol a tenant, once."""
        with self._writing():
            self._db.execute(
                "UPDATE tenants SET g = ?, genesis = ?, kek = ? WHERE name = ? AND g IS NULL",
                (g, genesis, kek, name),
            )

    def begin_import(self, cka_id: bytes, g: bytes) -> None:
        """Store an import pair to be. A crash after it leaves a row without digest: cleared."""
        with self._writing():
            self._db.execute("INSERT INTO import_keys (cka_id, g) VALUES (?, ?)", (cka_id, g))

    def set_import(self, cka_id: bytes, spki: bytes) -> None:
        """Store the digest of an import pair that was made."""
        with self._writing():
            self._db.execute("UPDATE import_keys SET spki = ? WHERE cka_id = ?", (spki, cka_id))

    def import_id(self, g: bytes, spki: bytes) -> bytes | None:
        """Return the CKA_ID of a tenant's import pair."""
        row = self._one("SELECT cka_id FROM import_keys WHERE g = ? AND spki = ?", g, spki)
        return None if row is None else bytes(row[0])

    def forget_import(self, cka_id: bytes) -> None:
        """Delete an import pair's row, after the pair."""
        with self._writing():
            self._db.execute("DELETE FROM import_keys WHERE cka_id = ?", (cka_id,))

    def unfinished_imports(self) -> tuple[bytes, ...]:
        """List the CKA_IDs of import pairs whose making was cut short."""
        rows = self._db.execute("SELECT cka_id FROM import_keys WHERE spki IS NULL").fetchall()
        return tuple(bytes(row[0]) for row in rows)

    def head(self, g: bytes) -> HeadRow:
        """Return where a log stands; `EMPTY` where it has no leaf."""
        row = self._one("SELECT frontier, epoch, state, time, checkpoint FROM heads WHERE g = ?", g)
        if row is None:
            return EMPTY
        frontier, epoch, state, time, checkpoint = row
        try:
            return HeadRow(Frontier.decode(frontier), epoch, state, time, checkpoint)
        except VerifierError as error:
            raise HsmError(HsmReason.STATE_MISSING, f"worker.db is damaged: {error}") from error

    def advance(self, g: bytes, old: HeadRow, new: HeadRow) -> None:
        """Replace one head by the next. A crash before it leaves the old one, nothing signed out.

        Raises:
            HsmError: `head_mismatch` if the stored head is not `old` any more.
        """
        with self._writing():
            if old.size == 0:
                self._db.execute(
                    "INSERT OR IGNORE INTO heads VALUES (?, 0, ?, 0, ?, 0, ?)",
                    (g, EMPTY.frontier.encode(), EMPTY.state, EMPTY.checkpoint),
                )
            done = self._db.execute(
                "UPDATE heads SET size = ?, frontier = ?, epoch = ?, state = ?, time = ?, "
                "checkpoint = ? WHERE g = ? AND size = ?",
                (
                    new.size,
                    new.frontier.encode(),
                    new.epoch,
                    new.state,
                    new.time,
                    new.checkpoint,
                    g,
                    old.size,
                ),
            ).rowcount
            if done != 1:
                raise HsmError(HsmReason.HEAD_MISMATCH, "the head moved", self.head(g).size)

    def burn(self, permits: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Burn permits (genesis digest, leaf index) together; tell which were not burnt before.

        A crash after it leaves permits burnt whose keys never moved: the log then over-reports.
        """
        with self._writing():
            return [
                self._db.execute("INSERT OR IGNORE INTO burnt VALUES (?, ?)", permit).rowcount == 1
                for permit in permits
            ]

    def _tenant(self, where: str, value: str | bytes) -> TenantRow | None:
        columns = "SELECT name, tree, log_key, g, genesis, kek FROM tenants WHERE "
        row = self._one(columns + where, value)
        return None if row is None else TenantRow(*row)

    def _one(self, query: str, *values: str | bytes) -> Any:  # noqa: ANN401 - a row of any columns
        try:
            return self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise HsmError(HsmReason.UNAVAILABLE, f"worker.db: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise HsmError(HsmReason.UNAVAILABLE, f"worker.db: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # The loop's thread alone uses it.
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    db = _connect(path)
    try:
        yield db
    finally:
        db.close()
