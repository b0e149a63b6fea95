"""Room 6: what is written when a key is let go or a lease prolonged, in one transaction.

Guarantees: the leaf is prepared only if the state epoch is still the one decided on, the lease
limit holds, and no GPU or switch is in a live lease of another machine or tenant, all read inside
the transaction that writes leaf and lease row. A new start of the same machine ends what its
devices' old leases were, in the same transaction.
A crash before the commit leaves nothing; after it, a leaf and a lease without a key handed out: the
log over-reports, and the lease runs out by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from broker.errors import BrokerError, Code
from broker.log.draft import Prepared, TreeHead
from broker.release.decide import Decision
from broker.release.holders import Claim, require_still_held, take_over
from broker.store.database import Unit
from broker.store.rows import leases
from broker.store.rows.leases import LeaseRow
from verifier.wire.canonical import Hex
from verifier.wire.leaf import LeaseEndLeaf, ReleaseLeaf, RenewalLeaf
from verifier.wire.messages import KeyRef, Kind


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What room 2 to 5 found out, as it stands in the leaf. All digests are SHA-256."""

    genesis: bytes
    challenge: bytes
    recipients: bytes
    recipient: bytes
    kind: Kind
    evidence: bytes
    collateral: bytes
    result: bytes
    simulated: bool
    platform: bytes
    instance: bytes
    now: int


@final
@dataclass(frozen=True, slots=True)
class ReleaseDraft:
    """A release that is decided and wants to be logged."""

    lease: str
    facts: Facts
    decision: Decision
    state: bytes

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse with `state_moved`, `gpu_in_use` or `lease_limit`."""
        facts, decision = self.facts, self.decision
        _require_unmoved(head, decision.epoch, self.state)
        refs = [KeyRef(key.id, key.version) for key in decision.keys]
        over = await take_over(unit, _claim(facts, decision), facts.now)
        for at, lease in enumerate(over):
            await leases.end(unit, lease, cause="superseded", leaf=head.size + at)
        await _require_room(unit, head, refs, decision, facts.now)
        row = LeaseRow(
            id=self.lease,
            g=facts.genesis,
            instance=facts.instance,
            recipients=facts.recipients,
            platform=facts.platform,
            kind=facts.kind,
            policy=decision.policy_digest,
            created=facts.now,
            not_after=decision.not_after,
            state=leases.LIVE,
            cause="",
            leaf=head.size + len(over),
            keys=tuple(refs),
            devices=decision.devices.ids,
        )
        await leases.insert(unit, row)
        leaf = ReleaseLeaf(
            v=1,
            genesis=Hex(facts.genesis),
            time=head.not_before(facts.now),
            epoch=head.epoch,
            state=Hex(head.state),
            challenge=Hex(facts.challenge),
            recipients=Hex(facts.recipients),
            recipient=Hex(facts.recipient),
            keys=decision.keys,
            kind=facts.kind,
            evidence=Hex(facts.evidence),
            collateral=Hex(facts.collateral),
            result=Hex(facts.result),
            lease=self.lease,
            not_after=decision.not_after,
            simulated=facts.simulated,
            gpus=decision.devices.gpus,
            devices=decision.devices.digest,
        )
        return Prepared(leaf, before=tuple(_superseded(head, lease, facts.now) for lease in over))


@final
@dataclass(frozen=True, slots=True)
class RenewalDraft:
    """A renewal that is decided and wants to be logged."""

    lease: str
    facts: Facts
    decision: Decision
    state: bytes

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse with `state_moved`, `lease_ended`, `denied`, `gpu_in_use`."""
        facts, decision = self.facts, self.decision
        _require_unmoved(head, decision.epoch, self.state)
        row = await leases.by_id(unit, self.lease)
        if row is None or row.g != facts.genesis or not row.is_live(facts.now):
            raise BrokerError(Code.LEASE_ENDED, "the lease is over", (f"lease {self.lease}",))
        await require_still_held(unit, row, _claim(facts, decision), facts.now)
        await leases.renew(
            unit,
            self.lease,
            not_after=decision.not_after,
            recipients=facts.recipients,
            leaf=head.size,
        )
        leaf = RenewalLeaf(
            v=1,
            genesis=Hex(facts.genesis),
            time=head.not_before(facts.now),
            epoch=head.epoch,
            state=Hex(head.state),
            challenge=Hex(facts.challenge),
            recipients=Hex(facts.recipients),
            keys=tuple(KeyRef(key.id, key.version) for key in decision.keys),
            policy=Hex(decision.policy_digest),
            kind=facts.kind,
            evidence=Hex(facts.evidence),
            collateral=Hex(facts.collateral),
            result=Hex(facts.result),
            lease=self.lease,
            not_after=decision.not_after,
            simulated=facts.simulated,
            gpus=decision.devices.gpus,
            devices=decision.devices.digest,
        )
        return Prepared(leaf)


def _claim(facts: Facts, decision: Decision) -> Claim:
    return Claim(facts.genesis, facts.platform, facts.instance, decision.devices.ids)


def _superseded(head: TreeHead, lease: str, now: int) -> LeaseEndLeaf:
    return LeaseEndLeaf(
        v=1,
        genesis=Hex(head.g),
        time=head.not_before(now),
        epoch=head.epoch,
        state=Hex(head.state),
        lease=lease,
        cause="superseded",
    )


def _require_unmoved(head: TreeHead, epoch: int, state: bytes) -> None:
    if (head.epoch, head.state) != (epoch, state):
        raise BrokerError(
            Code.STATE_MOVED,
            "keys or policies changed while this was decided",
            (f"decided at epoch {epoch}, the log is at {head.epoch}",),
        )


async def _require_room(
    unit: Unit, head: TreeHead, refs: list[KeyRef], decision: Decision, now: int
) -> None:
    limit = decision.policy.release.max_leases
    if head.size < limit:
        return  # every lease has a leaf of its own, so there cannot be that many
    live = await leases.count_live(unit, head.g, refs, now, enough=limit)
    if live >= limit:
        raise BrokerError(
            Code.LEASE_LIMIT,
            "the policy's leases are in use",
            (f"max_leases {limit}, live {live}",),
        )
