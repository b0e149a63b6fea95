"""Is a genuine TDX quote acceptable? Attributes, TCB status, measurements and report data.

Guarantees: every rule is judged and listed, so that one refusal tells every reason; without a
policy the strict defaults hold. Says nothing about signatures: its input is `Genuine`.

Source: Intel TDX Module ABI (TD_ATTRIBUTES, XFAM); PCS API v4 (TCB status).
"""

from __future__ import annotations

import functools
from typing import Final

from verifier.errors import Reason
from verifier.eventlog import judge
from verifier.eventlog.boot import BootClaims
from verifier.policy import AppraisalPolicy, TdxReference, TdxRules
from verifier.result import Appraisal
from verifier.tdx import platform
from verifier.tdx.body import TdBody
from verifier.tdx.verify import Genuine

# TD_ATTRIBUTES, 64 bits: TUD is bits 0-7, SEC 8-31, OTHER 32-63.
DEBUG: Final = 1 << 0
TUD_RESERVED: Final = 0xFE
SEC_RESERVED: Final = 0x0FFFFF00
SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
OTHER_RESERVED: Final = 0x7FFFFFFF_00000000
PERFMON: Final = 1 << 63

XFAM_FIXED_1: Final = 0x3
XFAM_ALLOWED: Final = 0x6DBE7

_REFERENCE_FIELDS: Final = tuple(
    f for f in TdxReference.__struct_fields__ if f not in ("name", "boot")
)
"""The reference's values have the names that the body's fields have."""


def validate(
    appraisal: Appraisal,
    genuine: Genuine[TdBody],
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    boot: BootClaims | None = None,
) -> None:
    """Judge a genuine quote and record every check.

    Args:
        appraisal: takes the checks.
        genuine: what `verify` returned.
        policy: rules and reference values; None is strict rules and no reference values.
        report_data: the 64 bytes that REPORTDATA must be; None is not judged.
        now: unix seconds, UTC.
        boot: what an event log proves that replays to this quote; None where there is none.
    """
    rules = TdxRules() if policy is None else policy.tdx
    body = genuine.quote.body
    platform.validate(appraisal, genuine, rules, now)
    _attributes(appraisal, body, rules)
    _service_td(appraisal, body, rules)
    _measurements(appraisal, body, policy, boot)
    platform.report_data(appraisal, body.report_data, report_data)


def _attributes(appraisal: Appraisal, body: TdBody, rules: TdxRules) -> None:
    attributes = int.from_bytes(body.td_attributes, "little")
    seen = f"{attributes:#018x}"
    appraisal.require(
        "td_attributes.debug",
        rules.allow_debug or not attributes & DEBUG,
        Reason.DEBUG_ENABLED,
        "allowed" if rules.allow_debug else "DEBUG (bit 0) clear",
        seen,
    )
    reserved = attributes & (TUD_RESERVED | SEC_RESERVED | OTHER_RESERVED)
    appraisal.require(
        "td_attributes.reserved",
        not reserved,
        Reason.ATTRIBUTES_REFUSED,
        "bits 1-27 and 32-62 clear",
        seen,
    )
    appraisal.require(
        "td_attributes.sept_ve_disable",
        bool(attributes & SEPT_VE_DISABLE) or not rules.require_sept_ve_disable,
        Reason.ATTRIBUTES_REFUSED,
        "SEPT_VE_DISABLE (bit 28) set" if rules.require_sept_ve_disable else "not required",
        seen,
    )
    appraisal.require(
        "td_attributes.migratable",
        rules.allow_migratable or not attributes & MIGRATABLE,
        Reason.MIGRATION_ALLOWED,
        "allowed" if rules.allow_migratable else "MIGRATABLE (bit 29) clear",
        seen,
    )
    appraisal.require(
        "td_attributes.perfmon",
        rules.allow_perfmon or not attributes & PERFMON,
        Reason.ATTRIBUTES_REFUSED,
        "allowed" if rules.allow_perfmon else "PERFMON (bit 63) clear",
        seen,
    )
    xfam = int.from_bytes(body.xfam, "little")
    appraisal.require(
        "xfam",
        xfam & XFAM_FIXED_1 == XFAM_FIXED_1 and not xfam & ~XFAM_ALLOWED,
        Reason.ATTRIBUTES_REFUSED,
        f"bits 0 and 1 set, none outside {XFAM_ALLOWED:#x}",
        f"{xfam:#x}",
    )


def _service_td(appraisal: Appraisal, body: TdBody, rules: TdxRules) -> None:
    if body.mr_service_td is None:
        appraisal.not_judged("mr_service_td", "absent", "a TD 1.0 body has no such field")
        return
    appraisal.require(
        "mr_service_td",
        not any(body.mr_service_td) or body.mr_service_td in rules.service_tds,
        Reason.SERVICE_TD,
        "zero, or one that the policy lists" if rules.service_tds else "zero",
        body.mr_service_td.hex(),
    )


def _measurements(
    appraisal: Appraisal, body: TdBody, policy: AppraisalPolicy | None, boot: BootClaims | None
) -> None:
    """Require one whole reference tuple; where none fits, tell how the nearest one differs."""
    if policy is None:
        appraisal.not_judged("measurements", f"mr_td {body.mr_td.hex()}")
        return
    references = policy.candidates(TdxReference, functools.partial(getattr, body))
    if not references:
        appraisal.require(
            "measurements",
            False,
            Reason.NO_REFERENCE_VALUES,
            "a tdx reference in the policy",
            "none",
        )
        return
    nearest = min(references, key=lambda reference: len(_differences(reference, body, boot)))
    differences = _differences(nearest, body, boot)
    if not differences:
        appraisal.require(
            "measurements", True, Reason.MEASUREMENT_UNKNOWN, nearest.name, nearest.name
        )
    for field, expected, seen in differences:
        reason = Reason.MEASUREMENT_UNKNOWN if field != "boot" else Reason.EVENT_LOG_MISSING
        appraisal.require(f"{field} of {nearest.name}", False, reason, expected, seen)


def _differences(
    reference: TdxReference, body: TdBody, boot: BootClaims | None
) -> list[tuple[str, str, str]]:
    """Return name, expected and seen of each value that is given and differs."""
    booted = [] if reference.boot is None else judge.differences(reference.boot, boot)
    return booted + [
        (name, expected.hex(), seen.hex())
        for name in _REFERENCE_FIELDS
        if (expected := getattr(reference, name)) is not None
        and expected != (seen := getattr(body, name))
    ]
