"""Everything that one database does differently from another, so that nothing else need know.

Guarantees: a connection made here is durable at commit (SQLite: WAL with synchronous=FULL) and
enforces foreign keys; a write transaction takes the write lock when it begins, so that it never
fails half way for having read before. SQLite only so far; PostgreSQL joins in here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import aiosqlite
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from broker.errors import BrokerError, Code

WRITE: Final = "ostiary_write"
"""Execution option of a connection whose transaction will write."""

BUSY_SECONDS: Final = 5
"""How long to wait for another process's write lock."""

AutoId: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A 64-bit number that the database counts up; SQLite counts only in `INTEGER` columns."""

_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # a commit that was acknowledged survives a power cut
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}",
)


def insert_once(table: sa.Table, dialect: str) -> Any:  # noqa: ANN401 - one of two dialects' Insert
    """Return an INSERT that does nothing, and reports 0 rows, where the primary key exists."""
    kind = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return kind(table).on_conflict_do_nothing()


def make_engine(url: str, *, create: bool) -> AsyncEngine:
    """Return an engine for `url`.

    Args:
        url: `sqlite+aiosqlite:////absolute/path` so far.
        create: make the file if it is missing (`migrate` only); otherwise a missing one is refused.

    Raises:
        BrokerError: `database_unavailable` if the URL is of no kind that we know, or the file is
            missing.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise BrokerError(Code.DATABASE_UNAVAILABLE, "database setting is not a URL") from error
    if parsed.drivername != "sqlite+aiosqlite" or not parsed.database:
        raise BrokerError(
            Code.DATABASE_UNAVAILABLE,
            f"database kind {parsed.drivername!r}: only sqlite+aiosqlite with a file is known",
        )
    return _sqlite(Path(parsed.database), create=create)


def takes_write_lock(engine: AsyncEngine) -> bool:
    """Tell whether the database has a single writer, for which to queue in this process."""
    return engine.dialect.name == "sqlite"


def _sqlite(path: Path, *, create: bool) -> AsyncEngine:
    if create:
        # Ours alone to read from the first moment; SQLite gives WAL and SHM files the same mode.
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise BrokerError(
                Code.DATABASE_UNAVAILABLE, f"cannot make {path}: {error.strerror}"
            ) from error
    elif not path.is_file():
        raise BrokerError(
            Code.DATABASE_UNAVAILABLE,
            f"no database at {path}; a first start is `ostiary broker init`, never this",
        )
    # mode=rw: a file that vanishes later is an error, not an empty database.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path.absolute())),
        async_creator=lambda: aiosqlite.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False
        ),
        hide_parameters=True,
        pool_size=4,
        max_overflow=4,
        pool_timeout=BUSY_SECONDS,
        pool_use_lifo=True,  # the page cache of the one used last is the freshest
    )
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    connection.isolation_level = None  # or the driver decides by itself when to begin
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
