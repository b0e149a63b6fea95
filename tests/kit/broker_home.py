"""A broker's home as its operator and its vendors leave it: keys in every state, two tenants.

Made by the services that they use, so that everything in it is real but the hardware.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker import settings as broker_settings
from broker.hsm.ceremony import init_token
from broker.hsm.home import FOLDER
from broker.http.auth import Caller
from broker.services import Services, database_url, open_services
from broker.settings import CONFIRMATION, Settings
from broker.store.migrate import migrate
from ostiary import vendor
from ostiary.client import Tenant
from ostiary.simulator.azure import AzureMachine, measure, paravisor
from ostiary.simulator.gcp import GcpMachine
from ostiary.simulator.machine import LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import SnpMachine, TdxMachine
from ostiary.simulator.tpm import FakeTpm
from tests.kit import vendors
from tests.kit.hsm import copy_home, seal_dek
from tests.kit.vendors import NOW
from verifier import dsse
from verifier.policy import AppraisalPolicy, SnpReference, TdxReference, TpmReference
from verifier.wire import binding, canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import (
    STATEMENT_TYPE,
    Genesis,
    ImportStatement,
    Release,
)
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef

TENANT: Final = "acme"
RIVAL: Final = "rival"
RELEASES: Final = "/v1/releases"
RENEWALS: Final = "/v1/renewals"
MANIFEST: Final = hashlib.sha256(b"a manifest").digest()

MODEL: Final = KeyRef("model", 1)
"""Active, under policy `main`, together with `SECOND`."""
SECOND: Final = KeyRef("second", 1)
BARE: Final = KeyRef("bare", 1)
"""Active, under no policy."""
SINGLE: Final = KeyRef("single", 1)
"""Active, under a policy of one lease."""
STATES: Final = {
    KeyState.PRE_ACTIVATION: KeyRef("ready", 1),
    KeyState.SUSPENDED: KeyRef("asleep", 1),
    KeyState.DEACTIVATED: KeyRef("old", 1),
    KeyState.COMPROMISED: KeyRef("lost", 1),
}
"""Keys under policy `main` that are not active."""


@final
@dataclass
class Clock:
    """The broker's clock, which stands still until a test moves it."""

    now: int = NOW

    def __call__(self) -> int:
        """Return unix seconds."""
        return self.now

    @contextmanager
    def at(self, now: int) -> Iterator[None]:
        """Let it be another time in the block."""
        before, self.now = self.now, now
        try:
            yield
        finally:
            self.now = before


@final
@dataclass(frozen=True)
class Prepared:
    """A broker's home with tenants in it, and what their vendors hold."""

    home: Path
    simulated: bool
    signers: Mapping[str, Ed25519PrivateKey]
    tenants: Mapping[str, Tenant]
    dek: bytes
    policies: Mapping[str, bytes]

    @property
    def settings(self) -> Settings:
        """What the home's settings file says."""
        return broker_settings.load(self.home)

    def copied(self, target: Path) -> Prepared:
        """Return this with a copy of the home at `target`."""
        shutil.copytree(self.home, target, ignore=shutil.ignore_patterns(FOLDER))
        copy_home(self.home, target)
        return replace(self, home=target)


def anchor_of(tenant: Tenant) -> bytes:
    """Return what a launch for this tenant puts into MRCONFIGID."""
    return binding.anchor(bytes(tenant.genesis.broker), tenant.digest)


def td(tenant: Tenant, **launch: Any) -> TdxMachine:
    """Return a simulated TD, launched for this tenant unless told otherwise."""
    launch.setdefault("config", anchor_of(tenant))
    return TdxMachine(vendors.platform(), launch_td(LaunchRequest(**launch)))


def snp(tenant: Tenant, **launch: Any) -> SnpMachine:
    """Return a simulated SNP guest on a Genoa chip."""
    launch.setdefault("config", anchor_of(tenant)[:32])
    return SnpMachine(vendors.chip("Genoa"), launch_snp(LaunchRequest(**launch), "Genoa"))


