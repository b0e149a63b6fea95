"""Reports are read whole or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import nvgpu
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import chain, spdm
from verifier.nvgpu.spdm import Block, Report

RAW = nvgpu.make().gpus[0].report(nvgpu.NONCE)
RECORD = 45


def refused(raw: bytes, reason: Reason = Reason.MALFORMED) -> str:
    with pytest.raises(VerifierError) as caught:
        spdm.parse(raw)
    assert caught.value.reason is reason, caught.value
    return str(caught.value)


def patched(at: int, value: bytes) -> bytes:
    return RAW[:at] + value + RAW[at + len(value) :]


reports = st.builds(
    Report,
    nonce=st.binary(min_size=32, max_size=32),
    slot=st.integers(0, 255),
    blocks=st.dictionaries(
        st.integers(1, 255),
        st.builds(Block, st.integers(0, 255), st.binary(max_size=40)),
        max_size=5,
    ),
    responder_nonce=st.binary(min_size=32, max_size=32),
    opaque=st.binary(max_size=60),
    signature=st.binary(min_size=96, max_size=96),
    signed=st.just(b""),
)


@settings(deadline=None, max_examples=150)
@given(reports)
def test_reading_what_was_written(report: Report) -> None:
    """A report reads back as it was written, and writes back as it was read."""
    raw = spdm.encode(report)
    again = spdm.parse(raw)

    assert (again.nonce, again.slot, dict(again.blocks)) == (
        report.nonce,
        report.slot,
        dict(report.blocks),
    )
    assert (again.opaque, again.signature) == (report.opaque, report.signature)
    assert again.signed + again.signature == raw
    assert spdm.encode(again) == raw


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.integers(0, len(RAW) - 1))
def test_anything_else_is_our_error(junk: bytes, at: int) -> None:
    """Garbage, alone or inside a report, gives our error or a report that writes back the same."""
    for raw in (junk, RAW[:at] + junk, patched(at, junk)):
        try:
            assert spdm.encode(spdm.parse(raw)) == raw
        except VerifierError:
            continue


def test_every_truncation() -> None:
    """A report that was cut anywhere, or continues, is refused."""
    for size in range(len(RAW)):
        refused(RAW[:size])
    refused(RAW + b"\0", Reason.TRAILING_DATA)
    refused(bytes(spdm.MAX_REPORT + 1), Reason.TOO_LARGE)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (0, b"\x12", "request header"),
        (3, b"\x01", "request header"),
        (37, b"\x12", "response header"),
        (40, b"\x01", "response header"),
        (41, b"\x3f", "63 blocks declared, 64 seen"),
        (41, b"\x41", "65 blocks declared"),
        (RECORD, b"\0", "block 0"),
        (RECORD, b"\x02", "block 2"),
        (RECORD + 1, b"\x02", "specification 2"),
        (RECORD + 2, b"\x32", "sizes 50 and 48"),
        (RECORD + 5, b"\x2f", "sizes 51 and 47"),
        (42, b"\xff\xff\xff", "measurement record"),
        (42, b"\0\0\0", "64 blocks declared, 0 seen"),
        (42, b"\xbf\x0d", "record ends"),
        (42, b"\x8f\x0d", "7 bytes expected, 6 left"),
    ],
)
def test_each_field_is_strict(at: int, value: bytes, told: str) -> None:
    """Headers, counts, sizes and indices are what they must be, all of them."""
    assert told in refused(patched(at, value))


def test_signature_covers_request_and_response() -> None:
    """The key signs both; zero and the curve's order are no signature, nor is another key's."""
    device = nvgpu.make().gpus[0]
    report, key = spdm.parse(RAW), chain.load(device.chain).key
    zero, most = bytes(48), b"\xff" * 48
    good = report.signature

    assert report.verifies(key)
    for signature in (zero + good[48:], good[:48] + zero, most + good[48:], good[:48] + most):
        assert not spdm.parse(RAW[:-96] + signature).verifies(key)
    assert not spdm.parse(patched(4, b"\xff\xff")).verifies(key)
    other = nvgpu.make(2).gpus[1]
    assert not report.verifies(chain.load(other.chain).key)
