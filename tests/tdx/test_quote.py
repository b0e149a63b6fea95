"""Reading quotes: every shape that is not exactly a quote is refused, and nothing else happens."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator.quote import quote_v4, quote_v5
from tests.kit import vendors
from tests.kit.tdx import HEADER_END, V4_BODY_END, accepted, collateral, judge, refused
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.result import Verdict
from verifier.tdx import quote as quotes

CACHE = Cache()
GOOD = collateral()


def good(version: int = 4) -> bytes:
    return vendors.good_quote(version=version)


def patched(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


@pytest.mark.parametrize("version", [4, 5])
def test_good_quotes_are_accepted(version: int) -> None:
    """A simulated quote of either version passes the verifier unchanged."""
    assert accepted(judge(quote=good(version)))


def test_v5_with_a_td10_body_is_accepted() -> None:
    """Version 5 may carry the TD 1.0 body (no real sample of it is known)."""
    raw = quote_v5(vendors.platform(), vendors.good_body(), td15=False)
    result = judge(quote=raw)

    assert accepted(result)
    assert (result.claims["body_type"], result.claims["body_size"]) == (2, 584)


@pytest.mark.parametrize("version", [4, 5])
def test_truncation_at_every_length_is_a_reject(version: int) -> None:
    """However short a quote is cut, the answer is a reject result and nothing else."""
    raw = good(version)

    for length in range(len(raw)):
        result = judge(quote=raw[:length], endorsements=GOOD)

        assert result.verdict is Verdict.REJECT
        assert result.reasons == (Reason.MALFORMED,)


@given(st.binary(max_size=2000))
def test_random_bytes_give_our_error_or_a_quote(raw: bytes) -> None:
    """The parser raises nothing but `VerifierError`."""
    with contextlib.suppress(VerifierError):
        quotes.parse(raw)


@given(st.data())
def test_a_damaged_quote_gives_our_error_or_prints_itself(data: st.DataObject) -> None:
    """With any bytes overwritten, the parser refuses, or printing gives the same bytes."""
    raw = good(data.draw(st.sampled_from([4, 5])))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw = patched(raw, at, data.draw(st.binary(min_size=1, max_size=8)))[: len(raw)]

    try:
        parsed = quotes.parse(raw)
    except VerifierError:
        return

    assert quotes.encode(parsed) == raw


@given(
    version=st.sampled_from([4, 5]),
    body=st.binary(min_size=584, max_size=584),
    chain=st.binary(max_size=300),
    padding=st.integers(0, 200),
)
def test_print_then_parse_is_identity(
    version: int, body: bytes, chain: bytes, padding: int
) -> None:
    """What `encode` prints, `parse` reads back as the same quote."""
    raw = quote_v4(vendors.platform(), vendors.good_body(), cert_data=chain)
    if version == 4:
        raw = patched(raw, HEADER_END, body)
    parsed = dataclasses.replace(quotes.parse(raw), padding=padding)

    assert quotes.parse(quotes.encode(parsed)) == parsed


@pytest.mark.parametrize("count", [1, 70, 3065])
def test_zeros_after_the_quote_are_accepted(count: int) -> None:
    """Clouds pad quotes with zeros: accepted, and told in the claims."""
    result = judge(trailing=bytes(count))

    assert accepted(result)
    assert result.claims["trailing_bytes"] == count


@pytest.mark.parametrize("tail", [b"\x01", bytes(70) + b"\x01", b"\n", b"quote"])
def test_anything_else_after_the_quote_is_refused(tail: bytes) -> None:
    """Bytes after the quote that are not zero are trailing data."""
    assert refused(judge(trailing=tail), Reason.TRAILING_DATA)


def test_a_huge_quote_is_refused_by_size() -> None:
    """The size cap counts padding and comes first."""
    raw = good().ljust(quotes.MAX_QUOTE + 1, b"\0")

    assert refused(judge(quote=raw), Reason.TOO_LARGE)
    assert accepted(judge(quote=raw[:-1]))


@pytest.mark.parametrize("version", [0, 1, 2, 6, 0xFFFF])
def test_unknown_versions_are_malformed(version: int) -> None:
    """Only versions 4 and 5 are quotes of a TD."""
    assert refused(judge(version=version), Reason.MALFORMED, saying="version 4 or 5")


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"key_type": 3}, "P-384"),
        ({"version": 5, "body_type": 4}, "body type 4 (TD 1.5 extended)"),
        ({"inner_cert_type": 1}, "PPID in clear"),
        ({"inner_cert_type": 2}, "RSA 2048"),
        ({"inner_cert_type": 3}, "RSA 3072"),
        ({"inner_cert_type": 4}, "PCK leaf"),
        ({"inner_cert_type": 7}, "manifest"),
    ],
)
def test_known_kinds_that_are_not_judged_are_unsupported_by_name(
    knobs: dict[str, Any], named: str
) -> None:
    """What Intel defines and this version does not judge is `unsupported`, and says what it is."""
    result = judge(**knobs)

    assert result.verdict is Verdict.UNSUPPORTED
    assert named in result.checks[-1].seen


@pytest.mark.parametrize(
    "knobs",
    [
        {"version": 3, "tee_type": 0},
        {"tee_type": 0},
        {"version": 5, "tee_type": 0},
        {"version": 5, "body_type": 1},
    ],
)
def test_a_quote_of_an_enclave_is_none_of_a_td(knobs: dict[str, Any]) -> None:
    """What says that it is SGX's is refused where a TDX quote was asked for."""
    assert refused(judge(**knobs), Reason.KIND_MISMATCH, saying="SGX")