def azure(tenant: Tenant, tee: str, *, tpm: FakeTpm | None = None, **launch: Any) -> AzureMachine:
    """Return a simulated VM in Azure on `tdx` or `snp`, whose guest was launched for the tenant."""
    launch.setdefault("config", anchor_of(tenant))
    on = paravisor(tee, debug=launch.get("debug", False))
    hardware = (
        TdxMachine(vendors.platform(), launch_td(on))
        if tee == "tdx"
        else SnpMachine(vendors.chip("Genoa"), launch_snp(on, "Genoa"))
    )
    return AzureMachine(hardware, measure(tpm or vendors.tpm(), LaunchRequest(**launch)))


def gcp(tenant: Tenant, tee: str, *, tpm: FakeTpm | None = None, **launch: Any) -> GcpMachine:
    """Return a simulated VM at Google on `tdx` or `snp`, launched for the tenant."""
    return GcpMachine((td if tee == "tdx" else snp)(tenant, **launch), tpm or vendors.tpm("host"))


def write_settings(home: Path, *, simulated: bool) -> None:
    """Write the home's settings; a simulated one trusts the session's vendors."""
    home.mkdir(parents=True, exist_ok=True)
    text = 'mode = "demo"\n'
    if simulated:
        roots = {
            "intel": [vendors.fake_intel().root_pin.hex()],
            "amd": {"Genoa": vendors.fake_amd("Genoa").root_pin("Genoa").hex()},
        }
        (home / "roots.json").write_text(json.dumps(roots))
        text += f'dangerously_trust_simulated_hardware = "{CONFIRMATION}"\n'
        text += 'simulated_roots = "roots.json"\n'
    (home / broker_settings.FILE).write_text(text)


def write_collateral(home: Path, **overrides: Any) -> None:
    """Put the vendors' endorsements into the home; overrides as for `FakeIntel.collateral`."""
    folder = home / "collateral"
    (folder / "tdx").mkdir(parents=True, exist_ok=True)
    (folder / "tdx" / "x.json").write_text(json.dumps(vendors.good_collateral(**overrides)))
    amd = vendors.fake_amd("Genoa")
    (folder / "snp" / "Genoa").mkdir(parents=True, exist_ok=True)
    for role in ("ark", "ask"):
        (folder / "snp" / "Genoa" / f"{role}.der").write_bytes(amd.certificate("Genoa", role))
    (folder / "snp" / "Genoa" / "crl.der").write_bytes(amd.crl("Genoa", NOW))


def policy_for(tenant: Tenant, *keys: KeyRef, name: str, **release: Any) -> vendor.PolicyFile:
    """Return a policy that admits the demo image of this tenant: on hardware and in Azure."""
    body = td(tenant).body
    report = snp(tenant).launched
    above = launch_td(paravisor("tdx"))
    pcrs = azure(tenant, "tdx").tpm.pcrs
    return vendor.PolicyFile(
        name=name,
        keys=tuple(f"{ref.id}/{ref.version}" for ref in keys),
        manifests=(Hex(MANIFEST),),
        release=Release(**{"lease_seconds": 3600, "max_leases": 1 << 16} | release),
        appraisal=AppraisalPolicy(
            reference=(
                TdxReference(
                    name="td",
                    mr_td=Hex(body.mr_td),
                    rtmr0=Hex(body.rtmr0),
                    rtmr1=Hex(body.rtmr1),
                    rtmr2=Hex(body.rtmr2),
                    mr_config_id=Hex(body.mr_config_id),
                ),
                SnpReference(
                    name="guest",
                    measurement=Hex(report.measurement),
                    host_data=Hex(report.host_data),
                ),
                TdxReference(
                    name="paravisor on Intel",
                    mr_td=Hex(above.mr_td),
                    rtmr0=Hex(above.rtmr0),
                    rtmr1=Hex(above.rtmr1),
                    rtmr2=Hex(above.rtmr2),
                ),
                SnpReference(
                    name="paravisor on AMD",
                    measurement=Hex(launch_snp(paravisor("snp"), "Genoa").measurement),
                ),
                TpmReference(
                    name="guest in Azure",
                    pcrs={str(index): Hex(pcrs[index]) for index in (0, 4, 7, 8, 9)},
                ),
            )
        ),
    )


