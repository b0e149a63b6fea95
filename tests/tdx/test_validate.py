"""Acceptability: attributes, TCB status rules, reference tuples, report data."""

from __future__ import annotations

from typing import Any

import pytest

from ostiary.simulator import tcb
from ostiary.simulator.quote import quote_v5
from tests.kit import vendors
from tests.kit.tdx import accepted, judge, refused, tcb_info
from tests.kit.vendors import NOW, good_body, good_collateral
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, GpuRules, TdxReference, TdxRules
from verifier.result import AttestationResult, TcbStatus
from verifier.wire.canonical import Hex

S = TcbStatus
FIELDS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
OPTIONAL = ("rtmr3", "mr_config_id", "mr_owner", "mr_owner_config", "mr_seam")
SEPT_VE = 1 << 28


def reference(name: str = "demo", **changes: Any) -> TdxReference:
    values: dict[str, Any] = {field: Hex(getattr(good_body(), field)) for field in FIELDS}
    return TdxReference(name=name, **values | {k: Hex(v) for k, v in changes.items()})


def policy(*references: TdxReference, **rules: Any) -> AppraisalPolicy:
    return AppraisalPolicy(tdx=TdxRules(**rules), reference=references or (reference(),))


def with_attributes(attributes: int, **rules: Any) -> AttestationResult:
    body = good_body(td_attributes=attributes.to_bytes(8, "little"))
    return judge(body=body, policy=policy(**rules))


def with_status(status: str, advisories: tuple[str, ...] = (), **rules: Any) -> AttestationResult:
    level = tcb.tcb_level(
        sgx=tcb.SGX_CURRENT,
        pcesvn=13,
        tdx=(0,) * 16,
        status=status,
        date=tcb.iso(NOW - 1000),
        advisories=advisories,
    )
    fine = [tcb.isv_level(4, "UpToDate", tcb.iso(NOW))]
    info = tcb_info(levels=[level], modules=[tcb.module_identity("TDX_01", fine)])
    identity = tcb.qe_identity(NOW, levels=fine)
    endorsements = good_collateral(tcb_info=info, qe_identity=identity)
    return judge(endorsements=endorsements, policy=policy(**rules))


@pytest.mark.parametrize("bit", range(64))
def test_every_attribute_bit_has_a_rule(bit: int) -> None:
    """Only PKS and KL may be set beside SEPT_VE_DISABLE; each other bit has its reason."""
    result = with_attributes(SEPT_VE | 1 << bit)

    if bit in (28, 30, 31):
        assert accepted(result)
    else:
        named = {0: Reason.DEBUG_ENABLED, 29: Reason.MIGRATION_ALLOWED}
        assert refused(result, named.get(bit, Reason.ATTRIBUTES_REFUSED))


def test_attribute_bits_are_admitted_by_their_own_switch_only() -> None:
    """Each switch admits one bit; none admits a reserved one."""
    assert accepted(with_attributes(SEPT_VE | 1, allow_debug=True))
    assert refused(with_attributes(SEPT_VE | 3, allow_debug=True), Reason.ATTRIBUTES_REFUSED)
    assert accepted(with_attributes(SEPT_VE | 1 << 29, allow_migratable=True))
    assert accepted(with_attributes(SEPT_VE | 1 << 63, allow_perfmon=True))
    assert refused(
        with_attributes(SEPT_VE | 1 << 62, allow_perfmon=True), Reason.ATTRIBUTES_REFUSED
    )
    assert refused(with_attributes(0), Reason.ATTRIBUTES_REFUSED, saying="SEPT_VE_DISABLE")
    assert accepted(with_attributes(0, require_sept_ve_disable=False))


@pytest.mark.parametrize("bit", range(64))
def test_every_xfam_bit_has_a_rule(bit: int) -> None:
    """XFAM bits 0 and 1 must be set, those outside the allowed mask must not."""
    body = good_body(xfam=(0x3 ^ 1 << bit).to_bytes(8, "little"))
    result = judge(body=body)

    if bit > 1 and 0x6DBE7 >> bit & 1:
        assert accepted(result)
    else:
        assert refused(result, Reason.ATTRIBUTES_REFUSED, saying="xfam")


