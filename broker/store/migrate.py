"""Migrations: bringing a database to the schema of this code, and refusing any other.

Guarantees: `migrate` is the only thing that makes a database, and running it again changes nothing.
Never goes down a revision. Alembic does the work; its folder is `migrations/` in a checkout and
`broker/store/migrations/` in a wheel.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from broker.errors import BrokerError, Code
from broker.store import dialect


def folder() -> Path:
    """Return where the migrations lie.

    Raises:
        BrokerError: `internal` if they are in neither place, so this installation is broken.
    """
    here = Path(__file__).resolve()
    for candidate in (here.parent / "migrations", here.parents[2] / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise BrokerError(Code.INTERNAL, "no migrations folder in this installation")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """Return the revision that this code was written for."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise BrokerError(Code.INTERNAL, "no migration in this installation")
    return found


def current(connection: Connection) -> str | None:
    """Return the revision of the database behind `connection`, None if it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def require_current(found: str | None) -> None:
    """Refuse a database that is not at `head()`.

    Raises:
        BrokerError: `database_unavailable`, saying what to run.
    """
    expected = head()
    if found == expected:
        return
    if found is None:
        problem = "the database was never set up; run `ostiary broker init`"
    elif found in {s.revision for s in ScriptDirectory.from_config(_config()).walk_revisions()}:
        problem = "the database is older than this program; run `ostiary broker upgrade`"
    else:
        problem = "the database is newer than this program; use the program that it belongs to"
    raise BrokerError(
        Code.DATABASE_UNAVAILABLE, f"{problem} (expected revision {expected}, seen {found})"
    )


async def migrate(url: str) -> str:
    """Bring the database at `url` to our schema, making it if it is missing; return the revision.

    One transaction: a crash leaves the schema as it was before.

    Raises:
        BrokerError: `database_unavailable`.
    """
    engine = dialect.make_engine(url, create=True)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(**{dialect.WRITE: True})
            async with connection.begin():
                await connection.run_sync(_upgrade)
    except (SQLAlchemyError, CommandError) as error:
        raise BrokerError(
            Code.DATABASE_UNAVAILABLE, f"migration failed: {type(error).__name__}"
        ) from error
    finally:
        await engine.dispose()
    return head()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
