"""Is a genuine enclave acceptable? Attributes, status, identity, platform and report data."""

from __future__ import annotations

from typing import Any

import pytest

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from tests.kit import sgx, vendors
from tests.kit.sgx import judge
from tests.kit.tdx import accepted, refused
from tests.kit.vendors import NOW, good_collateral
from verifier import policy as policies
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, SgxReference, SgxRules
from verifier.result import Verdict
from verifier.wire.canonical import Hex

CODE = Hex(b"\x01" * 32)
SIGNER = Hex(b"\x02" * 32)
OTHER = Hex(b"\x03" * 32)
REFERENCE = SgxReference(name="demo", mrenclave=CODE)


def policy(*references: SgxReference, **rules: Any) -> AppraisalPolicy:
    return AppraisalPolicy(sgx=SgxRules(**rules), reference=references or (REFERENCE,))


def with_flags(flags: int, xfrm: int = 0xE7) -> bytes:
    raw = flags.to_bytes(8, "little") + xfrm.to_bytes(8, "little")
    return sgx.good_quote(attributes=raw)


@pytest.mark.parametrize(
    ("flags", "reason", "admits"),
    [
        (0x07, Reason.DEBUG_ENABLED, {"allow_debug": True}),
        (0x04, Reason.ATTRIBUTES_REFUSED, None),
        (0x15, Reason.ATTRIBUTES_REFUSED, {"allow_provisioning": True}),
        (0x25, Reason.ATTRIBUTES_REFUSED, {"allow_provisioning": True}),
        *[
            (0x05 | 1 << bit, Reason.ATTRIBUTES_REFUSED, None)
            for bit in range(64)
            if bit not in (0, 1, 2, 4, 5, 6, 7, 10)
        ],
    ],
    ids=lambda value: hex(value) if isinstance(value, int) else "",
)
def test_attributes_are_refused_unless_a_rule_admits_them(
    flags: int, reason: Reason, admits: dict[str, Any] | None
) -> None:
    """Debug and provisioning are refused by default, unknown bits always."""
    quote = with_flags(flags)

    assert refused(judge(quote), reason)
    if admits is None:
        everything = policy(allow_debug=True, allow_provisioning=True)
        assert refused(judge(quote, policy=everything), reason)
    else:
        assert accepted(judge(quote, policy=policy(**admits)))


@pytest.mark.parametrize("flags", [0x01, 0x05, 0x45, 0x85, 0x405])
def test_harmless_attributes_are_accepted(flags: int) -> None:
    """32-bit mode, CET, KSS and AEX-notify take nothing away."""
    assert accepted(judge(with_flags(flags)))


@pytest.mark.parametrize("xfrm", [0, 1, 2])
def test_xfrm_has_its_two_fixed_bits(xfrm: int) -> None:
    """x87 and SSE state are always on."""
    assert refused(judge(with_flags(0x05, xfrm)), Reason.ATTRIBUTES_REFUSED, saying="bits 0 and 1")


def test_without_a_policy_the_identity_is_not_judged_and_says_so() -> None:
    """Strict rules hold, and the result names what nothing was there to judge by."""
    result = judge()

    assert accepted(result)
    unjudged = {check.name for check in result.checks if check.ok is None}
    assert unjudged == {"identity", "report_data"}


@pytest.mark.parametrize(
    "reference",
    [
        SgxReference(name="code", mrenclave=CODE),
        SgxReference(name="signer", mrsigner=SIGNER, isvprodid=7),
        SgxReference(name="svn", mrsigner=SIGNER, isvprodid=7, min_isvsvn=3),
        SgxReference(name="all", mrenclave=CODE, mrsigner=SIGNER, isvprodid=7, min_isvsvn=3),
    ],
    ids=lambda reference: reference.name,
)
def test_a_whole_reference_accepts(reference: SgxReference) -> None:
    """By code, by signer and product, with a floor, or by all of them."""
    assert accepted(judge(policy=policy(reference)))


