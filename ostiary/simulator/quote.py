"""Intel quotes, signed like the real quoting enclaves do: TDX in 4 and 5, SGX in 3, 4 and 5.

Guarantees: layout and signatures as in "Intel TDX DCAP Quoting Library API" and "SGX ECDSA QuoteLib
API", appendices A; `TdBody` is TD report 1.0 (584 bytes) or 1.5 (648 bytes), `EnclaveReport` SGX's
(384 bytes), of any enclave and of the quoting one. `QuoteShape` holds a knob for each thing that a
negative test bends; its defaults are right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, Final, final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import tcb
from ostiary.simulator.intel import raw_signature
from ostiary.simulator.pck import Platform

QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEE_SGX: Final = 0
TEE_TDX: Final = 0x81
BODY_SGX: Final = 1
BODY_TD10: Final = 2
BODY_TD15: Final = 3
TD10_SIZE: Final = 584
TD15_SIZE: Final = 648
_CERT_PCK_CHAIN: Final = 5
_CERT_QE_REPORT: Final = 6
_U32: Final = 0xFFFFFFFF
_BODY_TYPES: Final = {384: BODY_SGX, TD10_SIZE: BODY_TD10, TD15_SIZE: BODY_TD15}
_VERSION_3: Final = 3
_VERSION_5: Final = 5


@final
@dataclass(frozen=True, slots=True)
class TdBody:
    """TD report fields in quote order. The last two exist in TD 1.5 bodies only.

    Defaults: the simulated current TDX module, SEPT_VE_DISABLE set, no debug, no service TD.
    """

    tee_tcb_svn: bytes = bytes(tcb.TDX_SVN_CURRENT)
    mr_seam: bytes = hashlib.sha384(b"ostiary/simulated-tdx-module").digest()
    mrsigner_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: bytes = bytes.fromhex("0000001000000000")
    xfam: bytes = bytes.fromhex("e702060000000000")
    mr_td: bytes = bytes(48)
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmr0: bytes = bytes(48)
    rtmr1: bytes = bytes(48)
    rtmr2: bytes = bytes(48)
    rtmr3: bytes = bytes(48)
    report_data: bytes = bytes(64)
    tee_tcb_svn2: bytes = bytes(tcb.TDX_SVN_CURRENT)
    mr_service_td: bytes = bytes(48)

    def __post_init__(self) -> None:
        sizes = (16, 48, 48, 8, 8, 8, *(48,) * 8, 64, 16, 48)
        for item, size in zip(fields(self), sizes, strict=True):
            if len(getattr(self, item.name)) != size:
                raise ValueError(f"{item.name} has {size} bytes in a TD report")

    def _join(self, names: int | None) -> bytes:
        return b"".join(getattr(self, item.name) for item in fields(self)[:names])

    def td10(self) -> bytes:
        """Return the 584-byte body."""
        return self._join(-2)

    def td15(self) -> bytes:
        """Return the 648-byte body."""
        return self._join(None)


@final
@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX report (SGX SDM, REPORT), 384 bytes without MAC; defaults: TDX's quoting enclave."""

    cpusvn: bytes = bytes.fromhex("0404191b04ff00060000000000000000")
    miscselect: bytes = bytes(4)
    attributes: bytes = bytes.fromhex("1500000000000000e700000000000000")
    mrenclave: bytes = hashlib.sha256(b"ostiary/simulated-td-qe").digest()
    mrsigner: bytes = tcb.TDX_QE_MRSIGNER
    isvprodid: int = 2
    isvsvn: int = 7
    report_data: bytes | None = None
    """None: SHA-256(attestation key ‖ auth data) and 32 zero bytes, as the real one."""

    def encode(self, report_data: bytes) -> bytes:
        """Return the report; `report_data` (64 bytes) counts where the field is None."""
        return b"".join(
            (
                self.cpusvn,
                self.miscselect,
                bytes(28),
                self.attributes,
                self.mrenclave,
                bytes(32),
                self.mrsigner,
                bytes(96),
                self.isvprodid.to_bytes(2, "little"),
                self.isvsvn.to_bytes(2, "little"),
                bytes(60),
                report_data if self.report_data is None else self.report_data,
            )
        )


SGX_QE: Final = EnclaveReport(
    mrenclave=hashlib.sha256(b"ostiary/simulated-qe").digest(),
    mrsigner=tcb.SGX_QE_MRSIGNER,
    isvprodid=1,
)
"""SGX's quoting enclave."""


