"""Segment arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import FIRST, MAX_SIZE, PLAIN, SEGMENT, Layout

near_an_edge = st.builds(
    lambda count, by: max(0, FIRST + count * PLAIN + by), st.integers(0, 5), st.integers(-60, 60)
)
sizes = st.one_of(st.integers(0, MAX_SIZE), near_an_edge)


@given(sizes)
def test_size_and_sealed_size_name_each_other(size: int) -> None:
    """A plaintext size has one sealed size, which has that plaintext size and no other."""
    layout = Layout.of(size)

    assert layout == Layout.of_sealed(layout.sealed_size, "x")


@given(near_an_edge)
def test_segments_cover_the_file_without_gap_or_overlap(size: int) -> None:
    """Plain and sealed spans join end to end, and only the last segment may be short."""
    layout = Layout.of(size)
    plain = sealed = 0
    for index in range(layout.count):
        start, length = layout.plain(index)
        place, room = layout.sealed(index)

        assert (plain, sealed) == (start, place)
        assert layout.last(index) or room == SEGMENT
        assert room == length + 16 + (40 if index == 0 else 0)
        plain, sealed = start + length, place + room

    assert (size, layout.sealed_size) == (plain, sealed)


@given(near_an_edge, st.data())
def test_covering_is_exactly_the_segments_that_overlap(size: int, data: st.DataObject) -> None:
    """`covering` agrees with looking at every segment."""
    layout = Layout.of(size)
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    slow = [
        index
        for index in range(layout.count)
        for at, length in [layout.plain(index)]
        if max(at, start) < min(at + length, end)
    ]

    assert slow == list(layout.covering(start, end))


@given(st.one_of(st.integers(0, 4 * SEGMENT), near_an_edge))
def test_an_impossible_sealed_size_is_refused(sealed_size: int) -> None:
    """A sealed size is either some plaintext's, or refused with the file's name."""
    if sealed_size >= 56 and not 0 < sealed_size % SEGMENT <= 16:
        assert sealed_size == Layout.of_sealed(sealed_size, "files/x").sealed_size
        return
    with pytest.raises(RuntimeFault, match="files/x") as caught:
        Layout.of_sealed(sealed_size, "files/x")

    assert caught.value.code is Fault.SEALED_TRUNCATED


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_no_file_is_that_large(size: int) -> None:
    """Sizes out of range are our own mistake, and raise as one."""
    with pytest.raises(ValueError, match="size"):
        Layout.of(size)
