"""Opening a whole model into frozen memory."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.layout import FIRST, PLAIN
from inference_runtime.sealed.open import ModelOpener, open_model
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.seal import SealedModel
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import LocalFolder
from inference_runtime.sealed.stream import SegmentCipher, associated_data
from tests.kit.sealed import GENESIS, SEGMENT, MemorySource, Vendor, pattern
from verifier.wire.canonical import Hex

FILES = {
    "big.gguf": pattern(FIRST + 5 * PLAIN + 99),
    "edge": pattern(FIRST + PLAIN),
    "empty": b"",
    "manifest.json": b'{"not": "ours"}',
    "one": b"1",
    "sub/tokenizer.json": pattern(5000, 3),
}


@dataclass(frozen=True)
class Sample:
    vendor: Vendor
    sealed: SealedModel
    folder: Path

    def source(self) -> MemorySource:
        return MemorySource.of(self.folder)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    where = tmp_path_factory.mktemp("open")
    vendor = Vendor()
    return Sample(vendor, vendor.seal(FILES, where), where / "model-sealed")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_file_comes_back(sample: Sample, threads: int) -> None:
    """Files of all sizes come back byte for byte, by any number of threads, in manifest order."""
    before = descriptors()
    with sample.vendor.open(sample.sealed, sample.source(), threads) as opened:
        assert list(FILES) == list(opened.files)
        for path, plain in FILES.items():
            file = opened.files[path]

            assert file.size == len(plain)
            assert plain == os.pread(file.fileno(), len(plain) + 1, 0)

    assert before == descriptors()


def test_from_a_folder_with_the_manifest_on_disk(sample: Sample) -> None:
    """The folder that sealing wrote is all that opening needs; progress adds up to the sizes."""
    source = LocalFolder(sample.folder)
    envelope = source.read("manifest.json", 0, source.size("manifest.json"))
    done: list[int] = []
    with open_model(
        envelope,
        source,
        sample.vendor.dek(),
        sample.vendor.signers,
        1,
        expected_digest=sample.sealed.digest,
        expected_genesis=GENESIS,
        progress=done.append,
    ) as opened:
        contents = {path: os.pread(f.fileno(), f.size, 0) for path, f in opened.files.items()}

    assert contents == FILES
    assert sum(done) == sum(len(plain) for plain in FILES.values())


def test_memory_is_frozen(sample: Sample) -> None:
    """Writing, growing, shrinking, mapping for writing and unsealing fail, also when reopened."""
    with sample.vendor.open(sample.sealed, sample.source()) as opened:
        for file in opened.files.values():
            again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | os.O_CLOEXEC)
            try:
                for fd in (file.fileno(), again):
                    with pytest.raises(PermissionError):
                        os.pwrite(fd, b"x", 0)
                    with pytest.raises(PermissionError):
                        os.ftruncate(fd, file.size + 1)
                    if file.size:
                        with pytest.raises(PermissionError):
                            os.ftruncate(fd, file.size - 1)
                        with pytest.raises(PermissionError):
                            mmap.mmap(fd, file.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE)
                    with pytest.raises(PermissionError):
                        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            finally:
                os.close(again)

            assert not os.get_inheritable(file.fileno())
            assert str(Path(f"/proc/self/fd/{file.fileno()}").readlink()).startswith("/memfd:")


def test_one_file_at_a_time(sample: Sample) -> None:
    """A supervisor opens files in its own order and keeps as many alive as it likes."""
    trusted = manifests.TrustedManifest(sample.sealed.manifest, sample.sealed.digest)
    with ModelOpener(trusted, sample.source(), sample.vendor.dek(), threads=2) as opener:
        for path in reversed(FILES):
            with opener.open(path) as file:
                assert FILES[path] == os.pread(file.fileno(), file.size, 0)
        with pytest.raises(RuntimeFault) as caught:
            opener.open("stranger")

    assert caught.value.code is Fault.SEALED_MISSING


BIG = "files/big.gguf"
Tamper = Callable[[dict[str, bytes]], object]


def change(name: str, new: Callable[[bytes], bytes]) -> Tamper:
    def tamper(files: dict[str, bytes]) -> None:
        files[name] = new(files[name])

    return tamper


def swap(one: str, two: str) -> Tamper:
    def tamper(files: dict[str, bytes]) -> None:
        files[one], files[two] = files[two], files[one]

    return tamper


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :]


TAMPERS: dict[str, tuple[Tamper, Fault, str]] = {
    "file removed": (lambda files: files.pop(BIG), Fault.SEALED_MISSING, BIG),
    "file emptied": (change(BIG, lambda _: b""), Fault.SEALED_TRUNCATED, BIG),
    "last byte cut": (change(BIG, lambda raw: raw[:-1]), Fault.SEALED_TRUNCATED, BIG),
    "last segment cut": (
        change(BIG, lambda raw: raw[: 5 * SEGMENT]),
        Fault.SEALED_TRUNCATED,
        BIG,
    ),
    "byte added": (change(BIG, lambda raw: raw + b"\0"), Fault.SEALED_EXTRA, BIG),
    "bytes added to an empty file": (
        change("files/empty", lambda raw: raw + b"\0"),
        Fault.SEALED_EXTRA,
        "files/empty",
    ),
    "header length": (
        change(BIG, lambda raw: b"\x27" + raw[1:]),
        Fault.SEALED_HEADER,
        BIG,
    ),
    "salt": (change(BIG, flipped(5)), Fault.SEALED_SEGMENT, "segment 0"),
    "nonce prefix": (change(BIG, flipped(36)), Fault.SEALED_SEGMENT, "segment 0"),
    "bit in segment 3": (change(BIG, flipped(3 * SEGMENT + 9)), Fault.SEALED_SEGMENT, "segment 3"),
    "tag of segment 4": (change(BIG, flipped(5 * SEGMENT - 1)), Fault.SEALED_SEGMENT, "segment 4"),
    "segments 1 and 2 swapped": (
        change(
            BIG,
            lambda raw: (
                raw[:SEGMENT]
                + raw[2 * SEGMENT : 3 * SEGMENT]
                + raw[SEGMENT : 2 * SEGMENT]
                + raw[3 * SEGMENT :]
            ),
        ),
        Fault.SEALED_SEGMENT,
        "segment 1",
    ),
    "small file": (change("files/one", flipped(40)), Fault.SEALED_SEGMENT, "files/one"),
    "empty file": (change("files/empty", flipped(41)), Fault.SEALED_SEGMENT, "files/empty"),
}


@pytest.mark.parametrize("case", TAMPERS)
def test_tampering_has_its_own_error(sample: Sample, case: str) -> None:
    """Each kind of damage is refused with its code and the file's name; nothing stays open."""
    tamper, code, named = TAMPERS[case]
    source = sample.source()
    tamper(source.files)
    before = descriptors()

    with pytest.raises(RuntimeFault, match=named) as caught:
        sample.vendor.open(sample.sealed, source)

    assert caught.value.code is code
    assert before == descriptors()


