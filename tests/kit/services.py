"""A broker without HTTP, over a `SoftSigner`, and what a vendor signs for it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.audit import Audit
from broker.errors import BrokerError
from broker.keys.service import KeyService
from broker.leases import LeaseService
from broker.log import state as log_state
from broker.log.reading import Reader
from broker.log.state import State
from broker.models.service import ModelService
from broker.policies.service import PolicyService
from broker.store.objects import Objects
from tests.kit.store import NOW, House, SoftSigner, Vendor, house
from verifier.policy import AppraisalPolicy, ReleasePolicy
from verifier.wire import canonical
from verifier.wire.canonical import Hex
from verifier.wire.documents import (
    ORDER_TYPE,
    POLICY_TYPE,
    STATEMENT_TYPE,
    ImportStatement,
    KeyOrder,
    Release,
)
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef

KEY = KeyRef("llama", 1)
MANIFEST = Hex(hashlib.sha256(b"manifest").digest())


@dataclass
class Services:
    """A house with all services in it."""

    house: House[SoftSigner]
    objects: Objects
    keys: KeyService
    policies: PolicyService
    models: ModelService
    leases: LeaseService
    audit: Audit
    reader: Reader
    now: int = NOW

    @property
    def g(self) -> bytes:
        return self.house.g

    @property
    def vendor(self) -> Vendor:
        return self.house.vendor

    async def state(self) -> State:
        async with self.house.store.read() as unit:
            return await log_state.load(unit, self.g)

    async def push_key(self, ref: KeyRef = KEY, manifest: Hex = MANIFEST) -> None:
        """Make an import key and bring a DEK in."""
        spki = await self.keys.create_import_key(self.house.caller, "acme")
        statement, ciphertext = self.statement(spki, ref, manifest)
        await self.keys.push(self.house.caller, "acme", statement, ciphertext)

    def statement(
        self, spki: bytes, ref: KeyRef = KEY, manifest: Hex = MANIFEST
    ) -> tuple[bytes, bytes]:
        """Return a signed import statement, and the ciphertext that it names."""
        ciphertext = secrets.token_bytes(512)
        document = ImportStatement(
            v=1,
            genesis=Hex(self.g),
            key=ref,
            ciphertext=Hex(hashlib.sha256(ciphertext).digest()),
            import_key=Hex(hashlib.sha256(spki).digest()),
            manifest=manifest,
        )
        return self.vendor.sign(STATEMENT_TYPE, canonical.encode(document)), ciphertext

    async def order(self, state: KeyState, ref: KeyRef = KEY, epoch: int | None = None) -> None:
        """Sign and hand in an order, by default from the epoch that is."""
        seen = (await self.state()).head.epoch if epoch is None else epoch
        document = KeyOrder(v=1, genesis=Hex(self.g), key=ref, state=state, epoch=seen)
        envelope = self.vendor.sign(ORDER_TYPE, canonical.encode(document))
        await self.keys.order(self.house.caller, "acme", envelope)

    def policy(
        self,
        version: int = 1,
        predecessor: bytes = bytes(32),
        *,
        name: str = "prod",
        keys: tuple[KeyRef, ...] = (KEY,),
        manifests: tuple[Hex, ...] = (MANIFEST,),
        genesis: bytes = b"",
        max_leases: int = 1,
    ) -> tuple[bytes, bytes]:
        """Return a signed policy and its digest."""
        document = ReleasePolicy(
            v=1,
            genesis=Hex(genesis or self.g),
            name=name,
            version=version,
            predecessor=Hex(predecessor),
            keys=keys,
            manifests=manifests,
            release=Release(max_leases=max_leases),
            appraisal=AppraisalPolicy(),
        )
        payload = canonical.encode(document)
        return self.vendor.sign(POLICY_TYPE, payload), hashlib.sha256(payload).digest()

    async def push_policy(self, envelope: bytes) -> None:
        await self.policies.push(self.house.caller, "acme", envelope)


@asynccontextmanager
async def services(folder: Path) -> AsyncIterator[Services]:
    """Give a house with all services."""
    async with house(folder) as built:
        objects = Objects(folder / "objects")
        store, sequencer = built.store, built.sequencer
        clock = lambda: made.now  # noqa: E731 - the tests' clock, set by `now`
        made = Services(
            built,
            objects,
            KeyService(store, sequencer, built.hsm, objects, clock),
            PolicyService(store, sequencer, clock),
            ModelService(store, objects, clock),
            LeaseService(store, sequencer, clock),
            Audit(store, clock),
            Reader(store),
        )
        yield made
        await made.audit.aclose()


def code(outcome: object) -> str:
    """Return the code of a refusal, or what it is instead."""
    return outcome.code.value if isinstance(outcome, BrokerError) else type(outcome).__name__
