"""Forged reports and signatures, signed by a chip that everyone believes, and refused still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.kit.snp import AMAZON
from tests.kit.snp_forge import (
    DAY,
    NOW,
    Forge,
)
from tests.kit.snp_judge import every_forge, judge, one_of_each, strict
from verifier.errors import Reason
from verifier.result import Verdict
from verifier.snp.product import MILAN
from verifier.snp.report import KEY_NONE, KEY_VLEK, SnpReport
from verifier.snp.verify import P384_ORDER


@every_forge
def test_good(forge: Forge) -> None:
    """Forged evidence without a fault is accepted, marked as simulated and with an end."""
    result = judge(forge.evidence())

    assert result.verdict is Verdict.ACCEPT, result.reasons
    assert result.simulated
    assert result.expires == NOW + 30 * DAY
    assert result.claims["product"] == forge.product
    assert result.claims.get("csp_id") == (AMAZON if forge.key == KEY_VLEK else None)


@one_of_each
def test_version_2(forge: Forge) -> None:
    """Version 2 takes its product from the VEK, is judged in full, and refused by default."""
    evidence = replace(forge, version=2).evidence()

    default = judge(evidence)
    admitted = judge(evidence, policy=strict(report_versions=(2,)))

    assert default.reasons == (Reason.REPORT_VERSION_NOT_ALLOWED,)
    assert default.claims["product"] == forge.product
    assert "reported_tcb_decoded" in default.claims
    assert any(check.name == "report signature" and check.ok for check in default.checks)
    assert admitted.verdict is Verdict.ACCEPT


@every_forge
def test_no_signing_key(forge: Forge) -> None:
    """SIGNING_KEY 7 says that nothing signed the report, so nothing is believed."""
    evidence = forge.evidence(report={"signer_info": KEY_NONE << 2})

    assert judge(evidence).reasons == (Reason.SIGNATURE_INVALID,)


OUT_OF_RANGE = {"r is 0", "s is 0", "r is n", "s is n", "r is n + 1", "s is n + 1", "nothing"}
SIGNATURES: dict[str, Callable[[SnpReport], SnpReport]] = {
    "r is 0": lambda report: replace(report, signature_r=0),
    "s is 0": lambda report: replace(report, signature_s=0),
    "r is n": lambda report: replace(report, signature_r=P384_ORDER),
    "s is n": lambda report: replace(report, signature_s=P384_ORDER),
    "r is n + 1": lambda report: replace(report, signature_r=P384_ORDER + 1),
    "s is n + 1": lambda report: replace(report, signature_s=P384_ORDER + 1),
    "s is n - 1": lambda report: replace(report, signature_s=P384_ORDER - 1),
    "r at the top": lambda report: replace(report, signature_r=2**384 - 1),
    "r and s swapped": lambda report: replace(
        report, signature_r=report.signature_s, signature_s=report.signature_r
    ),
    "r in big endian": lambda report: replace(
        report,
        signature_r=int.from_bytes(report.signature_r.to_bytes(48, "little"), "big"),
    ),
    "nothing": lambda report: replace(report, signature_r=0, signature_s=0),
}


@every_forge
@pytest.mark.parametrize("shape", SIGNATURES)
def test_signatures(forge: Forge, shape: str) -> None:
    """A signature with numbers out of range or out of place is refused."""
    result = judge(forge.evidence(mangle=SIGNATURES[shape]))

    assert result.reasons == (Reason.SIGNATURE_INVALID,)
    if shape in OUT_OF_RANGE:
        assert "from 1 to n - 1" in result.checks[-1].seen


@every_forge
def test_signed_by_another_key(forge: Forge) -> None:
    """A good signature by a key that no VEK certifies is refused."""
    assert judge(forge.evidence(report_key="evil")).reasons == (Reason.SIGNATURE_INVALID,)


def test_malleable_signature() -> None:
    """ECDSA's twin (r, n - s) verifies as well: a report's digest is no replay key."""
    twin = Forge(MILAN).evidence(
        mangle=lambda report: replace(report, signature_s=P384_ORDER - report.signature_s)
    )

    assert judge(twin).verdict is Verdict.ACCEPT


SIGNED_BUT_REFUSED: list[tuple[dict[str, Any], Reason]] = [
    ({"policy": 0x3001F | 1 << 19}, Reason.DEBUG_ENABLED),
    ({"policy": 0x3001F | 1 << 18}, Reason.MIGRATION_ALLOWED),
    ({"policy": 0x1001F}, Reason.GUEST_POLICY),
    ({"policy": 0x3001F | 1 << 21}, Reason.GUEST_POLICY),
    ({"policy": 0x3001F | 1 << 26}, Reason.GUEST_POLICY),
    ({"vmpl": 1}, Reason.VMPL),
    ({"vmpl": 2}, Reason.VMPL),
    ({"vmpl": 3}, Reason.VMPL),
    ({"platform_info": 0x05}, Reason.PLATFORM_INFO),
    ({"report_id_ma": b"\x01" * 32}, Reason.MIGRATION_ALLOWED),
    ({"committed_version": (1, 55, 28)}, Reason.TCB_PROVISIONAL),
    ({"measurement": b"\x0f" * 48}, Reason.MEASUREMENT_UNKNOWN),
    ({"report_data": b"\x0d" * 63 + b"\x0c"}, Reason.REPORT_DATA_MISMATCH),
]


@one_of_each
@pytest.mark.parametrize(("changes", "reason"), SIGNED_BUT_REFUSED)
def test_genuine_but_refused(forge: Forge, changes: dict[str, Any], reason: Reason) -> None:
    """What the chip truly signed is refused where strict rules say so, after its signature."""
    result = judge(forge.evidence(report=changes))

    assert result.reasons == (reason,)
    assert any(check.name == "report signature" and check.ok for check in result.checks)