def test_files_of_one_size_that_change_places(tmp_path: Path) -> None:
    """Two sealed files of one size cannot stand in for each other."""
    vendor = Vendor()
    sealed = vendor.seal({"a": pattern(100), "b": pattern(100, 2)}, tmp_path)
    source = MemorySource.of(tmp_path / "model-sealed")
    swap("files/a", "files/b")(source.files)

    with pytest.raises(RuntimeFault, match="files/a") as caught:
        vendor.open(sealed, source)

    assert caught.value.code is Fault.SEALED_SEGMENT


def test_file_of_another_version_under_the_same_key(sample: Sample, tmp_path: Path) -> None:
    """A file sealed earlier under the same key and path belongs to another model version id."""
    sample.vendor.seal(FILES, tmp_path)
    source = sample.source()
    source.files["files/one"] = MemorySource.of(tmp_path / "model-sealed").files["files/one"]

    with pytest.raises(RuntimeFault, match="files/one") as caught:
        sample.vendor.open(sample.sealed, source)

    assert caught.value.code is Fault.SEALED_SEGMENT


@pytest.mark.parametrize("path", ["one", "big.gguf"])
def test_forgery_by_a_former_holder_of_the_key(sample: Sample, path: str) -> None:
    """Who once held the data key makes authentic segments; the digest refuses them all the same."""
    raw = sample.source().files["files/" + path]
    associated = associated_data(sample.sealed.manifest.model_version_id, path)
    cipher = SegmentCipher(sample.vendor.dek(), raw[:40], associated, path)
    forged = bytearray(raw)
    length = min(len(raw), SEGMENT) - 56
    last = len(raw) <= SEGMENT
    cipher.seal(0, memoryview(bytes(length)), memoryview(forged)[40 : 56 + length], last=last)
    source = sample.source()
    source.files["files/" + path] = bytes(forged)

    # The positive control: without the digest it opens.
    reader = SealedReader(source, "files/" + path, sample.vendor.dek(), associated)
    assert reader.read(0, length) == bytes(length)
    with pytest.raises(RuntimeFault, match=path) as caught:
        sample.vendor.open(sample.sealed, source)
    assert caught.value.code is Fault.SEALED_DIGEST


def test_digest_in_the_manifest_counts(sample: Sample) -> None:
    """A manifest that names another digest, signed and expected, does not open the files."""
    first, *rest = sample.sealed.manifest.files
    wrong = msgspec.structs.replace(first, blake3=Hex(blake3(b"").digest()))
    manifest = msgspec.structs.replace(sample.sealed.manifest, files=(wrong, *rest))
    payload = manifests.encode(manifest)
    changed = SealedModel(manifest, sample.vendor.sign(payload), manifests.digest(payload))

    with pytest.raises(RuntimeFault) as caught:
        sample.vendor.open(changed, sample.source())

    assert caught.value.code is Fault.SEALED_DIGEST


