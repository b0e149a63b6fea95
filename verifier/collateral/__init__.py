"""Collateral: vendors' endorsements as bytes, not yet believed. The verifier's only I/O.

Guarantees: a source returns bytes for one platform or raises; it never judges evidence and never
invents. Read on in this order: `parts` (what a part is), `vet` (who signed it, its dates), `store`
(kept on disk), `intel`, `amd`, `azure` (where parts come from, over `web`), `sources` (what a
broker asks), `bundle` (across an air gap). Only `web`, `flight` and `sources` know asyncio, and
only `web` knows the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, final

from verifier.snp import SnpEndorsements
from verifier.tdx.collateral import TdxCollateral


@final
@dataclass(frozen=True, slots=True)
class Found:
    """Endorsements for one platform, and the SHA-256 over their exact bytes, which the log names.

    `raw` are the bytes that can be stored and replayed: JSON for TDX, framed DER for SNP.
    """

    endorsements: TdxCollateral | SnpEndorsements
    digest: bytes
    raw: bytes


class LocalSource(Protocol):
    """Endorsements that are at hand without waiting."""

    def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements for the platform that made this evidence.

        Raises:
            VerifierError: `collateral_missing`, or `malformed` evidence.
        """
        ...


class CollateralSource(Protocol):
    """Where a broker gets endorsements from."""

    async def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements for the platform that made this evidence.

        Args:
            kind: from the challenge.
            cpu: the quote or report, only read for which platform it claims to be from.
            handed_over: the certificate table that came with an SNP report; may be empty.

        Raises:
            VerifierError: `collateral_missing`, `collateral_unavailable`, `collateral_expired`, or
                `malformed` evidence.
        """
        ...