@pytest.mark.parametrize(
    ("reference", "reason", "saying"),
    [
        (SgxReference(name="a", mrenclave=OTHER), Reason.MEASUREMENT_UNKNOWN, "mrenclave of a"),
        (
            SgxReference(name="a", mrsigner=OTHER, isvprodid=7),
            Reason.MEASUREMENT_UNKNOWN,
            "mrsigner of a",
        ),
        (
            SgxReference(name="a", mrsigner=SIGNER, isvprodid=8),
            Reason.MEASUREMENT_UNKNOWN,
            "isvprodid of a",
        ),
        (
            SgxReference(name="a", mrenclave=CODE, min_isvsvn=4),
            Reason.TCB_BELOW_MINIMUM,
            "isvsvn of a",
        ),
    ],
    ids=["code", "signer", "product", "svn"],
)
def test_each_value_of_a_reference_counts(
    reference: SgxReference, reason: Reason, saying: str
) -> None:
    """One value that differs refuses, and is named with both sides."""
    assert refused(judge(policy=policy(reference)), reason, saying=saying)


def test_references_do_not_mix() -> None:
    """The code of one and the signer of another do not make a third."""
    references = (
        SgxReference(name="a", mrenclave=CODE, mrsigner=OTHER),
        SgxReference(name="b", mrenclave=OTHER, mrsigner=SIGNER),
    )

    assert refused(judge(policy=policy(*references)), Reason.MEASUREMENT_UNKNOWN)
    assert accepted(judge(policy=policy(*references, REFERENCE)))


def test_a_policy_without_sgx_references_is_a_reject() -> None:
    """Reference values of other kinds say nothing about enclaves."""
    assert refused(judge(policy=AppraisalPolicy()), Reason.NO_REFERENCE_VALUES)


def test_report_data_is_compared_whole() -> None:
    """All 64 bytes."""
    assert accepted(judge(report_data=b"\x2a" * 64))
    for wrong in (b"\x2a" * 63 + b"\x2b", b"\x2a" * 63, b""):
        assert refused(judge(report_data=wrong), Reason.REPORT_DATA_MISMATCH)


def test_platform_rules_hold_for_sgx_too() -> None:
    """PPIDs, evaluation numbers, statuses, advisories and grace are judged as for TDX."""
    ppid = Hex(vendors.platform().sgx.ppid)
    assert accepted(judge(policy=policy(ppids=(ppid,))))
    assert refused(judge(policy=policy(ppids=(Hex(bytes(16)),))), Reason.PLATFORM_NOT_ALLOWED)
    assert refused(judge(policy=policy(min_tcb_evaluation_number=19)), Reason.COLLATERAL_TOO_OLD)

    level = tcb.tcb_level(
        sgx=tcb.SGX_CURRENT,
        pcesvn=tcb.PCESVN_CURRENT,
        tdx=None,
        status="SWHardeningNeeded",
        date="2026-03-01T00:00:00Z",
        advisories=("INTEL-SA-00615",),
    )
    info = tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2), tee="sgx", levels=[level])
    told = good_collateral(tee="sgx", tcb_info=info)
    assert refused(judge(endorsements=told), Reason.TCB_STATUS)
    known = policy(advisories_allowed=("INTEL-SA-00615",))
    assert accepted(judge(endorsements=told, policy=known))


@pytest.mark.parametrize(
    "reference",
    [
        "",
        f'mrsigner = "{SIGNER.hex()}"',
        "isvprodid = 7",
        'mrenclave = "00"',
        f'mrsigner = "{SIGNER.hex()}"\nisvprodid = 65536',
        f'mrsigner = "{SIGNER.hex()}"\nisvprodid = -1',
        f'mrenclave = "{CODE.hex()}"\nmin_isvsvn = 65536',
        f'mrenclave = "{CODE.hex()}"\nmin_isvsvn = -1',
    ],
)
def test_references_that_name_nothing_are_refused(reference: str) -> None:
    """A signer alone, a product alone, wrong sizes and numbers out of range are no reference."""
    authored = f'[[reference]]\nkind = "sgx"\nname = "a"\n{reference}\n'

    with pytest.raises(VerifierError) as caught:
        policies.from_toml(authored.encode())

    assert caught.value.reason is Reason.MALFORMED


def test_an_authored_policy_accepts() -> None:
    """The TOML that an operator writes is what is judged by."""
    authored = (
        "[sgx]\nmin_tcb_evaluation_number = 18\n"
        f'[[reference]]\nkind = "sgx"\nname = "a"\nmrsigner = "{SIGNER.hex()}"\nisvprodid = 7\n'
    )

    assert judge(policy=policies.from_toml(authored.encode())).verdict is Verdict.ACCEPT
