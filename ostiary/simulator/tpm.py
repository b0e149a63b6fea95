"""A simulated TPM 2.0: PCRs of SHA-256, and an attestation key that quotes them.

Guarantees: a quote is a TPMS_ATTEST of the layout that real TPMs sign, over all 24 PCRs, with the
qualifying data that was asked for; PCRs only change by extending. Is no TPM: there are no
hierarchies, no authorisation, and the key is in this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ostiary.simulator.machine import LaunchRequest
from verifier.tpm import attest
from verifier.tpm.attest import Attest, Selection, Signature
from verifier.wire import binding
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import Pcr, Vtpm

PCRS: Final = 24
_ONES: Final = range(17, 23)
_BANK: Final = "sha256"
_PLACES: Final = {"firmware": 0, "config": 7, "kernel": 4, "image": 9}
"""Where the parts of an image are measured, as firmware and boot loader would."""


def _blank() -> Mapping[int, bytes]:
    """Return PCRs after a reset (PC Client Platform TPM Profile)."""
    return {index: (b"\xff" if index in _ONES else b"\0") * 32 for index in range(PCRS)}


@final
@dataclass(frozen=True, slots=True, repr=False)
class FakeTpm:
    """A TPM. `certificates` are its key's own and its issuers', the root last; there may be none.

    `resets` counts its starts, as TPMS_CLOCK_INFO does.
    """

    key: rsa.RSAPrivateKey
    pcrs: Mapping[int, bytes] = field(default_factory=_blank)
    certificates: Sequence[bytes] = ()
    resets: int = 1

    @classmethod
    def create(cls) -> FakeTpm:
        """Return a TPM with a key of its own, just started."""
        return cls(rsa.generate_private_key(65537, 2048))

    @property
    def ak(self) -> bytes:
        """The attestation key's public half (SPKI, DER)."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def extended(self, index: int, digest: bytes) -> FakeTpm:
        """Return the TPM after TPM2_PCR_Extend."""
        value = hashlib.sha256(self.pcrs[index] + digest).digest()
        return replace(self, pcrs={**self.pcrs, index: value})

    def quote(self, qualifying_data: bytes) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE over all PCRs."""
        digest = hashlib.sha256(b"".join(self.pcrs[index] for index in range(PCRS))).digest()
        message = attest.encode(
            Attest(
                qualified_signer=b"\x00\x0b" + hashlib.sha256(self.ak).digest(),
                extra_data=qualifying_data,
                clock=1,
                reset_count=self.resets,
                restart_count=0,
                safe=1,
                firmware_version=1,
                selections=(Selection(_BANK, b"\xff\xff\xff"),),
                pcr_digest=digest,
            )
        )
        plain = self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return message, attest.encode_signature(Signature(attest.RSASSA, _BANK, (plain,)))

    def says(self, report_data: bytes, *, hcl_report: bytes = b"") -> Vtpm:
        """Return what stands on the wire for an exchange: quote, PCR values, certificates."""
        message, signature = self.quote(binding.tpm_qualifying_data(report_data))
        return Vtpm(
            message=B64(message),
            signature=B64(signature),
            pcrs=tuple(Pcr(_BANK, index, Hex(self.pcrs[index])) for index in range(PCRS)),
            certificates=tuple(map(B64, self.certificates)),
            hcl_report=B64(hcl_report),
        )


def measure(tpm: FakeTpm, request: LaunchRequest) -> FakeTpm:
    """Return the TPM after the boot of an image; its parts go where a real boot measures them.

    Raises:
        SimulatorError: the image has other parts.
    """
    for part, index in _PLACES.items():
        tpm = tpm.extended(index, hashlib.sha256(request.digest(part)).digest())
    return tpm
