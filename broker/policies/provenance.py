"""Who built what a policy admits: Sigstore bundles, handed in by the vendor for a policy version.

Guarantees: only the tenant's signers hand sets in, and only sets whose bundles are genuine under
the root that came with them; a set is stored under its SHA-256, whole, before a row names it. That
a set is here decides nothing: the appraisal holds it against the root, the identity and the source
that the signed policy names, so whoever changes a row or an object can stop releases and cause
none.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, final

from broker.clock import Clock
from broker.errors import BrokerError, Code
from broker.log import state as log_state
from broker.policies.library import LACKING, alarm
from broker.policies.service import in_force
from broker.store.database import Store
from broker.store.objects import Objects
from broker.store.rows import provenance as rows
from broker.tenants import caller as callers
from broker.tenants import record
from broker.tenants.caller import Caller
from verifier.errors import Reason, VerifierError
from verifier.policy import ReleasePolicy
from verifier.provenance import bundle, stored
from verifier.provenance.signed import Provenance
from verifier.wire.canonical import hexdecode
from verifier.wire.messages import DIGEST, MAX_PROVENANCE

_log = logging.getLogger("broker.policies")
_CODES: Final = {
    Reason.MALFORMED: Code.MALFORMED,
    Reason.TOO_LARGE: Code.TOO_LARGE,
    Reason.PROVENANCE_UNAVAILABLE: Code.PROVENANCE_UNAVAILABLE,
}


@final
@dataclass(frozen=True, slots=True)
class FoundProvenance:
    """The set of a policy version, and the bytes that can be stored and replayed."""

    provenance: Provenance
    raw: bytes


@final
@dataclass(frozen=True, slots=True)
class ProvenanceService:
    """Takes in sets of bundles, and gives them to a release."""

    store: Store
    objects: Objects
    clock: Clock

    async def push(self, caller: Caller, tenant: str, policy: str, raw: bytes) -> bytes:
        """Store the set of a policy version, which may come later; return the set's SHA-256.

        A crash after the object is stored leaves one that nothing names: hand the set in again.

        Args:
            caller: a signer of the tenant.
            tenant: the tenant's name.
            policy: hex SHA-256 of the policy's payload.
            raw: the set, one canonical `ProvenanceSet`.

        Raises:
            BrokerError: `forbidden`, `not_found`, `malformed`, `too_large`, `provenance_refused`
                if a bundle or the root is not genuine, `provenance_unavailable` if this broker
                lacks the library, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
        digest, now = _digest(policy), self.clock()
        try:
            await asyncio.to_thread(_check, raw, now)
        except VerifierError as error:
            code = _CODES.get(error.reason, Code.PROVENANCE_REFUSED)
            reason = f"{error.reason.value}: {error}"
            raise BrokerError(code, "no provenance that can be used", (reason,)) from error
        name = await self.objects.put(raw)
        async with self.store.write() as unit:
            await rows.put(unit, found.g, digest, name, created=now)
        return name

    async def show(self, caller: Caller, tenant: str, policy: str) -> bytes:
        """Return the set of a policy version as it came.

        Raises:
            BrokerError: `forbidden`, `not_found`, `malformed`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            name = await rows.of_policy(unit, found.g, _digest(policy))
        if name is None:
            raise BrokerError(Code.NOT_FOUND, "no provenance for this policy version")
        return await self.objects.get(name, limit=MAX_PROVENANCE)

    async def find(self, policy: ReleasePolicy, digest: bytes) -> FoundProvenance | None:
        """Return the set of a policy; None if it demands none, or none came for it.

        Args:
            policy: as the log names it.
            digest: SHA-256 of its payload.

        Raises:
            BrokerError: `provenance_unavailable` without the library, `collateral_unavailable`
                for a set that was stored and cannot be read.
        """
        if not policy.appraisal.provenance:
            return None
        if not bundle.available():
            raise BrokerError(
                Code.PROVENANCE_UNAVAILABLE,
                "the policy demands provenance, which this broker cannot judge",
                (LACKING,),
            )
        async with self.store.read() as unit:
            name = await rows.of_policy(unit, bytes(policy.genesis), digest)
        if name is None:
            return None
        try:
            raw = await self.objects.get(name, limit=MAX_PROVENANCE)
            return FoundProvenance(stored.read(raw), raw)
        except (BrokerError, VerifierError) as error:
            raise BrokerError(
                Code.COLLATERAL_UNAVAILABLE,
                "the provenance of this policy cannot be read",
                (f"{Reason.COLLATERAL_UNAVAILABLE.value}: {error}",),
            ) from error

    async def alarm(self) -> None:
        """Tell the operator of every policy in force that this broker cannot judge, by its name.

        Loads the library where a policy will need it, so that no request has to wait for it.
        """
        async with self.store.read() as unit:
            tenants = await record.everyone(unit)
        for tenant in tenants:
            try:
                async with self.store.read() as unit:
                    standing = await in_force(unit, await log_state.load(unit, tenant.g))
            except BrokerError as error:
                _log.error("ALERT %s: policies of tenant %s cannot be read", error, tenant.name)
                continue
            for each in standing.values():
                await asyncio.to_thread(alarm, each.policy, tenant.name)


def _check(raw: bytes, now: int) -> None:
    given = stored.read(raw)
    for each in given.bundles:
        bundle.verify(each, given.trusted_root, now=now)


def _digest(text: str) -> bytes:
    try:
        raw = hexdecode(text)
    except VerifierError as error:
        raise BrokerError(Code.MALFORMED, "not the digest of a policy") from error
    if len(raw) != DIGEST:
        raise BrokerError(Code.MALFORMED, "not the SHA-256 of a policy")
    return raw