def prepare(home: Path, *, simulated: bool) -> Prepared:
    """Make a home as operator and vendors do; a simulated one gets all keys, a real one `MODEL`."""
    write_settings(home, simulated=simulated)
    write_collateral(home)
    init_token(home, simulated=simulated)
    settings = broker_settings.load(home)

    async def make() -> Prepared:
        await migrate(database_url(settings, home))
        async with open_services(home, settings, now=Clock()) as opened:
            names = (TENANT, RIVAL) if simulated else (TENANT,)
            signers = {name: Ed25519PrivateKey.generate() for name in names}
            tenants = {name: await _enrol(opened, name, signers[name]) for name in names}
            dek = secrets.token_bytes(32)
            workshop = _Workshop(opened, tenants[TENANT], signers[TENANT])
            policies = await workshop.everything(dek, whole=simulated)
        return Prepared(home, simulated, signers, tenants, dek, policies)

    return asyncio.run(make())


async def _enrol(opened: Services, name: str, key: Ed25519PrivateKey) -> Tenant:
    begun = await opened.tenants.begin(name)
    genesis = Genesis(
        v=1,
        tenant=name,
        created=NOW,
        signers=(B64(dsse.spki(key.public_key())),),
        threshold=1,
        broker=Hex(opened.broker),
        broker_key=B64(opened.info.broker_key),
        log_key=B64(begun.log_key),
        tree=Hex(begun.tree),
        simulated=opened.info.simulated,
    )
    envelope = vendor.sign_genesis(genesis, key)
    await opened.tenants.enrol(envelope, now=NOW)
    return Tenant.read(envelope)


@final
@dataclass(frozen=True)
class _Workshop:
    """A vendor at work, past the door."""

    opened: Services
    tenant: Tenant
    key: Ed25519PrivateKey

    @property
    def caller(self) -> Caller:
        return caller_of(self.tenant.genesis.tenant)

    async def everything(self, dek: bytes, *, whole: bool) -> dict[str, bytes]:
        spki = await self.opened.keys.create_import_key(self.caller, TENANT)
        await self._import(MODEL, dek, spki)
        rest = (SECOND, BARE, SINGLE, *STATES.values()) if whole else ()
        for ref in rest:
            await self._import(ref, secrets.token_bytes(32), spki)
        governed = (MODEL, SECOND, *STATES.values()) if whole else (MODEL,)
        policies = {"main": await self._policy(policy_for(self.tenant, *governed, name="main"))}
        for ref in (MODEL, *rest):
            if ref != STATES[KeyState.PRE_ACTIVATION]:
                await self.order(ref, KeyState.ACTIVE)
        if whole:
            single = policy_for(self.tenant, SINGLE, name="single", max_leases=1)
            policies["single"] = await self._policy(single)
            for state, ref in STATES.items():
                if state is not KeyState.PRE_ACTIVATION:
                    await self.order(ref, state)
        return policies

    async def _import(self, ref: KeyRef, dek: bytes, spki: bytes) -> None:
        ciphertext = seal_dek(dek, spki)
        statement = ImportStatement(
            v=1,
            genesis=Hex(self.tenant.digest),
            key=ref,
            ciphertext=Hex(hashlib.sha256(ciphertext).digest()),
            import_key=Hex(hashlib.sha256(spki).digest()),
            manifest=Hex(MANIFEST),
        )
        signed = dsse.sign(STATEMENT_TYPE, canonical.encode(statement), self.key)
        await self.opened.keys.push(self.caller, TENANT, signed, ciphertext)

    async def _policy(self, document: vendor.PolicyFile) -> bytes:
        signed = vendor.sign_policy(document, self.tenant, self.key, version=1)
        await self.opened.policies.push(self.caller, TENANT, signed)
        return signed

    async def order(self, ref: KeyRef, state: KeyState) -> None:
        head = (await self.opened.keys.state(self.caller, TENANT)).head
        order = vendor.sign_order(self.tenant, self.key, ref, state, epoch=head.epoch)
        await self.opened.keys.order(self.caller, TENANT, order)


def caller_of(tenant: str) -> Caller:
    """Return a caller who is one of the tenant's signers, as the door makes one."""
    return Caller(tenant, tenant, "00" * 32, bytes(32))
