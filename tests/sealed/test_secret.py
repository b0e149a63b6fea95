"""The data key does not slip out by accident, and goes when it is told to."""

from __future__ import annotations

import copy
import pickle

import pytest

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.stream import SegmentCipher

RAW = bytes(range(100, 132))


def test_nothing_prints_it() -> None:
    """No way to make text of a key shows a byte of it."""
    key = SecretKey(bytearray(RAW))
    shown = f"{key} {key!r} {key!s} {[key]}"

    assert "SecretKey(...)" in shown
    assert RAW.hex() not in shown
    assert str(RAW[:4]) not in shown


def test_nothing_copies_it() -> None:
    """Copy, deep copy and pickle raise."""
    key = SecretKey(bytearray(RAW))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never copied"):
            attempt(key)


def test_wiping_zeroes_the_callers_bytes_and_ends_the_key() -> None:
    """The buffer handed over is the one that is wiped, views included; then the key is refused."""
    material = bytearray(RAW)
    with SecretKey(material) as key:
        view = key.view()
        assert view == RAW

    assert key.wiped
    assert bytes(32) == material == view
    with pytest.raises(RuntimeFault) as caught:
        key.view()
    assert caught.value.code is Fault.KEY_WIPED


def test_a_wiped_key_opens_nothing() -> None:
    """The cipher refuses a wiped key, and does not take 32 zeros for one."""
    key = SecretKey.generate()
    key.wipe()

    with pytest.raises(RuntimeFault) as caught:
        SegmentCipher.fresh(key, b"", "x")

    assert caught.value.code is Fault.KEY_WIPED


def test_a_view_outlives_a_forgotten_key() -> None:
    """A key that is let go without a wipe never turns into 32 zeros behind a view's back."""
    view = SecretKey(bytearray(RAW)).view()

    assert view == RAW


@pytest.mark.parametrize("material", [bytearray(31), bytearray(33), RAW, None])
def test_only_32_wipeable_bytes_are_a_key(material: object) -> None:
    """Other lengths, and bytes that cannot be wiped, are refused."""
    with pytest.raises(RuntimeFault) as caught:
        SecretKey(material)  # type: ignore[arg-type]  # that is the test

    assert caught.value.code is Fault.KEY_INVALID


def test_generated_keys_differ() -> None:
    """The generator fills all 32 bytes, anew each time."""
    seen = {bytes(SecretKey.generate().view()) for _ in range(8)}

    assert len(seen) == 8
    assert all(len(set(key)) > 8 for key in seen)


def test_the_view_is_read_only() -> None:
    """Nobody changes a key through its view."""
    key = SecretKey.generate()

    with pytest.raises(TypeError):
        key.view()[0] = 0
