"""A GPU or switch is in one machine at a time: what leases say about who may have it.

Guarantees, inside the transaction that writes lease and leaf: a device in a live lease is given to
nobody else, but to a new start of the same machine for the same tenant, whose old leases then end;
a renewal keeps the devices and the machine of its lease. A machine that does not say which one it
is (an empty platform id) is the same as no other one.
Does not know whether a device moved without anybody asking for a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from broker.errors import BrokerError, Code
from broker.store.database import Unit
from broker.store.rows import devices
from broker.store.rows.devices import Held
from broker.store.rows.leases import LeaseRow


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants which devices: a tenant's machine, and which start of it."""

    g: bytes
    platform: bytes
    instance: bytes
    devices: tuple[bytes, ...]

    def is_same_machine(self, other: Held) -> bool:
        """Whether the holder is a lease of this machine, for this tenant."""
        return self.g == other.g and bool(self.platform) and self.platform == other.platform


_HINT: Final = (
    "if you moved it yourself, end that lease or wait until it runs out; if not, somebody shows "
    "one GPU on two machines"
)


@final
class GpuInUse(BrokerError):  # noqa: N818 - what it says, as `Code` has it
    """A device is in a live lease elsewhere: two machines say that they have it.

    `alert` has a line for the operator's log for each such device. Unlike the reasons, which the
    tenant's signers read, it names leases of other tenants.
    """

    def __init__(self, claim: Claim, held: tuple[Held, ...]) -> None:
        super().__init__(
            Code.GPU_IN_USE,
            "a device of this machine is in a live lease elsewhere",
            (*(_reason(claim, each) for each in held), _HINT),
        )
        self.alert = tuple(
            f"device {each.device.hex()} is in live lease {each.lease} of tenant {each.g.hex()} on "
            f"platform {_name(each.platform)}, and tenant {claim.g.hex()} shows it on platform "
            f"{_name(claim.platform)}"
            for each in held
        )


async def take_over(unit: Unit, claim: Claim, now: int) -> tuple[str, ...]:
    """Return the leases that end because this is a new start of their machine.

    Raises:
        BrokerError: `gpu_in_use` if anybody else holds one of the devices.
    """
    found = await _held(unit, claim, now)
    _require_here(claim, tuple(each for each in found if not claim.is_same_machine(each)))
    older = (each.lease for each in found if each.instance != claim.instance)
    return tuple(dict.fromkeys(older))


async def require_still_held(unit: Unit, row: LeaseRow, claim: Claim, now: int) -> None:
    """Refuse to prolong a lease for other devices, on another machine, or beside a newer start.

    Raises:
        BrokerError: `denied`, `gpu_in_use`, `lease_ended`.
    """
    if row.devices != claim.devices:
        raise BrokerError(
            Code.DENIED,
            "not the GPUs and switches of the lease",
            (f"lease {row.id} holds {_list(row.devices)}, shown are {_list(claim.devices)}",),
        )
    # The lease's own hold counts against it only if this is another machine.
    here = row.platform == claim.platform
    found = tuple(
        each for each in await _held(unit, claim, now) if not (here and each.lease == row.id)
    )
    _require_here(claim, tuple(each for each in found if not claim.is_same_machine(each)))
    if any(each.instance != claim.instance for each in found):
        raise BrokerError(
            Code.LEASE_ENDED, "a newer start of the machine has its GPUs", (f"lease {row.id}",)
        )


async def _held(unit: Unit, claim: Claim, now: int) -> tuple[Held, ...]:
    await devices.lock(unit, claim.devices, now)
    return await devices.held(unit, claim.devices, now)


def _require_here(claim: Claim, elsewhere: tuple[Held, ...]) -> None:
    if elsewhere:
        raise GpuInUse(claim, elsewhere)


def _reason(claim: Claim, held: Held) -> str:
    whose = f"lease {held.lease}" if held.g == claim.g else "a lease of another tenant"
    where = "this platform" if held.platform == claim.platform else "another platform"
    if not claim.platform:
        where = "a platform that cannot be told from this one"
    return f"device {held.device.hex()} is in {whose} on {where}"


def _name(platform: bytes) -> str:
    return platform.hex() or "(unknown)"


def _list(ids: tuple[bytes, ...]) -> str:
    return ", ".join(each.hex() for each in ids) or "none"
