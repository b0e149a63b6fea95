"""The database: made by migration only, durable, and failing in our own words."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from broker.errors import BrokerError, Code
from broker.store import dialect, migrate, schema
from broker.store.database import Store, open_store
from broker.store.rows import models, trees
from tests.kit.store import NOW, house, in_loop, refusal, url


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


async def opened(folder: Path) -> Store:
    await migrate.migrate(url(folder / "x.db"))
    return await open_store(url(folder / "x.db"))


@in_loop
async def test_missing_database_is_refused_and_not_made(tmp_path: Path) -> None:
    """Opening what is not there is an error that says what to run, never a first start."""
    path = tmp_path / "x.db"

    error = await refusal(open_store(url(path)))

    assert error.code is Code.DATABASE_UNAVAILABLE
    assert "ostiary broker init" in str(error)
    assert names(tmp_path) == []


@in_loop
async def test_database_without_schema_is_refused(tmp_path: Path) -> None:
    """An empty database file is not set up silently."""
    (tmp_path / "x.db").touch()

    error = await refusal(open_store(url(tmp_path / "x.db")))

    assert "ostiary broker init" in str(error)


@in_loop
async def test_newer_database_is_refused(tmp_path: Path) -> None:
    """A database that a later program migrated is not touched by this one."""
    path = tmp_path / "x.db"
    await migrate.migrate(url(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    opening = await refusal(open_store(url(path)))
    migrating = await refusal(migrate.migrate(url(path)))

    assert "newer than this program" in str(opening)
    assert migrating.code is Code.DATABASE_UNAVAILABLE


def test_older_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that lacks a migration is refused with the command that applies it."""
    monkeypatch.setattr(migrate, "head", lambda: "0002")

    with pytest.raises(BrokerError, match="ostiary broker upgrade"):
        migrate.require_current("0001")


@in_loop
async def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    """`migrate` on a database that is up to date leaves every byte of its contents."""
    path = tmp_path / "x.db"
    await migrate.migrate(url(path))
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())

    revision = await migrate.migrate(url(path))

    with closing(sqlite3.connect(path)) as connection:
        assert before == list(connection.iterdump())
    assert revision == migrate.head()


@in_loop
async def test_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    """Tables as migrated and tables as the code knows them do not differ."""
    path = tmp_path / "x.db"
    await migrate.migrate(url(path))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), schema.METADATA)
    engine.dispose()

    assert differences == []


@in_loop
async def test_connections_are_durable_and_strict(tmp_path: Path) -> None:
    """Every connection has WAL, synchronous=FULL, foreign keys and a busy timeout."""
    async with await opened(tmp_path) as store, store.read() as unit:
        found = [
            (await unit.first(sa.text(f"PRAGMA {name}")))[0]  # type: ignore[arg-type]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    assert found == ["wal", 2, 1, dialect.BUSY_SECONDS * 1000]


@in_loop
async def test_database_file_is_ours_alone(tmp_path: Path) -> None:
    """Nobody else may read the database or its write-ahead log."""
    async with await opened(tmp_path) as store:
        await store.spend(digest(1), NOW)

        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}

    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


@pytest.mark.parametrize("text", ["nonsense", "sqlite+aiosqlite://", "mysql://x/y", "sqlite:///x"])
@in_loop
async def test_unknown_database_kind_is_refused(text: str) -> None:
    """Only the kinds that we know are opened."""
    assert (await refusal(open_store(text))).code is Code.DATABASE_UNAVAILABLE


@in_loop
async def test_failed_unit_leaves_nothing(tmp_path: Path) -> None:
    """What a block wrote before it failed is gone."""
    async with await opened(tmp_path) as store:
        values = {"digest": digest(1), "expires": NOW}

        async def fail() -> None:
            async with store.write() as unit:
                await unit.insert_once(schema.challenges_spent, values)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert await store.spend(digest(1), NOW) is True


