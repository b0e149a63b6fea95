"""The manifest of a sealed model, as far as a store of ciphertext needs to read it.

Guarantees: `read` returns a manifest only if the tenant signed it, it is canonical, it belongs to
this tenant, and its files have sizes and paths within bounds, sorted and unique. What the sizes
must be, and which path is safe on a disk, is for the runtime to judge (`inference_runtime/sealed`,
SPEC.md); here a path is a name in a table.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, final

from broker.errors import BrokerError, Code, refuse_as
from broker.tenants.record import Tenant
from verifier.wire import canonical
from verifier.wire.canonical import Hex, Struct, require_id

MANIFEST_TYPE: Final = "application/vnd.ostiary.manifest.v1+json"
MAX_ENVELOPE: Final = 24 << 20
MAX_FILES: Final = 10_000
MAX_PATH: Final = 512
"""Longest path in UTF-8 bytes."""

_MAX_INTEGER: Final = (1 << 53) - 1
_DIGEST: Final = 32


@final
class SealedFile(Struct, frozen=True):
    """One file: sizes in bytes, `blake3` over the sealed bytes."""

    path: str
    size: int
    sealed_size: int
    blake3: Hex


@final
class Manifest(Struct, frozen=True):
    """The fields of `inference_runtime/sealed/SPEC.md`, in their order."""

    v: Literal[1]
    model: str
    version: int
    genesis: Hex
    model_version_id: Hex
    key_id: str
    key_version: int
    files: tuple[SealedFile, ...]


@final
@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest that the tenant signed; `digest` is the model digest that policies name."""

    manifest: Manifest
    digest: bytes
    envelope: bytes


def read(tenant: Tenant, envelope: bytes) -> SignedManifest:
    """Return the manifest in `envelope`.

    Raises:
        BrokerError: `forbidden` if the tenant did not sign it or it is of another one, `malformed`,
            `too_large`.
    """
    payload = tenant.payload(envelope, MANIFEST_TYPE, limit=MAX_ENVELOPE)
    with refuse_as(Code.MALFORMED, "manifest"):
        manifest = canonical.decode(payload, Manifest, limit=MAX_ENVELOPE)
        require_id(manifest.model, "model")
        require_id(manifest.key_id, "key id")
    if manifest.genesis != tenant.g:
        raise BrokerError(Code.FORBIDDEN, "manifest of another tenant")
    _check(manifest)
    return SignedManifest(manifest, hashlib.sha256(payload).digest(), envelope)


def _check(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    in_bounds = (
        1 <= manifest.version <= _MAX_INTEGER
        and 1 <= manifest.key_version <= _MAX_INTEGER
        and 1 <= len(paths) <= MAX_FILES
        and all(_is_file(entry) for entry in manifest.files)
    )
    if not in_bounds or paths != sorted(set(paths)):
        raise BrokerError(Code.MALFORMED, "manifest is out of bounds or its paths are not sorted")


def _is_file(entry: SealedFile) -> bool:
    parts = entry.path.split("/")
    return (
        entry.path.isprintable()
        and len(entry.path.encode(errors="surrogatepass")) <= MAX_PATH
        and not {"", ".", ".."} & set(parts)
        and 0 <= entry.size < entry.sealed_size <= _MAX_INTEGER
        and len(entry.blake3) == _DIGEST
    )
