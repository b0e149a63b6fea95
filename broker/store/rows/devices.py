"""Rows of `devices` and `lease_devices`: which GPU or switch is in which live lease.

Guarantees: between `lock` and the end of its transaction nobody else decides about these devices,
on any database: their rows are written first, so others wait there and then see what was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit
from broker.store.rows.leases import LIVE

_D: Final = schema.devices
_H: Final = schema.lease_devices
_L: Final = schema.leases
_SEEN: Final = (
    sa.update(_D).where(_D.c.device == sa.bindparam("at")).values(seen=sa.bindparam("seen"))
)
_HELD: Final = (
    sa.select(_H.c.device, _H.c.lease, _L.c.g, _L.c.platform, _L.c.instance)
    .join(_L, _L.c.id == _H.c.lease)
    .where(_H.c.device.in_(sa.bindparam("devices", expanding=True)))
    .where(_L.c.state == LIVE, _L.c.not_after > sa.bindparam("now"))
    .order_by(_H.c.lease, _H.c.device)
)


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A device in a live lease: of which tenant, on which platform, for which start of it."""

    device: bytes
    lease: str
    g: bytes
    platform: bytes
    instance: bytes


async def lock(unit: Unit, devices: Iterable[bytes], now: int) -> None:
    """Take part in deciding about these devices, alone until the transaction ends."""
    for device in sorted(devices):  # in one order, so that two who want the same never deadlock
        if not await unit.insert_once(_D, {"device": device, "seen": now}):
            await unit.run(_SEEN, {"at": device, "seen": now})


async def held(unit: Unit, devices: Sequence[bytes], now: int) -> tuple[Held, ...]:
    """Return the live leases that hold any of these devices, of all tenants; `lock` first."""
    if not devices:
        return ()
    return tuple(Held(*row) for row in await unit.all(_HELD, {"devices": devices, "now": now}))