@pytest.mark.parametrize(
    "knobs",
    [
        {"version": 3},
        {"key_type": 0},
        {"key_type": 1},
        {"key_type": 4},
        {"tee_type": 0x82},
        {"tee_type": 0x181},
        {"qe_vendor": bytes(16)},
        {"qe_vendor": bytes.fromhex("939a7233f79c4ca9940a0db3957f0608")},
        {"outer_cert_type": 5},
        {"outer_cert_type": 0},
        {"inner_cert_type": 0},
        {"inner_cert_type": 6},
        {"inner_cert_type": 8},
        {"version": 5, "body_type": 0},
        {"version": 5, "body_type": 5},
        {"version": 5, "body_type": 3},
        {"version": 5, "body_size": 583},
        {"version": 5, "body_size": 585},
        {"version": 5, "body_size": 648},
        {"version": 5, "body_size": 0xFFFFFFFF},
        {"auth_data": bytes(31)},
        {"auth_data": bytes(33)},
        {"auth_data": b""},
    ],
)
def test_header_and_type_fields_out_of_place_are_malformed(knobs: dict[str, Any]) -> None:
    """Every type, size and vendor field has one value, or is refused."""
    assert refused(judge(**knobs), Reason.MALFORMED)


@pytest.mark.parametrize("delta", [-1, 1, 0x7FFFFFFF, -0x7FFFFFFF])
@pytest.mark.parametrize(
    "field", ["signature_size_delta", "outer_cert_size_delta", "inner_cert_size_delta"]
)
def test_lengths_off_by_one_or_extreme_are_malformed(field: str, delta: int) -> None:
    """A nested length must use up its parent exactly."""
    knobs: dict[str, Any] = {field: delta}
    result = judge(**knobs)

    assert result.verdict is Verdict.REJECT
    assert set(result.reasons) <= {Reason.MALFORMED, Reason.TRAILING_DATA}


@pytest.mark.parametrize("delta", [-1, 1, 255, -32])
def test_auth_data_length_off_is_malformed(delta: int) -> None:
    """The QE's authentication data has 32 bytes."""
    assert refused(judge(auth_size_delta=delta), Reason.MALFORMED)


@pytest.mark.parametrize("at", range(8, 12))
def test_reserved_header_bytes_are_zero(at: int) -> None:
    """Reserved header bytes that are set are refused before any signature."""
    raw = patched(good(), at, b"\x01")

    assert refused(judge(quote=raw), Reason.MALFORMED, saying="reserved")


def test_v5_read_as_v4_and_back_is_refused() -> None:
    """The version is signed; a quote whose version is rewritten does not pass as the other one."""
    as_v4 = patched(good(5), 0, (4).to_bytes(2, "little"))
    as_v5 = patched(good(4), 0, (5).to_bytes(2, "little"))

    assert judge(quote=as_v4).verdict is Verdict.REJECT
    assert judge(quote=as_v5).verdict is Verdict.REJECT


@settings(max_examples=300)
@given(st.data())
def test_one_flipped_bit_never_passes(data: st.DataObject) -> None:
    """Any single bit flip in a good quote, signed or not, is refused."""
    raw = bytearray(good(data.draw(st.sampled_from([4, 5]))))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8

    assert judge(quote=bytes(raw), endorsements=GOOD, cache=CACHE).verdict is not Verdict.ACCEPT


def test_every_bit_of_the_header_and_the_signature_counts() -> None:
    """No bit of the header or of the quote's signature can be flipped."""
    raw = good()
    for byte in (*range(HEADER_END), *range(V4_BODY_END + 4, V4_BODY_END + 68)):
        for bit in range(8):
            bad = patched(raw, byte, bytes([raw[byte] ^ 1 << bit]))

            assert judge(quote=bad, endorsements=GOOD, cache=CACHE).verdict is not Verdict.ACCEPT


@pytest.mark.parametrize("nested", [False, True])
def test_signature_data_cut_with_its_lengths_is_malformed(*, nested: bool) -> None:
    """Cut anywhere, with the lengths around it made to fit, signature data is still refused."""
    raw = good()
    data = raw[V4_BODY_END + 4 :]
    for length in range(128 + 6 + 384 + 64 + 2 + 32 + 6):
        cut = data[:length]
        if nested and length >= 134:
            cut = cut[:130] + (length - 134).to_bytes(4, "little") + cut[134:]
        bad = raw[:V4_BODY_END] + length.to_bytes(4, "little") + cut

        assert judge(quote=bad, endorsements=GOOD).reasons == (Reason.MALFORMED,)