def test_a_service_td_is_refused_unless_listed() -> None:
    """A service TD may change the TD after its launch."""
    service = b"\x11" * 48
    quote = quote_v5(vendors.platform(), good_body(mr_service_td=service))

    assert refused(judge(quote=quote), Reason.SERVICE_TD)
    assert accepted(judge(quote=quote, policy=policy(service_tds=(Hex(service),))))
    other = policy(service_tds=(Hex(b"\x12" * 48),))
    assert refused(judge(quote=quote, policy=other), Reason.SERVICE_TD)


@pytest.mark.parametrize("status", [s for s in S if not s.startswith("TDRelaunch")])
def test_only_up_to_date_is_admitted_by_default(status: TcbStatus) -> None:
    """Every other status is a refusal that says so, and never an error."""
    result = with_status(status)

    assert result.tcb_status is status
    if status is S.UP_TO_DATE:
        assert accepted(result)
    else:
        reason = Reason.TCB_REVOKED if status is S.REVOKED else Reason.TCB_STATUS
        assert refused(result, reason)


ADVISED = (S.SW_HARDENING_NEEDED, S.CONFIGURATION_NEEDED, S.CONFIGURATION_AND_SW_HARDENING_NEEDED)


@pytest.mark.parametrize("status", S)
def test_advisories_admit_three_statuses(status: TcbStatus) -> None:
    """A list of advisories admits hardening and configuration advice, all of them listed."""
    if status.startswith("TDRelaunch"):
        return
    allowed = ("INTEL-SA-1", "INTEL-SA-2")
    good = status in (*ADVISED, S.UP_TO_DATE)
    reason = Reason.TCB_REVOKED if status is S.REVOKED else Reason.TCB_STATUS

    result = with_status(status, ("INTEL-SA-1",), advisories_allowed=allowed)
    assert accepted(result) if good else refused(result, reason)
    if status in ADVISED:
        more = ("INTEL-SA-1", "INTEL-SA-3")
        assert refused(with_status(status, more, advisories_allowed=allowed), reason)
        assert refused(with_status(status, (), advisories_allowed=allowed), reason)
        assert refused(with_status(status, ("INTEL-SA-1",)), reason)


def test_out_of_date_has_a_bounded_grace() -> None:
    """OutOfDate is admitted until tcbDate plus the grace, and the result ends with it."""
    inside = with_status("OutOfDate", out_of_date_grace=1000)

    assert accepted(inside)
    assert inside.expires == NOW
    assert refused(with_status("OutOfDate", out_of_date_grace=999), Reason.TCB_STATUS)
    assert refused(
        with_status("OutOfDateConfigurationNeeded", out_of_date_grace=1000), Reason.TCB_STATUS
    )
    assert refused(with_status("Revoked", out_of_date_grace=1000), Reason.TCB_REVOKED)


def test_a_status_may_be_admitted_by_name() -> None:
    """The policy's list counts, but for Revoked."""
    assert accepted(with_status("OutOfDate", tcb_statuses=(S.OUT_OF_DATE,)))
    assert refused(with_status("UpToDate", tcb_statuses=(S.OUT_OF_DATE,)), Reason.TCB_STATUS)
    assert refused(with_status("Revoked", tcb_statuses=(S.REVOKED,)), Reason.TCB_REVOKED)


@pytest.mark.parametrize("low", ["tcb_info", "qe_identity"])
def test_old_evaluation_numbers_are_refused(low: str) -> None:
    """The minimum counts for TCB info and QE identity alike: dates cannot tell the sets apart."""
    documents: dict[str, Any] = {
        "tcb_info": tcb_info(evaluation_number=17 if low == "tcb_info" else 19),
        "qe_identity": tcb.qe_identity(NOW, evaluation_number=17 if low != "tcb_info" else 19),
    }
    endorsements = good_collateral(**documents)

    assert accepted(judge(endorsements=endorsements, policy=policy(min_tcb_evaluation_number=17)))
    assert refused(
        judge(endorsements=endorsements, policy=policy(min_tcb_evaluation_number=18)),
        Reason.COLLATERAL_TOO_OLD,
    )


