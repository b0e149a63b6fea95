"""Is a genuine Intel platform acceptable? What TDX and SGX have in common.

Guarantees: TCB status, evaluation numbers, platform and report data are each judged and listed.
Says nothing about signatures (`verify`) nor about what runs there (`validate`, of each TEE).

Source: Intel PCS API v4 (TCB status, tcbEvaluationDataNumber).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from verifier import x509
from verifier.errors import Reason
from verifier.policy import SgxRules, TdxRules
from verifier.result import Appraisal, TcbStatus
from verifier.tdx.tcb import Tcb
from verifier.tdx.verify import Genuine

IntelRules: TypeAlias = TdxRules | SgxRules

_ADVISED: Final = (
    TcbStatus.SW_HARDENING_NEEDED,
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
)
"""Statuses that a list of known advisories may admit."""


def validate(appraisal: Appraisal, genuine: Genuine[Any], rules: IntelRules, now: int) -> None:
    """Judge the platform that made a genuine quote, at `now` (unix seconds)."""
    _tcb_status(appraisal, genuine.tcb, rules, now)
    _evaluation_numbers(appraisal, genuine, rules)
    _platform(appraisal, genuine, rules)


def report_data(appraisal: Appraisal, seen: bytes, expected: bytes | None) -> None:
    """Judge REPORTDATA (64 bytes); None is not judged."""
    if expected is None:
        appraisal.not_judged("report_data", seen.hex(), "no expected report data")
        return
    appraisal.require(
        "report_data",
        seen == expected,
        Reason.REPORT_DATA_MISMATCH,
        expected.hex(),
        seen.hex(),
    )


def _tcb_status(appraisal: Appraisal, tcb: Tcb, rules: IntelRules, now: int) -> None:
    status = tcb.status
    seen = f"{status.value}, {x509.rfc3339(tcb.date)[:10]}"
    if tcb.advisories:
        seen += f", {' '.join(tcb.advisories)}"
    if status is TcbStatus.REVOKED:
        appraisal.require("tcb_status", False, Reason.TCB_REVOKED, "not Revoked", seen)
        return
    admitted = status in rules.tcb_statuses
    expected = " or ".join(rules.tcb_statuses)
    if not admitted and rules.advisories_allowed and status in _ADVISED:
        admitted = bool(tcb.advisories) and set(tcb.advisories) <= set(rules.advisories_allowed)
        expected += f", or no advisory but {' '.join(rules.advisories_allowed)}"
    if not admitted and rules.out_of_date_grace > 0 and status is TcbStatus.OUT_OF_DATE:
        end = tcb.date + rules.out_of_date_grace
        admitted = now <= end
        expected += f", or OutOfDate until {x509.rfc3339(end)}"
        if admitted:
            appraisal.limit(end)
    appraisal.require("tcb_status", admitted, Reason.TCB_STATUS, expected, seen)


def _evaluation_numbers(appraisal: Appraisal, genuine: Genuine[Any], rules: IntelRules) -> None:
    minimum = rules.min_tcb_evaluation_number
    numbers = (
        genuine.collateral.tcb_info.evaluation_number,
        genuine.collateral.qe_identity.evaluation_number,
    )
    appraisal.require(
        "tcb_evaluation_number",
        min(numbers) >= minimum,
        Reason.COLLATERAL_TOO_OLD,
        f"at least {minimum} in TCB info and QE identity",
        f"{numbers[0]} and {numbers[1]}",
    )


def _platform(appraisal: Appraisal, genuine: Genuine[Any], rules: IntelRules) -> None:
    if rules.ppids:
        appraisal.require(
            "platform",
            genuine.pck.sgx.ppid in rules.ppids,
            Reason.PLATFORM_NOT_ALLOWED,
            "a PPID that the policy lists",
            genuine.pck.sgx.ppid.hex(),
        )
