"""Attestation results for others: tokens (EAR) about releases and renewals that the log holds.

Guarantees: only a signer of the tenant gets one, or the runtime that holds the very lease; only
while that lease lives; and only of what the HSM worker finds in the log and writes itself. Does not
appraise anything again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from broker.clock import Clock
from broker.errors import BrokerError, Code
from broker.hsm import protocol
from broker.hsm.client import HsmClient
from broker.log.reading import Reader
from broker.log.signer import in_our_words
from broker.store.database import Store, Unit
from broker.store.objects import Objects
from broker.store.rows import leases
from broker.store.rows.leases import LeaseRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from broker.tenants.record import Tenant
from verifier.ear.claims import MAX_AUDIENCE, NONCE
from verifier.ear.keys import from_spki, to_jwks
from verifier.ear.result import MAX_RESULT, Asked
from verifier.wire import leaf as leaves

NO_KEYS: Final = b'{"keys":[]}'


@final
@dataclass(frozen=True, slots=True)
class ResultService:
    """Hands out tokens; `result_key` is the SPKI of the key that signs them, empty for none."""

    store: Store
    hsm: HsmClient
    objects: Objects
    log: Reader
    clock: Clock
    result_key: bytes

    def keys(self) -> bytes:
        """Return the JWK set of the key that signs results; without one, an empty set."""
        return to_jwks([from_spki(self.result_key)]) if self.result_key else NO_KEYS

    async def of_lease(self, caller: Caller, tenant: str, lease: str, asked: Asked) -> bytes:
        """Return a token about the newest evidence of a live lease.

        Args:
            caller: one of the tenant's signers, or the runtime that holds the lease.
            tenant: the tenant's name.
            lease: the lease's id.
            asked: dialect, audience and nonce of whom the token is for.

        Raises:
            BrokerError: `forbidden`, `malformed`, `not_found`, `lease_ended`, `hsm_refused`,
                `hsm_unavailable`, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
            if not caller.is_vendor and caller.issuer != f"lease:{lease}":
                raise BrokerError(
                    Code.FORBIDDEN, f"{caller.issuer} does not hold lease {lease[:63]!r}"
                )
            _check(asked)
            row = await self._live(unit, found, lease)
            raw, receipt = await self.log.logged(unit, found, row.leaf)
        return await self._token(found, raw, receipt, asked)

    async def of_leaf(self, caller: Caller, tenant: str, index: int, asked: Asked) -> bytes:
        """Return a token about the release or renewal at a leaf, while its lease lives.

        Args:
            caller: one of the tenant's signers.
            tenant: the tenant's name.
            index: of the leaf.
            asked: dialect, audience and nonce of whom the token is for.

        Raises:
            BrokerError: as `of_lease`; `not_found` for a leaf of another kind, too.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            _check(asked)
            raw, receipt = await self.log.logged(unit, found, index)
            await self._live(unit, found, _entry(raw).lease)
        return await self._token(found, raw, receipt, asked)

    async def _live(self, unit: Unit, tenant: Tenant, lease: str) -> LeaseRow:
        row = await leases.by_id(unit, lease)
        if row is None or row.g != tenant.g:
            raise BrokerError(Code.NOT_FOUND, f"no lease {lease[:63]!r}")
        if not row.is_live(self.clock()):
            raise BrokerError(Code.LEASE_ENDED, f"lease {row.id} is over")
        return row

    async def _token(self, tenant: Tenant, raw: bytes, receipt: bytes, asked: Asked) -> bytes:
        entry = _entry(raw)
        call = protocol.SignResult(
            g=tenant.g,
            leaf=raw,
            receipt=receipt,
            result=await self.objects.get(entry.result, limit=MAX_RESULT),
            dialect=asked.dialect,
            audience=asked.audience,
            nonce=asked.nonce,
            now=max(self.clock(), entry.time),
        )
        with in_our_words():
            return await self.hsm.sign_result(call)


def _entry(raw: bytes) -> leaves.ReleaseLeaf | leaves.RenewalLeaf:
    entry = leaves.decode(raw)
    if not isinstance(entry, leaves.ReleaseLeaf | leaves.RenewalLeaf):
        raise BrokerError(Code.NOT_FOUND, "the leaf is of no release and no renewal")
    return entry


def _check(asked: Asked) -> None:
    """Refuse what the worker would refuse, as the caller's mistake that it is."""
    printable = asked.audience.isascii() and asked.audience.isprintable()
    if not 1 <= len(asked.audience) <= MAX_AUDIENCE or not printable:
        raise BrokerError(Code.MALFORMED, "aud is 1 to 256 printable ASCII characters")
    if len(asked.nonce) not in NONCE:
        raise BrokerError(Code.MALFORMED, "nonce has 9 to 64 bytes")