def test_platforms_may_be_listed() -> None:
    """With a list of PPIDs only those platforms are admitted."""
    ppid = vendors.platform().sgx.ppid

    assert accepted(judge(policy=policy(ppids=(Hex(ppid),))))
    assert refused(judge(policy=policy(ppids=(Hex(bytes(16)),))), Reason.PLATFORM_NOT_ALLOWED)


@pytest.mark.parametrize("field", [*FIELDS, *OPTIONAL])
def test_each_reference_value_counts(field: str) -> None:
    """A value that differs in one bit is another image, and the refusal names it."""
    value = bytearray(getattr(good_body(), field))
    changes: dict[str, Any] = {field: bytes(value)}
    good = reference(**changes)
    value[-1] ^= 1
    changes = {field: bytes(value)}
    bad = reference(**changes)

    assert accepted(judge(policy=policy(good)))
    assert refused(judge(policy=policy(bad)), Reason.MEASUREMENT_UNKNOWN, saying=f"{field} of demo")


def test_references_are_whole_tuples() -> None:
    """One image's launch measurement with another's boot chain is neither of them."""
    one, two = b"\1" * 48, b"\2" * 48
    first = reference("first", mr_td=one, rtmr0=one, rtmr1=one, rtmr2=one)
    second = reference("second", mr_td=two, rtmr0=two, rtmr1=two, rtmr2=two)
    mixed = good_body(mr_td=one, rtmr0=one, rtmr1=two, rtmr2=one)
    whole = good_body(mr_td=two, rtmr0=two, rtmr1=two, rtmr2=two)

    assert accepted(judge(body=whole, policy=policy(first, second)))
    result = judge(body=mixed, policy=policy(second, first))
    assert refused(result, Reason.MEASUREMENT_UNKNOWN)
    assert [c.name for c in result.checks if c.ok is False] == ["rtmr1 of first"]


def test_no_policy_judges_no_measurement_and_says_so() -> None:
    """Without a policy measurements and report data are told, not judged."""
    result = judge()

    assert accepted(result)
    expected = {c.name: c.expected for c in result.checks if c.ok is None}
    assert expected["measurements"] == "not judged: no reference values"
    assert expected["report_data"].startswith("not judged")


def test_a_policy_without_references_refuses() -> None:
    """An empty policy admits nothing."""
    assert refused(judge(policy=AppraisalPolicy()), Reason.NO_REFERENCE_VALUES)


def test_a_policy_that_wants_gpus_refuses() -> None:
    """GPU evidence is not part of this version, so a policy that wants it is not met."""
    wanting = AppraisalPolicy(gpu=GpuRules(count=8), reference=(reference(),))

    assert refused(judge(policy=wanting), Reason.GPU_EVIDENCE_MISSING)


def test_report_data_is_compared_in_full() -> None:
    """All 64 bytes count: no prefix, no padding, nothing empty."""
    data = bytes(range(64))
    body = good_body(report_data=data)

    assert accepted(judge(body=body, report_data=data))
    for other in (b"", data[:32], data[:63], data + b"\0", data[:63] + b"\0", bytes(64)):
        assert refused(judge(body=body, report_data=other), Reason.REPORT_DATA_MISMATCH)


def test_all_reasons_are_told_at_once() -> None:
    """One refusal lists everything that is wrong with a genuine quote."""
    body = good_body(td_attributes=(1 | 1 << 29 | 1 << 40).to_bytes(8, "little"), mr_td=b"\1" * 48)
    result = judge(
        body=body,
        report_data=b"\1" * 64,
        policy=policy(min_tcb_evaluation_number=99, tcb_statuses=(S.OUT_OF_DATE,)),
    )

    assert refused(
        result,
        Reason.TCB_STATUS,
        Reason.COLLATERAL_TOO_OLD,
        Reason.DEBUG_ENABLED,
        Reason.ATTRIBUTES_REFUSED,
        Reason.MIGRATION_ALLOWED,
        Reason.MEASUREMENT_UNKNOWN,
        Reason.REPORT_DATA_MISMATCH,
    )


def test_a_debug_td_still_tells_its_tcb() -> None:
    """The TCB status is told although the verdict is reject."""
    result = with_attributes(SEPT_VE | 1)

    assert refused(result, Reason.DEBUG_ENABLED)
    assert result.tcb_status is S.UP_TO_DATE