@in_loop
async def test_reading_unit_keeps_nothing(tmp_path: Path) -> None:
    """A unit that was opened for reading never commits."""
    async with await opened(tmp_path) as store:
        async with store.read() as unit:
            await unit.insert_once(schema.challenges_spent, {"digest": digest(1), "expires": NOW})

        assert await store.spend(digest(1), NOW) is True


@in_loop
async def test_foreign_keys_are_enforced(tmp_path: Path) -> None:
    """A tree without a tenant is refused, in our words and without the row's contents."""
    row = trees.TreeRow(digest(7), 0, b"", 0, digest(8), b"secret-looking", 0, 0, b"")
    async with await opened(tmp_path) as store:

        async def insert() -> None:
            async with store.write() as unit:
                await trees.insert(unit, row)

        error = await refusal(insert())

    assert error.code is Code.DATABASE_UNAVAILABLE
    assert "secret-looking" not in f"{error} {error.__cause__}"


@pytest.mark.parametrize("version", [1 << 63, -(1 << 70)])
@in_loop
async def test_number_beyond_64_bits_is_malformed(tmp_path: Path, version: int) -> None:
    """A number that no column holds is the caller's mistake, not a failure of the database."""
    async with await opened(tmp_path) as store, store.read() as unit:
        error = await refusal(models.one(unit, digest(1), "m", version))
        surrogate = await refusal(models.one(unit, digest(1), "\ud800", 1))

    assert (error.code, surrogate.code) == (Code.MALFORMED, Code.MALFORMED)


@in_loop
async def test_digest_is_spent_once_whoever_races(tmp_path: Path) -> None:
    """Of many who spend one digest through two brokers' connections, exactly one succeeds."""
    async with await opened(tmp_path) as one, await open_store(url(tmp_path / "x.db")) as two:
        tries = [store.spend(digest(1), NOW) for store in (one, two) for _ in range(25)]

        assert sum(await asyncio.gather(*tries)) == 1


@in_loop
async def test_spent_digest_is_durable_before_the_answer(tmp_path: Path) -> None:
    """When `spend_challenge` returns, anyone who opens the file sees the row."""
    async with await opened(tmp_path) as store:
        await store.spend_challenge(digest(1), NOW)
        with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
            rows = connection.execute("SELECT digest FROM challenges_spent").fetchall()

        again = await refusal(store.spend_challenge(digest(1), NOW))

    assert rows == [(digest(1),)]
    assert again.code is Code.CHALLENGE_SPENT


@in_loop
async def test_purge_forgets_only_what_expired(tmp_path: Path) -> None:
    """A digest stays spent until its expiry has passed."""
    async with await opened(tmp_path) as store:
        for number in range(4):
            await store.spend(digest(number), NOW + number)

        purged = await store.purge_spent(NOW + 2)

        assert purged == 2
        assert [await store.spend(digest(n), NOW) for n in range(4)] == [True, True, False, False]


@in_loop
async def test_closed_store_refuses(tmp_path: Path) -> None:
    """Nothing is written after closing."""
    store = await opened(tmp_path)
    await store.aclose()

    assert (await refusal(store.spend(digest(1), NOW))).code is Code.INTERNAL


@in_loop
async def test_lost_database_is_unavailable(tmp_path: Path) -> None:
    """A database that vanished is an error, not an empty database."""
    store = await opened(tmp_path)
    remove_all(tmp_path)

    async def read() -> None:
        async with await open_store(url(tmp_path / "x.db")):
            pass

    assert (await refusal(read())).code is Code.DATABASE_UNAVAILABLE
    await store.aclose()
    assert names(tmp_path) == []


@in_loop
async def test_damaged_database_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database any more gives our error."""
    async with house(tmp_path) as built:
        path = built.path
    os.truncate(path, 100)
    path.write_bytes(b"\xff" * 4096)

    assert (await refusal(open_store(url(path)))).code is Code.DATABASE_UNAVAILABLE
