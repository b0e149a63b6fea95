"""A tenant as everything else sees it: its genesis, who signs for it, its log's name and key.

Guarantees: a `Tenant` exists only if the stored genesis hashes to the digest that names it and its
own signers signed it, so a row with other signers is found before it is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

from broker.errors import BrokerError, Code, refuse_as
from broker.store.database import Unit
from broker.store.rows import tenants
from verifier import dsse
from verifier.errors import Reason, VerifierError
from verifier.tlog.note import VerifierKey
from verifier.wire import canonical
from verifier.wire.documents import GENESIS_TYPE, Genesis

MAX_DOCUMENT: Final = 384 * 1024
"""Largest envelope in bytes that may stand in a leaf: in base64 it stays below `leaf.MAX_LEAF`."""


@final
@dataclass(frozen=True, slots=True)
class Tenant:
    """An enrolled tenant; `g` is the SHA-256 of the genesis payload."""

    g: bytes
    genesis: Genesis
    envelope: bytes

    @property
    def name(self) -> str:
        """The tenant's name."""
        return self.genesis.tenant

    @property
    def origin(self) -> str:
        """The log's origin line."""
        return self.genesis.origin(self.g)

    @property
    def vkey(self) -> VerifierKey:
        """The key that signs the log's checkpoints, under the log's own name."""
        return VerifierKey(self.origin, self.genesis.log_key)

    def payload(self, envelope: bytes, payload_type: str, *, limit: int = MAX_DOCUMENT) -> bytes:
        """Return the payload of a document that enough of the tenant's signers signed.

        Raises:
            BrokerError: `malformed`, `too_large`, or `forbidden` if the signatures do not suffice.
        """
        try:
            return dsse.verify(
                envelope, payload_type, self.genesis.signers, self.genesis.threshold, limit=limit
            )
        except VerifierError as error:
            code = _CODES.get(error.reason, Code.FORBIDDEN)
            raise BrokerError(
                code, "not a document that the tenant signed", (str(error),)
            ) from error


_CODES: Final = {Reason.MALFORMED: Code.MALFORMED, Reason.TOO_LARGE: Code.TOO_LARGE}


@lru_cache(maxsize=256)
def read_genesis(envelope: bytes) -> Tenant:
    """Return the tenant that a signed genesis makes.

    Raises:
        VerifierError: `malformed`, `too_large`, or `document_signature` unless its own signers
            signed it.
    """
    claimed = canonical.decode(dsse.payload_unverified(envelope), Genesis, limit=MAX_DOCUMENT)
    payload = dsse.verify(
        envelope, GENESIS_TYPE, claimed.signers, claimed.threshold, limit=MAX_DOCUMENT
    )
    return Tenant(hashlib.sha256(payload).digest(), claimed, envelope)


def _from_row(row: tenants.TenantRow) -> Tenant:
    with refuse_as(Code.STATE_MISMATCH, f"stored genesis of {row.name} is damaged"):
        tenant = read_genesis(row.genesis)
    if (tenant.g, tenant.name) != (row.g, row.name):
        raise BrokerError(Code.STATE_MISMATCH, f"stored genesis of {row.name} is another one")
    return tenant


async def by_name(unit: Unit, name: str) -> Tenant:
    """Return the tenant called `name`.

    Raises:
        BrokerError: `not_found`, or `state_mismatch` if its row was tampered with.
    """
    row = await tenants.by_name(unit, name)
    if row is None:
        raise BrokerError(Code.NOT_FOUND, f"no tenant {name[:63]!r}")
    return _from_row(row)


async def by_genesis(unit: Unit, g: bytes) -> Tenant:
    """Return the tenant whose genesis digest is `g`.

    Raises:
        BrokerError: `not_found`, or `state_mismatch` if its row was tampered with.
    """
    row = await tenants.by_genesis(unit, g)
    if row is None:
        raise BrokerError(Code.NOT_FOUND, f"no tenant with genesis {g.hex()}")
    return _from_row(row)


async def everyone(unit: Unit) -> tuple[Tenant, ...]:
    """Return all tenants by name.

    Raises:
        BrokerError: `state_mismatch` if a row was tampered with.
    """
    return tuple(_from_row(row) for row in await tenants.everyone(unit))
