"""Rows of `audit`: denials and their reasons. Not the log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit

_A: Final = schema.audit
_LIST: Final = (
    sa.select(_A)
    .where(_A.c.tenant == sa.bindparam("tenant"), _A.c.id < sa.bindparam("before"))
    .order_by(_A.c.id.desc())
    .limit(sa.bindparam("rows"))
)
_EVERYONE: Final = (
    sa.select(_A)
    .where(_A.c.id < sa.bindparam("before"))
    .order_by(_A.c.id.desc())
    .limit(sa.bindparam("rows"))
)


@final
@dataclass(frozen=True, slots=True)
class AuditRow:
    """One denial: when, for which tenant (genesis digest, may be empty), what, and every reason."""

    id: int
    time: int
    tenant: bytes
    kind: str
    code: str
    actor: str
    subject: str
    reasons: tuple[str, ...]


async def insert(unit: Unit, row: AuditRow) -> None:
    """Add a row; its `id` is given by the database."""
    values = {name: getattr(row, name) for name in row.__slots__ if name != "id"}
    await unit.run(sa.insert(_A), values | {"reasons": json.dumps(row.reasons)})


async def listed(unit: Unit, tenant: bytes, *, before: int, limit: int) -> tuple[AuditRow, ...]:
    """Return rows of a tenant, newest first, with ids below `before`."""
    found = await unit.all(_LIST, {"tenant": tenant, "before": before, "rows": limit})
    return tuple(AuditRow(*(*row[:-1], tuple(json.loads(row.reasons)))) for row in found)


async def by_id(unit: Unit, tenant: bytes, entry: int) -> AuditRow | None:
    """Return a tenant's row by its id."""
    found = await unit.all(_LIST, {"tenant": tenant, "before": entry + 1, "rows": 1})
    rows = [AuditRow(*(*row[:-1], tuple(json.loads(row.reasons)))) for row in found]
    return next((row for row in rows if row.id == entry), None)


async def everyone(unit: Unit, *, before: int, limit: int) -> tuple[AuditRow, ...]:
    """Return rows of all tenants and of none, newest first, with ids below `before`."""
    found = await unit.all(_EVERYONE, {"before": before, "rows": limit})
    return tuple(AuditRow(*(*row[:-1], tuple(json.loads(row.reasons)))) for row in found)


async def purge(unit: Unit, before: int) -> int:
    """Remove rows older than `before` (unix seconds), and return how many."""
    return await unit.run(sa.delete(_A).where(_A.c.time < before))
