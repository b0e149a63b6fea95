"""Release policies: a vendor pushes a signed version, and it takes effect as a leaf.

Guarantees: a policy takes effect only if enough of the tenant's signers signed it, its number is
one above the last one of its name and it names that one's digest; the same version again, or an
older one, is `policy_rolled_back`. What the last version was is read from the state map that the
log vouches for, so removing policy rows does not bring an older version back. A key stands under
one policy at a time; a version that no longer names it leaves it under none, and so unreleasable.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final, final

import msgspec

from broker.clock import Clock
from broker.errors import BrokerError, Code, refuse_as
from broker.log import state as log_state
from broker.log.draft import Appended, Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.log.state import State
from broker.policies import library
from broker.store.database import Store, Unit
from broker.store.rows import keys, policies
from broker.store.rows.policies import PolicyRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from verifier import dsse
from verifier.errors import VerifierError
from verifier.policy import MAX_POLICY, ReleasePolicy
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import POLICY_TYPE
from verifier.wire.leaf import NO_POLICY, KeyEntry, PolicyLeaf, StateMap

_NONE: Final = (0, bytes(32))


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """A policy version in force: what the state map names, read from its stored document."""

    policy: ReleasePolicy
    digest: bytes


@final
@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """A signed policy version that wants to take effect."""

    policy: ReleasePolicy
    digest: bytes
    envelope: bytes
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse: `policy_rolled_back`, `policy_invalid`, `state_mismatch`."""
        state = await log_state.at(unit, head)
        standing = await in_force(unit, state)
        self._check_number(standing)
        after = self._apply(state, standing)
        row = PolicyRow(
            g=head.g,
            name=self.policy.name,
            version=self.policy.version,
            digest=self.digest,
            envelope=self.envelope,
            created=head.not_before(self.now),
        )
        await policies.insert(unit, row)
        dropped = [
            e.ref() for e in after.keys if e != state.map.find(e.ref()) and not e.policy_version
        ]
        await keys.set_policy(unit, head.g, dropped, bytes(NO_POLICY), 0)
        await keys.set_policy(unit, head.g, self.policy.keys, self.digest, self.policy.version)
        leaf = PolicyLeaf(
            v=1,
            genesis=Hex(head.g),
            time=head.not_before(self.now),
            epoch=head.epoch + 1,
            state=Hex(after.digest()),
            policy=Hex(self.digest),
            version=self.policy.version,
            document=B64(self.envelope),
        )
        return Prepared(leaf, after)

    def _check_number(self, standing: dict[bytes, Standing]) -> None:
        # The last version of a name always governs a key: a policy names one at least, and it
        # keeps it until the next version. So the map knows the last version of every name.
        policy = self.policy
        same = [s for s in standing.values() if s.policy.name == policy.name]
        last, digest = max(((s.policy.version, s.digest) for s in same), default=_NONE)
        if policy.version <= last:
            raise BrokerError(
                Code.POLICY_ROLLED_BACK,
                f"policy {policy.name} is at version {last}; version {policy.version} is not newer",
            )
        if (policy.version, bytes(policy.predecessor)) != (last + 1, digest):
            raise BrokerError(
                Code.POLICY_INVALID,
                f"policy {policy.name} must be version {last + 1} with predecessor {digest.hex()}",
                (f"seen version {policy.version}, predecessor {policy.predecessor.hex()}",),
            )

    def _apply(self, state: State, standing: dict[bytes, Standing]) -> StateMap:
        """Return the map under this version, or refuse with every reason at once."""
        policy, reasons, changed = self.policy, [], []
        for ref in policy.keys:
            entry = state.map.find(ref)
            label = f"key {ref.id}/{ref.version}"
            if entry is None:
                reasons.append(f"{label} does not exist")
                continue
            if entry.manifest not in policy.manifests:
                reasons.append(f"{label} opens manifest {entry.manifest.hex()}, which is not named")
            under = standing.get(bytes(entry.policy))
            if under is not None and under.policy.name != policy.name:
                reasons.append(f"{label} stands under policy {under.policy.name}")
            changed.append(_under(entry, self.digest, policy.version))
        if reasons:
            raise BrokerError(
                Code.POLICY_INVALID, f"policy {policy.name} does not fit", tuple(reasons)
            )
        for entry in state.map.keys:
            under = standing.get(bytes(entry.policy))
            if (
                under is not None
                and under.policy.name == policy.name
                and entry.ref() not in policy.keys
            ):
                changed.append(_under(entry, bytes(NO_POLICY), 0))
        return state.map.replace(*changed)


def _under(entry: KeyEntry, policy: bytes, version: int) -> KeyEntry:
    return msgspec.structs.replace(entry, policy=Hex(policy), policy_version=version)


async def in_force(unit: Unit, state: State) -> dict[bytes, Standing]:
    """Return every policy that the state map names, by digest, from its stored document.

    The map is the log's, the documents are compared with its digests: rows decide nothing.

    Raises:
        BrokerError: `state_mismatch` if a document is missing or another one.
    """
    found: dict[bytes, Standing] = {}
    for digest in {bytes(e.policy) for e in state.map.keys if e.policy_version > 0}:
        row = await policies.by_digest(unit, state.tenant.g, digest)
        if row is None:
            raise BrokerError(
                Code.STATE_MISMATCH, f"policy {digest.hex()} that the log names is not stored"
            )
        with refuse_as(Code.STATE_MISMATCH, "a stored policy is damaged"):
            payload = dsse.payload_unverified(row.envelope)
            if hashlib.sha256(payload).digest() != digest:
                raise BrokerError(Code.STATE_MISMATCH, "a stored policy is not the one of its row")
            found[digest] = Standing(canonical.decode(payload, ReleasePolicy), digest)
    return found


@final
@dataclass(frozen=True, slots=True)
class PolicyService:
    """Takes in policies and shows them."""

    store: Store
    sequencer: Sequencer
    clock: Clock

    async def push(self, caller: Caller, tenant: str, envelope: bytes) -> Appended:
        """Put a signed policy version into force.

        Raises:
            BrokerError: `forbidden` if it is not signed by enough signers, `malformed`,
                `too_large`, `policy_invalid`, `policy_rolled_back`, `state_mismatch`,
                `log_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
        payload = found.payload(envelope, POLICY_TYPE)
        try:
            policy = canonical.decode(payload, ReleasePolicy, limit=MAX_POLICY)
        except VerifierError as error:
            raise BrokerError(
                Code.POLICY_INVALID, "policy cannot be read", (str(error),)
            ) from error
        if policy.genesis != found.g:
            raise BrokerError(Code.POLICY_INVALID, "policy of another tenant")
        digest = hashlib.sha256(payload).digest()
        draft = PolicyDraft(policy, digest, envelope, self.clock())
        appended = await self.sequencer.append(found.g, draft)
        await asyncio.to_thread(library.alarm, policy, found.name)
        return appended

    async def listed(self, caller: Caller, tenant: str) -> tuple[PolicyRow, ...]:
        """Return all versions of all policies of a tenant, signed as they came.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            return await policies.of_tenant(unit, found.g)
