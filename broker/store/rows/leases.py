"""Rows of `leases`, and the keys and devices that they hold.

A lease is live while its state says so and its time runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit
from verifier.wire.messages import KeyRef

LIVE: Final = "live"
ENDED: Final = "ended"
_EVERY: Final = 1 << 62

_L: Final = schema.leases
_K: Final = schema.lease_keys
_D: Final = schema.lease_devices
_BY_ID: Final = sa.select(_L).where(_L.c.id == sa.bindparam("id"))
_KEYS: Final = (
    sa.select(_K.c.lease, _K.c.key_id, _K.c.key_version)
    .where(_K.c.lease.in_(sa.bindparam("leases", expanding=True)))
    .order_by(_K.c.lease, _K.c.key_id, _K.c.key_version)
)
_DEVICES: Final = (
    sa.select(_D.c.lease, _D.c.device)
    .where(_D.c.lease.in_(sa.bindparam("leases", expanding=True)))
    .order_by(_D.c.lease, _D.c.device)
)
_RENEW: Final = (
    sa.update(_L)
    .where(_L.c.id == sa.bindparam("at"), _L.c.state == LIVE)
    .values({name: sa.bindparam(name) for name in ("not_after", "recipients", "leaf")})
)
_END: Final = (
    sa.update(_L)
    .where(_L.c.id == sa.bindparam("at"), _L.c.state == LIVE)
    .values(state=ENDED, cause=sa.bindparam("cause"), leaf=sa.bindparam("leaf"))
)


@final
@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One release's span.

    `instance` is the SPKI (DER) that signs renewals, `platform` what tells one machine from another
    (may be empty), `policy` the digest under which it was released, `leaf` the index of the newest
    leaf about it, `cause` why it ended (empty while it is live), `devices` the ids of the GPUs and
    switches that it holds, sorted. Times are unix seconds.
    """

    id: str
    g: bytes
    instance: bytes
    recipients: bytes
    platform: bytes
    kind: str
    policy: bytes
    created: int
    not_after: int
    state: str
    cause: str
    leaf: int
    keys: tuple[KeyRef, ...]
    devices: tuple[bytes, ...] = ()

    def is_live(self, now: int) -> bool:
        """Whether it still counts and may be renewed."""
        return self.state == LIVE and now < self.not_after


_COLUMNS: Final = tuple(f.name for f in fields(LeaseRow) if f.name not in {"keys", "devices"})


async def insert(unit: Unit, row: LeaseRow) -> None:
    """Add a lease, and the keys and devices that it holds."""
    await unit.run(sa.insert(_L), {name: getattr(row, name) for name in _COLUMNS})
    await unit.run(
        sa.insert(_K),
        [
            {"lease": row.id, "g": row.g, "key_id": ref.id, "key_version": ref.version}
            for ref in row.keys
        ],
    )
    if row.devices:
        await unit.run(
            sa.insert(_D), [{"lease": row.id, "device": device} for device in row.devices]
        )


async def by_id(unit: Unit, lease: str) -> LeaseRow | None:
    """Return one lease."""
    row = await unit.first(_BY_ID, {"id": lease})
    return None if row is None else (await _whole(unit, [row]))[0]


async def listed(
    unit: Unit, g: bytes, *, live_at: int | None, before: tuple[int, str] | None, limit: int
) -> tuple[LeaseRow, ...]:
    """Return leases of a tenant, newest first.

    Args:
        unit: the transaction.
        g: the tenant.
        live_at: only those that are live at this time.
        before: only those after this (created, id) in the order of the list; for paging.
        limit: at most so many.
    """
    statement = sa.select(_L).where(_L.c.g == g)
    if live_at is not None:
        statement = statement.where(_L.c.state == LIVE, _L.c.not_after > live_at)
    if before is not None:
        created, lease = before
        older = sa.or_(_L.c.created < created, sa.and_(_L.c.created == created, _L.c.id < lease))
        statement = statement.where(older)
    statement = statement.order_by(_L.c.created.desc(), _L.c.id.desc()).limit(limit)
    return await _whole(unit, await unit.all(statement))


async def count_live(
    unit: Unit, g: bytes, refs: Sequence[KeyRef], now: int, *, enough: int = _EVERY
) -> int:
    """Count the leases that are live now and hold any of these key versions, up to `enough`.

    Costs about half a microsecond for each lease that it counts.
    """
    values: dict[str, object] = {"g": g, "now": now, "enough": enough}
    for at, ref in enumerate(refs):
        values |= {f"id{at}": ref.id, f"version{at}": ref.version}
    row = await unit.first(_counting(len(refs)), values)
    return 0 if row is None else int(row[0])


@lru_cache(maxsize=16)
def _counting(refs: int) -> sa.Select[int]:
    """Return the statement for so many key versions; it takes longer to make than to run."""
    holds = [
        sa.and_(
            _K.c.key_id == sa.bindparam(f"id{at}"), _K.c.key_version == sa.bindparam(f"version{at}")
        )
        for at in range(refs)
    ]
    held = sa.exists().where(_K.c.lease == _L.c.id, sa.or_(sa.false(), *holds))
    live = (
        sa.select(_L.c.id)
        .where(_L.c.g == sa.bindparam("g"), _L.c.not_after > sa.bindparam("now"))
        .where(_L.c.state == LIVE, held)
        .limit(sa.bindparam("enough"))
    )
    return sa.select(sa.func.count()).select_from(live.subquery())


async def live_on_platform(unit: Unit, g: bytes, platform: bytes, now: int) -> tuple[LeaseRow, ...]:
    """Return the leases that are live now on one machine; none for the empty platform."""
    if not platform:
        return ()
    found = await unit.all(
        sa.select(_L)
        .where(_L.c.g == g, _L.c.platform == platform)
        .where(_L.c.state == LIVE, _L.c.not_after > now)
        .order_by(_L.c.created, _L.c.id)
    )
    return await _whole(unit, found)


async def renew(unit: Unit, lease: str, *, not_after: int, recipients: bytes, leaf: int) -> bool:
    """Prolong a lease that has not ended, and tell whether it had not."""
    values = {"not_after": not_after, "recipients": recipients, "leaf": leaf}
    return await unit.run(_RENEW, {"at": lease, **values}) == 1


async def end(unit: Unit, lease: str, *, cause: str, leaf: int) -> bool:
    """End a lease that has not ended, and tell whether it had not."""
    return await unit.run(_END, {"at": lease, "cause": cause, "leaf": leaf}) == 1


async def _whole(unit: Unit, rows: Sequence[Any]) -> tuple[LeaseRow, ...]:
    """Return leases with what they hold."""
    if not rows:
        return ()
    keys: dict[str, list[KeyRef]] = {row.id: [] for row in rows}
    devices: dict[str, list[bytes]] = {row.id: [] for row in rows}
    for key in await unit.all(_KEYS, {"leases": list(keys)}):
        keys[key.lease].append(KeyRef(key.key_id, key.key_version))
    for row in await unit.all(_DEVICES, {"leases": list(devices)}):
        devices[row.lease].append(row.device)
    return tuple(LeaseRow(*(*row, tuple(keys[row.id]), tuple(devices[row.id]))) for row in rows)
