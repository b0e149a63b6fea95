"""What a model vendor does on its own workstation: keys, sealing, policies, orders.

Guarantees: a data key exists only inside `seal`, is wrapped to the pinned import key there and
wiped; it never reaches a file, an argument or the environment. Everything that leaves is signed.
Does not talk to a broker: `client.py` does.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from inference_runtime.sealed import manifest
from inference_runtime.sealed.seal import ModelName, seal_model
from inference_runtime.sealed.secret import SecretKey
from ostiary import provenance
from ostiary.client import ClientError, Tenant, wrap_dek
from verifier import dsse
from verifier.errors import Reason, VerifierError
from verifier.policy import MAX_POLICY, AppraisalPolicy, GpuRules, ReleasePolicy
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import (
    GENESIS_TYPE,
    ORDER_TYPE,
    POLICY_TYPE,
    STATEMENT_TYPE,
    Genesis,
    ImportStatement,
    KeyOrder,
    Release,
)
from verifier.wire.leaf import NO_POLICY, KeyState
from verifier.wire.messages import KeyRef

_VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")
KEY_IMPORT_FILE: Final = "key-import.json"
"""Beside the sealed files: the wrapped DEK and its signed statement. Not secret."""


def new_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Write a fresh Ed25519 key to `path` (PEM, mode 0600), which must not exist.

    Raises:
        ClientError: `key_file`.
    """
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ClientError("key_file", f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key


def sign_genesis(genesis: Genesis, *keys: ed25519.Ed25519PrivateKey) -> bytes:
    """Return the tenant's genesis, signed; read it before you sign it.

    Raises:
        ClientError: `not_a_signer` if the genesis does not name one of the keys.
    """
    for key in keys:
        if dsse.spki(key.public_key()) not in genesis.signers:
            raise ClientError(
                "not_a_signer",
                "the genesis does not name this key as a signer; give the operator its public key",
            )
    return dsse.sign(GENESIS_TYPE, canonical.encode(genesis), *keys)


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed model and the wrapped key that opens it; none of it is secret."""

    digest: bytes
    key: KeyRef
    key_import: bytes


def seal(
    folder: Path,
    out: Path,
    model: KeyRef,
    tenant: Tenant,
    key: ed25519.Ed25519PrivateKey,
    *,
    import_key: bytes,
    pinned: bytes,
    progress: Callable[[int], None] | None = None,
) -> Sealed:
    """Seal a folder under a fresh DEK and wrap the DEK to the HSM's import key.

    Args:
        folder: the model as it is.
        out: where the sealed model goes; must not exist.
        model: name and version; the DEK bears the same.
        tenant: whose model it is.
        key: an enrolled signer of the tenant.
        import_key: SPKI (DER) of the import key, as the broker sent it.
        pinned: its SHA-256 as confirmed out of band.
        progress: told how many more bytes are sealed.

    Raises:
        ClientError: `import_key_unpinned`; before anything is sealed.
        RuntimeFault: the sealing codes.
    """
    with SecretKey.generate() as dek:
        ciphertext = wrap_dek(import_key, pinned, dek.view())
        sealed = seal_model(
            folder,
            out,
            dek,
            ModelName(
                model=model.id,
                version=model.version,
                genesis=tenant.digest,
                key_id=model.id,
                key_version=model.version,
            ),
            lambda payload: dsse.sign(manifest.PAYLOAD_TYPE, payload, key),
            progress=progress,
        )
    statement = ImportStatement(
        v=1,
        genesis=Hex(tenant.digest),
        key=model,
        ciphertext=Hex(hashlib.sha256(ciphertext).digest()),
        import_key=Hex(pinned),
        manifest=Hex(sealed.digest),
    )
    signed = dsse.sign(STATEMENT_TYPE, canonical.encode(statement), key)
    key_import = canonical.encode(
        messages.KeyImport(v=1, statement=B64(signed), ciphertext=B64(ciphertext))
    )
    (out / KEY_IMPORT_FILE).write_bytes(key_import)
    return Sealed(sealed.digest, model, key_import)


def sign_order(
    tenant: Tenant,
    key: ed25519.Ed25519PrivateKey,
    ref: KeyRef,
    state: KeyState,
    *,
    epoch: int,
    reason: str = "",
) -> bytes:
    """Return a signed order that moves a key to another state, seen from `epoch`."""
    order = KeyOrder(
        v=1, genesis=Hex(tenant.digest), key=ref, state=state, epoch=epoch, reason=reason
    )
    return dsse.sign(ORDER_TYPE, canonical.encode(order), key)


@final
class PolicyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A release policy as a person writes it in TOML; signing adds tenant, number, predecessor."""

    name: str
    keys: tuple[str, ...]
    manifests: tuple[Hex, ...]
    release: Release = Release()
    appraisal: AppraisalPolicy


def read_policy_file(raw: bytes) -> PolicyFile:
    """Return the policy in TOML.

    Raises:
        VerifierError: `malformed` or `too_large`, naming the field.
    """
    if len(raw) > MAX_POLICY:
        raise VerifierError(Reason.TOO_LARGE, f"policy of {len(raw)} bytes, limit {MAX_POLICY}")
    try:
        data = tomllib.loads(raw.decode())
        return msgspec.convert(data, PolicyFile, strict=True, dec_hook=canonical.dec_hook)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise VerifierError(Reason.MALFORMED, f"policy: {error}") from error


def parse_ref(text: str) -> KeyRef:
    """Return the key version in `id/version`.

    Raises:
        VerifierError: `malformed`.
    """
    name, slash, number = text.partition("/")
    if not slash or _VERSION.fullmatch(number) is None:
        raise VerifierError(
            Reason.MALFORMED, f"{text[:80]!r} is not id/version, such as tiny-llama/1"
        )
    return KeyRef(name, int(number))


def lint(policy: PolicyFile) -> list[str]:
    """Return what a careful reader would object to; an empty list is a clean policy."""
    found = []
    appraisal = policy.appraisal
    if not appraisal.reference:
        found.append("no [[appraisal.reference]]: this policy refuses every machine")
    for value in appraisal.reference:
        anchored = getattr(value, "mr_config_id", None) or getattr(value, "host_data", None)
        if anchored is None:
            found.append(
                f"reference {value.name!r} leaves mr_config_id or host_data open: the machine may "
                "have been launched for another tenant or broker"
            )
    for kind, rules in (("tdx", appraisal.tdx), ("snp", appraisal.snp)):
        if rules.allow_debug:
            found.append(f"{kind}.allow_debug: whoever runs the machine can read its memory")
    if appraisal.tdx.out_of_date_grace:
        found.append("tdx.out_of_date_grace admits machines with known vulnerabilities")
    if appraisal.snp.allow_masked_chip_id:
        found.append("snp.allow_masked_chip_id: one machine cannot be told from another")
    found += _lint_gpus(appraisal.gpu)
    found += provenance.lint(appraisal.provenance)
    if not policy.release.not_after:
        found.append("release.not_after is open: this policy never runs out by itself")
    return found


def _lint_gpus(gpu: GpuRules) -> list[str]:
    """Return what is open in the rules for GPUs, where any are wanted."""
    if not gpu.count:
        return []
    open_rules = {
        "gpu.min_driver is open: any driver that NVIDIA vouches for is admitted, however old": (
            gpu.min_driver is None
        ),
        "gpu.require_revocation is off: a GPU or RIM that NVIDIA revoked is admitted": (
            not gpu.require_revocation
        ),
        "gpu.require_fwid is off: the report need not say which firmware made it": (
            not gpu.require_fwid
        ),
        "gpu.allow_hold_rim admits firmware that NVIDIA withdrew for a while": gpu.allow_hold_rim,
        "gpu.expired_rims admits firmware that NVIDIA does not vouch for any more": (
            bool(gpu.expired_rims)
        ),
        "gpu.ocsp_grace: a revocation may be unknown for longer": bool(gpu.ocsp_grace),
    }
    return [text for text, holds in open_rules.items() if holds]


def sign_policy(
    policy: PolicyFile,
    tenant: Tenant,
    *keys: ed25519.Ed25519PrivateKey,
    version: int,
    predecessor: bytes = bytes(NO_POLICY),
) -> bytes:
    """Return the policy for this tenant, numbered and signed.

    Args:
        policy: what `read_policy_file` returned.
        tenant: whose keys it is about.
        keys: enrolled signers.
        version: 1, or one more than the policy in force.
        predecessor: SHA-256 of the payload of the version before; zeros for the first.

    Raises:
        VerifierError: `malformed` if the whole does not make a policy.
    """
    document = {
        "v": 1,
        "genesis": Hex(tenant.digest),
        "name": policy.name,
        "version": version,
        "predecessor": Hex(predecessor),
        "keys": tuple(sorted(parse_ref(text) for text in policy.keys)),
        "manifests": tuple(sorted(policy.manifests)),
        "release": policy.release,
        "appraisal": policy.appraisal,
    }
    return dsse.sign(POLICY_TYPE, canonical.encode(_policy(document)), *keys)


def _policy(document: dict[str, Any]) -> ReleasePolicy:
    try:
        return ReleasePolicy(**document)
    except ValueError as error:
        raise VerifierError(Reason.MALFORMED, f"policy: {error}") from error


def policy_file(envelope: bytes) -> PolicyFile:
    """Return a signed policy as it would be authored, to write its successor from.

    Raises:
        VerifierError: `malformed`.
    """
    signed = canonical.decode(dsse.payload_unverified(envelope), ReleasePolicy)
    return PolicyFile(
        name=signed.name,
        keys=tuple(ref.label().decode() for ref in signed.keys),
        manifests=signed.manifests,
        release=signed.release,
        appraisal=signed.appraisal,
    )


def policy_digest(envelope: bytes) -> bytes:
    """Return the SHA-256 of a signed policy's payload, the successor's `predecessor`."""
    return hashlib.sha256(dsse.payload_unverified(envelope)).digest()
