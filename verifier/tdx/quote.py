"""TDX quotes, versions 4 and 5: bytes to fields and back.

Guarantees: every length is checked against what is left, nested lengths use up their parent
exactly, nothing but zeros follows the quote, and `encode(parse(raw))` is `raw` again. Does not
check any signature; nothing that is read here may be believed yet.

Source: Intel TDX DCAP Quoting Library API, appendix A (quote formats v4 and v5); TDX Module ABI
(TDREPORT body); SGX REPORT body.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, NoReturn, final

from verifier.errors import Reason, VerifierError

MAX_QUOTE: Final = 128 * 1024
"""Largest quote in bytes, padding included."""

ECDSA_P256: Final = 2
ECDSA_P384: Final = 3
TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81
QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_AUTH_SIZE: Final = 32
CERT_PCK_CHAIN: Final = 5
CERT_QE_REPORT: Final = 6

BODY_SGX: Final = 1
BODY_TD10: Final = 2
BODY_TD15: Final = 3
BODY_TD15_EXTENDED: Final = 4

_VERSION_SGX = 3
_VERSION_4 = 4
_VERSION_5 = 5
_HEADER = struct.Struct("<HHI4s16s20s")
_DESCRIPTOR = struct.Struct("<HI")
_TD10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD15 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s16s48s")
_QE_REPORT = struct.Struct("<16s4s28s16s32s32s32s96sHH60s64s")
_BODY_SIZE = {BODY_TD10: _TD10.size, BODY_TD15: _TD15.size}
_CERT_NAMES = {
    1: "PPID in clear",
    2: "PPID encrypted with RSA 2048",
    3: "PPID encrypted with RSA 3072",
    4: "PCK leaf",
    7: "platform manifest",
}


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


@final
@dataclass(frozen=True, slots=True)
class QeReport:
    """SGX REPORT body of the quoting enclave; spare fields are kept for `encode`."""

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


@final
@dataclass(frozen=True, slots=True)
class Quote:
    """One quote as it was read. `signed` is what the attestation key signs: header and body."""

    version: int
    att_key_type: int
    tee_type: int
    reserved: bytes
    qe_vendor_id: bytes
    user_data: bytes
    body_type: int
    body: TdBody
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_report_raw: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    cert_data: bytes
    declared_sig_len: int
    padding: int


def _refuse(message: str, reason: Reason = Reason.MALFORMED) -> NoReturn:
    raise VerifierError(reason, f"quote: {message}")


def parse(raw: bytes) -> Quote:
    """Return the fields of a TDX quote.

    Raises:
        VerifierError: `too_large` over 128 KiB; `unsupported` for SGX, the extended TD 1.5 body,
            P-384 and certification data without a PCK chain; `trailing_data` for anything but
            zeros after the quote; `malformed` for the rest.
    """
    if len(raw) > MAX_QUOTE:
        _refuse(f"{len(raw)} bytes, at most {MAX_QUOTE} expected", Reason.TOO_LARGE)
    if len(raw) < _HEADER.size:
        _refuse(f"{_HEADER.size} bytes of header expected, {len(raw)} seen")
    version, key_type, tee, reserved, vendor, user_data = _HEADER.unpack_from(raw)
    _check_header(version, key_type, tee, vendor)
    if any(reserved):
        _refuse(f"reserved header bytes zero expected, {reserved.hex()} seen")
    body_type, body_at = _find_body(version, raw)

    # The body, in v5 behind its type and size.
    layout = _TD15 if body_type == BODY_TD15 else _TD10
    signed_end = body_at + layout.size
    start = signed_end + 4
    if len(raw) < start:
        _refuse(f"{start} bytes to the signature's length expected, {len(raw)} seen")
    body = TdBody(*layout.unpack_from(raw, body_at))

    # The signature data: as long as declared, then zeros only.
    sig_len = int.from_bytes(raw[signed_end:start], "little")
    end = start + sig_len
    if len(raw) < end:
        _refuse(f"signature data: {sig_len} bytes declared, {len(raw) - start} left")
    trailing = raw[end:]
    if trailing.strip(b"\0"):
        _refuse(f"{len(trailing)} bytes after the quote are not all zero", Reason.TRAILING_DATA)

    # Signature 64, attestation key 64, then what certifies that key.
    outer = start + 128
    qe_at = _outer_certification(raw, outer, end)
    auth_at, inner = _inner_certification(raw, qe_at, end)
    return Quote(
        version=version,
        att_key_type=key_type,
        tee_type=tee,
        reserved=reserved,
        qe_vendor_id=vendor,
        user_data=user_data,
        body_type=body_type,
        body=body,
        signed=raw[:signed_end],
        signature=raw[start : start + 64],
        attestation_key=raw[start + 64 : outer],
        qe_report=QeReport(*_QE_REPORT.unpack_from(raw, qe_at)),
        qe_report_raw=raw[qe_at : qe_at + _QE_REPORT.size],
        qe_report_signature=raw[auth_at - 66 : auth_at - 2],
        qe_auth_data=raw[auth_at:inner],
        cert_data=raw[inner + 6 : end],
        declared_sig_len=sig_len,
        padding=len(trailing),
    )


def _check_header(version: int, key_type: int, tee: int, vendor: bytes) -> None:
    if version not in (_VERSION_SGX, _VERSION_4, _VERSION_5):
        _refuse(f"version 4 or 5 expected, {version} seen")
    if version == _VERSION_SGX or tee == TEE_SGX:
        _refuse(f"an SGX quote (version {version}, TEE type {tee:#x})", Reason.UNSUPPORTED)
    if tee != TEE_TDX:
        _refuse(f"TEE type {TEE_TDX:#x} (TDX) expected, {tee:#x} seen")
    if key_type == ECDSA_P384:
        _refuse("attestation key type 3 (ECDSA P-384)", Reason.UNSUPPORTED)
    if key_type != ECDSA_P256:
        _refuse(f"attestation key type {ECDSA_P256} (ECDSA P-256) expected, {key_type} seen")
    if vendor != QE_VENDOR_INTEL:
        _refuse(f"QE vendor id {QE_VENDOR_INTEL.hex()} (Intel) expected, {vendor.hex()} seen")


def _find_body(version: int, raw: bytes) -> tuple[int, int]:
    """Return the body's type and where it starts; v4 has only the TD 1.0 body and no descriptor."""
    if version == _VERSION_4:
        return BODY_TD10, _HEADER.size
    at = _HEADER.size + _DESCRIPTOR.size
    if len(raw) < at:
        _refuse(f"{at} bytes to the body expected, {len(raw)} seen")
    body_type, body_size = _DESCRIPTOR.unpack_from(raw, _HEADER.size)
    if body_type == BODY_SGX:
        _refuse("body type 1 (SGX)", Reason.UNSUPPORTED)
    if body_type == BODY_TD15_EXTENDED:
        _refuse("body type 4 (TD 1.5 extended)", Reason.UNSUPPORTED)
    if body_type not in _BODY_SIZE:
        _refuse(f"body type 2 (TD 1.0) or 3 (TD 1.5) expected, {body_type} seen")
    if body_size != _BODY_SIZE[body_type]:
        _refuse(f"body: {_BODY_SIZE[body_type]} bytes expected, {body_size} declared")
    return body_type, at


