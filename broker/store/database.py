"""The database: reading and writing units, and spending things once.

Guarantees: a `write()` unit is one transaction, durable when the block ends without an exception
and without any trace otherwise; every failure of the database is a `BrokerError` with
`database_unavailable`, never another library's. Does not judge what the rows say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final, Self, final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from broker.errors import BrokerError, Code
from broker.store import dialect, migrate, schema
from broker.store.batch import Batcher

_SPEND_BATCH: Final = 512
_PURGE_ROWS: Final = 10_000

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into ours. Statements and parameters stay in the chained cause."""
    try:
        yield
    except (SQLAlchemyError, TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise BrokerError(
            Code.DATABASE_UNAVAILABLE, f"database: {type(cause).__name__}: {_first_line(cause)}"
        ) from error
    # The driver's own, before any statement runs: a number beyond 64 bits, a lone surrogate.
    except (OverflowError, UnicodeEncodeError) as error:
        raise BrokerError(
            Code.MALFORMED, f"value cannot be stored: {type(error).__name__}"
        ) from error


def _first_line(cause: BaseException) -> str:
    return (str(cause).splitlines() or [""])[0][:200]


@final
class Unit:
    """One transaction. `rows/` holds the statements; this only runs them.

    `writes` counts the statements that may have changed something.
    """

    __slots__ = ("_connection", "dialect", "writes")

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.dialect = connection.dialect.name
        self.writes = 0

    async def all(
        self, statement: sa.Select[Any], values: Mapping[str, Any] | None = None
    ) -> Sequence[Any]:
        """Return all rows: tuples whose fields also go by their columns' names."""
        with translated():
            rows: Sequence[Any] = (await self._connection.execute(statement, values)).all()
        return rows

    async def first(
        self, statement: sa.Select[Any], values: Mapping[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - the columns are the statement's
        """Return the first row, or None."""
        with translated():
            return (await self._connection.execute(statement, values)).first()

    async def run(self, statement: sa.Executable, values: Parameters | None = None) -> int:
        """Run a statement that changes rows, and return how many it changed."""
        self.writes += 1
        with translated():
            result = await self._connection.execute(statement, values)
        return result.rowcount

    async def insert_once(self, table: sa.Table, values: Mapping[str, Any]) -> bool:
        """Insert a row if its primary key is new, and tell whether it was."""
        return await self.run(dialect.insert_once(table, self.dialect), values) == 1


@final
class Store:
    """An open database whose schema is the one that this code was written for."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = asyncio.Lock() if dialect.takes_write_lock(engine) else nullcontext()
        self._spender = Batcher(self._spend_all, limit=_SPEND_BATCH)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Unit]:
        """Give a unit that reads one state of the database, and keeps nothing it writes."""
        async with self._connect() as connection:
            yield Unit(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Unit]:
        """Give a unit that is committed at the end of the block.

        A crash before the commit leaves nothing; an exception leaves nothing; an exception *from*
        the commit leaves all or nothing, and the caller must look which.
        """
        async with self._writer, self._connect(write=True) as connection:
            yield Unit(connection)
            with translated():
                await connection.commit()

    @asynccontextmanager
    async def _connect(self, *, write: bool = False) -> AsyncIterator[AsyncConnection]:
        with translated():
            connection = await self._engine.connect()
        try:
            with translated():
                await connection.execution_options(**{dialect.WRITE: write})
                await connection.begin()
            yield connection
        finally:
            with translated():
                await connection.close()  # rolls back what was not committed

    async def spend(self, digest: bytes, expires: int) -> bool:
        """Record that `digest` was used, and tell whether this was the first time.

        Durable when it returns. A crash after the commit leaves the digest spent and its caller
        without an answer: the caller asks for a new challenge.

        Args:
            digest: 32 bytes that name a single-use thing; domains are the caller's to separate.
            expires: unix seconds from which on the thing is refused anyway, so that the row may go.

        Raises:
            BrokerError: `database_unavailable`; whether it was spent is then unknown, so it counts
                as spent.
        """
        return await self._spender.submit((digest, expires))

    async def spend_challenge(self, digest: bytes, expires: int) -> None:
        """Spend a challenge, once.

        Raises:
            BrokerError: `challenge_spent`, or `database_unavailable` as in `spend`.
        """
        if not await self.spend(digest, expires):
            raise BrokerError(Code.CHALLENGE_SPENT, "this challenge was used before")

    async def _spend_all(self, batch: Sequence[tuple[bytes, int]]) -> Sequence[bool | BrokerError]:
        async with self.write() as unit:
            return [
                await unit.insert_once(
                    schema.challenges_spent, {"digest": digest, "expires": expires}
                )
                for digest, expires in batch
            ]

    async def purge_spent(self, now: int) -> int:
        """Forget spent things that have expired, a bounded number at a time; return how many.

        A crash here leaves rows that the next purge takes; none is needed for safety.
        """
        table = schema.challenges_spent
        old = sa.select(table.c.digest).where(table.c.expires < now).limit(_PURGE_ROWS)
        async with self.write() as unit:
            return await unit.run(sa.delete(table).where(table.c.digest.in_(old)))

    async def aclose(self) -> None:
        """Finish what was accepted and close all connections."""
        await self._spender.aclose()
        with translated():
            await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def open_store(url: str) -> Store:
    """Open the database at `url`, which must exist and have exactly our schema.

    Raises:
        BrokerError: `database_unavailable`, saying what to run.
    """
    engine = dialect.make_engine(url, create=False)
    try:
        with translated():
            async with engine.connect() as connection:
                found = await connection.run_sync(migrate.current)
        migrate.require_current(found)
    except BrokerError:
        await engine.dispose()
        raise
    return Store(engine)
