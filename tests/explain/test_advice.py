"""Advice: every reason has it, and it names what there is."""

from __future__ import annotations

import re

import msgspec
import pytest

from verifier import policy
from verifier.advice import ADVICE, STOPS
from verifier.errors import Reason
from verifier.explain import advice
from verifier.policy import AppraisalPolicy

TABLES = {
    name: getattr(AppraisalPolicy(), name).__struct_fields__
    for name in AppraisalPolicy.__struct_fields__
    if name not in ("reference", "provenance")
} | {
    "provenance": policy.ProvenanceRules.__struct_fields__,
    "reference": tuple(
        field
        for kind in (
            policy.TdxReference,
            policy.SnpReference,
            policy.SgxReference,
            policy.TpmReference,
        )
        for field in kind.__struct_fields__
    ),
}
NAMED = re.compile(r"`(\w+)\.(\w+)`")


def fields(text: str) -> list[tuple[str, str]]:
    return NAMED.findall(text)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_advice(reason: Reason) -> None:
    """One to three plain sentences for every code; none is left out."""
    text = ADVICE[reason]

    assert text.endswith(".")
    assert 1 <= len(re.findall(r"[.!?](?: |$)", text)) <= 3
    assert len(text) < 400


@pytest.mark.parametrize("reason", Reason)
def test_advice_names_real_fields(reason: Reason) -> None:
    """Every `table.field` in the text is a field of a policy."""
    for table, field in fields(ADVICE[reason]):
        assert field in TABLES[table], f"{table}.{field}"


def test_what_a_policy_decides_names_its_field() -> None:
    """Where a rule refuses, the advice names the rule."""
    ruled = [
        Reason.TCB_STATUS,
        Reason.TCB_BELOW_MINIMUM,
        Reason.TCB_PROVISIONAL,
        Reason.DEBUG_ENABLED,
        Reason.ATTRIBUTES_REFUSED,
        Reason.MIGRATION_ALLOWED,
        Reason.SERVICE_TD,
        Reason.VMPL,
        Reason.GUEST_POLICY,
        Reason.PLATFORM_INFO,
        Reason.PLATFORM_NOT_ALLOWED,
        Reason.CHIP_ID_MASKED,
        Reason.CSP_NOT_ALLOWED,
        Reason.REPORT_VERSION_NOT_ALLOWED,
        Reason.GPU_EVIDENCE_MISSING,
        Reason.HASH_NOT_ALLOWED,
        Reason.PCR_MISSING,
        Reason.PCR_NOT_ALLOWED,
        Reason.AK_NOT_CERTIFIED,
        Reason.EVENT_LOG_MISSING,
    ]
    assert [reason for reason in ruled if not fields(ADVICE[reason])] == []


def test_the_table_knows_the_fields() -> None:
    """The check above can fail: a field that is not there is not found."""
    assert "allow_debug" in TABLES["tdx"]
    assert "allow_debugging" not in TABLES["tdx"]
    assert issubclass(policy.TdxRules, msgspec.Struct)


def test_a_revoked_platform_has_no_way_round() -> None:
    """Advice does not name a rule where no rule helps."""
    for reason in (Reason.TCB_REVOKED, Reason.CERTIFICATE_REVOKED, Reason.SIGNATURE_INVALID):
        assert fields(ADVICE[reason]) == []
    assert Reason.SIGNATURE_INVALID in STOPS


@pytest.mark.parametrize(
    "code", ["debug_enabled", "debug_enabled: td_attributes.debug: expected x, seen y"]
)
def test_advice_for_an_audit_line(code: str) -> None:
    """The broker's audit lines start with the code, and give the same advice."""
    assert advice(code) == ADVICE[Reason.DEBUG_ENABLED]


@pytest.mark.parametrize("code", ["", "denied", "the policy starts at 5, now is 4", ":", "DEBUG"])
def test_no_advice_for_other_codes(code: str) -> None:
    """A code that is not the verifier's has none."""
    assert advice(code) is None
