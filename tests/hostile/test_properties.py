"""What holds for every kind of evidence, whatever its format: no flipped bit, no cut, one print."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.hostile import SAMPLES, SIGNED
from verifier.result import Verdict

KINDS = {"tdx", "sgx", "snp", "azure-snp", "azure-tdx", "tpm", "eventlog"}


def test_every_kind_has_a_sample() -> None:
    """No kind is left out of what follows."""
    assert {kind for kind in KINDS if any(name.startswith(kind) for name in SAMPLES)} == KINDS


@pytest.mark.parametrize("name", SAMPLES)
def test_good_samples_are_accepted(name: str) -> None:
    """The evidence that is bent below is accepted as it is: else nothing below would mean much."""
    result = SAMPLES[name]().judge()

    assert result.verdict is Verdict.ACCEPT, [c for c in result.checks if c.ok is False]


@pytest.mark.parametrize("name", SIGNED)
@settings(max_examples=120)
@given(data=st.data())
def test_no_flipped_bit_is_accepted(name: str, data: st.DataObject) -> None:
    """One bit of what is signed, of a signature, or of the key: never an accept."""
    sample = SAMPLES[name]()
    part = data.draw(st.sampled_from(sorted(sample.parts)))
    at = data.draw(st.sampled_from(sample.bits(part)))
    raw = bytearray(sample.parts[part])
    raw[at] ^= 1 << data.draw(st.integers(0, 7))

    assert sample.judge(**{part: bytes(raw)}).verdict is not Verdict.ACCEPT


@pytest.mark.parametrize("name", SAMPLES)
def test_no_truncation_is_accepted_or_raises(name: str) -> None:
    """Every part cut at every length gives a result, and never an accept.

    A log that ends between two events is a shorter log: what it covers may replay, and then it
    proves less, and says so.
    """
    sample = SAMPLES[name]()
    for part, raw in sample.parts.items():
        for length in range(sample.end(part)):
            result = sample.judge(**{part: raw[:length]})
            shorter = name not in SIGNED and result.claims.get("boot", {}).get("complete") is False

            assert shorter or result.verdict is not Verdict.ACCEPT, (part, length)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_raises(name: str, data: st.DataObject) -> None:
    """A piece of a part replaced by any bytes gives a result: nothing of ours or others' raises."""
    sample = SAMPLES[name]()
    part = data.draw(st.sampled_from(sorted(sample.parts)))
    raw = sample.parts[part]
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, min(len(raw), start + 16)))
    bent = raw[:start] + data.draw(st.binary(max_size=24)) + raw[stop:]

    assert sample.judge(**{part: bent}).kind


@pytest.mark.parametrize("name", SIGNED)
@settings(max_examples=20)
@given(tail=st.binary(min_size=1, max_size=8).filter(any))
def test_nothing_follows(name: str, tail: bytes) -> None:
    """Bytes behind a part that are not all zeros are refused."""
    sample = SAMPLES[name]()
    for part, raw in sample.parts.items():
        assert sample.judge(**{part: raw + tail}).verdict is not Verdict.ACCEPT, part
