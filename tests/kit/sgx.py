"""SGX for tests: a simulated enclave's quotes, judged as the program judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ostiary.simulator.quote import EnclaveReport, quote_sgx
from tests.kit import vendors
from tests.kit.tdx import collateral
from tests.kit.vendors import NOW, good_collateral
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy
from verifier.result import AttestationResult
from verifier.tdx.collateral import TdxCollateral

DEFAULT = object()
ENCLAVE: Final = EnclaveReport(
    attributes=bytes.fromhex("0500000000000000e700000000000000"),
    mrenclave=b"\x01" * 32,
    mrsigner=b"\x02" * 32,
    isvprodid=7,
    isvsvn=3,
    report_data=b"\x2a" * 64,
)


def good_quote(version: int = 3, **fields: Any) -> bytes:
    """Return a genuine simulated quote of `ENCLAVE` with other fields."""
    return quote_sgx(vendors.platform(), replace(ENCLAVE, **fields), version=version)


def judge(
    quote: bytes | None = None,
    *,
    endorsements: TdxCollateral | Mapping[str, Any] | object | None = DEFAULT,
    policy: AppraisalPolicy | None = None,
    report_data: bytes | None = None,
    now: int = NOW,
    cache: Cache | None = None,
    **knobs: Any,
) -> AttestationResult:
    """Return the result for a quote that is good but for what the arguments change.

    `knobs` are fields of the simulator's `QuoteShape`, and `version`.
    """
    if quote is None:
        quote = quote_sgx(vendors.platform(), ENCLAVE, **knobs)
    if endorsements is DEFAULT:
        endorsements = good_collateral(tee="sgx")
    if isinstance(endorsements, Mapping):
        endorsements = collateral(endorsements)
    assert endorsements is None or isinstance(endorsements, TdxCollateral)
    return appraise(
        Evidence("sgx", quote),
        endorsements,
        policy=policy,
        report_data=report_data,
        now=now,
        anchors=vendors.anchors(),
        cache=cache,
    )
