"""What a quote speaks of: the report body of a TD or of an SGX enclave, bytes to fields and back.

Guarantees: a body has one size and one layout, and `encode(read(raw))` is `raw`. Every byte is
kept, the reserved ones too. Says nothing about which values are good.

Source: TDX Module ABI (TDREPORT), Intel SGX SDM (REPORT); Intel TDX DCAP Quoting Library API,
appendix A, for the types of bodies in quotes of version 5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, final

SGX: Final = 1
TD10: Final = 2
TD15: Final = 3
TD15_EXTENDED: Final = 4
"""Types of bodies, as quotes of version 5 number them. The extended one is not judged here."""

_ENCLAVE: Final = struct.Struct("<16s4s28s16s32s32s32s96sHH60s64s")
_TD10: Final = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD15: Final = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s16s48s")
SIZES: Final = {SGX: _ENCLAVE.size, TD10: _TD10.size, TD15: _TD15.size}
"""Sizes in bytes, by type."""
ENCLAVE_SIZE: Final = _ENCLAVE.size


@final
@dataclass(frozen=True, slots=True)
class TdBody:
    """TD report body; the last two fields exist from TDX 1.5 (body type 3) on."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mrsigner_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn_2: bytes | None = None
    mr_service_td: bytes | None = None

    def claims(self) -> dict[str, Any]:
        """Return the fields in hex, without those that a TD 1.0 body has not."""
        return {
            name: value.hex()
            for name in TdBody.__slots__
            if (value := getattr(self, name)) is not None
        }

    def encode(self) -> bytes:
        """Return the body's bytes."""
        fields = [getattr(self, name) for name in TdBody.__slots__]
        if self.mr_service_td is None:
            return _TD10.pack(*fields[:-2])
        return _TD15.pack(*fields)


@final
@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """SGX REPORT body: of the enclave that a quote is of, and of every quoting enclave."""

    cpusvn: bytes
    miscselect: bytes
    spare1: bytes
    attributes: bytes
    mrenclave: bytes
    spare2: bytes
    mrsigner: bytes
    spare3: bytes
    isvprodid: int
    isvsvn: int
    spare4: bytes
    reportdata: bytes

    def claims(self) -> dict[str, Any]:
        """Return the fields, bytes in hex, without the reserved ones."""
        return {
            "cpusvn": self.cpusvn.hex(),
            "miscselect": self.miscselect.hex(),
            "attributes": self.attributes.hex(),
            "mrenclave": self.mrenclave.hex(),
            "mrsigner": self.mrsigner.hex(),
            "isvprodid": self.isvprodid,
            "isvsvn": self.isvsvn,
            "reportdata": self.reportdata.hex(),
        }

    def encode(self) -> bytes:
        """Return the report's 384 bytes."""
        return _ENCLAVE.pack(*(getattr(self, name) for name in EnclaveReport.__slots__))


def read_td(raw: bytes, at: int, body_type: int) -> TdBody:
    """Return the TD body of this type at `at`; the caller has checked that it is all there."""
    return TdBody(*(_TD15 if body_type == TD15 else _TD10).unpack_from(raw, at))


def read_enclave(raw: bytes, at: int) -> EnclaveReport:
    """Return the enclave report at `at`; the caller has checked that it is all there."""
    return EnclaveReport(*_ENCLAVE.unpack_from(raw, at))
