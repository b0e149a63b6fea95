"""What NVIDIA vouches for a set of GPUs and switches: RIMs, OCSP responses, CRLs, as bytes.

Guarantees: their number is bounded, and a set has exactly one spelling as bytes. Believes nothing:
`rim`, `ocsp` and `crl` check sizes, signatures and dates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, final

from verifier.errors import Reason, VerifierError
from verifier.wire.framing import Reader, lp_list

MAX_RIM: Final = 256 * 1024
"""Largest RIM in bytes; NVIDIA's have 20 to 26 KiB."""
MAX_OCSP: Final = 32 * 1024
"""Largest OCSP response in bytes."""
MAX_PARTS: Final = 256
"""Most RIMs, and as many OCSP responses and CRLs, of one set: eight boards need some dozens."""


@final
@dataclass(frozen=True, slots=True)
class GpuEndorsements:
    """Endorsements of a whole set: each thing once, in any order.

    `rims` are signed SWID documents as the RIM service gives them (after base64), `ocsp` are DER
    OCSPResponses, `crls` are DER CRLs of the CA levels.
    """

    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    digest: bytes = field(init=False, repr=False, compare=False)
    """SHA-256 of `to_bytes`, which a log names."""

    def __post_init__(self) -> None:
        for what, each in (("RIMs", self.rims), ("OCSP responses", self.ocsp), ("CRLs", self.crls)):
            if len(each) > MAX_PARTS:
                raise VerifierError(
                    Reason.TOO_LARGE, f"endorsements: {len(each)} {what}, at most {MAX_PARTS}"
                )
        object.__setattr__(self, "digest", hashlib.sha256(self.to_bytes()).digest())

    def to_bytes(self) -> bytes:
        """Return the framed form: three lists, each item behind its length."""
        return b"".join(map(lp_list, (self.rims, self.ocsp, self.crls)))

    @classmethod
    def from_bytes(cls, raw: bytes) -> GpuEndorsements:
        """Return what `to_bytes` wrote.

        Raises:
            VerifierError: `malformed`.
        """
        reader = Reader(raw)
        rims, ocsp, crls = (tuple(reader.lp_list(MAX_PARTS)) for _ in range(3))
        reader.end()
        return cls(rims, ocsp, crls)
