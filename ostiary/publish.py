"""Hands a sealed model in: manifest, files, then the wrapped key. Used by command line and demo."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from inference_runtime.sealed import manifest
from ostiary import vendor
from ostiary.client import ClientError, TenantClient
from verifier import dsse
from verifier.wire import canonical, messages

MANIFEST_FILE = "manifest.json"
FILES_FOLDER = "files"


def read_manifest(sealed: Path) -> tuple[bytes, manifest.Manifest]:
    """Return the signed manifest of a sealed folder, and what it says; for pushing, not for use.

    Raises:
        ClientError: `file`.
        VerifierError: `malformed` or `too_large`.
        RuntimeFault: `manifest_invalid`.
    """
    try:
        envelope = (sealed / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise ClientError("file", f"{sealed}: {MANIFEST_FILE}: {error.strerror}") from error
    # Ten thousand files make a manifest larger than any message of the wire.
    found = canonical.decode(envelope, dsse.Envelope, limit=manifest.MAX_ENVELOPE)
    try:
        payload = base64.b64decode(found.payload, validate=True)
    except ValueError as error:
        raise ClientError("file", f"{sealed}: {MANIFEST_FILE} is not an envelope") from error
    return envelope, manifest.decode(payload)


def push(
    client: TenantClient, sealed: Path, progress: Callable[[int], None] | None = None
) -> manifest.Manifest:
    """Upload everything in `sealed` to the tenant's registry; again does no harm.

    Raises:
        ClientError: the broker's refusal, or `file`.
        RuntimeFault: `manifest_invalid`.
    """
    envelope, described = read_manifest(sealed)
    client.push_manifest(described.model, described.version, envelope)
    for entry in described.files:
        path = sealed / FILES_FOLDER / entry.path
        client.push_file(described.model, described.version, entry.path, path, progress)
    try:
        raw = (sealed / vendor.KEY_IMPORT_FILE).read_bytes()
    except OSError as error:
        raise ClientError(
            "file", f"{sealed}: {vendor.KEY_IMPORT_FILE}: {error.strerror}"
        ) from error
    key_import = canonical.decode(raw, messages.KeyImport)
    client.push_key(key_import.statement, key_import.ciphertext)
    return described
