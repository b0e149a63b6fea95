"""Appraise a set of NVIDIA GPUs and switches: each device, then all of them together.

Guarantees: pure, and offline: what NVIDIA vouches comes in as bytes. One device that fails, or
whose evidence cannot even be read, denies the set, and its checks, such as `gpu[3].signature`, name
it; no device's result is another's. Without RIMs and revocation a device is told to be genuine and
is not accepted. An empty set is refused: no evidence is not "no GPUs needed".

Does not bind the set to a CPU: for that, `nonce` must come from the challenge and the CPU's report
data commit to the evidence (`verifier.wire.binding`). Source: docs/architecture.md, "GPUs".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import device, topology
from verifier.nvgpu.device import DeviceEvidence, DeviceKind, DeviceResult, Told
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.nvgpu.validate import Context, validate
from verifier.policy import MAX_GPUS, AppraisalPolicy, GpuRules
from verifier.result import Appraisal, AttestationResult

_PREFIXES: Final = {DeviceKind.GPU: "gpu", DeviceKind.SWITCH: "switch"}


def appraise(
    devices: Sequence[DeviceEvidence],
    endorsements: GpuEndorsements | None,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
    revocation_required: bool = True,
) -> AttestationResult:
    """Return the result of a set by itself, of kind "nvidia"; arguments as of `appraise_gpus`."""
    appraisal = Appraisal("nvidia")
    try:
        appraise_gpus(
            appraisal,
            devices,
            endorsements,
            policy=policy,
            nonce=nonce,
            now=now,
            anchors=anchors,
            cache=cache,
            revocation_required=revocation_required,
        )
    except VerifierError as error:
        appraisal.fail("gpus", error)
    return appraisal.result()


def appraise_gpus(
    appraisal: Appraisal,
    devices: Sequence[DeviceEvidence],
    endorsements: GpuEndorsements | None,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
    revocation_required: bool = True,
) -> tuple[DeviceResult, ...]:
    """Judge a set, record every check in `appraisal`, and return a result for each device.

    Args:
        appraisal: takes the checks, and the results as claim `devices`.
        devices: in the order sent.
        endorsements: of all of them; None is none.
        policy: how many of which; None does not judge the count, and the other rules are strict.
        nonce: the 32 bytes that every device must have been asked with; None is not judged.
        now: unix seconds, UTC.
        anchors: the pinned roots.
        cache: of certificate chains, RIMs and revocations.
        revocation_required: False judges no revocation, and the result says so.

    Raises:
        VerifierError: `gpu_evidence_missing` for an empty set, `too_large` for one beyond all
            machines or for too many endorsements.
    """
    if not devices:
        raise VerifierError(Reason.GPU_EVIDENCE_MISSING, "a set of no devices")
    if len(devices) > 2 * MAX_GPUS:
        raise VerifierError(
            Reason.TOO_LARGE, f"{len(devices)} devices, at most {2 * MAX_GPUS} expected"
        )
    given = GpuEndorsements() if endorsements is None else endorsements
    context = Context(
        endorsements=given,
        rules=GpuRules() if policy is None else policy.gpu,
        nonce=nonce,
        now=now,
        anchors=anchors,
        cache=Cache() if cache is None else cache,  # a set has much in common
        revocation_required=revocation_required,
    )
    told = _named(devices)
    for each in told:
        _judge(each, context)
    results = tuple(each.result() for each in told)
    for each in told:
        appraisal.take(each.appraisal, each.name)
    topology.judge(appraisal, told, None if policy is None else policy.gpu)
    appraisal.claims["devices"] = [each.to_dict() for each in results]
    return results


def _named(devices: Sequence[DeviceEvidence]) -> list[Told]:
    """Give each device its name: kind, and place among those of its kind."""
    told = []
    places = dict.fromkeys(DeviceKind, 0)
    for each in devices:
        told.append(Told(f"{_PREFIXES[each.kind]}[{places[each.kind]}]", each))
        places[each.kind] += 1
    return told


def _judge(told: Told, context: Context) -> None:
    """Judge one device: genuine, then acceptable; whatever happens is recorded with it."""
    name = "genuine"
    try:
        told.genuine = device.verify(
            told.appraisal,
            told.evidence,
            now=context.now,
            anchors=context.anchors,
            cache=context.cache,
        )
        name = "fields"
        validate(told, told.genuine, context)
    except VerifierError as error:
        told.appraisal.fail(name, error)
