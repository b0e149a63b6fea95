"""Provenance as a vendor hands it in and as it is stored: one canonical message.

Guarantees: what `read` returns, `encode` turns into the very bytes that were read, so the SHA-256
of a stored set stands for exactly these bundles under this root. Does not verify any of it.
"""

from __future__ import annotations

from verifier.provenance.signed import Provenance
from verifier.wire import canonical
from verifier.wire.canonical import B64
from verifier.wire.messages import MAX_PROVENANCE, ProvenanceSet


def encode(provenance: Provenance) -> bytes:
    """Return the `ProvenanceSet` of bundles and root.

    Raises:
        VerifierError: `malformed` without bundles or with too many, `too_large`.
    """
    raw = canonical.encode(
        ProvenanceSet(
            v=1,
            trusted_root=B64(provenance.trusted_root),
            bundles=tuple(B64(bundle) for bundle in provenance.bundles),
        )
    )
    read(raw)
    return raw


def read(raw: bytes) -> Provenance:
    """Return the bundles and the root of a `ProvenanceSet`.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    told = canonical.decode(raw, ProvenanceSet, limit=MAX_PROVENANCE)
    return Provenance(tuple(bytes(each) for each in told.bundles), bytes(told.trusted_root))
