"""Appraise an SGX quote: genuine first, and only then acceptable."""

from __future__ import annotations

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal
from verifier.sgx.validate import validate
from verifier.tdx.collateral import TdxCollateral
from verifier.tdx.quote import parse_sgx
from verifier.tdx.verify import verify


def appraise_sgx(
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
    """Judge an SGX quote and record every check in `appraisal`; see `verify` and `validate`."""
    genuine = verify(
        appraisal, quote, collateral, parse=parse_sgx, now=now, anchors=anchors, cache=cache
    )
    if genuine is None:
        return
    validate(appraisal, genuine, policy=policy, report_data=report_data, now=now)
