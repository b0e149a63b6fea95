"""Appraise a piece of evidence: the one function of the verifier, for whoever comes here first.

    appraise(evidence, endorsements, policy=..., report_data=..., now=...) -> AttestationResult

Evidence is what a machine says of itself: a TDX or SGX quote, or a SEV-SNP report. Endorsements are
what its vendor signs about such machines: certificates, revocation lists, TCB levels. The policy
says what the relying party wants: rules, and reference values for what it knows to be good. The
result lists every check with what was expected and what was seen.

Guarantees: pure (no network, clock, file or log); bad input gives a result, never an exception;
the verdict is `accept` only if the evidence is genuine, by a pinned root, and broke no rule.
What is not given is not passed over in silence: without endorsements the verdict is `reject`;
without a policy the strict default rules hold and measurements are told as "not judged"; a policy
without reference values for this kind is a `reject`.

Does not guarantee freshness: for that, `report_data` must bind a challenge of the caller's. Does
not say what an accepted machine may do; that is for whoever reads the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, assert_never, final

from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal, AttestationResult
from verifier.sgx.appraise import appraise_sgx
from verifier.snp import SnpEndorsements, appraise_snp
from verifier.tdx.appraise import appraise_tdx
from verifier.tdx.collateral import TdxCollateral

T = TypeVar("T", TdxCollateral, SnpEndorsements)

Endorsements = TdxCollateral | SnpEndorsements


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What a machine says of itself.

    `kind` comes from the challenge and the policy, never from the bytes. `cpu` is the quote or the
    report as the hardware wrote it. `event_log` is replayed against a TDX quote's registers; for
    other kinds, whose CPU evidence has none, it is carried along and not judged.
    """

    kind: Literal["tdx", "snp", "sgx"]
    cpu: bytes
    event_log: bytes = b""


def appraise(
    evidence: Evidence,
    endorsements: Endorsements | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    anchors: Anchors = PINNED,
    cache: Cache | None = None,
) -> AttestationResult:
    """Return what can be said of the evidence.

    Args:
        evidence: a TDX or SGX quote, or a SEV-SNP report.
        endorsements: of the same vendor; None is refused with `collateral_missing`.
        policy: rules and reference values; None is strict rules and measurements not judged.
        report_data: the 64 bytes that the evidence must carry; None is not judged.
        now: unix seconds, UTC; every date and revocation list is judged by it.
        anchors: the vendors' roots, pinned in this package.
        cache: kept by the caller to check the signatures of one vendor document once.
    """
    appraisal = Appraisal(evidence.kind)
    try:
        if evidence.kind == "tdx":
            appraise_tdx(
                appraisal,
                evidence.cpu,
                _of_kind(endorsements, TdxCollateral),
                policy=policy,
                report_data=report_data,
                now=now,
                anchors=anchors,
                cache=cache,
                event_log=evidence.event_log,
            )
        elif evidence.kind == "sgx":
            appraise_sgx(
                appraisal,
                evidence.cpu,
                _of_kind(endorsements, TdxCollateral),
                policy=policy,
                report_data=report_data,
                now=now,
                anchors=anchors,
                cache=cache,
            )
        elif evidence.kind == "snp":
            appraise_snp(
                appraisal,
                evidence.cpu,
                _of_kind(endorsements, SnpEndorsements),
                policy=policy,
                report_data=report_data,
                now=now,
                anchors=anchors,
                cache=cache,
            )
        else:
            assert_never(evidence.kind)
    except VerifierError as error:
        appraisal.fail("genuine", error)
    if policy is not None and policy.gpu.count:
        appraisal.require(
            "gpus", False, Reason.GPU_EVIDENCE_MISSING, f"evidence of {policy.gpu.count}", "none"
        )
    return appraisal.result()


def _of_kind(endorsements: Endorsements | None, kind: type[T]) -> T | None:
    if endorsements is None or isinstance(endorsements, kind):
        return endorsements
    raise VerifierError(
        Reason.KIND_MISMATCH,
        f"endorsements: {kind.__name__} expected, {type(endorsements).__name__} seen",
    )
