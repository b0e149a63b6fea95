"""One release in eight rooms. Read this first; every room is one numbered step.

Guarantees: no key moves unless a leaf that names it is in the log under a signed checkpoint; every
refusal is recorded with all its reasons; nothing is decided on data that the challenge, the policy
or the log do not bind. Rooms 1 and 8 (reading and answering HTTP) are `broker/http/releases.py`.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from broker import permit as permits
from broker.audit import Audit
from broker.errors import BrokerError, Code
from broker.hsm.client import HsmClient
from broker.log import state as log_state
from broker.log.draft import Appended
from broker.log.sequencer import Sequencer
from broker.log.signer import in_our_words
from broker.log.state import State
from broker.permit import Permit
from broker.policies.provenance import ProvenanceService
from broker.release import challenge as challenges
from broker.release.challenge import Challenge
from broker.release.collateral import joined
from broker.release.decide import Decision, decide, read_policy, select_keys
from broker.release.drafts import Facts, ReleaseDraft, RenewalDraft
from broker.release.guest import check_renewal_signature, require_recipients
from broker.release.holders import GpuInUse
from broker.release.keyring import Keyring
from broker.store.database import Store
from broker.store.objects import Objects
from broker.store.rows import leases, policies
from broker.tenants import record
from verifier import dsse, received
from verifier.anchors import Anchors
from verifier.appraise import appraise
from verifier.cache import Cache
from verifier.collateral import CollateralSource, Found
from verifier.collateral.gpu_store import GpuCollateral
from verifier.collateral.gpus import FoundGpus
from verifier.errors import Reason, VerifierError
from verifier.policy import ReleasePolicy
from verifier.result import AttestationResult
from verifier.wire import binding, canonical, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import ReleaseRequest, RenewRequest

_log = logging.getLogger("broker.release")

_OUR_LACK: Final = {
    Reason.COLLATERAL_MISSING,
    Reason.COLLATERAL_UNAVAILABLE,
    Reason.COLLATERAL_EXPIRED,
}
"""What a source of endorsements says when it has none to give: no fault of the guest's."""


@final
@dataclass(frozen=True, slots=True)
class Appraised:
    """What rooms 2 to 5 produced: the facts, the yes, and what it was decided on."""

    facts: Facts
    decision: Decision
    state: State
    result: bytes
    wrap_key: bytes


