"""Registers from JSON: the shapes that are read, and that nothing else is."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import Reason, VerifierError
from verifier.eventlog.registers import MAX_JSON, from_json

VALUES = {"0": "00" * 32, "7": "AA" * 32}
READ = {0: bytes(32), 7: b"\xaa" * 32}


@pytest.mark.parametrize(
    "told",
    [
        VALUES,
        {"sha256": VALUES},
        {"bank": "sha256", "pcrs": VALUES},
        {"alg": "sha256", "rtmr": VALUES},
        {"pcrs": VALUES},
        {"pcrs": {"sha256": VALUES}},
        {"replayed": VALUES},
    ],
)
def test_shapes(told: Any) -> None:
    """One bank, named or known by its lengths."""
    assert from_json(json.dumps(told).encode()) == {"sha256": READ}


def test_banks() -> None:
    """Several banks stand side by side."""
    told = {"sha1": {"1": "00" * 20}, "sha256": VALUES}

    assert from_json(json.dumps(told).encode()) == {"sha1": {1: bytes(20)}, "sha256": READ}


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        1,
        {"sm3": VALUES},
        {"sha256": {}},
        {"sha256": 1},
        {"sha256": {"24": "00" * 32}},
        {"sha256": {"01": "00" * 32}},
        {"sha256": {"0": "00" * 31}},
        {"sha256": {"0": 1}},
        {"sha256": {"0": "zz" * 32}},
        {"0": "00" * 32, "1": "00" * 20},
        {"0": "00"},
        {"pcrs": VALUES, "rtmr": VALUES},
        {"bank": "sha256", "alg": "sha256", "pcrs": VALUES},
        {"bank": 1, "pcrs": VALUES},
        {"bank": "sha256", "pcrs": {}},
        {"pcrs": VALUES, "more": 1},
        {"pcrs": []},
    ],
)
def test_other_shapes(told: Any) -> None:
    """Everything else is refused."""
    with pytest.raises(VerifierError) as caught:
        from_json(json.dumps(told).encode())

    assert caught.value.reason is Reason.MALFORMED


def test_not_json() -> None:
    """Text that is no JSON, keys that stand twice and too much of anything are refused."""
    for raw in (b"{", b"\xff", b'{"0":"", "0":""}', b"[" * 50_000):
        with pytest.raises(VerifierError):
            from_json(raw)
    with pytest.raises(VerifierError) as caught:
        from_json(b" " * (MAX_JSON + 1))
    assert caught.value.reason is Reason.TOO_LARGE


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["sha256", "00" * 32]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "pcrs", "bank", "sha256", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json(told: Any) -> None:
    """Any JSON gives registers or our own error."""
    with contextlib.suppress(VerifierError):
        from_json(json.dumps(told).encode())
