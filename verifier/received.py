"""Evidence as it came over the wire, made ready for appraisal.

Guarantees: every part that was received is handed on, to be judged or refused by kind; whatever
the kind needs of an Azure machine's HCL report is read before anybody asks for endorsements. Judges
nothing itself.
"""

from __future__ import annotations

from typing import Literal

from verifier.appraise import Evidence
from verifier.azure import hcl
from verifier.errors import Reason, VerifierError
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.tpm.appraise import TpmEvidence
from verifier.wire import messages


def hardware(
    kind: messages.Kind, evidence: messages.Evidence
) -> tuple[Literal["tdx", "snp"], bytes]:
    """Return whose endorsements this evidence needs, and the quote or report that names them.

    Raises:
        VerifierError: `hardware_report_missing`; `malformed` and the like for an HCL report that is
            not one.
    """
    if kind == "azure-snp":
        raw = b"" if evidence.vtpm is None else evidence.vtpm.hcl_report
        return "snp", hcl.parse(_given(raw, kind)).hardware
    _given(evidence.cpu, kind)
    return "tdx" if kind in {"tdx", "azure-tdx", "gcp-tdx"} else "snp", evidence.cpu


def _given(raw: bytes, kind: messages.Kind) -> bytes:
    if raw:
        return raw
    raise VerifierError(
        Reason.HARDWARE_REPORT_MISSING,
        f"{kind}: the hardware's report expected, none given: a TPM alone proves nothing",
    )


def evidence(kind: messages.Kind, received: messages.Evidence) -> Evidence:
    """Return what `appraise` judges.

    The AK is always named, so that the one which report data is bound to must be the one that
    quotes; empty is not a key, and refused.
    """
    vtpm, gpus = received.vtpm, devices(received)
    if vtpm is None:
        return Evidence(
            kind,
            received.cpu,
            event_log=received.event_log,
            runtime_log=received.runtime_log,
            gpus=gpus,
        )
    banks: dict[str, dict[int, bytes]] = {}
    for pcr in vtpm.pcrs:
        banks.setdefault(pcr.bank, {})[pcr.index] = pcr.value
    return Evidence(
        kind,
        received.cpu,
        event_log=received.event_log,
        runtime_log=received.runtime_log,
        hcl_report=vtpm.hcl_report,
        tpm=TpmEvidence(
            attest=vtpm.message,
            signature=vtpm.signature,
            ak=received.ak,
            pcrs=banks,
            ak_certificate=vtpm.certificates[0] if vtpm.certificates else None,
            ak_issuers=vtpm.certificates[1:],
            event_log=vtpm.event_log,
        ),
        gpus=gpus,
    )


def devices(received: messages.Evidence) -> tuple[DeviceEvidence, ...]:
    """Return the GPUs and switches that were received, in the order sent."""
    return tuple(
        DeviceEvidence(DeviceKind(each.kind), bytes(each.report), bytes(each.chain))
        for each in received.gpus
    )
