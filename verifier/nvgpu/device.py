"""Is a GPU or switch genuine: does one of NVIDIA's devices say this, with the firmware it names?

Guarantees: `verify` returns only for a report that the chain's leaf key signed, under a pinned
root, from a device of the kind that was asked for, whose firmware id (FWID), where it is in the
report, is that of the leaf. Chip and device id come from the certificates. Does not say whether the
firmware is good, the nonce ours, or the certificates revoked: `validate` does.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Any, Final, final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import chain, opaque, rim, spdm
from verifier.nvgpu.chain import DeviceChain
from verifier.nvgpu.identity import DeviceKind
from verifier.nvgpu.opaque import FieldType, Opaque
from verifier.nvgpu.spdm import Report
from verifier.result import Appraisal, Check, Claims, Verdict

__all__ = ["DeviceEvidence", "DeviceKind", "DeviceResult", "Genuine", "Told", "rim_ids", "verify"]

_ARCHS: Final = {"ls10": "nvswitch"}


@final
@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """What one device says of itself: `report` is request and response, `chain` PEM as sent."""

    kind: DeviceKind
    report: bytes
    chain: bytes


@final
@dataclass(frozen=True, slots=True)
class Genuine:
    """A device that proved to be NVIDIA's, and what it said."""

    chain: DeviceChain
    report: Report
    opaque: Opaque

    @property
    def pdi(self) -> bytes:
        """The device's own PDI."""
        return self.chain.identity.pdi


@final
@dataclass(slots=True)
class Told:
    """What is found out about one device of a set, in order; None is not (yet) known.

    `name` is its place in the set, such as "gpu[0]". `mode` is "spt", "mpt" or "ppcie".
    """

    name: str
    evidence: DeviceEvidence
    appraisal: Appraisal = field(default_factory=lambda: Appraisal("nvidia"))
    genuine: Genuine | None = None
    driver: str | None = None
    vbios: str | None = None
    mode: str | None = None

    def result(self) -> DeviceResult:
        """Return the device's own result."""
        found = self.appraisal.result()
        who = None if self.genuine is None else self.genuine.chain.identity
        return DeviceResult(
            name=self.name,
            kind=self.evidence.kind,
            genuine=self.genuine is not None,
            device_id=None if who is None else who.device_id,
            chip=None if who is None else who.chip,
            arch=None if who is None else _ARCHS.get(who.arch, who.arch),
            driver=self.driver,
            vbios=self.vbios,
            mode=self.mode,
            verdict=found.verdict,
            reasons=found.reasons,
            checks=found.checks,
            claims=found.claims,
        )


@final
@dataclass(frozen=True, slots=True)
class DeviceResult:
    """What is said of one device of a set; what it is counts only if `genuine`."""

    name: str
    kind: DeviceKind
    genuine: bool
    device_id: bytes | None
    chip: str | None
    arch: str | None
    driver: str | None
    vbios: str | None
    mode: str | None
    verdict: Verdict
    reasons: tuple[Reason, ...]
    checks: tuple[Check, ...]
    claims: Claims

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the checks, which stand among those of the set."""
        return {
            "name": self.name,
            "kind": self.kind.name.lower(),
            "genuine": self.genuine,
            "device_id": None if self.device_id is None else self.device_id.hex(),
            "chip": self.chip,
            "arch": self.arch,
            "driver": self.driver,
            "vbios": self.vbios,
            "mode": self.mode,
            "verdict": self.verdict.value,
            "reasons": [reason.value for reason in self.reasons],
            "claims": dict(self.claims),
        }


def verify(
    appraisal: Appraisal,
    evidence: DeviceEvidence,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
) -> Genuine:
    """Return what a genuine device said; record each step in `appraisal`.

    Args:
        appraisal: takes checks and claims.
        evidence: of one device.
        now: unix seconds.
        anchors: the pinned roots.
        cache: certificate chains that were checked before.

    Raises:
        VerifierError: why it is not genuine; nothing that it says counts then.
    """
    # 1. Take the report apart; believe none of it.
    report = spdm.parse(evidence.report)
    blocks = f"{len(report.blocks)} blocks"
    appraisal.require("report", True, Reason.MALFORMED, "well formed", blocks)

    # 2. The chain: five certificates, every link signed, a pinned root, valid now.
    found = chain.load(evidence.chain, cache)
    found.check_root(anchors)
    appraisal.limit(found.check_dates(now))
    appraisal.simulated |= anchors.is_simulated(found.root_spki)
    who = found.identity
    appraisal.require("chain", True, Reason.CHAIN_INVALID, "to NVIDIA's root", who.model)

    # 3. The leaf's key signed request and response.
    if not report.verifies(found.key):
        raise VerifierError(Reason.SIGNATURE_INVALID, "report: not signed by the leaf's key")
    appraisal.require("signature", True, Reason.SIGNATURE_INVALID, "the leaf's", "the leaf's")

    # 4. It is of the kind that was asked for; the certificates know.
    if who.kind is not evidence.kind:
        raise VerifierError(
            Reason.KIND_MISMATCH, f"{evidence.kind.name} expected, {who.kind.name} {who.chip} seen"
        )

    # 5. The firmware that made the report is the one that the leaf was issued to.
    fields = opaque.parse(report.opaque)
    fwid = fields.get(FieldType.FWID, chain.FWID_SIZE)
    if fwid is not None and not hmac.compare_digest(fwid, found.fwid):
        raise VerifierError(
            Reason.GPU_FWID, f"FWID: the leaf's {found.fwid.hex()} expected, {fwid.hex()} seen"
        )

    # 6. A switch names itself; it must be the one whose certificate this is.
    if who.kind is DeviceKind.SWITCH and fields.own_pdi() != who.pdi:
        raise VerifierError(Reason.CHIP_ID_MISMATCH, f"switch: PDI {who.pdi.hex()} expected")
    _tell(appraisal, found, report, fields)
    return Genuine(found, report, fields)


def _tell(appraisal: Appraisal, found: DeviceChain, report: Report, fields: Opaque) -> None:
    who = found.identity
    appraisal.claims |= {
        "device_id": who.device_id.hex(),
        "chip": who.chip,
        "model": who.model,
        "nonce": report.nonce.hex(),
        "fwid": found.fwid.hex(),
        "opaque_layout": fields.layout,
        "opaque": opaque.claims(fields),
        "changes": list(fields.counters()),
        "measurements": {str(at): block.value.hex() for at, block in report.blocks.items()},
    }


def rim_ids(chip: str, fields: Opaque) -> dict[rim.Kind, str]:
    """Return the names that NVIDIA's service gives to the RIMs of such a device, by kind.

    Raises:
        VerifierError: `malformed` if the report does not say enough.
    """
    vbios = _needed(fields.vbios_version(), FieldType.VBIOS_VERSION)
    if chip.startswith("LS"):
        return {"switch": rim.switch_id(vbios)}
    driver = _needed(fields.driver_version(), FieldType.DRIVER_VERSION)
    project, project_sku, chip_sku = (
        _needed(fields.name(kind), kind)
        for kind in (FieldType.PROJECT, FieldType.PROJECT_SKU, FieldType.CHIP_SKU)
    )
    return {
        "driver": rim.driver_id(chip, driver, fields.name(FieldType.CHIP_INFO)),
        "vbios": rim.vbios_id(project, project_sku, chip_sku, vbios),
    }


def _needed(value: str | None, kind: FieldType) -> str:
    if not value:
        raise VerifierError(Reason.MALFORMED, f"opaque data: {kind.name} expected, absent")
    return value
