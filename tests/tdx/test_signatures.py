"""Signatures of quote and QE, and the identity of the QE: each forged in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import tcb
from ostiary.simulator.intel import raw_signature
from ostiary.simulator.quote import EnclaveReport, public_point
from tests.kit import vendors
from tests.kit.tdx import V4_BODY_END, accepted, judge, refused
from tests.kit.vendors import NOW, good_collateral
from verifier.errors import Reason
from verifier.tdx.signature import load_point, verifies

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BAD_SCALARS = [0, N, N + 1, 2**256 - 1]


def scalar(value: int) -> bytes:
    return value.to_bytes(32, "big")


@pytest.mark.parametrize("bad", BAD_SCALARS)
@pytest.mark.parametrize("field", ["signature", "qe_signature"])
@pytest.mark.parametrize("half", [0, 1])
def test_scalars_out_of_range_are_refused(bad: int, field: str, half: int) -> None:
    """r and s lie in 1..n-1, for the quote's and the QE report's signature."""
    parts = [scalar(5), scalar(5)]
    parts[half] = scalar(bad)
    reason = Reason.SIGNATURE_INVALID if field == "signature" else Reason.QE_REPORT_INVALID

    knobs: dict[str, Any] = {field: b"".join(parts)}

    assert refused(judge(**knobs), reason)


def test_a_signature_by_another_key_is_refused() -> None:
    """The attestation key that the QE names must have signed the quote."""
    stranger = ec.generate_private_key(ec.SECP256R1())
    raw = vendors.good_quote()
    forged = raw_signature(stranger, raw[:V4_BODY_END])

    assert refused(judge(signature=forged), Reason.SIGNATURE_INVALID)


def test_an_attestation_key_that_the_qe_does_not_name_is_refused() -> None:
    """A key swapped in, with a good signature by it, is not the one that the QE report names."""
    machine = replace(vendors.platform(), attestation_key=ec.generate_private_key(ec.SECP256R1()))
    named = vendors.good_quote()[V4_BODY_END + 4 + 128 + 6 :][320:384]
    result = judge(machine=machine, qe_report=EnclaveReport(report_data=named))

    assert refused(result, Reason.QE_REPORT_INVALID, saying="REPORTDATA")


def test_a_point_off_the_curve_is_refused() -> None:
    """An attestation key must be a point on P-256, even where the QE report names it."""
    assert refused(
        judge(attestation_key=scalar(1) + scalar(1)), Reason.SIGNATURE_INVALID, saying="point"
    )


def test_the_malleable_twin_verifies_and_so_names_nothing() -> None:
    """(r, n - s) verifies too: a signature must never serve as a replay key."""
    key = ec.generate_private_key(ec.SECP256R1())
    signature = raw_signature(key, b"message")
    twin = signature[:32] + scalar(N - int.from_bytes(signature[32:]))
    public = load_point(public_point(key), "key")

    assert verifies(public, signature, b"message")
    assert verifies(public, twin, b"message")
    assert not verifies(public, twin, b"massage")
    assert not verifies(public, signature[:-1], b"message")


def test_a_qe_report_by_another_key_is_refused() -> None:
    """The PCK must have signed the QE report."""
    machine = replace(vendors.platform(), pck_key=ec.generate_private_key(ec.SECP256R1()))

    assert refused(judge(machine=machine), Reason.QE_REPORT_INVALID, saying="PCK")


@pytest.mark.parametrize("tail", [b"\x01" + bytes(31), bytes(31) + b"\x01"])
def test_the_second_half_of_the_qe_report_data_is_zero(tail: bytes) -> None:
    """REPORTDATA is the key's digest and 32 zero bytes, nothing else."""
    named = vendors.good_quote()[V4_BODY_END + 4 + 128 + 6 :][320:352]
    result = judge(qe_report=EnclaveReport(report_data=named + tail))

    assert refused(result, Reason.QE_REPORT_INVALID, saying="REPORTDATA")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"miscselect": bytes.fromhex("01000000")}, "MISCSELECT"),
        ({"attributes": bytes.fromhex("1000000000000000e700000000000000")}, "ATTRIBUTES"),
        ({"attributes": bytes.fromhex("1700000000000000e700000000000000")}, "ATTRIBUTES"),
        ({"attributes": bytes.fromhex("1500000000000001e700000000000000")}, "ATTRIBUTES"),
        ({"mrsigner": bytes(32)}, "MRSIGNER"),
        ({"isvprodid": 1}, "ISVPRODID"),
        ({"isvprodid": 0x0102}, "ISVPRODID"),
    ],
)
def test_an_enclave_that_is_not_intels_qe_is_refused(changes: dict[str, Any], named: str) -> None:
    """CVE-2026-22696: an enclave on a genuine platform that poses as the quoting enclave."""
    result = judge(qe_report=replace(EnclaveReport(), **changes))

    assert refused(result, Reason.QE_IDENTITY_MISMATCH, saying=named)


def test_masked_qe_attributes_may_differ() -> None:
    """Bits outside the identity's mask are the platform's business (bit 2 is MODE64BIT's)."""
    report = replace(EnclaveReport(), attributes=bytes.fromhex("1100000000000000e500000000000000"))

    assert accepted(judge(qe_report=report))


def test_a_debug_qe_is_refused_whatever_the_mask_says() -> None:
    """The DEBUG bit is looked at by itself, so that a wide mask cannot hide it."""
    identity = tcb.qe_identity(NOW) | {"attributesMask": "F9" + "FF" * 7 + "00" * 8}
    report = replace(EnclaveReport(), attributes=bytes.fromhex("1700000000000000e700000000000000"))
    result = judge(qe_report=report, endorsements=good_collateral(qe_identity=identity))

    assert refused(result, Reason.QE_IDENTITY_MISMATCH, saying="DEBUG")


def test_a_qe_below_every_level_is_refused() -> None:
    """A QE older than all that Intel lists has no TCB level."""
    result = judge(qe_report=replace(EnclaveReport(), isvsvn=2))

    assert refused(result, Reason.TCB_NOT_SUPPORTED, saying="QE")
    assert result.tcb_status is None
