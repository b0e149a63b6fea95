"""The signed manifest: one encoding, strict values, expected signers, digest and genesis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.layout import MAX_SIZE, Layout
from inference_runtime.sealed.manifest import Manifest, SealedFile
from inference_runtime.sealed.paths import check_path, check_paths
from tests.kit.sealed import GENESIS, Vendor
from verifier import dsse
from verifier.wire.canonical import Hex


def entry(path: str, size: int = 8) -> SealedFile:
    return SealedFile(path, size, Layout.of(size).sealed_size, Hex(bytes(32)))


GOOD = Manifest(
    1,
    "m",
    1,
    Hex(GENESIS),
    Hex(bytes(32)),
    "k",
    1,
    (entry("a"), entry("b/c")),
)


def with_change(change: dict[str, Any]) -> bytes:
    """The good manifest with fields of itself, or of its first file, replaced."""
    value = json.loads(manifests.encode(GOOD))
    for name, new in change.items():
        target = value["files"][0] if name in value["files"][0] else value
        target[name] = new
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


BAD: dict[str, dict[str, Any]] = {
    "format version": {"v": 2},
    "model name": {"model": "Tiny"},
    "empty model name": {"model": ""},
    "key id": {"key_id": "a" * 64},
    "version zero": {"version": 0},
    "version true": {"version": True},
    "version too large": {"version": 2**53},
    "key version zero": {"key_version": 0},
    "short genesis": {"genesis": "00"},
    "upper-case genesis": {"genesis": "AA" * 32},
    "short version id": {"model_version_id": "00" * 31},
    "unknown field": {"colour": "red"},
    "no files": {"files": []},
    "short digest": {"blake3": "00" * 31},
    "negative size": {"size": -1},
    "size and sealed size differ": {"sealed_size": 65},
    "size without end": {"size": MAX_SIZE + 1},
    "fractional size": {"size": 8.0},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case: str) -> None:
    """Each value against section 2 of the specification makes the manifest invalid."""
    assert manifests.decode(with_change({})) == GOOD

    with pytest.raises(RuntimeFault) as caught:
        manifests.decode(with_change(BAD[case]))

    assert caught.value.code is Fault.MANIFEST_INVALID


BAD_PATHS = [
    "",
    "/etc/passwd",
    "../a",
    "a/../b",
    "a/./b",
    ".",
    "..",
    "a//b",
    "a/",
    "a\\b",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\u202eb",  # right-to-left override: reads as another name
    "a\u200bb",
    "a\u2028b",
    "e\u0301",  # decomposed
    "a\ud800b",
    "x" * 256,
    "/".join(["x" * 200] * 3),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_bad_paths_are_refused(path: str) -> None:
    """A path that leaves its folder, hides something or has two spellings is refused."""
    with pytest.raises(RuntimeFault) as caught:
        check_path(path, Fault.MANIFEST_INVALID)

    assert caught.value.code is Fault.MANIFEST_INVALID


@pytest.mark.parametrize("path", ["a", "a b", "...", ".hidden", "a/b/c.safetensors", "é", "模型"])
def test_good_paths_are_accepted(path: str) -> None:
    """Ordinary names, in any script, are fine."""
    assert path == check_path(path, Fault.MANIFEST_INVALID)


@pytest.mark.parametrize("paths", [("b", "a"), ("a", "a"), ("a", "a/b"), ("a", "a b", "a/b/c")])
def test_bad_lists_of_paths_are_refused(paths: tuple[str, ...]) -> None:
    """Files out of order, twice, or as another one's folder are refused."""
    changed = msgspec.structs.replace(GOOD, files=tuple(entry(path) for path in paths))

    with pytest.raises(RuntimeFault) as caught:
        manifests.encode(changed)

    assert caught.value.code is Fault.MANIFEST_INVALID


def test_the_number_of_files_is_bounded() -> None:
    """10,000 files are a model, 10,001 are not."""
    files = tuple(entry(f"{number:05}") for number in range(10_001))
    most = msgspec.structs.replace(GOOD, files=files[:-1])

    assert most == manifests.decode(manifests.encode(most))
    with pytest.raises(RuntimeFault, match="10000 files"):
        manifests.encode(msgspec.structs.replace(GOOD, files=files))


paths = st.text(min_size=1, max_size=12).filter(lambda p: _accepted([p]))
hexes = st.binary(min_size=32, max_size=32).map(Hex)
ids = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
files = st.builds(
    lambda path, size, digest: SealedFile(path, size, Layout.of(size).sealed_size, digest),
    paths,
    st.integers(0, MAX_SIZE),
    hexes,
)
several = (
    st.lists(files, min_size=1, max_size=4, unique_by=lambda file: file.path)
    .map(lambda found: tuple(sorted(found, key=lambda file: file.path)))
    .filter(lambda found: _accepted([file.path for file in found]))
)
some_manifests = st.builds(
    Manifest, st.just(1), ids, st.integers(1, 2**53 - 1), hexes, hexes, ids, st.just(1), several
)


