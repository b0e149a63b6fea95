"""Appraise a TDX quote: genuine first, and only then acceptable."""

from __future__ import annotations

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal
from verifier.tdx.collateral import TdxCollateral
from verifier.tdx.validate import validate
from verifier.tdx.verify import verify


def appraise_tdx(
    appraisal: Appraisal,
    quote: bytes,
    collateral: TdxCollateral | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    """Judge a TDX quote and record every check in `appraisal`; see `verify` and `validate`."""
    genuine = verify(appraisal, quote, collateral, now=now, anchors=anchors, cache=cache)
    if genuine is None:
        return
    tcb = genuine.tcb
    appraisal.tcb_status = tcb.status
    appraisal.advisory_ids = tcb.advisories
    appraisal.claims["tcb"] = {
        "platform": tcb.platform.value,
        "module": None if tcb.module is None else tcb.module.value,
        "qe": tcb.qe.value,
        "date": x509.rfc3339(tcb.date),
    }
    validate(appraisal, genuine, policy=policy, report_data=report_data, now=now)
