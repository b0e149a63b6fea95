"""An enrolled tenant as the worker knows it: its genesis, and what follows from it alone.

Guarantees: made only from a genesis that this worker enrolled and keeps itself, so signers, log key
and origin never come from a caller.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, final

from broker.hsm.errors import HsmError, HsmReason
from verifier import dsse
from verifier.errors import VerifierError
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.merkle import leaf_hash, verify_inclusion
from verifier.tlog.note import VerifierKey
from verifier.tlog.proof import Receipt, Verified
from verifier.wire import canonical
from verifier.wire.documents import GENESIS_TYPE, Genesis
from verifier.wire.leaf import StateMap


@final
@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant. `g` is the SHA-256 of its genesis, `kek` the version that new DEKs go under."""

    g: bytes
    genesis: Genesis
    kek: int
    origin: str
    vkey: VerifierKey

    @classmethod
    def of(cls, payload: bytes, kek: int) -> Self:
        """Return the tenant of the genesis `payload`.

        Raises:
            VerifierError: `malformed`.
        """
        genesis = canonical.decode(payload, Genesis)
        g = hashlib.sha256(payload).digest()
        origin = genesis.origin(g)
        return cls(g, genesis, kek, origin, VerifierKey(origin, genesis.log_key))

    def signed(self, envelope: bytes, payload_type: str) -> bytes:
        """Return the payload that enough of the tenant's signers signed.

        Raises:
            VerifierError: `malformed`, `too_large` or `document_signature`.
        """
        return dsse.verify(envelope, payload_type, self.genesis.signers, self.genesis.threshold)

    def verify_receipt(self, receipt: bytes, leaf: bytes) -> Verified:
        """Check that `leaf` stands in this tenant's log, as `verifier.tlog.proof` does.

        The checkpoint's signature is checked once for the same bytes: many leaves share one.

        Raises:
            VerifierError: `malformed`, `too_large`, `log_signature`, `log_origin` or `log_proof`.
        """
        found = Receipt.parse(receipt)
        head = _open_checkpoint(found.checkpoint, self.origin, self.vkey)
        verify_inclusion(found.index, head.size, leaf_hash(leaf), found.proof, head.root)
        return Verified(found.index, head)

    def empty_map(self) -> StateMap:
        """Return the state map that holds after the genesis leaf."""
        return StateMap(
            v=1,
            genesis=canonical.Hex(self.g),
            signers=canonical.Hex(self.genesis.signers_digest()),
            keys=(),
        )


_open_checkpoint = lru_cache(maxsize=256)(open_checkpoint)


def read_genesis(envelope: bytes) -> tuple[Genesis, bytes]:
    """Return the genesis and its payload, after checking that its own signers signed it.

    Raises:
        HsmError: `malformed` or `refused`.
    """
    try:
        claimed = canonical.decode(dsse.payload_unverified(envelope), Genesis)
        payload = dsse.verify(envelope, GENESIS_TYPE, claimed.signers, claimed.threshold)
        return canonical.decode(payload, Genesis), payload
    except VerifierError as error:
        raise refused(error) from error


def refused(error: VerifierError) -> HsmError:
    """Return the worker's error for one of the verifier's."""
    shape = error.reason in {"malformed", "too_large"}
    return HsmError(
        HsmReason.MALFORMED if shape else HsmReason.REFUSED, f"{error.reason}: {error}"[:300]
    )