def _accepted(candidates: list[str]) -> bool:
    try:
        for path in candidates:
            check_path(path, Fault.MANIFEST_INVALID)
        check_paths(candidates, Fault.MANIFEST_INVALID)
    except RuntimeFault:
        return False
    return True


@settings(max_examples=60)
@given(some_manifests)
def test_print_then_parse_is_identity(manifest: Manifest) -> None:
    """Every valid manifest reads back as itself."""
    assert manifest == manifests.decode(manifests.encode(manifest))


@settings(max_examples=150)
@given(st.data())
def test_parse_then_print_is_identity_or_our_error(data: st.DataObject) -> None:
    """Any change of bytes is refused with our error, or is the one encoding of another manifest."""
    raw = bytearray(manifests.encode(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with suppress_invalid():
        assert bytes(raw) == manifests.encode(manifests.decode(bytes(raw)))


@contextmanager
def suppress_invalid() -> Iterator[None]:
    """Let `manifest_invalid` pass, and nothing else."""
    try:
        yield
    except RuntimeFault as fault:
        if fault.code is not Fault.MANIFEST_INVALID:
            raise


def verify(envelope: bytes, vendor: Vendor, **change: Any) -> manifests.TrustedManifest:
    expected = {
        "expected_digest": manifests.digest(manifests.encode(GOOD)),
        "expected_genesis": GENESIS,
    } | change
    return manifests.verify(envelope, vendor.signers, change.pop("threshold", 1), **expected)


def test_the_expected_manifest_is_accepted() -> None:
    """Signed by the expected signer, with expected digest and genesis, it comes back whole."""
    vendor = Vendor()

    assert verify(manifests.sign(GOOD, vendor.key), vendor).manifest == GOOD


def test_signatures_that_do_not_count() -> None:
    """A stranger's signature, one of two, none, or one over another payload type is refused."""
    vendor, stranger = Vendor(), Ed25519PrivateKey.generate()
    payload = manifests.encode(GOOD)
    digest = manifests.digest(payload)
    envelopes = [
        (manifests.sign(GOOD, stranger), 1),
        (manifests.sign(GOOD, vendor.key), 2),
        (manifests.sign(GOOD, vendor.key, vendor.key), 2),
        (manifests.sign(GOOD), 1),
        (dsse.sign("application/vnd.ostiary.policy.v1+json", payload, vendor.key), 1),
    ]
    for envelope, threshold in envelopes:
        with pytest.raises(RuntimeFault) as caught:
            manifests.verify(
                envelope,
                vendor.signers,
                threshold,
                expected_digest=digest,
                expected_genesis=GENESIS,
            )

        assert caught.value.code is Fault.MANIFEST_SIGNATURE


def test_another_model_than_expected() -> None:
    """A genuine manifest of the same vendor, but not the one that was released, is refused."""
    vendor = Vendor()
    older = msgspec.structs.replace(GOOD, version=2)

    with pytest.raises(RuntimeFault) as caught:
        verify(manifests.sign(older, vendor.key), vendor)

    assert caught.value.code is Fault.MANIFEST_DIGEST


def test_another_tenant_than_expected() -> None:
    """A manifest under another genesis is refused although everything else holds."""
    vendor = Vendor()

    with pytest.raises(RuntimeFault) as caught:
        verify(manifests.sign(GOOD, vendor.key), vendor, expected_genesis=bytes(32))

    assert caught.value.code is Fault.MANIFEST_GENESIS


def test_signed_nonsense_is_still_refused() -> None:
    """A signature does not make a path with .. good."""
    vendor = Vendor()
    payload = with_change({"path": "../a"})
    envelope = dsse.sign(manifests.PAYLOAD_TYPE, payload, vendor.key)

    with pytest.raises(RuntimeFault) as caught:
        verify(envelope, vendor, expected_digest=manifests.digest(payload))

    assert caught.value.code is Fault.MANIFEST_INVALID


@given(st.binary(max_size=200))
def test_an_arbitrary_envelope_gives_only_our_error(raw: bytes) -> None:
    """Whatever the envelope is, `RuntimeFault` and nothing else."""
    with pytest.raises(RuntimeFault):
        manifests.verify(raw, [], 1, expected_digest=bytes(32), expected_genesis=GENESIS)
