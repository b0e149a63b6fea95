"""The log over the real HSM worker: its process, its token, its own database."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import Code
from broker.keys.service import KeyService
from broker.log import state as log_state
from broker.log.sequencer import Sequencer
from broker.policies.service import PolicyService
from broker.store.database import open_store
from broker.store.objects import Objects
from tests.kit.hsm import seal_dek, worker
from tests.kit.store import NOW, Ended, house_over, in_loop, refusal, url
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

pytestmark = pytest.mark.softhsm

KEY = KeyRef("llama", 1)
MANIFEST = Hex(hashlib.sha256(b"manifest").digest())


@in_loop
async def test_worker_signs_what_is_stored(tmp_path: Path, hsm_home: Callable[..., Path]) -> None:
    """Receipts over the token's log key verify, and worker and database agree after a restart."""
    home = hsm_home()
    async with worker(home) as client:
        key = (await client.info()).broker_key
        async with house_over(tmp_path, hsm=client, broker_key=key) as built:
            done = await asyncio.gather(*(built.append(Ended(f"l-{n}")) for n in range(40)))
            for appended in done:
                built.check(appended)
            g, path = built.g, built.path

    async with worker(home) as client, await open_store(url(path)) as store:
        sequencer = Sequencer(store, client)
        await sequencer.recover()
        assert (await sequencer.append(g, Ended("after"))).index == 41


@in_loop
async def test_key_comes_in_and_goes_live(tmp_path: Path, hsm_home: Callable[..., Path]) -> None:
    """Import, policy and order pass the worker's rules, and the state agrees with its head."""
    async with worker(hsm_home()) as client:
        key = (await client.info()).broker_key
        async with house_over(tmp_path, hsm=client, broker_key=key) as built:
            caller, vendor = built.caller, built.vendor
            objects = Objects(tmp_path / "objects")
            keys = KeyService(built.store, built.sequencer, client, objects, lambda: NOW)
            policies = PolicyService(built.store, built.sequencer, lambda: NOW)
            spki = await keys.create_import_key(caller, "acme")
            ciphertext = seal_dek(bytes(range(32)), spki)
            statement = ImportStatement(
                v=1,
                genesis=Hex(built.g),
                key=KEY,
                ciphertext=Hex(hashlib.sha256(ciphertext).digest()),
                import_key=Hex(hashlib.sha256(spki).digest()),
                manifest=MANIFEST,
            )
            signed = vendor.sign(STATEMENT_TYPE, canonical.encode(statement))
            await keys.push(caller, "acme", signed, ciphertext)
            policy = ReleasePolicy(
                v=1,
                genesis=Hex(built.g),
                name="prod",
                version=1,
                predecessor=Hex(bytes(32)),
                keys=(KEY,),
                manifests=(MANIFEST,),
                release=Release(),
                appraisal=AppraisalPolicy(),
            )
            envelope = vendor.sign(POLICY_TYPE, canonical.encode(policy))
            await policies.push(caller, "acme", envelope)
            order = KeyOrder(v=1, genesis=Hex(built.g), key=KEY, state=KeyState.ACTIVE, epoch=3)
            await keys.order(caller, "acme", vendor.sign(ORDER_TYPE, canonical.encode(order)))
            async with built.store.read() as unit:
                state = await log_state.load(unit, built.g)
            head = await client.head(built.g)

            entry = state.map.find(KEY)
            assert entry is not None
            assert (entry.state, entry.policy_version) == (KeyState.ACTIVE, 1)
            assert len(state.rows[KEY].blob) == 40
            assert (head.epoch, head.state) == (4, state.map.digest())
            await keys.destroy_import_key(caller, "acme", hashlib.sha256(spki).digest())


@in_loop
async def test_older_database_beside_the_same_worker_is_found(
    tmp_path: Path, hsm_home: Callable[..., Path]
) -> None:
    """The worker's own database is the high-water mark: an older broker database signs nothing."""
    async with worker(hsm_home()) as client:
        key = (await client.info()).broker_key
        async with house_over(tmp_path, hsm=client, broker_key=key) as built:
            built.sql("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy(built.path, tmp_path / "old.db")
            await built.append(Ended("later"))
            g = built.g

        async with await open_store(url(tmp_path / "old.db")) as store:
            sequencer = Sequencer(store, client)

            assert (await refusal(sequencer.recover())).code is Code.LOG_ROLLED_BACK
            error = await refusal(sequencer.append(g, Ended("other")))
            assert error.code is Code.LOG_ROLLED_BACK
            assert (await client.head(g)).size == 2
