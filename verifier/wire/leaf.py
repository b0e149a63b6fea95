"""Leaves: what the log says happened. One RFC 6962 tree per tenant; see SPEC.md.

Guarantees: a leaf decodes only from its one encoding, so its bytes can be hashed as they are.
Every leaf carries the state epoch and the digest of the state map that holds after it; change
leaves raise the epoch by one, the others repeat both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal, TypeAlias, final

from verifier.errors import Reason, VerifierError
from verifier.wire import canonical, framing
from verifier.wire.canonical import B64, Hex, Struct
from verifier.wire.messages import KeyRef, Kind


@final
class KeyState(StrEnum):
    """States of NIST SP 800-57 Part 1, section 7."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@final
class KeyEntry(Struct, frozen=True):
    """What holds for one key version: `blob` is the SHA-256 of the DEK wrapped under KEK `kek`.

    `policy` is the SHA-256 of the release policy's signed payload and `policy_version` its number;
    32 zero bytes and 0 until a policy names the key.
    """

    id: str
    version: int
    state: KeyState
    blob: Hex
    manifest: Hex
    kek: int
    policy: Hex
    policy_version: int

    def ref(self) -> KeyRef:
        """Return the key version's name."""
        return KeyRef(self.id, self.version)


@final
class StateMap(Struct, frozen=True):
    """All key versions of a tenant, sorted by id and version, and who may sign for it."""

    v: Literal[1]
    genesis: Hex
    signers: Hex
    keys: tuple[KeyEntry, ...]

    def __post_init__(self) -> None:
        refs = [entry.ref() for entry in self.keys]
        if refs != sorted(set(refs)):
            raise VerifierError(Reason.MALFORMED, "state map is not sorted, or names a key twice")

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical encoding."""
        return hashlib.sha256(canonical.encode(self)).digest()

    def find(self, ref: KeyRef) -> KeyEntry | None:
        """Return the entry of one key version."""
        return next((entry for entry in self.keys if entry.ref() == ref), None)

    def replace(self, *entries: KeyEntry) -> StateMap:
        """Return the map with these entries put in place of those of the same name."""
        merged = {entry.ref(): entry for entry in (*self.keys, *entries)}
        return StateMap(
            v=1,
            genesis=self.genesis,
            signers=self.signers,
            keys=tuple(merged[ref] for ref in sorted(merged)),
        )


NO_POLICY: Final = Hex(bytes(32))
NO_DEVICES: Final = Hex(bytes(32))
"""Digest of the attested devices where there are none."""


class Leaf(Struct, frozen=True, tag_field="type"):
    """What every leaf says first: the tree it belongs to, when, and the state after it."""

    v: Literal[1]
    genesis: Hex
    time: int
    epoch: int
    state: Hex


@final
class GenesisLeaf(Leaf, frozen=True, tag="genesis"):
    """Leaf 0: the tenant's signed genesis, whole."""

    document: B64


@final
class ImportKeyLeaf(Leaf, frozen=True, tag="import-key"):
    """An import key was made (SHA-256 of its SPKI) or destroyed."""

    spki: Hex
    action: Literal["created", "destroyed"]


@final
class KeyLeaf(Leaf, frozen=True, tag="key"):
    """A key version came in or changed state. `statement` is the SHA-256 of what ordered it."""

    key: KeyRef
    state_to: KeyState
    blob: Hex
    statement: Hex


@final
class PolicyLeaf(Leaf, frozen=True, tag="policy"):
    """A signed release policy took effect. `document` is the whole DSSE envelope."""

    policy: Hex
    version: int
    document: B64


@final
class ReleasedKey(Struct, frozen=True):
    """One key of a release: which blob was opened, under which KEK, for which manifest."""

    id: str
    version: int
    blob: Hex
    kek: int
    manifest: Hex
    policy: Hex


@final
class ReleaseLeaf(Leaf, frozen=True, tag="release"):
    """Keys were let go, to this recipient, on this evidence. Written before any key moves.

    `recipient` is the SHA-256 of the RSA key's SPKI that the HSM wraps to, `recipients` names the
    whole set; `evidence`, `collateral` and `result` are digests of the stored objects. `gpus` is
    how many GPUs were attested, `devices` the digest of all GPUs' and switches' ids (`of_devices`).
    """

    challenge: Hex
    recipients: Hex
    recipient: Hex
    keys: tuple[ReleasedKey, ...]
    kind: Kind
    evidence: Hex
    collateral: Hex
    result: Hex
    lease: str
    not_after: int
    simulated: bool
    gpus: int = 0
    devices: Hex = NO_DEVICES


@final
class RenewalLeaf(Leaf, frozen=True, tag="renewal"):
    """A lease was prolonged on fresh evidence, under the policy of this digest."""

    challenge: Hex
    recipients: Hex
    keys: tuple[KeyRef, ...]
    policy: Hex
    kind: Kind
    evidence: Hex
    collateral: Hex
    result: Hex
    lease: str
    not_after: int
    simulated: bool
    gpus: int = 0
    devices: Hex = NO_DEVICES


@final
class LeaseEndLeaf(Leaf, frozen=True, tag="lease-end"):
    """A lease ended before its time, and why."""

    lease: str
    cause: Literal["revoked", "superseded", "returned"]


def of_devices(ids: Iterable[bytes]) -> Hex:
    """Return the digest by which a leaf names a set of GPUs and switches; zeros for none.

    Raises:
        VerifierError: `malformed` if a device is named twice.
    """
    named = tuple(ids)
    return Hex(hashlib.sha256(framing.lp_set(named)).digest()) if named else NO_DEVICES


AnyLeaf: TypeAlias = (
    GenesisLeaf | ImportKeyLeaf | KeyLeaf | PolicyLeaf | ReleaseLeaf | RenewalLeaf | LeaseEndLeaf
)
CHANGES: Final = (GenesisLeaf, ImportKeyLeaf, KeyLeaf, PolicyLeaf)
"""Leaves that raise the state epoch."""

MAX_LEAF = 512 * 1024


def decode(raw: bytes) -> AnyLeaf:
    """Return the leaf in `raw`.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    return canonical.decode(raw, AnyLeaf, limit=MAX_LEAF)  # type: ignore[arg-type]  # a union
