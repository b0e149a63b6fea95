"""Collateral: vendors' endorsements as bytes, not yet believed. The verifier's only I/O.

Guarantees: a source returns bytes for one platform or raises; it never judges and never invents.
This version has one source, a folder (`folder.py`); fetchers of the vendors' services come behind
the same Protocol.
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


class CollateralSource(Protocol):
    """Where a broker gets endorsements from."""

    def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements for the platform that made this evidence.

        Args:
            kind: from the challenge.
            cpu: the quote or report, only read for which platform it claims to be from.
            handed_over: the certificate table that came with an SNP report; may be empty.

        Raises:
            VerifierError: `collateral_missing`, or `malformed` evidence.
        """
        ...
