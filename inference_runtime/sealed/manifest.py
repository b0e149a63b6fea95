"""The signed manifest: what a sealed model consists of, and the digest that names the model.

Guarantees: `verify` returns a manifest only if enough expected signers signed exactly these bytes,
they are canonical, agree with themselves and with the format, and are the ones that were expected.
Says nothing about the sealed files; `open.py` compares those with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import MAX_SIZE, Layout
from inference_runtime.sealed.paths import check_path, check_paths
from verifier import dsse
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical

PAYLOAD_TYPE = "application/vnd.ostiary.manifest.v1+json"
MANIFEST = "manifest.json"
"""Name of the envelope inside a sealed model."""
MAX_FILES = 10_000
MAX_PAYLOAD = 16 << 20
"""Largest manifest in bytes; 10,000 files with the longest paths fit."""
MAX_ENVELOPE = 24 << 20
"""Largest envelope in bytes: base64 of the largest manifest, and signatures."""
DIGEST_SIZE = 32
MAX_VERSION = 2**53 - 1
"""Largest version number: the largest integer that every JSON reader keeps exact."""


@final
class SealedFile(canonical.Struct, frozen=True):
    """One file of the model. Sizes in bytes; `blake3` is over the sealed file, header and all."""

    path: str
    size: int
    sealed_size: int
    blake3: canonical.Hex


@final
class Manifest(canonical.Struct, frozen=True):
    """What one model version consists of; fields in the order of SPEC.md §2."""

    v: int
    model: str
    version: int
    genesis: canonical.Hex
    model_version_id: canonical.Hex
    key_id: str
    key_version: int
    files: tuple[SealedFile, ...]


@final
@dataclass(frozen=True, slots=True)
class TrustedManifest:
    """A manifest that `verify` accepted, and its digest: the model digest."""

    manifest: Manifest
    digest: bytes


def encode(manifest: Manifest) -> bytes:
    """Return the canonical payload of `manifest`, checked as a reader would.

    Raises:
        RuntimeFault: `manifest_invalid`.
    """
    payload = canonical.encode(manifest)
    decode(payload)
    return payload


def decode(payload: bytes) -> Manifest:
    """Return the manifest in `payload`; says nothing about who signed it.

    Raises:
        RuntimeFault: `manifest_invalid`.
    """
    try:
        manifest = canonical.decode(payload, Manifest, limit=MAX_PAYLOAD)
        canonical.require_id(manifest.model, "model")
        canonical.require_id(manifest.key_id, "key_id")
    except VerifierError as error:
        raise RuntimeFault(Fault.MANIFEST_INVALID, f"manifest: {error}") from error
    _check(manifest)
    return manifest


def digest(payload: bytes) -> bytes:
    """Return the model digest: SHA-256 of the canonical manifest."""
    return hashlib.sha256(payload).digest()


def sign(manifest: Manifest, *keys: dsse.PrivateKey) -> bytes:
    """Return the envelope of `manifest`, signed by each of `keys`.

    Raises:
        RuntimeFault: `manifest_invalid`.
    """
    return dsse.sign(PAYLOAD_TYPE, encode(manifest), *keys)


def verify(
    envelope: bytes,
    signers: Sequence[bytes],
    threshold: int,
    *,
    expected_digest: bytes,
    expected_genesis: bytes,
) -> TrustedManifest:
    """Return the manifest in `envelope` if it is genuine and the one that was asked for.

    Args:
        envelope: the bytes of `manifest.json`.
        signers: DER SPKIs of the keys that may sign.
        threshold: how many distinct ones of them must have signed.
        expected_digest: the model digest that policy and release answer name, 32 bytes.
        expected_genesis: digest of the vendor's tenant genesis, 32 bytes.

    Raises:
        RuntimeFault: `manifest_signature`, `manifest_digest`, `manifest_invalid` or
            `manifest_genesis`.
    """
    # 1. Enough of the right signers?
    try:
        payload = dsse.verify(envelope, PAYLOAD_TYPE, signers, threshold, limit=MAX_ENVELOPE)
    except VerifierError as error:
        signature = error.reason is Reason.DOCUMENT_SIGNATURE
        code = Fault.MANIFEST_SIGNATURE if signature else Fault.MANIFEST_INVALID
        raise RuntimeFault(code, f"manifest: {error}") from error
    # 2. The model that was asked for, and not another one of the same vendor, or an older one?
    found = digest(payload)
    if not hmac.compare_digest(found, expected_digest):
        raise RuntimeFault(
            Fault.MANIFEST_DIGEST,
            f"manifest: expected digest {expected_digest.hex()}, seen {found.hex()}",
        )
    # 3. Well formed, and possible?
    manifest = decode(payload)
    # 4. Under the tenant that this machine was built for?
    if not hmac.compare_digest(manifest.genesis, expected_genesis):
        raise RuntimeFault(
            Fault.MANIFEST_GENESIS,
            f"manifest: expected genesis {expected_genesis.hex()}, seen {manifest.genesis.hex()}",
        )
    return TrustedManifest(manifest, found)


def _check(manifest: Manifest) -> None:
    _require(manifest.v == 1, "v is not 1")
    _require(1 <= manifest.version <= MAX_VERSION, "version is not from 1 to 2^53-1")
    _require(1 <= manifest.key_version <= MAX_VERSION, "key_version is not from 1 to 2^53-1")
    _require(len(manifest.genesis) == DIGEST_SIZE, "genesis is not 32 bytes")
    _require(len(manifest.model_version_id) == DIGEST_SIZE, "model_version_id is not 32 bytes")
    _require(1 <= len(manifest.files) <= MAX_FILES, f"not between 1 and {MAX_FILES} files")
    for entry in manifest.files:
        check_path(entry.path, Fault.MANIFEST_INVALID)
        _require(len(entry.blake3) == DIGEST_SIZE, f"{entry.path}: blake3 is not 32 bytes")
        _require(0 <= entry.size <= MAX_SIZE, f"{entry.path}: size {entry.size} is out of range")
        expected = Layout.of(entry.size).sealed_size
        _require(
            entry.sealed_size == expected,
            f"{entry.path}: sealed_size expected {expected}, seen {entry.sealed_size}",
        )
    check_paths((entry.path for entry in manifest.files), Fault.MANIFEST_INVALID)


def _require(holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise RuntimeFault(Fault.MANIFEST_INVALID, f"manifest: {problem}")
