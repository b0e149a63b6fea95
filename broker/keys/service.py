"""Keys: import keys made in the HSM, DEKs taken in by signed statement, states by signed order.

Guarantees: every change is signed by the tenant (or is the making of an import key, which is a leaf
of its own) and becomes a leaf; a DEK passes through here only as RSA-OAEP ciphertext on its way in
and under the KEK on its way to the row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, final

from broker.clock import Clock
from broker.errors import BrokerError, Code, refuse_as
from broker.keys.drafts import (
    MAX_IMPORT_KEYS,
    ImportKeyDraft,
    KeyImportDraft,
    KeyOrderDraft,
    too_many,
)
from broker.log import state as log_state
from broker.log.draft import Appended
from broker.log.sequencer import Sequencer
from broker.log.signer import Hsm, in_our_words
from broker.log.state import State
from broker.store.database import Store
from broker.store.objects import Objects
from broker.store.rows import keys
from broker.store.rows.keys import ImportKeyRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from broker.tenants.record import Tenant
from verifier.wire import canonical
from verifier.wire.documents import ORDER_TYPE, STATEMENT_TYPE, ImportStatement, KeyOrder

CIPHERTEXT: Final = 512
"""Bytes of an RSA-4096 ciphertext."""


@final
@dataclass(frozen=True, slots=True)
class KeyService:
    """Import keys, imports and orders of tenants."""

    store: Store
    sequencer: Sequencer
    hsm: Hsm
    objects: Objects
    clock: Clock

    async def create_import_key(self, caller: Caller, tenant: str) -> bytes:
        """Make an import key, and return its SPKI (DER), whose digest the vendor must confirm.

        A crash before the leaf leaves a pair in the token that no row names: nothing is ever
        imported with it, since `push` looks for the row.

        Raises:
            BrokerError: `forbidden`, `not_found`, `conflict` if too many live, `hsm_unavailable`,
                `log_unavailable`.
        """
        if len(await self.import_keys(caller, tenant)) >= MAX_IMPORT_KEYS:
            raise too_many()
        found = await self._vendor(caller, tenant)
        with in_our_words():
            spki = await self.hsm.create_import_key(found.g)
        await self.sequencer.append(found.g, ImportKeyDraft(spki, "created", self.clock()))
        return spki

    async def import_keys(self, caller: Caller, tenant: str) -> tuple[ImportKeyRow, ...]:
        """Return the import keys that live, oldest first.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            rows = await keys.import_keys(unit, found.g)
        return tuple(row for row in rows if row.state == "created")

    async def destroy_import_key(self, caller: Caller, tenant: str, spki_sha256: bytes) -> Appended:
        """Destroy an import key.

        In the token first: a crash before the leaf leaves a key that the log still shows as live
        and that opens nothing; destroying it again completes the record.

        Raises:
            BrokerError: `forbidden`, `not_found`, `hsm_unavailable`, `log_unavailable`.
        """
        found = await self._vendor(caller, tenant)
        row = await self._live_import_key(found.g, spki_sha256)
        try:
            with in_our_words():
                await self.hsm.destroy_import_key(found.g, spki_sha256)
        except BrokerError as error:
            if error.code is not Code.NOT_FOUND:  # gone already: the record is what is missing
                raise
        draft = ImportKeyDraft(row.spki, "destroyed", self.clock())
        return await self.sequencer.append(found.g, draft)

    async def push(
        self, caller: Caller, tenant: str, envelope: bytes, ciphertext: bytes
    ) -> Appended:
        """Take in a DEK by the vendor's signed statement; it starts in pre-activation.

        A crash between HSM and leaf leaves nothing: the worker keeps no blob.

        Args:
            caller: one of the tenant's signers.
            tenant: the tenant's name.
            envelope: DSSE envelope of an `ImportStatement`.
            ciphertext: the DEK under the import key (RSA-OAEP).

        Raises:
            BrokerError: `forbidden`, `malformed`, `not_found` for an unknown import key,
                `conflict` if the key version exists, `hsm_refused`, `log_unavailable`,
                `state_mismatch`.
        """
        found = await self._vendor(caller, tenant)
        # 1. The statement is the tenant's, and about these bytes.
        payload = found.payload(envelope, STATEMENT_TYPE)
        with refuse_as(Code.MALFORMED, "import statement"):
            statement = canonical.decode(payload, ImportStatement)
        if statement.genesis != found.g:
            raise BrokerError(Code.FORBIDDEN, "import statement of another tenant")
        if len(ciphertext) != CIPHERTEXT:
            raise BrokerError(
                Code.MALFORMED, f"ciphertext of {len(ciphertext)} bytes, {CIPHERTEXT} expected"
            )
        if hashlib.sha256(ciphertext).digest() != statement.ciphertext:
            raise BrokerError(Code.MALFORMED, "ciphertext is not the one that the statement names")
        # 2. It uses an import key that the log shows, and a name that is free.
        await self._live_import_key(found.g, statement.import_key)
        await self._require_new(found.g, statement)
        # 3. The worker checks the statement again, and re-wraps inside the token.
        with in_our_words():
            imported = await self.hsm.import_key(found.g, envelope, ciphertext)
        # 4. The leaf, and the row.
        draft = KeyImportDraft(statement, envelope, imported.blob, imported.kek, self.clock())
        await self.objects.put(envelope)
        return await self.sequencer.append(found.g, draft)

    async def order(self, caller: Caller, tenant: str, envelope: bytes) -> Appended:
        """Move a key version to another state, as the vendor's signed order says.

        Raises:
            BrokerError: `forbidden`, `malformed`, `state_moved` if the order was signed at another
                epoch, `not_found`, `conflict` for a step that must not be, `log_unavailable`,
                `state_mismatch`.
        """
        found = await self._vendor(caller, tenant)
        payload = found.payload(envelope, ORDER_TYPE)
        with refuse_as(Code.MALFORMED, "key order"):
            order = canonical.decode(payload, KeyOrder)
        if order.genesis != found.g:
            raise BrokerError(Code.FORBIDDEN, "key order of another tenant")
        await self.objects.put(envelope)  # before the leaf that names it
        return await self.sequencer.append(found.g, KeyOrderDraft(order, envelope, self.clock()))

    async def state(self, caller: Caller, tenant: str) -> State:
        """Return the tenant's state, as log and rows agree on it.

        Raises:
            BrokerError: `forbidden`, `not_found`, `state_mismatch`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            return await log_state.load(unit, found.g)

    async def _vendor(self, caller: Caller, tenant: str) -> Tenant:
        async with self.store.read() as unit:
            return await callers.vendor(unit, caller, tenant)

    async def _live_import_key(self, g: bytes, spki_sha256: bytes) -> ImportKeyRow:
        async with self.store.read() as unit:
            rows = await keys.import_keys(unit, g)
        for row in rows:
            if row.spki_sha256 == spki_sha256 and row.state == "created":
                return row
        raise BrokerError(Code.NOT_FOUND, f"no live import key {spki_sha256.hex()}")

    async def _require_new(self, g: bytes, statement: ImportStatement) -> None:
        """Refuse early what the draft would refuse, before the HSM works for it."""
        async with self.store.read() as unit:
            state = await log_state.load(unit, g)
        ref = statement.key
        if state.map.find(ref) is not None:
            raise BrokerError(Code.CONFLICT, f"key {ref.id}/{ref.version} exists already")
