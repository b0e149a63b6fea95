"""Is a genuine GPU or switch acceptable: nonce, mode, versions, measurements, revocation?

Guarantees: every rule is looked at and recorded, so that a refusal lists all its reasons; a device
without its RIMs, or that this version does not know in full, is refused by name. Chips that are
known in full are GH100 and LS10: for those a complete real set has passed. Blackwell is compared as
far as its RIMs go, and refused all the same. Nothing about a set: `topology` does that.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final, final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import measure, revocation, rim, spdm
from verifier.nvgpu.device import Genuine, Told, rim_ids
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.nvgpu.identity import DeviceKind
from verifier.nvgpu.opaque import FieldType
from verifier.nvgpu.rim import Rim
from verifier.policy import GpuRules
from verifier.result import Appraisal

_BLOCKS: Final = {"GH100": 64, "LS10": 31, "GB100": 64}
"""Measurement blocks by chip; all of them digests."""
_SUPPORTED: Final = frozenset({"GH100", "LS10"})
_ON: Final = 0xAA
_OFF: Final = 0x55
_MODES: Final = {0: "spt", 1: "mpt", 2: "ppcie"}
_DEVICE_LEVELS: Final = ("brom", "ica", "identity")
_RIM_LEVELS: Final = ("signer", "l3", "ca")

_RimName = tuple[rim.Kind, str, str]


@final
@dataclass(slots=True)
class Context:
    """What devices of one set are judged by, and what was found for one of them already.

    `revocation_required` False skips revocation altogether, and the result says so.
    """

    endorsements: GpuEndorsements
    rules: GpuRules
    nonce: bytes | None
    now: int
    anchors: Anchors
    cache: Cache | None
    revocation_required: bool = True
    rims: dict[_RimName, Rim | VerifierError] = field(default_factory=dict)
    revoked: dict[tuple[int, int, bool], tuple[revocation.Subject, Appraisal]] = field(
        default_factory=dict
    )
    """By identity, which is faster than by bytes, and safe because the objects are held here."""


def validate(told: Told, genuine: Genuine, context: Context) -> None:
    """Judge one genuine device and record every check in `told`.

    Raises:
        VerifierError: a field of the report has no form that is known.
    """
    appraisal, who, rules = told.appraisal, genuine.chain.identity, context.rules

    # 1. What it says of itself.
    told.driver = genuine.opaque.driver_version()
    told.vbios = genuine.opaque.vbios_version()
    told.mode = _mode(genuine) if who.kind is DeviceKind.GPU else None
    _nonce(appraisal, genuine, context)
    _fwid(appraisal, genuine, rules)

    # 2. Known in full, or refused by name.
    known = _known(appraisal, genuine)
    if known and who.kind is DeviceKind.GPU:
        appraisal.require(
            "arch",
            who.arch in rules.archs,
            Reason.PLATFORM_NOT_ALLOWED,
            " or ".join(rules.archs),
            who.arch,
        )
        _judge_mode(appraisal, told.mode, genuine, rules)
    _listed(appraisal, genuine, rules)
    _floors(told, genuine, rules)

    # 3. What it measured is what NVIDIA made; nothing behind that was revoked.
    if who.chip in _BLOCKS:
        _measured(told, genuine, context, must=known)
    _revocation(appraisal, "revocation", genuine.chain.subjects, _DEVICE_LEVELS, context)


def _nonce(appraisal: Appraisal, genuine: Genuine, context: Context) -> None:
    seen = genuine.report.nonce
    if context.nonce is None:
        appraisal.not_judged("nonce", seen.hex(), "no expected nonce: not shown to be fresh")
        return
    appraisal.require(
        "nonce",
        hmac.compare_digest(seen, context.nonce),
        Reason.NONCE_MISMATCH,
        context.nonce.hex(),
        seen.hex(),
    )


def _fwid(appraisal: Appraisal, genuine: Genuine, rules: GpuRules) -> None:
    """A GPU says which firmware reports, but for old drivers; LS10 never does."""
    seen = genuine.opaque.get(FieldType.FWID)
    if seen is None and (
        genuine.chain.identity.kind is DeviceKind.SWITCH or not rules.require_fwid
    ):
        appraisal.not_judged("fwid", "absent", "the report does not tell")
        return
    shown = "absent: a driver that is too old" if seen is None else seen.hex()
    appraisal.require("fwid", seen is not None, Reason.GPU_FWID, genuine.chain.fwid.hex(), shown)


def _known(appraisal: Appraisal, genuine: Genuine) -> bool:
    """Tell whether chip and report are of a form that is known in full; record what is not."""
    who, fields, blocks = genuine.chain.identity, genuine.opaque, genuine.report.blocks
    seen = []
    if who.chip not in _SUPPORTED:
        seen.append(f"{who.arch} {who.chip}")
    if fields.header:
        seen.append(f"opaque data of layout {fields.layout}")
    if fields.unknown:
        seen.append(f"opaque fields {', '.join(map(str, fields.unknown))}")
    count = _BLOCKS.get(who.chip)
    digests = all(
        block.kind == spdm.DIGEST and len(block.value) == rim.MEASUREMENT_SIZE
        for block in blocks.values()
    )
    if count is not None and (list(blocks) != list(range(1, count + 1)) or not digests):
        seen.append(f"{len(blocks)} measurement blocks instead of {count} SHA-384 digests")
    return appraisal.require(
        "supported",
        not seen,
        Reason.GPU_UNSUPPORTED,
        " or ".join(sorted(_SUPPORTED)),
        "; ".join(seen) or who.chip,
    )


def _mode(genuine: Genuine) -> str | None:
    """Return the mode that a GPU reports; None if it does not, or reports one without a name.

    Drivers before 580 have no feature flag, those of 535 and 545 no protected PCIe, nor FWID.

    Raises:
        VerifierError: `malformed`.
    """
    fields = genuine.opaque
    flag = fields.number(FieldType.FEATURE_FLAG, 2)
    pcie = fields.number(FieldType.PROTECTED_PCIE_STATUS, 1)
    if flag is not None:
        return _MODES.get(flag)
    if pcie is None:
        return "spt" if fields.get(FieldType.FWID) is None else None
    return {_ON: "ppcie", _OFF: "spt"}.get(pcie)


def _judge_mode(appraisal: Appraisal, mode: str | None, genuine: Genuine, rules: GpuRules) -> None:
    pcie = genuine.opaque.number(FieldType.PROTECTED_PCIE_STATUS, 1)
    agree = (mode == "ppcie") == (pcie == _ON)
    appraisal.require(
        "mode",
        mode in rules.modes and agree,
        Reason.GPU_MODE,
        " or ".join(rules.modes),
        f"{mode or 'unknown'}, protected PCIe {'absent' if pcie is None else f'{pcie:02x}'}",
    )


def _listed(appraisal: Appraisal, genuine: Genuine, rules: GpuRules) -> None:
    seen = genuine.chain.identity.device_id
    if not rules.device_ids:
        appraisal.not_judged("device_id", seen.hex(), "any device")
        return
    appraisal.require(
        "device_id",
        seen in rules.device_ids,
        Reason.PLATFORM_NOT_ALLOWED,
        f"one of {len(rules.device_ids)} that are listed",
        seen.hex(),
    )


def _floors(told: Told, genuine: Genuine, rules: GpuRules) -> None:
    """Hold driver and VBIOS versions against the rules' floors, part by part."""
    who = genuine.chain.identity
    floors: list[tuple[str, str | None, str | None, int]] = [
        ("vbios", rules.min_vbios.get(who.chip), told.vbios, 16)
    ]
    if who.kind is DeviceKind.GPU:
        floors.append(("driver", rules.min_driver, told.driver, 10))
    for name, floor, seen, base in floors:
        if floor is None:
            told.appraisal.not_judged(name, seen or "absent", "no floor")
            continue
        told.appraisal.require(
            name,
            seen is not None and _parts(seen, base) >= _parts(floor, base),
            Reason.TCB_BELOW_MINIMUM,
            f"at least {floor}",
            seen or "absent",
        )


