"""Random access to one sealed file, and every way to tamper with it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import FIRST, PLAIN
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import LocalFolder
from inference_runtime.sealed.stream import SegmentCipher, associated_data
from tests.kit.sealed import SEGMENT, MemorySource, Vendor, pattern

SIZE = FIRST + 2 * PLAIN + 777
PLAINTEXT = pattern(SIZE)


@dataclass(frozen=True)
class Sample:
    folder: Path
    raw: bytes
    other: bytes
    version: bytes

    def reader(self, raw: bytes | None = None, path: str = "a") -> SealedReader:
        source = MemorySource({"files/a": self.raw if raw is None else raw})
        ad = associated_data(self.version, path)
        return SealedReader(source, "files/a", Vendor().dek(), ad)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    where = tmp_path_factory.mktemp("sealed")
    sealed = Vendor().seal({"a": PLAINTEXT, "b": pattern(SIZE, 2)}, where)
    folder = where / "model-sealed"
    raw, other = ((folder / "files" / name).read_bytes() for name in "ab")
    return Sample(folder, raw, other, sealed.manifest.model_version_id)


edges = [0, FIRST, FIRST + PLAIN, FIRST + 2 * PLAIN, SIZE]
offsets = st.one_of(
    st.integers(0, SIZE + 10),
    st.builds(lambda edge, by: max(0, edge + by), st.sampled_from(edges), st.integers(-3, 3)),
)


@settings(max_examples=60, deadline=None)
@given(offset=offsets, end=offsets)
def test_any_range_is_the_plaintext(sample: Sample, offset: int, end: int) -> None:
    """A read at any offset, of any length, gives what slicing the plaintext gives."""
    length = max(0, end - offset)

    assert PLAINTEXT[offset : offset + length] == sample.reader().read(offset, length)


@settings(max_examples=15, deadline=None)
@given(offset=offsets, end=offsets, threads=st.integers(1, 4))
def test_any_range_lands_in_the_callers_buffer(
    sample: Sample, offset: int, end: int, threads: int
) -> None:
    """A threaded read fills its part of the buffer from a folder, and touches nothing after it."""
    length = max(0, end - offset)
    associated = associated_data(sample.version, "a")
    reader = SealedReader(LocalFolder(sample.folder), "files/a", Vendor().dek(), associated)
    buffer = bytearray(b"\xaa" * length)

    count = reader.read_into(offset, memoryview(buffer), threads=threads)

    assert PLAINTEXT[offset : offset + length] + b"\xaa" * (length - count) == bytes(buffer)


def test_reads_into_a_mapped_memfd(sample: Sample) -> None:
    """The caller's buffer may be a mapped memfd, as an engine would hand it over."""
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, SIZE)
        with mmap.mmap(descriptor, SIZE) as mapped, memoryview(mapped) as view:
            sample.reader().read_into(0, view, threads=2)

        assert os.pread(descriptor, SIZE, 0) == PLAINTEXT
    finally:
        os.close(descriptor)


def test_nonsense_ranges_raise_as_our_own_mistake(sample: Sample) -> None:
    """A negative offset or length is a ValueError, and never wraps around."""
    with pytest.raises(ValueError, match="offset"):
        sample.reader().read(-1, 5)
    with pytest.raises(ValueError, match="length"):
        sample.reader().read(0, -1)


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def forge(last_flag: bool, size: int) -> Callable[[Sample], bytes]:
    """A holder of the key seals a first segment with the wrong last flag."""

    def make(sample: Sample) -> bytes:
        header = sample.raw[:40]
        cipher = SegmentCipher(Vendor().dek(), header, associated_data(sample.version, "a"), "a")
        out = bytearray(size + 16)
        cipher.seal(0, memoryview(PLAINTEXT[:size]), memoryview(out), last=last_flag)
        return header + bytes(out)

    return make


