"""Appraise a TDX quote: genuine first, and only then acceptable."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.eventlog.appraise import RTMR_RUNTIME, appraise_log, parse, parse_tdx
from verifier.eventlog.boot import BootClaims
from verifier.eventlog.log import EventLog
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal
from verifier.tdx.body import TdBody
from verifier.tdx.collateral import TdxCollateral
from verifier.tdx.quote import parse as parse_quote
from verifier.tdx.validate import validate
from verifier.tdx.verify import verify

_BANK: Final = "sha384"
"""RTMRs have one bank (TDX Module ABI)."""


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
    runtime_log: bytes = b"",
) -> None:
    """Judge a TDX quote and record every check in `appraisal`; see `verify` and `validate`.

    An `event_log` is replayed against the quote's RTMRs; one that does not replay is a refusal,
    whether or not a reference value names what it would prove. So is a `runtime_log`: the AAEL that
    software keeps of RTMR 3 after boot, beside a log of the boot that leaves RTMR 3 alone.
    """
    genuine = verify(
        appraisal, quote, collateral, parse=parse_quote, now=now, anchors=anchors, cache=cache
    )
    if genuine is None:
        return
    boot = _boot(appraisal, genuine.quote.body, event_log) if event_log else None
    if runtime_log:
        boot = _runtime(appraisal, genuine.quote.body, runtime_log, boot)
    validate(appraisal, genuine, policy=policy, report_data=report_data, now=now, boot=boot)


def _boot(appraisal: Appraisal, body: TdBody, event_log: bytes) -> BootClaims | None:
    """Return what the log proves, or None where it is refused."""
    rtmrs = dict(enumerate((body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3)))
    try:
        log = parse_tdx(event_log)
    except VerifierError as error:
        appraisal.fail("event_log.read", error)
        return None
    return appraise_log(appraisal, log, {_BANK: rtmrs})


def _runtime(
    appraisal: Appraisal, body: TdBody, runtime_log: bytes, boot: BootClaims | None
) -> BootClaims | None:
    """Return what both logs prove; what the boot log proves where the runtime log is refused."""
    try:
        log = parse(runtime_log, "aael", register=RTMR_RUNTIME)
        _from_zero(log)
    except VerifierError as error:
        appraisal.fail("runtime_log.read", error)
        return boot
    found = appraise_log(
        appraisal,
        log,
        {_BANK: {RTMR_RUNTIME: body.rtmr3}},
        prefix="runtime_log",
        claim="runtime",
    )
    if found is None or boot is None:
        return found or boot
    return replace(boot, images=found.images)


def _from_zero(log: EventLog) -> None:
    """Refuse a log that begins where something was extended already.

    The first line of an AAEL says what the register held; a later start would hide what was there
    before, and still replay. A TD's RTMR 3 starts at zero, and no other log that is read beside
    this one extends it: dstack's does, and then does not replay to the quote.
    """
    start = log.initial.get((_BANK, RTMR_RUNTIME))
    if start is None:
        raise VerifierError(
            Reason.EVENT_LOG_MISMATCH, f"runtime log: {_BANK} expected, {log.banks[0]} seen"
        )
    if any(start):
        raise VerifierError(
            Reason.EVENT_LOG_REFUSED,
            f"runtime log: it starts at {start.hex()}, so that it hides what RTMR 3 took before",
        )
