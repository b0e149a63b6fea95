"""Binds evidence to one exchange: what goes into report_data, and so into the hardware signature.

Guarantees: two different exchanges never give the same input to the hash (every part is framed),
and everything is hashed as it was received, never re-encoded. Design: docs/architecture.md,
"Evidence and binding".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from verifier.wire.framing import lp, lp_list, lp_set, u8, u32
from verifier.wire.messages import GpuEvidence, KeyRef, Kind, Purpose, Recipient


def recipients_bytes(recipients: Sequence[Recipient]) -> bytes:
    """Return `u32 n ‖ n times (lp(alg) ‖ lp(public key))`, sorted and unique."""
    items = sorted((r.alg.encode(), bytes(r.key)) for r in recipients)
    return u32(len(items)) + b"".join(lp(alg) + lp(key) for alg, key in items)


def recipients_digest(recipients: Sequence[Recipient]) -> bytes:
    """Return the SHA-256 by which answer and leaf name a recipient set."""
    return hashlib.sha256(recipients_bytes(recipients)).digest()


def gpu_nonce(challenge: bytes, recipients: Sequence[Recipient]) -> bytes:
    """Return the 32-byte nonce that every GPU and switch reports on."""
    framed = lp(challenge) + lp(recipients_bytes(recipients))
    return hashlib.sha256(b"ostiary/gpu-nonce/v1" + framed).digest()


def gpu_evidence_digest(devices: Sequence[GpuEvidence]) -> bytes:
    """Return E, the SHA-384 over all devices' evidence in the order sent; none is a value too."""
    parts = (u8(d.kind) + lp(d.report) + lp(d.chain) for d in devices)
    framed = u32(len(devices)) + b"".join(parts)
    return hashlib.sha384(b"ostiary/gpu-evidence/v1" + framed).digest()


def report_data(
    *,
    challenge: bytes,
    purpose: Purpose,
    genesis: bytes,
    broker: bytes,
    recipients: Sequence[Recipient],
    keys: Sequence[KeyRef],
    lease: str,
    kind: Kind,
    gpus: Sequence[GpuEvidence],
    ak: bytes,
    claims: bytes,
) -> bytes:
    """Return the 64 bytes of REPORTDATA (TDX) or REPORT_DATA (SNP) for one exchange.

    Raises:
        VerifierError: `malformed` if a key is named twice.
    """
    framed = (
        lp(challenge)
        + lp(purpose.encode())
        + lp(genesis)
        + lp(broker)
        + lp(recipients_bytes(recipients))
        + lp(lp_set(key.label() for key in keys))
        + lp(lease.encode())
        + lp(kind.encode())
        + lp(gpu_evidence_digest(gpus))
        + lp(ak)
        + lp(claims)
    )
    return hashlib.sha512(b"ostiary/report-data/v1" + framed).digest()


def tpm_qualifying_data(bound_report_data: bytes) -> bytes:
    """Return the qualifyingData of a TPM quote that belongs to this report_data."""
    return hashlib.sha256(b"ostiary/tpm/v1" + lp(bound_report_data)).digest()


def anchor_pcr(broker: bytes, genesis: bytes) -> bytes:
    """Return PCR 8 (SHA-256) of a machine in Azure that was started for this broker and tenant.

    Azure's paravisor leaves no launch value to the guest, so the image's first stage extends PCR 8
    once, with the first 32 bytes of the anchor, and nothing else does.
    """
    return hashlib.sha256(bytes(32) + anchor(broker, genesis)[:32]).digest()


def anchor(broker: bytes, genesis: bytes) -> bytes:
    """Return the 48 bytes that a launch puts into MRCONFIGID: whom the guest will obey.

    SNP's HOST_DATA holds the first 32 of them.
    """
    return hashlib.sha384(b"ostiary/anchor/v1" + lp_list((broker, genesis))).digest()
