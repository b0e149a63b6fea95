"""Rows of `policies`: signed envelopes, every version that ever took effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit

_P: Final = schema.policies
_g: Final[sa.BindParameter[bytes]] = sa.bindparam("g")
_BY_DIGEST: Final = sa.select(_P).where(_P.c.g == _g, _P.c.digest == sa.bindparam("digest"))
_ALL: Final = sa.select(_P).where(_P.c.g == _g).order_by(_P.c.name, _P.c.version)


@final
@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One version of a policy; `digest` is the SHA-256 of the payload of `envelope`."""

    g: bytes
    name: str
    version: int
    digest: bytes
    envelope: bytes
    created: int


async def by_digest(unit: Unit, g: bytes, digest: bytes) -> PolicyRow | None:
    """Return the policy whose payload has this SHA-256."""
    row = await unit.first(_BY_DIGEST, {"g": g, "digest": digest})
    return None if row is None else PolicyRow(*row)


async def of_tenant(unit: Unit, g: bytes) -> tuple[PolicyRow, ...]:
    """Return all versions of all policies of a tenant."""
    return tuple(PolicyRow(*row) for row in await unit.all(_ALL, {"g": g}))


async def insert(unit: Unit, row: PolicyRow) -> None:
    """Add a policy version."""
    await unit.run(sa.insert(_P), {name: getattr(row, name) for name in row.__slots__})
