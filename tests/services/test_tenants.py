"""Enrolling a tenant: once, and completed whatever was cut off."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.errors import Code
from broker.log.sequencer import Sequencer
from broker.tenants.service import TenantService
from tests.kit.store import NOW, House, SoftSigner, Vendor, house, in_loop, refusal
from verifier import dsse


def service(built: House[SoftSigner]) -> TenantService:
    return TenantService(built.store, built.sequencer, built.hsm)


async def other_genesis(built: House[SoftSigner], name: str) -> tuple[Vendor, bytes]:
    """Return another vendor and its genesis for `name`."""
    vendor = Vendor(ed25519.Ed25519PrivateKey.generate())
    begun = await built.hsm.begin_tenant(name)
    return vendor, vendor.genesis(name, begun, dsse.spki(built.hsm.broker_key.public_key()))


@in_loop
async def test_enrolling_again_changes_nothing(tmp_path: Path) -> None:
    """The same genesis again leaves one leaf and one row."""
    async with house(tmp_path) as built:
        before = built.sql("SELECT * FROM trees"), built.sql("SELECT * FROM tenants")

        again = await service(built).enrol(built.tenant.envelope, now=NOW + 9)

        assert again == built.tenant
        assert (built.sql("SELECT * FROM trees"), built.sql("SELECT * FROM tenants")) == before


@in_loop
async def test_enrolment_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    """With the worker lost before leaf 0 was signed, the same genesis goes on from there."""
    async with house(tmp_path) as built:
        _, envelope = await other_genesis(built, "globex")

        class Fails(SoftSigner):
            async def extend(self, g: bytes, start: int, leaves_: tuple[bytes, ...]) -> bytes:
                self.down = True
                return await super().extend(g, start, leaves_)

        built.hsm.__class__ = Fails
        cut = await refusal(service(built).enrol(envelope, now=NOW))
        built.hsm.__class__, built.hsm.down = SoftSigner, False
        restarted = Sequencer(built.store, built.hsm)
        tenant = await TenantService(built.store, restarted, built.hsm).enrol(envelope, now=NOW)
        await restarted.recover()

        assert cut.code is Code.LOG_UNAVAILABLE
        assert (await built.hsm.head(tenant.g)).size == 1
        assert [t.name for t in await service(built).everyone()] == ["acme", "globex"]


@in_loop
async def test_name_belongs_to_its_first_genesis(tmp_path: Path) -> None:
    """Another genesis under an enrolled name is a conflict."""
    async with house(tmp_path) as built:
        _, envelope = await other_genesis(built, "acme")

        assert (await refusal(service(built).enrol(envelope, now=NOW))).code is Code.CONFLICT
        assert (await service(built).find("acme")).g == built.g


@in_loop
async def test_genesis_must_be_signed_by_its_own_signers(tmp_path: Path) -> None:
    """A genesis that somebody else signed enrols nobody."""
    async with house(tmp_path) as built:
        _, envelope = await other_genesis(built, "globex")
        stranger = Vendor(ed25519.Ed25519PrivateKey.generate())
        forged = stranger.sign(
            "application/vnd.ostiary.genesis.v1+json", dsse.payload_unverified(envelope)
        )

        assert (await refusal(service(built).enrol(forged, now=NOW))).code is Code.FORBIDDEN
        assert (await refusal(service(built).enrol(b"{}", now=NOW))).code is Code.FORBIDDEN
        assert (await refusal(service(built).find("globex"))).code is Code.NOT_FOUND


@in_loop
async def test_genesis_with_another_log_key_is_the_hsms_to_refuse(tmp_path: Path) -> None:
    """A genesis that names a log key of somebody else's making leaves no row."""
    async with house(tmp_path) as built:
        vendor = Vendor(ed25519.Ed25519PrivateKey.generate())
        begun = await built.hsm.begin_tenant("globex")
        await built.hsm.begin_tenant("initech")
        other = await built.hsm.begin_tenant("initech")
        mixed = type(begun)(begun.tree, other.log_key)
        envelope = vendor.genesis("globex", mixed, dsse.spki(built.hsm.broker_key.public_key()))

        assert (await refusal(service(built).enrol(envelope, now=NOW))).code is Code.HSM_REFUSED
        assert built.sql("SELECT name FROM tenants") == [("acme",)]


@in_loop
async def test_tenant_names_are_identifiers(tmp_path: Path) -> None:
    """A name that is no identifier never reaches the HSM."""
    async with house(tmp_path) as built:
        for name in ("", "A", "a/b", "x" * 64):
            assert (await refusal(service(built).begin(name))).code is Code.MALFORMED


@in_loop
async def test_worker_that_is_down_is_said_so(tmp_path: Path) -> None:
    """Beginning a tenant without a worker is `hsm_unavailable`."""
    async with house(tmp_path) as built:
        built.hsm.down = True

        assert (await refusal(service(built).begin("globex"))).code is Code.HSM_UNAVAILABLE