@final
@dataclass(frozen=True, slots=True)
class ReleaseFlow:
    """The rooms and what they stand on. Built once, in `broker/app.py`."""

    store: Store
    sequencer: Sequencer
    hsm: HsmClient
    keyring: Keyring
    collateral: CollateralSource
    gpu_collateral: GpuCollateral
    provenance: ProvenanceService
    objects: Objects
    audit: Audit
    anchors: Anchors
    cache: Cache
    clock: Callable[[], int]
    broker: bytes

    async def challenge(self, request: messages.ChallengeRequest) -> messages.ChallengeAnswer:
        """Issue a challenge; costs no state.

        Raises:
            BrokerError: `not_found` for an unknown tenant, `hsm_unavailable`.
        """
        async with self.store.read() as unit:
            tenant = await record.by_name(unit, request.tenant)
        with in_our_words():
            key_id, key = await self.keyring.newest()
        raw, expires = challenges.issue(
            key_id=key_id,
            key=key,
            now=self.clock(),
            purpose=request.purpose,
            genesis=tenant.g,
            kind=request.kind,
            caller=request.caller,
        )
        return messages.ChallengeAnswer(
            v=1, challenge=B64(raw), expires=expires, document=B64(tenant.envelope)
        )

    async def release(self, request: ReleaseRequest) -> bytes:
        """Return the signed answer with the wrapped keys, or refuse.

        Raises:
            BrokerError: any code; it is in the audit table before it is raised.
        """
        tenant = b""
        try:
            # 2. The challenge is spent, whatever follows.
            challenge = await self._open(request.challenge)
            tenant = challenge.genesis
            await self._spend(challenge, request.recipients, "release")
            # 3-5. Collateral, appraisal, decision.
            seen = await self._appraise(challenge, request, lease="")
            # 6. The leaf, and a signed checkpoint that covers it, before any secret moves.
            lease = secrets.token_hex(16)
            draft = ReleaseDraft(lease, seen.facts, seen.decision, seen.state.head.state)
            logged = await self.sequencer.append(tenant, draft)
            # 7. The HSM worker believes the permit only after rebuilding all of it.
            keys = await self._redeem(self._permit(seen, logged), seen)
            # 8. One signed answer.
            with in_our_words():
                return await self.hsm.sign_answer(
                    canonical.encode(self._answer(seen, lease, logged, keys))
                )
        except BrokerError as error:
            _alert(error)
            await self.audit.denied("release", tenant, error)
            raise

    async def renew(self, request: RenewRequest) -> bytes:
        """Return the signed answer with the longer lease, or refuse. No key moves.

        Raises:
            BrokerError: any code; it is in the audit table before it is raised.
        """
        tenant = b""
        try:
            challenge = await self._open(request.challenge)
            tenant = challenge.genesis
            await self._spend(challenge, request.recipients, "renew")
            await self._check_lease(request, tenant)
            seen = await self._appraise(challenge, request, lease=request.lease)
            draft = RenewalDraft(request.lease, seen.facts, seen.decision, seen.state.head.state)
            logged = await self.sequencer.append(tenant, draft)
            answer = messages.RenewalAnswer(
                v=1,
                broker=Hex(self.broker),
                genesis=Hex(tenant),
                challenge=Hex(seen.facts.challenge),
                recipients=Hex(seen.facts.recipients),
                lease=_lease(request.lease, seen.decision),
                leaf=B64(logged.leaf),
                receipt=logged.receipt.decode(),
                result=B64(seen.result),
            )
            with in_our_words():
                return await self.hsm.sign_answer(canonical.encode(answer))
        except BrokerError as error:
            _alert(error)
            await self.audit.denied("renewal", tenant, error)
            raise

    async def _open(self, raw: bytes) -> Challenge:
        """Room 2, first half: did this broker make it, and is it alive?"""
        with in_our_words():
            keys = await self.keyring.all()
        return challenges.open_challenge(raw, keys, now=self.clock())

    async def _spend(
        self,
        challenge: Challenge,
        recipients: tuple[messages.Recipient, ...],
        purpose: messages.Purpose,
    ) -> None:
        """Room 2, second half: for this purpose and this caller; then spent, once."""
        if challenge.purpose != purpose:
            raise BrokerError(
                Code.CHALLENGE_UNKNOWN, f"a challenge to {challenge.purpose}, used to {purpose}"
            )
        instance = require_recipients(recipients)
        if hashlib.sha256(instance).digest() != challenge.caller:
            raise BrokerError(Code.CHALLENGE_UNKNOWN, "the challenge was given to somebody else")
        # A crash after this leaves the challenge spent and nothing released: ask for another.
        await self.store.spend_challenge(challenge.digest, challenge.expires)

    async def _appraise(
        self, challenge: Challenge, request: ReleaseRequest | RenewRequest, *, lease: str
    ) -> Appraised:
        """Rooms 3, 4 and 5."""
        async with self.store.read() as unit:
            state = await log_state.load(unit, challenge.genesis)
            entries = select_keys(state.map, request.keys)
            row = await policies.by_digest(unit, challenge.genesis, bytes(entries[0].policy))
        if row is None:
            raise BrokerError(Code.STATE_MISMATCH, "the policy that the log names is not stored")
        policy = read_policy(dsse.payload_unverified(row.envelope), entries, challenge.genesis)
        # 3. Endorsements, then the one reading of the clock, never below the last leaf's.
        found = await self._find(challenge, request.evidence)
        of_gpus = await self._find_gpus(request.evidence, policy)
        built = await self.provenance.find(policy, bytes(entries[0].policy))
        now = state.head.not_before(self.clock())
        # 4. Genuine, acceptable, and bound to exactly this exchange.
        report_data = binding.report_data(
            challenge=challenge.raw,
            purpose=challenge.purpose,
            genesis=challenge.genesis,
            broker=self.broker,
            recipients=request.recipients,
            keys=request.keys,
            lease=lease,
            kind=challenge.kind,
            gpus=request.evidence.gpus,
            ak=request.evidence.ak,
            claims=request.claims,
        )
        if isinstance(request, RenewRequest):
            check_renewal_signature(request, report_data)
        result = appraise(
            received.evidence(challenge.kind, request.evidence),
            found.endorsements,
            policy=policy.appraisal,
            report_data=report_data,
            provenance=None if built is None else built.provenance,
            gpu_nonce=binding.gpu_nonce(challenge.raw, request.recipients),
            gpu_endorsements=None if of_gpus is None else of_gpus.endorsements,
            now=now,
            anchors=self.anchors,
            cache=self.cache,
        )
        # 5. May these keys go to it?
        decision = decide(
            state=state.map,
            epoch=state.head.epoch,
            entries=entries,
            policy=policy,
            genesis=state.tenant.genesis,
            result=result,
            claims=request.claims,
            now=now,
        )
        raw_result, evidence = result.to_json(), canonical.encode(request.evidence)
        collateral = joined(found, of_gpus, built)
        # Content-addressed and written before the leaf that names them; a crash here leaves
        # objects that nothing refers to.
        await self.objects.put_all((evidence, collateral, raw_result))
        wrap_key = bytes(messages.recipient(request.recipients, messages.WRAP_RSA))
        facts = Facts(
            genesis=challenge.genesis,
            challenge=challenge.digest,
            recipients=binding.recipients_digest(request.recipients),
            recipient=hashlib.sha256(wrap_key).digest(),
            kind=challenge.kind,
            evidence=hashlib.sha256(evidence).digest(),
            collateral=hashlib.sha256(collateral).digest(),
            result=hashlib.sha256(raw_result).digest(),
            simulated=result.simulated,
            platform=_platform(result),
            instance=bytes(messages.recipient(request.recipients, messages.INSTANCE)),
            now=now,
        )
        return Appraised(facts, decision, state, raw_result, wrap_key)

    async def _find(self, challenge: Challenge, evidence: messages.Evidence) -> Found:
        with _no_endorsements():
            kind, cpu = received.hardware(challenge.kind, evidence)
            return await self.collateral.find(kind, cpu, evidence.endorsements)

    async def _find_gpus(
        self, evidence: messages.Evidence, policy: ReleasePolicy
    ) -> FoundGpus | None:
        """Return the endorsements of GPUs and switches; None if there are no such devices."""
        devices = received.devices(evidence)
        if not devices:
            return None
        with _no_endorsements():
            return await self.gpu_collateral.find(
                devices, revocation=policy.appraisal.gpu.require_revocation
            )

    async def _check_lease(self, request: RenewRequest, genesis: bytes) -> None:
        """A renewal is for a live lease, by the instance and for the keys that it was given to."""
        async with self.store.read() as unit:
            row = await leases.by_id(unit, request.lease)
        if row is None or row.g != genesis or not row.is_live(self.clock()):
            raise BrokerError(Code.LEASE_ENDED, "the lease is over", (f"lease {request.lease}",))
        same = (
            row.recipients == binding.recipients_digest(request.recipients)
            and row.instance == messages.recipient(request.recipients, messages.INSTANCE)
            and row.keys == request.keys
        )
        if not same:
            raise BrokerError(Code.DENIED, "not who holds the lease", (f"lease {request.lease}",))

    def _permit(self, seen: Appraised, logged: Appended) -> Permit:
        return Permit(
            permits._MINT,  # noqa: SLF001 - the one place that mints: a leaf is in the log
            genesis=seen.facts.genesis,
            leaf=logged.leaf,
            receipt=logged.receipt,
            state_map=canonical.encode(seen.state.map),
            blobs=tuple(
                seen.state.rows[messages.KeyRef(key.id, key.version)].blob
                for key in seen.decision.keys
            ),
            recipient=seen.wrap_key,
        )

    async def _redeem(self, permit: Permit, seen: Appraised) -> tuple[messages.WrappedKey, ...]:
        permit.redeem()
        with in_our_words():
            released = await self.hsm.release(
                permit.genesis,
                permit.leaf,
                permit.receipt,
                permit.state_map,
                permit.blobs,
                permit.recipient,
            )
        return tuple(
            messages.WrappedKey(key.id, key.version, key.manifest, released.alg, B64(wrapped))
            for key, wrapped in zip(seen.decision.keys, released.wrapped, strict=True)
        )

    def _answer(
        self,
        seen: Appraised,
        lease: str,
        logged: Appended,
        keys: tuple[messages.WrappedKey, ...],
    ) -> messages.ReleaseAnswer:
        return messages.ReleaseAnswer(
            v=1,
            broker=Hex(self.broker),
            genesis=Hex(seen.facts.genesis),
            challenge=Hex(seen.facts.challenge),
            recipients=Hex(seen.facts.recipients),
            policies=(Hex(seen.decision.policy_digest),),
            keys=keys,
            lease=_lease(lease, seen.decision),
            leaf=B64(logged.leaf),
            receipt=logged.receipt.decode(),
            result=B64(seen.result),
        )


@contextmanager
def _no_endorsements() -> Iterator[None]:
    try:
        yield
    except VerifierError as error:
        ours = error.reason in _OUR_LACK
        raise BrokerError(
            Code.COLLATERAL_UNAVAILABLE if ours else Code.EVIDENCE_REFUSED,
            "no endorsements for this evidence",
            (f"{error.reason.value}: {error}",),
        ) from error


def _lease(lease: str, decision: Decision) -> messages.Lease:
    return messages.Lease(lease, decision.not_after, decision.renew_after)


def _alert(error: BrokerError) -> None:
    """Tell the operator at once of what may be an attack in progress."""
    if isinstance(error, GpuInUse):
        for line in error.alert:
            _log.error("ALERT %s: %s", error.code.value, line)


def _platform(result: AttestationResult) -> bytes:
    """Return what tells one machine from another: PPID or CHIP_ID; empty if it shows neither.

    Of a machine in Azure the hardware's claims stand under the name of its evidence.
    """
    claims = result.claims
    claims = claims.get("snp") or claims.get("quote") or claims
    found = bytes.fromhex(claims.get("chip_id") or claims.get("pck", {}).get("ppid", ""))
    return found if any(found) else b""  # a chip that hides its id shows zeros
