"""Rows of `provenance`: which set of Sigstore bundles goes with which policy version."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit

_P: Final = schema.provenance
_ONE: Final = sa.select(_P.c.object).where(
    _P.c.g == sa.bindparam("g"), _P.c.policy == sa.bindparam("policy")
)
_REPLACE: Final = (
    sa.update(_P)
    .where(_P.c.g == sa.bindparam("at"), _P.c.policy == sa.bindparam("at_policy"))
    .values(object=sa.bindparam("object"), created=sa.bindparam("created"))
)


async def of_policy(unit: Unit, g: bytes, policy: bytes) -> bytes | None:
    """Return the SHA-256 of the set of a policy version, None if there is none."""
    row = await unit.first(_ONE, {"g": g, "policy": policy})
    return None if row is None else bytes(row.object)


async def put(unit: Unit, g: bytes, policy: bytes, digest: bytes, *, created: int) -> None:
    """Name the set of a policy version, in place of the one before."""
    new = {"object": digest, "created": created}
    if not await unit.insert_once(_P, {"g": g, "policy": policy} | new):
        await unit.run(_REPLACE, {"at": g, "at_policy": policy} | new)
