"""The HCL report: what Azure's paravisor leaves in the vTPM's NV index 0x01400001, bytes to fields.

Guarantees: the lengths agree with one another and with the bytes, every reserved byte and all
padding is zero, and `encode(parse(raw))` is `raw`. Nothing in here may be believed: the header is
signed by nobody, and the claims are bound by the hardware report alone.

Source: Azure confidential VM guest attestation (attestation report format); OpenHCL's IgvmAttest
request header, whose request for an AK certificate this is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, final

from verifier.errors import Reason, VerifierError

MAX_REPORT: Final = 16 * 1024
"""Largest HCL report in bytes; the NV index holds 2,600."""

SNP: Final = 2
TDX: Final = 4
KINDS: Final = {SNP: "snp", TDX: "tdx"}
"""What the hardware report is, by `report_type`."""

HARDWARE_AT: Final = 0x20
HARDWARE_SIZE: Final = 0x4A0
"""The slot of the hardware report has the size of a SEV-SNP report."""
TDREPORT_SIZE: Final = 1024
CLAIMS_AT: Final = 0x4D4

_HEADER: Final = struct.Struct("<4sIIII12s")
_DATA: Final = struct.Struct("<IIIII")
_DATA_AT: Final = HARDWARE_AT + HARDWARE_SIZE
_MAGIC: Final = b"HCLA"
_VERSIONS: Final = (1, 2)
_REQUEST_AK_CERTIFICATE: Final = 2
_DATA_VERSION: Final = 1
_SHA256: Final = 1
_OTHER_HASHES: Final = (2, 3)


@final
@dataclass(frozen=True, slots=True)
class HclReport:
    """An HCL report. `hardware` is the SEV-SNP report or the TDREPORT, `claims` the exact JSON."""

    version: int
    report_type: int
    hardware: bytes
    claims: bytes
    padding: int

    @property
    def kind(self) -> str:
        """`snp` or `tdx`."""
        return KINDS[self.report_type]

    def told(self) -> dict[str, Any]:
        """Return the header's fields as JSON-ready values, under the names of the corpus."""
        size = len(self.claims)
        return {
            "ver": self.version,
            "report_size": CLAIMS_AT + size,
            "request_type": _REQUEST_AK_CERTIFICATE,
            "status": 0,
            "data_size": _DATA.size + size,
            "idver": _DATA_VERSION,
            "report_type": self.report_type,
            "hash_type": _SHA256,
            "var_size": size,
            "length": CLAIMS_AT + size + self.padding,
        }


def _refuse(what: str, expected: object, seen: object) -> VerifierError:
    return VerifierError(Reason.MALFORMED, f"HCL report: {what}: {expected} expected, {seen} seen")


def parse(raw: bytes) -> HclReport:
    """Return the HCL report in `raw`, which may end in zeros up to the size of the NV index.

    Raises:
        VerifierError: `malformed`, `too_large`, `trailing_data` for padding that is not zero, or
            `unsupported` for claims hashed with SHA-384 or SHA-512, which no machine does.
    """
    if len(raw) > MAX_REPORT:
        raise VerifierError(Reason.TOO_LARGE, f"HCL report of {len(raw)} bytes, limit {MAX_REPORT}")
    if len(raw) < CLAIMS_AT:
        raise _refuse("size", f"at least {CLAIMS_AT} bytes", len(raw))
    magic, version, report_size, request, status, reserved = _HEADER.unpack_from(raw)
    data_size, data_version, report_type, hash_type, size = _DATA.unpack_from(raw, _DATA_AT)
    for what, ok, expected, seen in (
        ("magic", magic == _MAGIC, "HCLA", magic.hex()),
        ("version", version in _VERSIONS, "1 or 2", version),
        ("request type", request == _REQUEST_AK_CERTIFICATE, _REQUEST_AK_CERTIFICATE, request),
        ("status", status == 0, 0, status),
        ("reserved bytes", not any(reserved), "zeros", reserved.hex()),
        ("data version", data_version == _DATA_VERSION, _DATA_VERSION, data_version),
        ("report type", report_type in KINDS, "SNP (2) or TDX (4)", report_type),
        ("claims", 0 < size <= len(raw) - CLAIMS_AT, f"1 to {len(raw) - CLAIMS_AT} bytes", size),
        ("report size", report_size == CLAIMS_AT + size, CLAIMS_AT + size, report_size),
        ("data size", data_size == _DATA.size + size, _DATA.size + size, data_size),
    ):
        if not ok:
            raise _refuse(what, expected, seen)
    if hash_type != _SHA256:
        if hash_type in _OTHER_HASHES:
            raise VerifierError(
                Reason.UNSUPPORTED, f"HCL report: claims hashed by type {hash_type}, not SHA-256"
            )
        raise _refuse("hash type", _SHA256, hash_type)
    used = HARDWARE_SIZE if report_type == SNP else TDREPORT_SIZE
    slot = raw[HARDWARE_AT:_DATA_AT]
    end = CLAIMS_AT + size
    if any(slot[used:]) or any(raw[end:]):
        raise VerifierError(Reason.TRAILING_DATA, "HCL report: only zeros may follow its parts")
    return HclReport(version, report_type, slot[:used], raw[CLAIMS_AT:end], len(raw) - end)


def encode(report: HclReport) -> bytes:
    """Return the bytes that `parse` reads as `report`."""
    size = len(report.claims)
    return b"".join(
        (
            _HEADER.pack(
                _MAGIC,
                report.version,
                CLAIMS_AT + size,
                _REQUEST_AK_CERTIFICATE,
                0,
                bytes(12),
            ),
            report.hardware.ljust(HARDWARE_SIZE, b"\0"),
            _DATA.pack(_DATA.size + size, _DATA_VERSION, report.report_type, _SHA256, size),
            report.claims,
            bytes(report.padding),
        )
    )
