"""Documents that a tenant signs (DSSE): genesis, import statement, state order, release policy.

Guarantees: decoded documents are in bounds and internally consistent. Their signatures are checked
by `verifier.dsse` with the signers that stand in the genesis.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, final

from verifier.errors import Reason, VerifierError
from verifier.wire.canonical import B64, Hex, Struct, require_id
from verifier.wire.framing import lp_list
from verifier.wire.leaf import KeyState
from verifier.wire.messages import DIGEST, KeyRef, bounded

GENESIS_TYPE: Final = "application/vnd.ostiary.genesis.v1+json"
STATEMENT_TYPE: Final = "application/vnd.ostiary.import.v1+json"
ORDER_TYPE: Final = "application/vnd.ostiary.key-order.v1+json"
POLICY_TYPE: Final = "application/vnd.ostiary.policy.v1+json"


def signers_digest(signers: tuple[B64, ...], threshold: int) -> bytes:
    """Return the SHA-256 by which state map and leaf name a set of signers."""
    framed = threshold.to_bytes(4, "big") + lp_list(sorted(signers))
    return hashlib.sha256(b"ostiary/signers/v1" + framed).digest()


@final
class Genesis(Struct, frozen=True):
    """The birth of a tenant. Its SHA-256 names the tenant everywhere.

    `signers` are SPKIs (DER) of whom the tenant's documents need `threshold`. `broker` is the
    SHA-256 of the broker's signing key, `broker_key` that key's SPKI, `log_key` the raw 32 bytes of
    the Ed25519 key that signs this tenant's checkpoints, `tree` a random tree id.
    """

    v: Literal[1]
    tenant: str
    created: int
    signers: tuple[B64, ...]
    threshold: int
    broker: Hex
    broker_key: B64
    log_key: B64
    tree: Hex
    simulated: bool

    def __post_init__(self) -> None:
        require_id(self.tenant, "tenant")
        if not 1 <= self.threshold <= len(self.signers) <= 16:  # noqa: PLR2004 - a sane bound
            raise VerifierError(Reason.MALFORMED, "threshold is not 1..number of signers (max 16)")
        if list(self.signers) != sorted(set(self.signers)):
            raise VerifierError(Reason.MALFORMED, "signers are not sorted, or one stands twice")
        bounded(self.log_key, 32, 32, "log key")
        bounded(self.tree, 16, 16, "tree id")
        if hashlib.sha256(self.broker_key).digest() != self.broker:
            raise VerifierError(Reason.MALFORMED, "broker id is not the digest of its key")

    def signers_digest(self) -> bytes:
        """Return the digest of the signer set as it stands in the state map."""
        return signers_digest(self.signers, self.threshold)

    def origin(self, digest: bytes) -> str:
        """Return the log's origin line, given this genesis's own SHA-256."""
        return f"ostiary/{self.broker.hex()}/{digest.hex()}/{self.tree.hex()}"


@final
class ImportStatement(Struct, frozen=True):
    """The vendor's word for a DEK that it wrapped to an import key of the HSM."""

    v: Literal[1]
    genesis: Hex
    key: KeyRef
    ciphertext: Hex
    import_key: Hex
    manifest: Hex

    def __post_init__(self) -> None:
        for what in ("genesis", "ciphertext", "import_key", "manifest"):
            bounded(getattr(self, what), DIGEST, DIGEST, what)


@final
class KeyOrder(Struct, frozen=True):
    """The vendor's order to move a key version to another state, from the epoch it has seen."""

    v: Literal[1]
    genesis: Hex
    key: KeyRef
    state: KeyState
    epoch: int
    reason: str = ""


@final
class Release(Struct, frozen=True):
    """Under what terms a policy releases: seconds of lease, how many at once, and when."""

    lease_seconds: int = 3600
    max_leases: int = 1
    not_before: int = 0
    not_after: int = 0

    def __post_init__(self) -> None:
        if not 10 <= self.lease_seconds <= 30 * 86400 or not 1 <= self.max_leases <= 1 << 20:  # noqa: PLR2004 - the bounds, in one place
            raise VerifierError(Reason.MALFORMED, "lease_seconds 10..30 days, max_leases 1..2^20")
