"""Room 5, pure: may these keys go to this attested workload, on what terms?

Guarantees: a `Decision` exists only if every requested key is active, stands under one policy that
names it and its manifest, the result is an accept of the right kind, and the policy's dates hold.
Every reason is listed at once. It reads nothing but its arguments.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

from broker.errors import BrokerError, Code
from broker.release import gpus
from broker.release.gpus import Attested
from verifier.policy import ReleasePolicy
from verifier.result import AttestationResult, Verdict
from verifier.wire import canonical
from verifier.wire.canonical import Hex
from verifier.wire.documents import Genesis
from verifier.wire.leaf import KeyEntry, KeyState, ReleasedKey, StateMap
from verifier.wire.messages import KeyRef


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """A yes: which keys, under which policy, until when, decided at which state epoch.

    `devices` are the GPUs and switches that were attested.
    """

    keys: tuple[ReleasedKey, ...]
    policy: ReleasePolicy
    policy_digest: bytes
    epoch: int
    not_after: int
    renew_after: int
    devices: Attested


def select_keys(state: StateMap, wanted: tuple[KeyRef, ...]) -> tuple[KeyEntry, ...]:
    """Return the entries of the wanted keys, if each is active and all stand under one policy.

    Raises:
        BrokerError: `key_not_active` with a reason per key, or `denied`.
    """
    entries, reasons = [], []
    for ref in wanted:
        entry = state.find(ref)
        if entry is None:
            reasons.append(f"key {ref.id}/{ref.version} is unknown")
        elif entry.state is not KeyState.ACTIVE:
            reasons.append(f"key {ref.id}/{ref.version} is {entry.state.value}, not active")
        elif entry.policy_version == 0:
            reasons.append(f"no policy names key {ref.id}/{ref.version}")
        else:
            entries.append(entry)
    if reasons:
        raise BrokerError(Code.KEY_NOT_ACTIVE, "not every key may be released", tuple(reasons))
    if len({entry.policy for entry in entries}) != 1:
        raise BrokerError(
            Code.DENIED, "refused", ("the keys of one release must stand under one policy",)
        )
    return tuple(entries)


def read_policy(payload: bytes, entries: tuple[KeyEntry, ...], genesis: bytes) -> ReleasePolicy:
    """Return the policy whose payload the state map names for these keys.

    Raises:
        BrokerError: `state_mismatch` if the stored payload is not what the map names, or does not
            belong to this tenant and these keys.
    """
    if any(hashlib.sha256(payload).digest() != entry.policy for entry in entries):
        raise BrokerError(Code.STATE_MISMATCH, "stored policy is not the one that the log names")
    policy = canonical.decode(payload, ReleasePolicy)
    agrees = (
        policy.genesis == genesis
        and all(entry.ref() in policy.keys for entry in entries)
        and all(entry.policy_version == policy.version for entry in entries)
    )
    if not agrees:
        raise BrokerError(Code.STATE_MISMATCH, "policy and state map disagree about these keys")
    return policy


def decide(
    *,
    state: StateMap,
    epoch: int,
    entries: tuple[KeyEntry, ...],
    policy: ReleasePolicy,
    genesis: Genesis,
    result: AttestationResult,
    claims: bytes,
    now: int,
) -> Decision:
    """Return the terms of the release, or refuse with every reason.

    Args:
        state: the tenant's state map as read, whose digest stood in the latest change leaf.
        epoch: the state epoch that goes with it.
        entries: what `select_keys` returned.
        policy: what `read_policy` returned.
        genesis: the tenant's genesis.
        result: the attestation result of room 4.
        claims: the runtime's own, as sent and bound.
        now: unix seconds, as read in room 3.

    Raises:
        BrokerError: `evidence_refused` with the verifier's reasons, or `denied`.
    """
    if result.verdict is not Verdict.ACCEPT:
        failed = tuple(
            f"{c.reason.value}: {c.name}: expected {c.expected}, seen {c.seen}"
            for c in result.checks
            if c.reason is not None
        )
        raise BrokerError(Code.EVIDENCE_REFUSED, "the evidence was not accepted", failed)
    reasons = []
    if result.simulated != genesis.simulated:
        reasons.append("simulated evidence and real tenants do not mix, nor the reverse")
    reasons += [
        f"manifest of key {entry.id}/{entry.version} is not in the policy"
        for entry in entries
        if entry.manifest not in policy.manifests
    ]
    devices = gpus.attested(result)
    if devices.gpus != policy.appraisal.gpu.count:
        # The appraisal refuses it already; a key is never let go on that alone.
        reasons.append(f"{policy.appraisal.gpu.count} GPUs required, {devices.gpus} attested")
    reasons += gpus.objections(claims, devices)
    terms = policy.release
    if now < terms.not_before:
        reasons.append(f"the policy starts at {terms.not_before}, now is {now}")
    if terms.not_after and now >= terms.not_after:
        reasons.append(f"the policy ended at {terms.not_after}, now is {now}")
    if reasons:
        raise BrokerError(Code.DENIED, "the policy does not allow this release", tuple(reasons))
    not_after = now + terms.lease_seconds
    if terms.not_after:
        not_after = min(not_after, terms.not_after)
    digest = state.digest()
    if any(state.find(entry.ref()) != entry for entry in entries):
        raise BrokerError(Code.STATE_MISMATCH, f"entries are not of the state map {digest.hex()}")
    return Decision(
        keys=tuple(
            ReleasedKey(
                id=entry.id,
                version=entry.version,
                blob=entry.blob,
                kek=entry.kek,
                manifest=entry.manifest,
                policy=entry.policy,
            )
            for entry in entries
        ),
        policy=policy,
        policy_digest=Hex(entries[0].policy),
        epoch=epoch,
        not_after=not_after,
        renew_after=now + max(1, (not_after - now) // 2),
        devices=devices,
    )