def _parts(version: str, base: int) -> tuple[int, ...]:
    return tuple(int(part, base) for part in version.split("."))


def _measured(told: Told, genuine: Genuine, context: Context, *, must: bool) -> None:
    """Compare the report's blocks with its RIMs, after finding these.

    Without `must` the device is refused anyway, and a RIM that is missing adds nothing to that.
    """
    appraisal, who = told.appraisal, genuine.chain.identity
    appraisal.claims["rim_ids"] = ids = rim_ids(who.chip, genuine.opaque)
    versions = {"driver": told.driver, "vbios": told.vbios, "switch": told.vbios}
    rims: dict[rim.Kind, Rim] = {}
    for kind, wanted in ids.items():
        found = _rim((kind, who.chip, versions[kind] or ""), context)
        if isinstance(found, VerifierError):
            if must or found.reason is not Reason.COLLATERAL_MISSING:
                appraisal.require(f"rim.{kind}", False, found.reason, wanted, found)
            else:
                appraisal.not_judged(f"rim.{kind}", wanted, str(found))
            continue
        _tell_rim(appraisal, kind, found, context)
        rims[kind] = found
    if rims.keys() != ids.keys():
        appraisal.not_judged("measurements", f"{len(genuine.report.blocks)} blocks", "no RIMs")
        return
    comparison = measure.compare(
        {at: block.value for at, block in genuine.report.blocks.items()},
        rims.get("driver"),
        rims["switch"] if who.kind is DeviceKind.SWITCH else rims["vbios"],
        genuine.opaque.number(FieldType.NVDEC0_STATUS, 1),
    )
    total = len(comparison.compared)
    appraisal.claims["compared"] = list(comparison.compared)
    appraisal.claims["skipped"] = list(comparison.skipped)
    appraisal.claims["mismatches"] = [each.index for each in comparison.mismatches]
    appraisal.require(
        "measurements",
        comparison.ok,
        Reason.GPU_MEASUREMENT,
        f"{total} golden values",
        f"{total - len(comparison.mismatches)} of {total} match, {len(comparison.skipped)} skipped"
        + "".join(f"; {each}" for each in comparison.mismatches),
    )