SEGMENT_CASES: dict[str, Callable[[Sample], bytes]] = {
    "bit flipped in salt": lambda s: flip(s.raw, 1),
    "bit flipped in nonce prefix": lambda s: flip(s.raw, 39),
    "bit flipped in first segment": lambda s: flip(s.raw, 40),
    "bit flipped in middle segment": lambda s: flip(s.raw, SEGMENT + 5),
    "bit flipped in a tag": lambda s: flip(s.raw, 2 * SEGMENT - 1),
    "bit flipped at the end": lambda s: flip(s.raw, len(s.raw) - 1),
    "segments 1 and 2 changed places": lambda s: (
        s.raw[:SEGMENT]
        + s.raw[2 * SEGMENT : 3 * SEGMENT]
        + s.raw[SEGMENT : 2 * SEGMENT]
        + s.raw[3 * SEGMENT :]
    ),
    "segment 1 twice": lambda s: (
        s.raw[: 2 * SEGMENT] + s.raw[SEGMENT : 2 * SEGMENT] + s.raw[3 * SEGMENT :]
    ),
    "segment 1 dropped": lambda s: s.raw[:SEGMENT] + s.raw[2 * SEGMENT :],
    "cut at a segment's edge": lambda s: s.raw[: 2 * SEGMENT],
    "cut inside a segment": lambda s: s.raw[: 2 * SEGMENT + 1000],
    "cut by one byte": lambda s: s.raw[:-1],
    "one byte more": lambda s: s.raw + b"\0",
    "one segment more": lambda s: s.raw + s.raw[-793:],
    "segment of another file": lambda s: s.raw[:SEGMENT] + s.other[SEGMENT:],
    "another file's bytes": lambda s: s.other,
    "last flag not set at the end": forge(last_flag=False, size=100),
}


@pytest.mark.parametrize("case", SEGMENT_CASES)
def test_tampering_is_refused_with_the_files_name(sample: Sample, case: str) -> None:
    """Altered, moved, repeated, dropped, foreign and wrongly ended segments are all refused."""
    raw = SEGMENT_CASES[case](sample)
    assert raw != sample.raw

    with pytest.raises(RuntimeFault, match="files/a") as caught:
        sample.reader(raw).read(0, SIZE + SEGMENT)

    assert caught.value.code is Fault.SEALED_SEGMENT


def test_a_last_flag_in_the_middle_is_refused(sample: Sample) -> None:
    """A first segment that claims to be the last does not open where others follow."""
    ended = forge(last_flag=True, size=FIRST)(sample)
    reader = sample.reader(ended + sample.raw[SEGMENT:])

    assert sample.reader(ended).read(0, FIRST) == PLAINTEXT[:FIRST]
    with pytest.raises(RuntimeFault, match="segment 0 is not authentic"):
        reader.read(0, 10)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 55])
def test_too_short_to_be_a_file(sample: Sample, length: int) -> None:
    """An empty file, or one without room for header and tag, is truncated."""
    with pytest.raises(RuntimeFault, match="files/a") as caught:
        sample.reader(sample.raw[:length])

    assert caught.value.code is Fault.SEALED_TRUNCATED


def test_an_empty_last_segment_is_refused(sample: Sample) -> None:
    """No file has an empty segment after another, even if the holder of the key sealed it so."""
    header = sample.raw[:40]
    cipher = SegmentCipher(Vendor().dek(), header, associated_data(sample.version, "a"), "a")
    first, empty = bytearray(FIRST + 16), bytearray(16)
    cipher.seal(0, memoryview(PLAINTEXT[:FIRST]), memoryview(first), last=False)
    cipher.seal(1, memoryview(b""), memoryview(empty), last=True)

    with pytest.raises(RuntimeFault) as caught:
        sample.reader(header + bytes(first) + bytes(empty))

    assert caught.value.code is Fault.SEALED_TRUNCATED


def test_another_header_length_is_refused(sample: Sample) -> None:
    """The first byte is 40 or it is not our format."""
    with pytest.raises(RuntimeFault, match="files/a") as caught:
        sample.reader(b"\x18" + sample.raw[1:])

    assert caught.value.code is Fault.SEALED_HEADER


def test_another_path_or_key_is_refused(sample: Sample) -> None:
    """The file opens under its own path and data key only."""
    with pytest.raises(RuntimeFault) as renamed:
        sample.reader(path="b")
    source = MemorySource({"files/a": sample.raw})
    with pytest.raises(RuntimeFault) as keyed:
        SealedReader(source, "files/a", SecretKey.generate(), associated_data(sample.version, "a"))

    assert renamed.value.code is keyed.value.code is Fault.SEALED_SEGMENT


def test_what_was_not_authentic_leaves_no_plaintext(sample: Sample) -> None:
    """After a refused segment the buffer holds zeros, not unauthenticated plaintext."""
    buffer = bytearray(b"\xaa" * SIZE)
    reader = sample.reader(flip(sample.raw, SEGMENT + 5))

    with pytest.raises(RuntimeFault):
        reader.read_into(0, memoryview(buffer), threads=1)

    assert bytes(PLAIN) == buffer[FIRST : FIRST + PLAIN]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_only_our_error(raw: bytes) -> None:
    """Whatever the bytes are, the reader raises `RuntimeFault` and nothing else."""
    with pytest.raises(RuntimeFault):
        SealedReader(MemorySource({"x": raw}), "x", Vendor().dek(), b"")