@final
@dataclass(frozen=True, slots=True)
class QuoteShape:
    """Everything in a quote beside the body. None means: what the real one has there."""

    version: int = 4
    key_type: int = 2
    tee_type: int = TEE_TDX
    reserved: bytes = bytes(4)
    """The SVNs of QE and PCE in version 3."""
    qe_vendor: bytes = QE_VENDOR_INTEL
    user_data: bytes = bytes.fromhex("51494d00") * 4 + bytes(4)
    body_type: int | None = None
    """v5 only: 1 for SGX, 2 for TD 1.0, 3 for TD 1.5."""
    body_size: int | None = None
    """v5 only: declared size."""
    qe_report: EnclaveReport = EnclaveReport()
    auth_data: bytes = bytes(range(32))
    cert_data: bytes | None = None
    inner_cert_type: int = _CERT_PCK_CHAIN
    outer_cert_type: int = _CERT_QE_REPORT
    attestation_key: bytes | None = None
    """64 bytes x ‖ y put into the quote instead of the key that signs."""
    signature: bytes | None = None
    qe_signature: bytes | None = None
    signature_size_delta: int = 0
    auth_size_delta: int = 0
    outer_cert_size_delta: int = 0
    inner_cert_size_delta: int = 0
    trailing: bytes = b""


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return (value & _U32).to_bytes(4, "little")


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a P-256 public key as x ‖ y, 64 bytes."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return point[1:]


def _signed_part(body: bytes, shape: QuoteShape) -> bytes:
    header = (
        _u16(shape.version)
        + _u16(shape.key_type)
        + _u32(shape.tee_type)
        + shape.reserved
        + shape.qe_vendor
        + shape.user_data
    )
    if shape.version == _VERSION_5:
        body_type = _BODY_TYPES[len(body)] if shape.body_type is None else shape.body_type
        size = len(body) if shape.body_size is None else shape.body_size
        return header + _u16(body_type) + _u32(size) + body
    return header + body


def build_quote(platform: Platform, body: bytes, shape: QuoteShape) -> bytes:
    """Return a quote over an encoded body, signed by the platform's attestation key."""
    signed = _signed_part(body, shape)
    key = shape.attestation_key
    if key is None:
        key = public_point(platform.attestation_key)
    bound = hashlib.sha256(key + shape.auth_data).digest() + bytes(32)
    qe_report = shape.qe_report.encode(bound)
    qe_signature = shape.qe_signature
    if qe_signature is None:
        qe_signature = raw_signature(platform.pck_key, qe_report)
    signature = shape.signature
    if signature is None:
        signature = raw_signature(platform.attestation_key, signed)
    certs = platform.chain_pem if shape.cert_data is None else shape.cert_data
    certification = (
        qe_report
        + qe_signature
        + _u16(len(shape.auth_data) + shape.auth_size_delta)
        + shape.auth_data
        + _u16(shape.inner_cert_type)
        + _u32(len(certs) + shape.inner_cert_size_delta)
        + certs
    )
    outer = b""
    if shape.version != _VERSION_3:
        outer = _u16(shape.outer_cert_type) + _u32(len(certification) + shape.outer_cert_size_delta)
    data = signature + key + outer + certification
    return signed + _u32(len(data) + shape.signature_size_delta) + data + shape.trailing


def quote_v4(platform: Platform, body: TdBody, **knobs: Any) -> bytes:  # noqa: ANN401 - QuoteShape's fields
    """Return a version 4 quote; `knobs` are fields of `QuoteShape`."""
    return build_quote(platform, body.td10(), replace(QuoteShape(), **knobs))


def quote_v5(platform: Platform, body: TdBody, *, td15: bool = True, **knobs: Any) -> bytes:  # noqa: ANN401 - QuoteShape's fields
    """Return a version 5 quote with a TD 1.5 or 1.0 body; `knobs` are fields of `QuoteShape`."""
    shape = replace(QuoteShape(version=5), **knobs)
    return build_quote(platform, body.td15() if td15 else body.td10(), shape)


def quote_sgx(
    platform: Platform,
    enclave: EnclaveReport,
    *,
    version: int = 3,
    **knobs: Any,  # noqa: ANN401 - QuoteShape's fields
) -> bytes:
    """Return an SGX quote; `knobs` are fields of `QuoteShape`. A report's data must be given."""
    shape = replace(QuoteShape(version=version, tee_type=TEE_SGX, qe_report=SGX_QE), **knobs)
    return build_quote(platform, enclave.encode(bytes(64)), shape)
