"""A broker whose policy demands provenance, machines to prove it of, and bundles about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec

from ostiary import vendor
from ostiary.client import Tenant
from ostiary.simulator.machines import SnpMachine, TdxMachine
from tests.kit import measured
from tests.kit import sigstore as kit
from tests.kit.broker import House
from tests.kit.broker_home import TENANT, snp, td
from verifier.policy import ProvenanceRules, TdxReference
from verifier.provenance import stored
from verifier.provenance.signed import Provenance
from verifier.wire.canonical import Hex
from verifier.wire.messages import Vtpm


@dataclass(frozen=True)
class LoggedTd:
    """A TD that shows its boot log, whose registers are those of its quote."""

    td: TdxMachine
    log: bytes
    kind: str = "tdx"
    ak: bytes = b""

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return a quote and the boot log."""
        return self.td.report(report_data)[0], self.log, b""

    def vtpm(self, report_data: bytes) -> Vtpm | None:
        """Return nothing: there is no TPM."""
        return self.td.vtpm(report_data)

    def claims(self) -> tuple[bytes, bytes]:
        """Return what the TD tells of itself."""
        return self.td.claims()


def logged(tenant: Tenant) -> LoggedTd:
    """Return a TD for a tenant that shows its boot log."""
    maker, machine = measured.ccel_log(), td(tenant)
    rtmrs = {f"rtmr{at}": value for at, value in maker.registers()["sha384"].items() if at >= 0}
    return LoggedTd(replace(machine, body=replace(machine.body, **rtmrs)), maker.raw)


def digest_of(machine: TdxMachine | SnpMachine | LoggedTd) -> tuple[str, bytes]:
    """Return what a rule can demand of a machine, and the SHA-384 that it proves."""
    if isinstance(machine, SnpMachine):
        return "measurement", machine.launched.measurement
    if isinstance(machine, LoggedTd):
        # Of a UKI a TD measures nothing else than of any boot application.
        return "boot_applications", hashlib.sha384(b"kernel").digest()
    return "mr_td", machine.body.mr_td


def rules(subject: str, **changes: Any) -> ProvenanceRules:
    """Return a demand for what `about` signs."""
    told: dict[str, Any] = {
        "subject": subject,
        "identity": kit.IDENTITY,
        "issuer": kit.ISSUER,
        "trusted_roots": (Hex(hashlib.sha256(kit.instance().trusted_root()).digest()),),
        "predicate_type": kit.PREDICATE,
        "repository": kit.REPOSITORY,
        "ref": kit.REF,
    }
    return ProvenanceRules(**(told | changes))


def about(*digests: bytes, **signer: Any) -> bytes:
    """Return one bundle about SHA-384 digests."""
    subject = [{"name": "guest", "digest": {"sha384": digest.hex()}} for digest in digests]
    told = kit.statement({}, subject=subject)
    return kit.raw(kit.instance().attest(told, kit.Signer(**signer)))


def encoded(*bundles: bytes, root: bytes | None = None) -> bytes:
    """Return a set as a vendor sends it."""
    return stored.encode(Provenance(bundles, root or kit.instance().trusted_root()))


@dataclass
class Demanding:
    """A running broker, and the newest version of its tenant's policy."""

    house: House
    signed: bytes
    version: int = 1

    @property
    def digest(self) -> bytes:
        """The SHA-256 that names the version in force."""
        return vendor.policy_digest(self.signed)

    @property
    def target(self) -> str:
        """Where this version's set is handed in."""
        return f"/v1/tenants/{TENANT}/policies/{self.digest.hex()}/provenance"

    def sign(self, *demanded: ProvenanceRules, references: Sequence[TdxReference] = ()) -> None:
        """Sign the next version, which demands just this and also admits these machines."""
        draft = vendor.policy_file(self.signed)
        appraisal = msgspec.structs.replace(
            draft.appraisal,
            provenance=demanded,
            reference=(*draft.appraisal.reference, *references),
        )
        self.version += 1
        self.signed = vendor.sign_policy(
            msgspec.structs.replace(draft, appraisal=appraisal),
            self.house.tenant,
            self.house.key,
            version=self.version,
            predecessor=self.digest,
        )

    def enforce(self) -> None:
        """Put the version in force."""
        self.house.vendor("PUT", "/policies", self.signed)

    def demand(self, *demanded: ProvenanceRules) -> None:
        """Put a version in force that demands just this, and has no set yet."""
        self.sign(*demanded)
        self.enforce()

    def hand_in(self, raw: bytes) -> httpx.Response:
        """Send a set for the version, and return the answer."""
        return self.house.call("PUT", self.target, raw)

    def have(self, *bundles: bytes, root: bytes | None = None) -> bytes:
        """Hand in a set that must be taken, and return its SHA-256."""
        raw = encoded(*bundles, root=root)
        answer = self.hand_in(raw)
        assert answer.json() == {"object": hashlib.sha256(raw).hexdigest()}, answer.text
        return hashlib.sha256(raw).digest()


def admitting(machine: LoggedTd) -> TdxReference:
    """Return a reference that fits a machine."""
    body = machine.td.body
    fields = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "mr_config_id")
    values: dict[str, Any] = {name: Hex(getattr(body, name)) for name in fields}
    return TdxReference(name="logged", **values)


MACHINES: dict[str, Callable[[Tenant], Any]] = {"tdx": td, "snp": snp, "logged": logged}
"""The machines that a policy demands provenance of, by their names in tests."""
