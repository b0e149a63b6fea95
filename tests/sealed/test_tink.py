"""Our sealed files are Tink's, byte for byte, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import tink

from inference_runtime.sealed.layout import FIRST, PLAIN, Layout
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.stream import associated_data
from tests.kit.sealed import MemorySource, Tink, Vendor, pattern

SIZES = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + PLAIN - 1, FIRST + PLAIN, FIRST + PLAIN + 1]


@pytest.fixture(scope="module")
def peer() -> Tink:
    return Tink(Vendor().raw_dek)


def test_tink_opens_what_we_seal(tmp_path: Path, peer: Tink) -> None:
    """Tink opens our sealed files of every size around a segment's edge."""
    vendor = Vendor()
    files = {f"{size}.bin": pattern(size) for size in SIZES}
    sealed = vendor.seal(files, tmp_path)
    version = sealed.manifest.model_version_id

    for path, plain in files.items():
        raw = (tmp_path / "model-sealed" / "files" / path).read_bytes()

        assert plain == peer.open(raw, associated_data(version, path))


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_tink_seals(peer: Tink, size: int) -> None:
    """Our reader opens what Tink seals, and the sizes are the ones we calculate."""
    associated = associated_data(bytes(32), "a")
    plain = pattern(size)
    raw = peer.seal(plain, associated)

    reader = SealedReader(MemorySource({"files/a": raw}), "files/a", Vendor().dek(), associated)

    assert Layout.of(size).sealed_size == len(raw)
    assert plain == reader.read(0, size)


def test_tink_refuses_another_place(tmp_path: Path, peer: Tink) -> None:
    """The positive control: Tink does look at our associated data."""
    vendor = Vendor()
    sealed = vendor.seal({"a": b"plain"}, tmp_path)
    raw = (tmp_path / "model-sealed" / "files" / "a").read_bytes()

    with pytest.raises(tink.TinkError):
        peer.open(raw, associated_data(sealed.manifest.model_version_id, "b"))