def _outer_certification(raw: bytes, at: int, end: int) -> int:
    """Return where the QE report stands: in certification data of type 6 that reaches to `end`."""
    if end < at + 6:
        _refuse("signature data ends before its certification data")
    cert_type, cert_size = _DESCRIPTOR.unpack_from(raw, at)
    if cert_type != CERT_QE_REPORT:
        _refuse(f"certification data type {CERT_QE_REPORT} (QE report) expected, {cert_type} seen")
    if at + 6 + cert_size != end:
        _refuse(f"QE certification data: {end - at - 6} bytes expected, {cert_size} declared")
    return at + 6


def _inner_certification(raw: bytes, qe_at: int, end: int) -> tuple[int, int]:
    """Return where the QE's authentication data and, behind it, the PCK chain's type stand.

    The layout is QE report 384, its signature 64, length and authentication data, type and size,
    PCK chain (type 5).
    """
    auth_at = qe_at + _QE_REPORT.size + 64 + 2
    inner = auth_at + QE_AUTH_SIZE
    if end < inner + 6:
        _refuse(f"QE certification data: at least {inner + 6 - qe_at} bytes expected")
    auth_len = int.from_bytes(raw[auth_at - 2 : auth_at], "little")
    if auth_len != QE_AUTH_SIZE:
        _refuse(f"QE authentication data: {QE_AUTH_SIZE} bytes expected, {auth_len} declared")
    cert_type, cert_size = _DESCRIPTOR.unpack_from(raw, inner)
    if cert_type in _CERT_NAMES:
        _refuse(
            f"certification data type {cert_type} ({_CERT_NAMES[cert_type]}) has no PCK chain",
            Reason.UNSUPPORTED,
        )
    if cert_type != CERT_PCK_CHAIN:
        _refuse(f"certification data type {CERT_PCK_CHAIN} expected, {cert_type} seen")
    if inner + 6 + cert_size != end:
        _refuse(f"PCK chain: {end - inner - 6} bytes expected, {cert_size} declared")
    return auth_at, inner


