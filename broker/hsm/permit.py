"""The permit: everything that must hold before a key moves.

Guarantees: `check` returns only if a release leaf stands in this tenant's own log, under a
checkpoint of our own key, nothing has changed since, and blobs, KEK versions and recipient are
exactly those that the leaf names. Pure: burning the permit is its caller's, before it unwraps.
Does not appraise evidence, nor know whether it existed; the log says which it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from broker.hsm import protocol, recipient
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.state import HeadRow
from broker.hsm.tenant import Tenant, refused
from broker.hsm.token import BLOB_BYTES
from verifier.errors import VerifierError
from verifier.wire import canonical
from verifier.wire import leaf as leaves
from verifier.wire.messages import MAX_KEYS, KeyRef


@final
@dataclass(frozen=True, slots=True)
class Permit:
    """What a checked permit allows, once: leaf `index` of tenant `g`.

    `blobs` are pairs of KEK version and blob, `modulus` the recipient's.
    """

    g: bytes
    index: int
    blobs: tuple[tuple[int, bytes], ...]
    modulus: bytes


def check(tenant: Tenant, head: HeadRow, call: protocol.Release) -> Permit:
    """Return the permit in `call`.

    Raises:
        HsmError: `malformed`, `refused` or `state_moved`.
    """
    try:
        return _check(tenant, head, call)
    except VerifierError as error:
        raise refused(error) from error


def _check(tenant: Tenant, head: HeadRow, call: protocol.Release) -> Permit:
    # 1. It is a release leaf of this tenant.
    leaf = leaves.decode(call.leaf)
    if not isinstance(leaf, leaves.ReleaseLeaf) or leaf.genesis != tenant.g:
        raise HsmError(HsmReason.REFUSED, "not a release leaf of this tenant")
    # 2. It stands in our own log, in a tree that we signed and that is no newer than our head.
    verified = tenant.verify_receipt(call.receipt, call.leaf)
    if verified.checkpoint.size > head.size:
        raise HsmError(HsmReason.REFUSED, "the receipt is of a larger tree than we signed")
    # 3. No change leaf came after it.
    if leaf.epoch != head.epoch or leaf.state != head.state:
        raise HsmError(HsmReason.STATE_MOVED, "a change leaf came after this release leaf")
    # 4. The state map is the one that the log names.
    if hashlib.sha256(call.state_map).digest() != head.state:
        raise HsmError(HsmReason.REFUSED, "the state map is not the one in the log")
    state = _state_map(call.state_map)
    if state.genesis != tenant.g or state.signers != tenant.genesis.signers_digest():
        raise HsmError(HsmReason.REFUSED, "the state map is of another tenant or other signers")
    # 5. Each key is active in it, as the leaf names it, and its blob is the one in the map.
    refs = [KeyRef(key.id, key.version) for key in leaf.keys]
    if not 1 <= len(refs) <= MAX_KEYS or refs != sorted(set(refs)):
        raise HsmError(HsmReason.REFUSED, "keys are 1 to 16, sorted, each once")
    if len(call.blobs) != len(refs):
        raise HsmError(HsmReason.REFUSED, f"{len(call.blobs)} blobs for {len(refs)} keys")
    for key, ref, blob in zip(leaf.keys, refs, call.blobs, strict=True):
        _check_key(key, state.find(ref), blob)
    # 6. The recipient is the leaf's, and a key that can be wrapped to.
    if hashlib.sha256(call.recipient).digest() != leaf.recipient:
        raise HsmError(HsmReason.REFUSED, "the recipient is not the one in the leaf")
    modulus = recipient.modulus_of(call.recipient)
    blobs = tuple((key.kek, blob) for key, blob in zip(leaf.keys, call.blobs, strict=True))
    return Permit(tenant.g, verified.leaf_index, blobs, modulus)


def _check_key(key: leaves.ReleasedKey, entry: leaves.KeyEntry | None, blob: bytes) -> None:
    name = f"key {key.id}/{key.version}"
    if entry is None or entry.state is not leaves.KeyState.ACTIVE:
        raise HsmError(HsmReason.REFUSED, f"{name} is not active")
    for what in ("blob", "kek", "manifest", "policy"):
        if getattr(entry, what) != getattr(key, what):
            raise HsmError(HsmReason.REFUSED, f"{name}: its {what} is not the state map's")
    if entry.policy == leaves.NO_POLICY:
        raise HsmError(HsmReason.REFUSED, f"{name} is under no policy")
    if len(blob) != BLOB_BYTES or hashlib.sha256(blob).digest() != entry.blob:
        raise HsmError(HsmReason.REFUSED, f"{name}: not the blob that the log names")


@lru_cache(maxsize=16)
def _state_map(raw: bytes) -> leaves.StateMap:
    """Decode a state map once; it is the same for every release of an epoch."""
    return canonical.decode(raw, leaves.StateMap)
