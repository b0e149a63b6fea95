"""Appraise a confidential VM at Google: the hardware report decides, the host's vTPM is shown.

Guarantees: the TD quote or SNP report is judged in full, report data included, exactly as it would
be anywhere else, and nothing is accepted without one. The vTPM's quote and log, where they are
given, are judged by themselves under `vtpm.…`: a bad one denies, a good one repairs nothing.

Does not believe the vTPM: its keys and PCRs are the host's, whom the hardware shuts out, so that
even a certificate by Google's roots says no more than that Google's host says so. Does not know
Google: any TD or SNP guest with the measurements of the policy is as good. Does not check Google's
signed launch endorsement of its firmware: reference values pin the launch measurement instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, GcpRules
from verifier.result import Appraisal
from verifier.snp import SnpEndorsements, appraise_snp
from verifier.tdx.appraise import appraise_tdx
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm.appraise import TpmEvidence, appraise_tpm

_MAKERS: Final = ("gce",)
_SHOWN: Final = "shown only: the hardware report decides"


@final
@dataclass(frozen=True, slots=True)
class GcpEvidence:
    """What a VM at Google says of itself.

    `kind` comes from the challenge and the policy, never from the bytes. `report` is the TD quote
    or SNP report from configfs-tsm, empty where there is none; `event_log` the TD's CCEL,
    `runtime_log` its AAEL; `vtpm` the quote of the host's vTPM with what goes with it, or None.
    """

    kind: Literal["gcp-tdx", "gcp-snp"]
    report: bytes
    event_log: bytes = b""
    runtime_log: bytes = b""
    vtpm: TpmEvidence | None = None


def appraise_gcp(
    appraisal: Appraisal,
    evidence: GcpEvidence,
    endorsements: SnpEndorsements | TdxCollateral | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    nonce: bytes | None,
    nonce_required: bool = True,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
) -> None:
    """Judge the evidence and record every check in `appraisal`; whatever fails is told at once.

    Args:
        appraisal: takes the checks and claims: those of the hardware, and `vtpm`.
        evidence: hardware report, event log, vTPM.
        endorsements: of the hardware; None is refused with `collateral_missing`.
        policy: rules and references; None is strict rules, measurements are not judged.
        report_data: the 64 bytes that the hardware report must carry; None is not judged.
        nonce: the qualifying data that the vTPM's quote must carry, whole.
        nonce_required: False admits None, and the result says that freshness was not judged.
        now: unix seconds, UTC.
        anchors: the pinned roots.
        cache: of the hardware's endorsements.
    """
    try:
        _hardware(
            appraisal,
            evidence,
            endorsements,
            policy=policy,
            report_data=report_data,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    except VerifierError as error:
        appraisal.fail("genuine", error)
    rules = GcpRules() if policy is None else policy.gcp
    if evidence.vtpm is None:
        if rules.require_tpm:
            appraisal.require(
                "vtpm.quote", False, Reason.TPM_QUOTE_MISSING, "a quote of the vTPM", "none"
            )
        else:
            appraisal.not_judged("vtpm.quote", "none", _SHOWN)
        return
    with appraisal.part("vtpm", "vtpm") as inner:
        try:
            appraise_tpm(
                inner,
                evidence.vtpm,
                policy=policy,
                nonce=nonce,
                nonce_required=nonce_required,
                now=now,
                anchors=anchors,
                makers=_MAKERS,
                held_to_references=rules.require_tpm,
                vouched=_SHOWN,
            )
        except VerifierError as error:
            inner.fail("genuine", error)


def _hardware(
    appraisal: Appraisal,
    evidence: GcpEvidence,
    endorsements: SnpEndorsements | TdxCollateral | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    """Judge the report as that of any machine of its kind."""
    if not evidence.report:
        raise VerifierError(
            Reason.HARDWARE_REPORT_MISSING,
            "hardware report: one from configfs-tsm expected, none given: the host's vTPM alone "
            "proves nothing",
        )
    if evidence.kind == "gcp-tdx":
        if isinstance(endorsements, SnpEndorsements):
            raise VerifierError(Reason.KIND_MISMATCH, "endorsements: Intel's expected, AMD's seen")
        appraise_tdx(
            appraisal,
            evidence.report,
            endorsements,
            policy=policy,
            report_data=report_data,
            now=now,
            anchors=anchors,
            cache=cache,
            event_log=evidence.event_log,
            runtime_log=evidence.runtime_log,
        )
        return
    if isinstance(endorsements, TdxCollateral):
        raise VerifierError(Reason.KIND_MISMATCH, "endorsements: AMD's expected, Intel's seen")
    appraise_snp(
        appraisal,
        evidence.report,
        endorsements,
        policy=policy,
        report_data=report_data,
        now=now,
        anchors=anchors,
        cache=cache,
    )
