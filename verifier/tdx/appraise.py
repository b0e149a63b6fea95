"""Appraise a TDX quote: genuine first, and only then acceptable."""

from __future__ import annotations

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import VerifierError
from verifier.eventlog.appraise import appraise_log, parse_tdx
from verifier.eventlog.boot import BootClaims
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal
from verifier.tdx.body import TdBody
from verifier.tdx.collateral import TdxCollateral
from verifier.tdx.quote import parse
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
    event_log: bytes = b"",
) -> None:
    """Judge a TDX quote and record every check in `appraisal`; see `verify` and `validate`.

    An `event_log` is replayed against the quote's RTMRs; one that does not replay is a refusal,
    whether or not a reference value names what it would prove.
    """
    genuine = verify(
        appraisal, quote, collateral, parse=parse, now=now, anchors=anchors, cache=cache
    )
    if genuine is None:
        return
    boot = _boot(appraisal, genuine.quote.body, event_log) if event_log else None
    validate(appraisal, genuine, policy=policy, report_data=report_data, now=now, boot=boot)


def _boot(appraisal: Appraisal, body: TdBody, event_log: bytes) -> BootClaims | None:
    """Return what the log proves, or None where it is refused."""
    rtmrs = dict(enumerate((body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3)))
    try:
        log = parse_tdx(event_log)
    except VerifierError as error:
        appraisal.fail("event_log.read", error)
        return None
    return appraise_log(appraisal, log, {"sha384": rtmrs})