def _tell_rim(appraisal: Appraisal, kind: rim.Kind, found: Rim, context: Context) -> None:
    name = f"rim.{kind}"
    late = "" if found.expired is None else ", of a signer past its time"
    seen = f"{found.id}, SHA-256 {found.sha256.hex()}{late}"
    appraisal.require(name, True, Reason.COLLATERAL_MISSING, "signed by NVIDIA", seen)
    appraisal.claims.setdefault("rims", {})[kind] = found.claims()
    appraisal.simulated |= found.simulated
    appraisal.limit(found.expires)
    _revocation(appraisal, f"{name}.revocation", found.subjects, _RIM_LEVELS, context, of_rim=True)


def _rim(wanted: _RimName, context: Context) -> Rim | VerifierError:
    """Return the RIM of this kind, chip and version, or why there is none; looked up once a set."""
    if wanted not in context.rims:
        rules = context.rules
        try:
            context.rims[wanted] = rim.find(
                context.endorsements.rims,
                *wanted,
                now=context.now,
                anchors=context.anchors,
                cache=context.cache,
                pinned_expired=frozenset(rules.expired_rims),
                pins=frozenset(rules.rims),
            )
        except VerifierError as error:
            context.rims[wanted] = error
    return context.rims[wanted]


def _revocation(
    appraisal: Appraisal,
    name: str,
    subjects: tuple[revocation.Subject, ...],
    levels: tuple[str, ...],
    context: Context,
    *,
    of_rim: bool = False,
) -> None:
    """Judge each certificate once a set, and record it with every device that rests on it."""
    if not context.revocation_required:
        appraisal.not_judged(name, "not looked at", "the caller asked for none")
        return
    for subject, level in zip(subjects, levels, strict=True):
        certificate, issuer = subject
        key = (id(certificate), id(issuer), of_rim)
        if key not in context.revoked:
            inner = Appraisal("nvidia")
            revocation.judge(
                inner,
                level,
                (subject,),
                context.endorsements,
                context.rules,
                now=context.now,
                cache=context.cache,
                rim=of_rim,
            )
            context.revoked[key] = (subject, inner)
        appraisal.take(context.revoked[key][1], name)
