"""TDX for tests: a simulated Intel's quotes and collateral, judged as the program judges them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC, FakeIntel
from ostiary.simulator.pck import Platform
from ostiary.simulator.quote import TdBody, quote_v4
from tests.kit import vendors
from tests.kit.vendors import NOW
from verifier import x509
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy
from verifier.result import AttestationResult, Verdict
from verifier.tdx import collateral as collaterals
from verifier.tdx.collateral import TdxCollateral

HEADER_END = 48
V4_BODY_END = HEADER_END + 584
DEFAULT = object()


def collateral(parts: Mapping[str, Any] | None = None, **overrides: Any) -> TdxCollateral:
    """Return collateral as the verifier reads it; good unless told otherwise."""
    told = vendors.good_collateral(**overrides) if parts is None else parts
    return collaterals.from_json(json.dumps(dict(told)).encode())


def tcb_info(**changes: Any) -> dict[str, Any]:
    """Return good TCB info as a document, with other arguments of the simulator's `tcb_info`."""
    arguments: dict[str, Any] = {"fmspc": FMSPC, "pceid": bytes(2), **changes}
    return dict(tcb.tcb_info(NOW, **arguments))


def serial(der: bytes) -> int:
    """Return a certificate's serial number."""
    return x509.serial_number(x509.load_der(der, "certificate"))


def judge(
    *,
    vendor: FakeIntel | None = None,
    machine: Platform | None = None,
    quote: bytes | None = None,
    body: TdBody | None = None,
    endorsements: TdxCollateral | Mapping[str, Any] | object | None = DEFAULT,
    policy: AppraisalPolicy | None = None,
    report_data: bytes | None = None,
    now: int = NOW,
    cache: Cache | None = None,
    **knobs: Any,
) -> AttestationResult:
    """Return the result for a quote that is good but for what the arguments change.

    `knobs` are fields of the simulator's `QuoteShape`.
    """
    intel = vendor or vendors.fake_intel()
    if quote is None:
        host = machine or (vendors.platform() if vendor is None else intel.platform())
        quote = quote_v4(host, body or vendors.good_body(), **knobs)
    if endorsements is DEFAULT:
        endorsements = intel.collateral(NOW)
    if isinstance(endorsements, Mapping):
        endorsements = collateral(endorsements)
    assert endorsements is None or isinstance(endorsements, TdxCollateral)
    return appraise(
        Evidence("tdx", quote),
        endorsements,
        policy=policy,
        report_data=report_data,
        now=now,
        anchors=Anchors().with_simulated(intel=[intel.root_pin]),
        cache=cache,
    )


def refused(result: AttestationResult, *reasons: Reason, saying: str = "") -> bool:
    """Tell whether the verdict is reject for exactly these reasons, with these words somewhere."""
    told = " ".join(f"{c.name}: {c.expected} / {c.seen}" for c in result.checks if c.ok is False)
    assert result.verdict is Verdict.REJECT, told
    assert result.reasons == reasons, told
    assert saying in told, told
    return True


def accepted(result: AttestationResult) -> bool:
    """Tell whether the verdict is accept, showing what failed if not."""
    assert result.verdict is Verdict.ACCEPT, [c for c in result.checks if c.ok is False]
    return True
