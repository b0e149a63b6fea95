"""A model that is opened file by file, and the key that goes with it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.stream_model import StreamedModel
from tests.kit.sealed import GENESIS, MemorySource, Vendor, pattern

BIG = pattern(20 << 20)
FILES = {"big.bin": BIG, "small.json": b"{}"}


class Waiting(MemorySource):
    """A source that stands still at one segment until it is told to go on."""

    reached = threading.Event()
    go_on = threading.Event()

    def read(self, name: str, offset: int, length: int) -> bytes:
        if offset >= 5 << 20:
            self.reached.set()
            self.go_on.wait(20)
        return super().read(name, offset, length)


@pytest.fixture
def vendor() -> Vendor:
    """Give a vendor."""
    return Vendor()


def opened(
    vendor: Vendor, tmp_path: Path, kind: type[MemorySource] = MemorySource
) -> StreamedModel:
    """Seal the files and open the manifest."""
    sealed = vendor.seal(FILES, tmp_path)
    trusted = manifests.verify(
        sealed.envelope,
        vendor.signers,
        1,
        expected_digest=sealed.digest,
        expected_genesis=GENESIS,
    )
    return StreamedModel(trusted, kind.of(tmp_path / "model-sealed"), vendor.dek(), threads=2)


def test_files_open_one_by_one_until_the_key_is_gone(vendor: Vendor, tmp_path: Path) -> None:
    """What was opened stays; what was not can be opened no more; closing twice is nothing."""
    with opened(vendor, tmp_path) as model:
        assert [(entry.path, entry.size) for entry in model.files] == [
            ("big.bin", len(BIG)),
            ("small.json", 2),
        ]
        file = model.open("big.bin")
        model.close()
        with file, open(file.fileno(), "rb", closefd=False) as raw:
            assert raw.read() == BIG
        for call in (lambda: model.open("small.json"), lambda: model.head("small.json", 1)):
            with pytest.raises(RuntimeFault) as refused:
                call()
            assert refused.value.code is Fault.KEY_WIPED
    assert model._dek.wiped


@pytest.mark.parametrize("length", [0, 1, 8, 1 << 20, 3 << 20, 1 << 30])
def test_a_head_is_the_start_of_its_file(vendor: Vendor, tmp_path: Path, length: int) -> None:
    """As many bytes as were asked for, or as there are, across segments."""
    with opened(vendor, tmp_path) as model:
        assert model.head("big.bin", length) == BIG[:length]
        with pytest.raises(RuntimeFault, match=r"absent\.bin"):
            model.head("absent.bin", length)


def test_a_load_that_is_called_off_ends_within_a_segment(vendor: Vendor, tmp_path: Path) -> None:
    """`close` from another thread stops an open in mid-file, and then the key is gone."""
    model = opened(vendor, tmp_path, Waiting)
    failed: list[RuntimeFault] = []

    def load() -> None:
        try:
            model.open("big.bin").close()
        except RuntimeFault as fault:
            failed.append(fault)

    loading, closing = threading.Thread(target=load), threading.Thread(target=model.close)
    loading.start()
    assert Waiting.reached.wait(20)
    closing.start()
    while not model._closing.is_set():
        pass
    Waiting.go_on.set()
    loading.join(20)
    closing.join(20)

    assert [fault.code for fault in failed] == [Fault.KEY_WIPED]
    assert model._dek.wiped
