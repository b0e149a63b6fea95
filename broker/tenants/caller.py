"""Who calls a service, as an argument of every service: there is no path around the check.

Guarantees: the functions here return only if the caller may act for the tenant. How the caller was
authenticated is the door's business (`broker/http/auth.py`).
"""

from __future__ import annotations

from typing import Protocol

from broker.errors import BrokerError, Code
from broker.store.database import Unit
from broker.tenants import record
from broker.tenants.record import Tenant


class Caller(Protocol):
    """Somebody who proved a key: a tenant's signer, or a runtime that holds a live lease."""

    @property
    def tenant(self) -> str:
        """Name of the tenant that the caller belongs to."""

    @property
    def issuer(self) -> str:
        """The tenant's name, or `lease:<id>` for a runtime."""

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of the SPKI of the key that was proved."""

    @property
    def is_vendor(self) -> bool:
        """Whether an enrolled signer calls, rather than a runtime."""


async def vendor(unit: Unit, caller: Caller, tenant: str) -> Tenant:
    """Return `tenant` if one of its signers calls.

    Raises:
        BrokerError: `forbidden` or `not_found`.
    """
    if not caller.is_vendor:
        raise BrokerError(Code.FORBIDDEN, f"{caller.issuer} is no signer of a tenant")
    return await member(unit, caller, tenant)


async def member(unit: Unit, caller: Caller, tenant: str) -> Tenant:
    """Return `tenant` if the caller belongs to it, as a signer or as a runtime.

    Raises:
        BrokerError: `forbidden` or `not_found`.
    """
    if caller.tenant != tenant:
        raise BrokerError(Code.FORBIDDEN, f"{caller.issuer} does not belong to {tenant[:63]!r}")
    return await record.by_name(unit, tenant)
