"""The composition root: every service of one broker, built once, from its home.

Guarantees: nothing is served before the database has exactly our schema, the HSM worker has passed
its self-test, its mode fits the settings, and every tree of the database has been compared with the
worker's heads. What was opened is closed in reverse order, whatever happens.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from broker import clock, roots
from broker.audit import Audit
from broker.endorsements import open_endorsements
from broker.errors import BrokerError, Code
from broker.hsm.client import HsmClient
from broker.hsm.protocol import Info
from broker.hsm.spawn import spawn_same_user
from broker.keys.service import KeyService
from broker.leases import LeaseService
from broker.log.reading import Reader
from broker.log.sequencer import Sequencer
from broker.log.signer import in_our_words
from broker.maintenance import Maintenance
from broker.models.service import ModelService
from broker.policies.provenance import ProvenanceService
from broker.policies.service import PolicyService
from broker.release.flow import ReleaseFlow
from broker.release.keyring import Keyring
from broker.results import ResultService
from broker.settings import Settings
from broker.store.database import Store, open_store
from broker.store.objects import Objects
from broker.tenants.service import TenantService
from verifier.cache import Cache
from verifier.collateral.gpu_store import StoredGpus

WORKER_STOP_SECONDS: Final = 10


@final
@dataclass(frozen=True, slots=True)
class Services:
    """What the doors (HTTP, command line) may use."""

    settings: Settings
    info: Info
    store: Store
    tenants: TenantService
    keys: KeyService
    policies: PolicyService
    provenance: ProvenanceService
    models: ModelService
    leases: LeaseService
    log: Reader
    audit: Audit
    results: ResultService
    releases: ReleaseFlow
    clock: clock.Clock

    @property
    def broker(self) -> bytes:
        """The broker id: SHA-256 of the SPKI of its signing key in the token."""
        return hashlib.sha256(self.info.broker_key).digest()


def database_url(settings: Settings, home: Path) -> str:
    """Return the SQLAlchemy URL, by default SQLite in the home."""
    return settings.database or f"sqlite+aiosqlite:///{(home / 'ostiary.db').absolute()}"


@asynccontextmanager
async def open_services(
    home: Path, settings: Settings, *, now: clock.Clock = clock.system_clock
) -> AsyncIterator[Services]:
    """Give the services of the broker in `home`.

    Raises:
        BrokerError: what is missing or does not fit, and what to do.
    """
    async with AsyncExitStack() as stack:
        anchors = roots.load(settings, home)
        store = await stack.enter_async_context(await open_store(database_url(settings, home)))
        hsm = await stack.enter_async_context(_worker(home, settings))
        with in_our_words():
            info = await hsm.info()
        if info.simulated != settings.simulated:
            raise BrokerError(
                Code.SETTINGS_INVALID,
                "the token and the settings disagree about simulated hardware; neither mode opens "
                "the other's token",
            )
        sequencer = Sequencer(store, hsm)
        stack.push_async_callback(sequencer.aclose)
        await sequencer.recover()
        objects = Objects(home / settings.objects)
        stack.push_async_callback(objects.aclose)
        audit = Audit(store, now)
        stack.push_async_callback(audit.aclose)
        await stack.enter_async_context(Maintenance(store, audit, objects, now).running())
        log, cache = Reader(store), Cache()
        endorsements = await stack.enter_async_context(
            open_endorsements(home, settings, anchors, cache, now)
        )
        provenance = ProvenanceService(store, objects, now)
        await provenance.alarm()
        releases = ReleaseFlow(
            store=store,
            sequencer=sequencer,
            hsm=hsm,
            keyring=Keyring(hsm, time.monotonic),
            collateral=endorsements,
            gpu_collateral=StoredGpus(endorsements.stored),
            provenance=provenance,
            objects=objects,
            audit=audit,
            anchors=anchors,
            cache=cache,
            clock=now,
            broker=hashlib.sha256(info.broker_key).digest(),
        )
        yield Services(
            settings=settings,
            info=info,
            store=store,
            tenants=TenantService(store, sequencer, hsm),
            keys=KeyService(store, sequencer, hsm, objects, now),
            policies=PolicyService(store, sequencer, now),
            provenance=provenance,
            models=ModelService(store, objects, now),
            leases=LeaseService(store, sequencer, now),
            log=log,
            audit=audit,
            results=ResultService(store, hsm, objects, log, now, info.result_key),
            releases=releases,
            clock=now,
        )


@asynccontextmanager
async def _worker(home: Path, settings: Settings) -> AsyncIterator[HsmClient]:
    """Give a client of the HSM worker; in demo mode the worker is our child."""
    if settings.hsm_socket:
        client, process = HsmClient.at(home / settings.hsm_socket), None
    else:
        process, client = spawn_same_user(
            home, simulated=settings.simulated, module=settings.hsm_module
        )
    try:
        yield client
    finally:
        await client.close()
        if process is not None:
            await asyncio.to_thread(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(WORKER_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