def test_another_key_and_a_wiped_key(sample: Sample) -> None:
    """The wrong data key opens nothing, a wiped one is named as such."""
    wiped = sample.vendor.dek()
    wiped.wipe()
    for dek, code in ((SecretKey.generate(), Fault.SEALED_SEGMENT), (wiped, Fault.KEY_WIPED)):
        with pytest.raises(RuntimeFault) as caught:
            open_model(
                sample.sealed.envelope,
                sample.source(),
                dek,
                sample.vendor.signers,
                1,
                expected_digest=sample.sealed.digest,
                expected_genesis=GENESIS,
            )

        assert caught.value.code is code


def test_nothing_is_read_before_the_manifest_is_trusted(sample: Sample) -> None:
    """An unexpected manifest is refused before the source is asked for anything."""
    source = MemorySource({})  # any question to it would raise sealed_missing

    with pytest.raises(RuntimeFault) as caught:
        open_model(
            sample.sealed.envelope,
            source,
            sample.vendor.dek(),
            sample.vendor.signers,
            1,
            expected_digest=bytes(32),
            expected_genesis=GENESIS,
        )

    assert caught.value.code is Fault.MANIFEST_DIGEST


class CountingSource(MemorySource):
    """Counts reads that are under way at once, and serves each segment once only."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.spans: list[tuple[str, int, int]] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.spans.append((name, offset, length))
        try:
            return super().read(name, offset, length)
        finally:
            with self._lock:
                self._now -= 1


def test_every_byte_is_read_once_and_few_at_a_time(sample: Sample) -> None:
    """What was hashed is what was decrypted: no byte is asked for twice, none beyond a segment."""
    source = CountingSource(sample.source().files)
    with sample.vendor.open(sample.sealed, source, threads=2):
        pass
    asked = [span for span in source.spans if span[0] == BIG]

    assert len(asked) == len({offset for _, offset, _ in asked}) == 7
    assert sum(length for _, _, length in asked) == len(source.files[BIG])
    assert max(length for _, _, length in source.spans) <= SEGMENT
    assert source.most <= 3


class LyingSource(MemorySource):
    """Says one size and gives fewer bytes."""

    def read(self, name: str, offset: int, length: int) -> bytes:
        return super().read(name, offset, length)[: length // 2]


def test_a_short_read_is_truncation(sample: Sample) -> None:
    """A source that gives less than it promised is refused, not waited for."""
    with pytest.raises(RuntimeFault) as caught:
        sample.vendor.open(sample.sealed, LyingSource(sample.source().files))

    assert caught.value.code is Fault.SEALED_TRUNCATED


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "files/nothing", "files"])
def test_a_folder_gives_only_files_inside_it(sample: Sample, name: str) -> None:
    """Names that leave the folder, folders and absent files are missing."""
    with pytest.raises(RuntimeFault) as caught:
        LocalFolder(sample.folder).size(name)

    assert caught.value.code is Fault.SEALED_MISSING


def test_links_and_pipes_in_a_sealed_folder(tmp_path: Path) -> None:
    """A link is not followed and a pipe does not hang the reader."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    folder = LocalFolder(tmp_path)

    with pytest.raises(RuntimeFault) as link:
        folder.size("link")
    with pytest.raises(RuntimeFault) as pipe:
        folder.read("pipe", 0, 1)

    assert link.value.code is Fault.SOURCE_UNAVAILABLE
    assert pipe.value.code is Fault.SEALED_MISSING


def test_sharded_safetensors(tmp_path: Path) -> None:
    """Shards open from memory with the ordinary library, tensor by tensor, and at any offset."""
    generator = np.random.default_rng(7)
    shards = {
        f"model-0000{n}-of-00003.safetensors": {
            f"layer.{n}.{name}": generator.standard_normal((300, 700), dtype=np.float32)
            for name in ("q", "k", "v")
        }
        for n in (1, 2, 3)
    }
    plain = tmp_path / "plain"
    plain.mkdir()
    for file, tensors in shards.items():
        save_file(tensors, plain / file)
    index = {"weight_map": {t: file for file, tensors in shards.items() for t in tensors}}
    raw = {file: (plain / file).read_bytes() for file in shards}
    raw["model.safetensors.index.json"] = json.dumps(index).encode()
    vendor = Vendor()
    sealed = vendor.seal(raw, tmp_path)
    folder = LocalFolder(tmp_path / "model-sealed")

    with vendor.open(sealed, MemorySource.of(tmp_path / "model-sealed")) as opened:
        for file, tensors in shards.items():
            path = f"/proc/self/fd/{opened.files[file].fileno()}"
            found = load_file(path)
            assert all(np.array_equal(tensors[name], found[name]) for name in tensors)
            with safe_open(path, framework="numpy") as reader:
                assert set(tensors) == set(reader.keys())

    for file, tensors in shards.items():
        associated = associated_data(sealed.manifest.model_version_id, file)
        one = SealedReader(folder, "files/" + file, vendor.dek(), associated)
        length = int.from_bytes(one.read(0, 8), "little")
        header = json.loads(one.read(8, length))
        for name, tensor in tensors.items():
            start, end = header[name]["data_offsets"]
            data = one.read(8 + length + start, end - start)
            assert np.array_equal(tensor, np.frombuffer(data, np.float32).reshape(300, 700))
