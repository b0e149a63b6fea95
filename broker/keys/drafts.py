"""What is written when an import key or a key version changes, in one transaction with its leaf.

Guarantees: every change starts from key rows that agree with the log, and leaves key rows and
state digest agreeing again. A crash before the commit leaves nothing, after it the whole change.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, final

import msgspec

from broker.errors import BrokerError, Code
from broker.keys import transitions
from broker.log import state as log_state
from broker.log.draft import Prepared, TreeHead
from broker.store.database import Unit
from broker.store.rows import keys
from verifier.wire.canonical import Hex
from verifier.wire.documents import ImportStatement, KeyOrder
from verifier.wire.leaf import NO_POLICY, ImportKeyLeaf, KeyEntry, KeyLeaf, KeyState

MAX_IMPORT_KEYS: Final = 8
"""Live import keys of one tenant; they are made to be destroyed soon."""


def too_many() -> BrokerError:
    """Return the refusal of one import key more."""
    return BrokerError(Code.CONFLICT, f"{MAX_IMPORT_KEYS} import keys live; destroy one first")


@final
@dataclass(frozen=True, slots=True)
class ImportKeyDraft:
    """An import key was made in the HSM, or is to be forgotten after it was destroyed there."""

    spki: bytes
    action: Literal["created", "destroyed"]
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse with `conflict`, `not_found` or `state_mismatch`."""
        state = await log_state.at(unit, head)
        digest = hashlib.sha256(self.spki).digest()
        live = [row for row in await keys.import_keys(unit, head.g) if row.state == "created"]
        time = head.not_before(self.now)
        if self.action == "created":
            if len(live) >= MAX_IMPORT_KEYS:
                raise too_many()
            row = keys.ImportKeyRow(head.g, digest, self.spki, "created", time)
            await keys.insert_import_key(unit, row)
        elif digest not in {row.spki_sha256 for row in live}:
            raise BrokerError(Code.NOT_FOUND, f"no live import key {digest.hex()}")
        else:
            await keys.set_import_key_state(unit, head.g, digest, "destroyed")
        leaf = ImportKeyLeaf(
            v=1,
            genesis=Hex(head.g),
            time=time,
            epoch=head.epoch + 1,
            state=Hex(state.map.digest()),
            spki=Hex(digest),
            action=self.action,
        )
        return Prepared(leaf, state.map)


@final
@dataclass(frozen=True, slots=True)
class KeyImportDraft:
    """A DEK came in: `blob` is it under KEK version `kek`, `envelope` the vendor's statement."""

    statement: ImportStatement
    envelope: bytes
    blob: bytes
    kek: int
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse with `conflict` or `state_mismatch`."""
        state = await log_state.at(unit, head)
        ref = self.statement.key
        if state.map.find(ref) is not None:
            raise BrokerError(Code.CONFLICT, f"key {ref.id}/{ref.version} exists already")
        entry = KeyEntry(
            id=ref.id,
            version=ref.version,
            state=KeyState.PRE_ACTIVATION,  # until the vendor orders otherwise, signed
            blob=Hex(hashlib.sha256(self.blob).digest()),
            manifest=self.statement.manifest,
            kek=self.kek,
            policy=NO_POLICY,
            policy_version=0,
        )
        after = state.map.replace(entry)
        row = keys.KeyRow(
            g=head.g,
            id=ref.id,
            version=ref.version,
            state=entry.state.value,
            blob=self.blob,
            kek=self.kek,
            manifest=bytes(entry.manifest),
            policy=bytes(NO_POLICY),
            policy_version=0,
            statement=self.envelope,
        )
        await keys.insert(unit, row)
        leaf = KeyLeaf(
            v=1,
            genesis=Hex(head.g),
            time=head.not_before(self.now),
            epoch=head.epoch + 1,
            state=Hex(after.digest()),
            key=ref,
            state_to=entry.state,
            blob=entry.blob,
            statement=Hex(hashlib.sha256(self.envelope).digest()),
        )
        return Prepared(leaf, after)


@final
@dataclass(frozen=True, slots=True)
class KeyOrderDraft:
    """The vendor ordered a key version into another state; `envelope` is its signed order."""

    order: KeyOrder
    envelope: bytes
    now: int

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        """Return the leaf, or refuse: `state_moved`, `not_found`, `conflict`, `state_mismatch`."""
        if self.order.epoch != head.epoch:
            raise BrokerError(
                Code.STATE_MOVED,
                f"the order was signed at epoch {self.order.epoch}, the log is at {head.epoch}",
            )
        state = await log_state.at(unit, head)
        ref = self.order.key
        entry = state.map.find(ref)
        if entry is None:
            raise BrokerError(Code.NOT_FOUND, f"no key {ref.id}/{ref.version}")
        transitions.require(entry.state, self.order.state)
        after = state.map.replace(msgspec.structs.replace(entry, state=self.order.state))
        await keys.set_state(unit, head.g, ref, self.order.state.value)
        leaf = KeyLeaf(
            v=1,
            genesis=Hex(head.g),
            time=head.not_before(self.now),
            epoch=head.epoch + 1,
            state=Hex(after.digest()),
            key=ref,
            state_to=self.order.state,
            blob=entry.blob,
            statement=Hex(hashlib.sha256(self.envelope).digest()),
        )
        return Prepared(leaf, after)