def encode(quote: Quote) -> bytes:
    """Return the bytes of a quote, from its fields and not from the slices that it kept."""
    body = quote.body
    fields = [getattr(body, name) for name in TdBody.__slots__]
    body_raw = _TD15.pack(*fields) if quote.body_type == BODY_TD15 else _TD10.pack(*fields[:-2])
    header = _HEADER.pack(
        quote.version,
        quote.att_key_type,
        quote.tee_type,
        quote.reserved,
        quote.qe_vendor_id,
        quote.user_data,
    )
    if quote.version == _VERSION_5:
        header += _DESCRIPTOR.pack(quote.body_type, len(body_raw))
    report = quote.qe_report
    certification = (
        _QE_REPORT.pack(*(getattr(report, name) for name in QeReport.__slots__))
        + quote.qe_report_signature
        + len(quote.qe_auth_data).to_bytes(2, "little")
        + quote.qe_auth_data
        + _DESCRIPTOR.pack(CERT_PCK_CHAIN, len(quote.cert_data))
        + quote.cert_data
    )
    signature_data = (
        quote.signature
        + quote.attestation_key
        + _DESCRIPTOR.pack(CERT_QE_REPORT, len(certification))
        + certification
    )
    return (
        header
        + body_raw
        + len(signature_data).to_bytes(4, "little")
        + signature_data
        + bytes(quote.padding)
    )


def claims(quote: Quote) -> dict[str, Any]:
    """Return the quote's fields for a result: hex for bytes, the manuals' names in snake case."""
    body = quote.body
    report = quote.qe_report
    told: dict[str, Any] = {
        "quote_version": quote.version,
        "tee_type": "TDX",
        "att_key_type": quote.att_key_type,
        "qe_vendor_id": quote.qe_vendor_id.hex(),
        "body": {
            name: value.hex()
            for name in TdBody.__slots__
            if (value := getattr(body, name)) is not None
        },
        "qe_report": {
            "cpusvn": report.cpusvn.hex(),
            "miscselect": report.miscselect.hex(),
            "attributes": report.attributes.hex(),
            "mrenclave": report.mrenclave.hex(),
            "mrsigner": report.mrsigner.hex(),
            "isvprodid": report.isvprodid,
            "isvsvn": report.isvsvn,
            "reportdata": report.reportdata.hex(),
        },
        "qe_auth_data_len": len(quote.qe_auth_data),
        "cert_data_type": CERT_PCK_CHAIN,
        "declared_sig_len": quote.declared_sig_len,
        "trailing_bytes": quote.padding,
        "trailing_all_zero": True,
    }
    if quote.version == _VERSION_5:
        told["body_type"] = quote.body_type
        told["body_size"] = _BODY_SIZE[quote.body_type]
    return told
