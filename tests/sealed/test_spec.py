"""The example in SPEC.md is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from blake3 import blake3

from inference_runtime.errors import Fault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed import stream
from inference_runtime.sealed.layout import HEADER, MAX_SIZE, Layout
from inference_runtime.sealed.reader import SealedReader
from inference_runtime.sealed.secret import SecretKey
from tests.kit.sealed import MemorySource

PACKAGE = Path(stream.__file__).parent
SPEC = (PACKAGE / "SPEC.md").read_text()


def row(name: str) -> bytes:
    found = re.search(rf"^\| {re.escape(name)} \| `([0-9a-f]+)` \|$", SPEC, re.MULTILINE)
    assert found is not None, name
    return bytes.fromhex(found[1])


def test_sealed_file_of_the_example() -> None:
    """Associated data, digest and bytes of the example are ours, and open again."""
    dek, associated, sealed = row("data key (DEK)"), row("associated data"), row("sealed file")

    assert associated == stream.associated_data(row("model version id"), "model.gguf")
    assert row("its BLAKE3") == blake3(sealed).digest()

    cipher = stream.SegmentCipher(SecretKey(bytearray(dek)), sealed[:HEADER], associated, "x")
    out = bytearray(24)
    cipher.seal(0, memoryview(b"weights\n"), memoryview(out), last=True)

    assert sealed[HEADER:] == out

    source = MemorySource({"x": sealed})
    reader = SealedReader(source, "x", SecretKey(bytearray(dek)), associated)

    assert reader.read(0, 100) == b"weights\n"


def test_manifest_of_the_example() -> None:
    """The manifest shown is canonical, and its digest is the one shown."""
    shown = re.search(r"```json\n(.+)\n```", SPEC)
    assert shown is not None
    payload = shown[1].encode()
    manifest = manifests.decode(payload)

    assert payload == manifests.encode(manifest)
    assert row("model digest") == manifests.digest(payload)
    assert row("model version id") == manifest.model_version_id
    assert row("its BLAKE3") == manifest.files[0].blake3
    assert list(json.loads(payload)) == list(manifest.__struct_fields__)


def test_limits_of_the_specification() -> None:
    """The numbers of section 3.4 are the code's."""
    assert MAX_SIZE == (1 << 32) * 1_048_560 - 40
    assert Layout.of(MAX_SIZE).count == 1 << 32
    assert Layout.of(0).sealed_size == 56


def test_every_code_of_the_specification_exists() -> None:
    """Section 5 names codes that the error list has."""

    codes = re.findall(r"`([a-z]+_[a-z]+)`", SPEC.split("## 5. Errors")[1])

    assert codes
    assert set(codes) <= {fault.value for fault in Fault}
