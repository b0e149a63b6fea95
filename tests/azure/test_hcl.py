"""The HCL report: every length and reserved byte, and no other error than ours."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.azure import hcl
from verifier.azure.hcl import CLAIMS_AT, HclReport
from verifier.errors import Reason, VerifierError

CLAIMS = b'{"keys":[]}'


def report(report_type: int = hcl.SNP, padding: int = 9) -> bytes:
    size = hcl.HARDWARE_SIZE if report_type == hcl.SNP else hcl.TDREPORT_SIZE
    return hcl.encode(HclReport(2, report_type, b"\x07" * size, CLAIMS, padding))


def refused(raw: bytes) -> Reason:
    with pytest.raises(VerifierError) as caught:
        hcl.parse(raw)
    return caught.value.reason


def put(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + struct.pack("<I", value & 0xFFFFFFFF) + raw[at + 4 :]


@given(
    version=st.sampled_from((1, 2)),
    snp=st.booleans(),
    claims=st.binary(min_size=1, max_size=64),
    padding=st.integers(0, 20),
    fill=st.integers(0, 255),
)
def test_parse_and_print_are_inverse(
    version: int, *, snp: bool, claims: bytes, padding: int, fill: int
) -> None:
    """What was printed is read back, and printed the same."""
    size = hcl.HARDWARE_SIZE if snp else hcl.TDREPORT_SIZE
    kind = hcl.SNP if snp else hcl.TDX
    told = HclReport(version, kind, bytes([fill]) * size, claims, padding)
    raw = hcl.encode(told)

    assert hcl.parse(raw) == told
    assert hcl.encode(hcl.parse(raw)) == raw
    assert told.told()["length"] == len(raw)


@given(st.binary(max_size=hcl.CLAIMS_AT + 64))
def test_any_bytes(raw: bytes) -> None:
    """Bytes that are no report are refused, by our error."""
    assert refused(raw) is Reason.MALFORMED


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """A byte that changes is part of hardware report or claims, or a refusal by our error."""
    raw = bytearray(report(data.draw(st.sampled_from((hcl.SNP, hcl.TDX)))))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = hcl.parse(bytes(raw))
    except VerifierError:
        return
    assert hcl.encode(read) == bytes(raw)


def test_every_length() -> None:
    """A report cut anywhere before its padding is refused."""
    raw = report(padding=0)
    assert hcl.parse(raw).padding == 0
    for length in range(len(raw)):
        assert refused(raw[:length]) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 0x414C4349, Reason.MALFORMED),
        (4, 0, Reason.MALFORMED),
        (4, 3, Reason.MALFORMED),
        (8, CLAIMS_AT + len(CLAIMS) - 1, Reason.MALFORMED),
        (8, CLAIMS_AT + len(CLAIMS) + 1, Reason.MALFORMED),
        (12, 1, Reason.MALFORMED),
        (16, 1, Reason.MALFORMED),
        (28, 1, Reason.MALFORMED),
        (0x4C0, 20 + len(CLAIMS) + 1, Reason.MALFORMED),
        (0x4C0, 0xFFFFFFFF, Reason.MALFORMED),
        (0x4C4, 2, Reason.MALFORMED),
        (0x4C8, 0, Reason.MALFORMED),
        (0x4C8, 3, Reason.MALFORMED),
        (0x4CC, 0, Reason.MALFORMED),
        (0x4CC, 2, Reason.UNSUPPORTED),
        (0x4CC, 3, Reason.UNSUPPORTED),
        (0x4CC, 4, Reason.MALFORMED),
        (0x4D0, 0, Reason.MALFORMED),
        (0x4D0, len(CLAIMS) - 1, Reason.MALFORMED),
        (0x4D0, len(CLAIMS) + 1, Reason.MALFORMED),
        (0x4D0, 0xFFFFFFFF, Reason.MALFORMED),
    ],
)
def test_a_wrong_field(at: int, value: int, reason: Reason) -> None:
    """Every field of the two headers has to be as the others and the bytes say."""
    assert hcl.parse(report()).kind == "snp"
    assert refused(put(report(), at, value)) is reason


@pytest.mark.parametrize("by", [-1, 1])
def test_all_lengths_moved_together(by: int) -> None:
    """Lengths that agree with one another and not with the claims move the claims' end only."""
    size = len(CLAIMS) + by
    raw = put(put(put(report(), 8, CLAIMS_AT + size), 0x4C0, 20 + size), 0x4D0, size)
    if by < 0:
        assert refused(raw) is Reason.TRAILING_DATA
    else:
        assert hcl.parse(raw).claims == CLAIMS + b"\0"


def test_only_zeros_follow() -> None:
    """Nothing hides after the TDREPORT or after the claims, and nothing is too large to refuse."""
    tdx = bytearray(report(hcl.TDX))
    tdx[0x20 + hcl.TDREPORT_SIZE] = 1
    assert refused(bytes(tdx)) is Reason.TRAILING_DATA
    assert refused(report() + b"x") is Reason.TRAILING_DATA
    assert refused(report() + bytes(hcl.MAX_REPORT)) is Reason.TOO_LARGE
