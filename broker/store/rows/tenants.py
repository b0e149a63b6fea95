"""Rows of `tenants`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit

_T: Final = schema.tenants
_BY_NAME: Final = sa.select(_T).where(_T.c.name == sa.bindparam("name"))
_BY_GENESIS: Final = sa.select(_T).where(_T.c.g == sa.bindparam("g"))
_ALL: Final = sa.select(_T).order_by(_T.c.name)


@final
@dataclass(frozen=True, slots=True)
class TenantRow:
    """An enrolled tenant: its signed genesis, and the time of enrolment."""

    name: str
    g: bytes
    genesis: bytes
    created: int


async def by_name(unit: Unit, name: str) -> TenantRow | None:
    """Return the tenant called `name`."""
    row = await unit.first(_BY_NAME, {"name": name})
    return None if row is None else TenantRow(*row)


async def by_genesis(unit: Unit, g: bytes) -> TenantRow | None:
    """Return the tenant whose genesis digest is `g`."""
    row = await unit.first(_BY_GENESIS, {"g": g})
    return None if row is None else TenantRow(*row)


async def everyone(unit: Unit) -> tuple[TenantRow, ...]:
    """Return all tenants by name."""
    return tuple(TenantRow(*row) for row in await unit.all(_ALL))


async def insert(unit: Unit, row: TenantRow) -> bool:
    """Add a tenant, and tell whether the name was new."""
    return await unit.insert_once(
        _T, {"name": row.name, "g": row.g, "genesis": row.genesis, "created": row.created}
    )
