"""TPMS_ATTEST and TPMT_SIGNATURE: exact layouts, bounded, and the reverse of the printer."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import measured
from verifier.errors import Reason, VerifierError
from verifier.tpm import attest as attests
from verifier.tpm.attest import (
    ECDSA,
    HASHES,
    MAX_ATTEST,
    MAX_SIGNATURE,
    RSASSA,
    Attest,
    Selection,
    Signature,
)

GOOD = attests.encode(measured.attest())
SELECTIONS = len(GOOD) - 34 - 4 - 6  # before the count of selections


def refused(raw: bytes, reason: Reason = Reason.MALFORMED, *, signature: bool = False) -> None:
    with pytest.raises(VerifierError) as caught:
        (attests.parse_signature if signature else attests.parse)(raw)
    assert caught.value.reason is reason, caught.value


def u(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << 8 * size) - 1)


selections = st.lists(
    st.builds(Selection, st.sampled_from(sorted(HASHES.values())), st.binary(max_size=4)),
    max_size=4,
    unique_by=lambda each: each.bank,
).map(tuple)
quotes = st.builds(
    Attest,
    st.binary(max_size=66),
    st.binary(max_size=66),
    u(8),
    u(4),
    u(4),
    u(1).map(lambda value: value % 2),
    u(8),
    selections,
    st.binary(max_size=64),
)
signatures = st.builds(
    lambda name, parts: Signature(RSASSA if len(parts) == 1 else ECDSA, name, parts),
    st.sampled_from(sorted(HASHES.values())),
    st.lists(st.binary(max_size=66), min_size=1, max_size=2).map(tuple),
)


@given(quotes)
@settings(max_examples=80, deadline=None)
def test_quotes_round_trip(told: Attest) -> None:
    """What is printed parses to the same fields."""
    assert attests.parse(attests.encode(told)) == told


@given(signatures)
@settings(max_examples=80, deadline=None)
def test_signatures_round_trip(told: Signature) -> None:
    """What is printed parses to the same parts."""
    assert attests.parse_signature(attests.encode_signature(told)) == told


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    """Any bytes give fields or our own error."""
    for data in (raw, GOOD[:6] + raw):
        with contextlib.suppress(VerifierError):
            attests.parse(data)
        with contextlib.suppress(VerifierError):
            attests.parse_signature(data)


def test_every_truncation_and_a_tail() -> None:
    """Cut anywhere, a quote is malformed; with one byte more it has trailing data."""
    for length in range(len(GOOD)):
        refused(GOOD[:length])
    refused(GOOD + b"\0", Reason.TRAILING_DATA)
    signature = measured.sign(GOOD)
    for length in (0, 1, 3, 5, 6, len(signature) - 1):
        refused(signature[:length], signature=True)
    refused(signature + b"\0", Reason.TRAILING_DATA, signature=True)


def test_magic_and_type() -> None:
    """Only what a TPM made itself, and only quotes."""
    for place in range(6):
        refused(GOOD[:place] + bytes([GOOD[place] ^ 1]) + GOOD[place + 1 :])


def test_safe_is_a_yes_or_no() -> None:
    """The safe flag is 0 or 1."""
    told = attests.parse(GOOD)
    place = SELECTIONS - 9

    assert GOOD[place] == told.safe == 1
    refused(GOOD[:place] + b"\2" + GOOD[place + 1 :])


def test_selections() -> None:
    """Selections are few, of known banks, of at most four octets, and each bank stands once."""

    def with_selections(count: int, raw: bytes) -> bytes:
        return GOOD[:SELECTIONS] + struct.pack(">I", count) + raw + GOOD[-34:]

    one = GOOD[SELECTIONS + 4 : -34]
    assert attests.parse(with_selections(1, one)) == attests.parse(GOOD)
    refused(with_selections(2, one + one))
    refused(with_selections(17, one))
    refused(with_selections(0xFFFFFFFF, one))
    refused(with_selections(1, b"\0\x12\3\0\0\0"), Reason.UNSUPPORTED)
    refused(with_selections(1, b"\0\x0b\5\0\0\0\0\0"))


def test_sizes_that_lie() -> None:
    """A buffer longer than its type allows is refused before it is read."""
    refused(GOOD[:6] + b"\xff\xff" + GOOD[8:])
    refused(bytes(MAX_ATTEST + 1), Reason.TOO_LARGE)
    refused(bytes(MAX_SIGNATURE + 1), Reason.TOO_LARGE, signature=True)
    refused(b"\0\x14\0\x0b\x02\x01", signature=True)


def test_other_schemes() -> None:
    """RSAPSS, HMAC and unknown hashes are not supported."""
    refused(b"\0\x16\0\x0b\0\0", Reason.UNSUPPORTED, signature=True)
    refused(b"\0\x14\0\x12\0\0", Reason.UNSUPPORTED, signature=True)


def test_selected_pcrs() -> None:
    """The bitmap's first octet holds PCR 0 to 7, lowest bit first."""
    assert Selection("sha256", b"\x81\x00\x80").pcrs == (0, 7, 23)
    assert Selection("sha256", b"").pcrs == ()
