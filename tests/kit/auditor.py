"""An auditor who trusts nobody: walks a tenant's whole log and says what does not hold.

Uses `verifier` alone, on bytes that a broker handed out, the genesis that the tenant signed, and
the manifests that the vendor knows for its keys; rebuilds the state map from the leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import msgspec

from ostiary.client import Tenant
from verifier import dsse
from verifier.policy import ReleasePolicy
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.merkle import Frontier, leaf_hash
from verifier.tlog.note import VerifierKey
from verifier.tlog.proof import verify_receipt
from verifier.wire import canonical
from verifier.wire import leaf as leaves
from verifier.wire.canonical import Hex
from verifier.wire.documents import POLICY_TYPE
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef


@final
@dataclass
class Walk:
    """What the leaves say when they are read in order. `wrong` lists what must not be.

    `manifest` is the one of every key; KEK versions are 1, since nothing rotates them yet.
    """

    tenant: Tenant
    manifest: bytes
    epoch: int = -1
    time: int = 0
    given: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        signers = Hex(self.tenant.genesis.signers_digest())
        self.map = leaves.StateMap(v=1, genesis=Hex(self.tenant.digest), signers=signers, keys=())

    @property
    def vkey(self) -> VerifierKey:
        """Who signs this log."""
        return VerifierKey(self.tenant.origin, bytes(self.tenant.genesis.log_key))

    def log(
        self, entries: Sequence[bytes], checkpoint: bytes, receipts: Sequence[bytes]
    ) -> list[str]:
        """Walk everything: leaves, root, checkpoint, a receipt for each leaf."""
        head = open_checkpoint(checkpoint, self.tenant.origin, self.vkey)
        frontier = Frontier()
        for at, raw in enumerate(entries):
            self.leaf(at, leaves.decode(raw))
            frontier = frontier.append(leaf_hash(raw))
        self.expect((head.size, head.root) == (frontier.size, frontier.root()), "root")
        for at, (raw, receipt) in enumerate(zip(entries, receipts, strict=True)):
            found = verify_receipt(receipt, raw, self.tenant.origin, self.vkey)
            self.expect(found.leaf_index == at, f"receipt of {at}")
        return self.wrong

    def expect(self, holds: bool, what: str) -> None:
        """Write down what does not hold."""
        if not holds:
            self.wrong.append(what)

    def leaf(self, at: int, entry: leaves.AnyLeaf) -> None:
        """Read the next leaf."""
        self.expect(entry.genesis == self.tenant.digest, f"{at}: tenant")
        self.expect(entry.time >= self.time, f"{at}: time")
        self.expect(entry.epoch == self.epoch + isinstance(entry, leaves.CHANGES), f"{at}: epoch")
        self.expect(isinstance(entry, leaves.GenesisLeaf) == (at == 0), f"{at}: genesis")
        self.time, self.epoch = entry.time, entry.epoch
        if isinstance(entry, leaves.GenesisLeaf):
            payload = dsse.payload_unverified(bytes(entry.document))
            self.expect(hashlib.sha256(payload).digest() == self.tenant.digest, f"{at}: document")
        elif isinstance(entry, leaves.KeyLeaf):
            self._key(at, entry)
        elif isinstance(entry, leaves.PolicyLeaf):
            self._policy(at, entry)
        elif isinstance(entry, leaves.ReleaseLeaf):
            self._release(at, entry)
        elif isinstance(entry, leaves.RenewalLeaf | leaves.LeaseEndLeaf):
            self.expect(entry.lease in self.given, f"{at}: of no lease")
            self.expect(entry.lease not in self.ended, f"{at}: after the lease's end")
            if isinstance(entry, leaves.LeaseEndLeaf):
                self.ended.add(entry.lease)
        self.expect(entry.state == self.map.digest(), f"{at}: state")

    def _key(self, at: int, entry: leaves.KeyLeaf) -> None:
        known = self.map.find(entry.key)
        if known is None:
            self.expect(entry.state_to is KeyState.PRE_ACTIVATION, f"{at}: first state")
            known = leaves.KeyEntry(
                id=entry.key.id,
                version=entry.key.version,
                state=entry.state_to,
                blob=entry.blob,
                manifest=Hex(self.manifest),
                kek=1,
                policy=leaves.NO_POLICY,
                policy_version=0,
            )
        self.expect(entry.blob == known.blob, f"{at}: blob")
        self.map = self.map.replace(msgspec.structs.replace(known, state=entry.state_to))

    def _policy(self, at: int, entry: leaves.PolicyLeaf) -> None:
        genesis, document = self.tenant.genesis, bytes(entry.document)
        payload = dsse.verify(document, POLICY_TYPE, genesis.signers, genesis.threshold)
        policy = canonical.decode(payload, ReleasePolicy)
        self.expect(hashlib.sha256(payload).digest() == entry.policy, f"{at}: policy digest")
        self.expect(policy.version == entry.version, f"{at}: policy version")
        for ref in policy.keys:
            known = self.map.find(ref)
            self.expect(known is not None, f"{at}: policy of an unknown key")
            if known is not None:
                changed = msgspec.structs.replace(
                    known, policy=entry.policy, policy_version=entry.version
                )
                self.map = self.map.replace(changed)

    def _release(self, at: int, entry: leaves.ReleaseLeaf) -> None:
        self.expect(entry.lease not in self.given, f"{at}: lease given twice")
        self.given.add(entry.lease)
        for key in entry.keys:
            known = self.map.find(KeyRef(key.id, key.version))
            good = (
                known is not None
                and known.state is KeyState.ACTIVE
                and known.policy_version > 0
                and (known.blob, known.manifest, known.policy, known.kek)
                == (key.blob, key.manifest, key.policy, key.kek)
            )
            self.expect(good, f"{at}: release of {key.id}/{key.version}")
