"""Intel quotes: TDX in versions 4 and 5, SGX in versions 3, 4 and 5; bytes to fields and back.

Guarantees: every length is checked against what is left, nested lengths use up their parent
exactly, nothing but zeros follows the quote, and `encode(parse(raw))` is `raw` again. Does not
check any signature; nothing that is read here may be believed yet. `check_certified` refuses what
can be read and told, but not judged.

Source: Intel TDX DCAP Quoting Library API, appendix A (quote formats v4 and v5); Intel SGX ECDSA
QuoteLib API, appendix A (v3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeVar, final

from verifier.errors import Reason, VerifierError
from verifier.tdx import body as bodies
from verifier.tdx.body import EnclaveReport, TdBody
from verifier.tdx.identity import Tee

B = TypeVar("B", TdBody, EnclaveReport)

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

_VERSION_3 = 3
_VERSION_4 = 4
_VERSION_5 = 5
_HEADER = struct.Struct("<HHI4s16s20s")
_DESCRIPTOR = struct.Struct("<HI")
_TEE_NAMES: dict[int, Tee] = {TEE_SGX: "SGX", TEE_TDX: "TDX"}
_VERSIONS = {TEE_SGX: (3, 4, 5), TEE_TDX: (4, 5)}
_BODY_TYPES = {TEE_SGX: (bodies.SGX,), TEE_TDX: (bodies.TD10, bodies.TD15)}
_BODY_NAMES = {bodies.SGX: "SGX", bodies.TD10: "TD 1.0", bodies.TD15: "TD 1.5"}
_CERT_NAMES = {
    1: "PPID in clear",
    2: "PPID encrypted with RSA 2048",
    3: "PPID encrypted with RSA 3072",
    4: "PCK leaf",
    7: "platform manifest",
}


@final
@dataclass(frozen=True, slots=True)
class Quote(Generic[B]):
    """One quote as it was read. `signed` is what the attestation key signs: header and body.

    `reserved` are the header's bytes 8 to 11: the SVNs of QE and PCE in version 3, else zero.
    """

    version: int
    att_key_type: int
    tee_type: int
    reserved: bytes
    qe_vendor_id: bytes
    user_data: bytes
    body_type: int
    body: B
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_raw: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    cert_type: int
    cert_data: bytes
    declared_sig_len: int
    padding: int

    @property
    def tee(self) -> Tee:
        """Return TDX or SGX."""
        return _TEE_NAMES[self.tee_type]


def _refuse(message: str, reason: Reason = Reason.MALFORMED) -> NoReturn:
    raise VerifierError(reason, f"quote: {message}")


def parse(raw: bytes) -> Quote[TdBody]:
    """Return the fields of a TDX quote.

    Raises:
        VerifierError: `too_large` over 128 KiB; `kind_mismatch` for a quote of an SGX enclave;
            `unsupported` for the extended TD 1.5 body and for P-384; `trailing_data` for anything
            but zeros after the quote; `malformed` for the rest.
    """
    frame = _Frame(raw, TEE_TDX)
    return frame.quote(bodies.read_td(raw, frame.body_at, frame.body_type))


def parse_sgx(raw: bytes) -> Quote[EnclaveReport]:
    """Return the fields of an SGX quote.

    Raises:
        VerifierError: as `parse`; `kind_mismatch` for a quote of a TD.
    """
    frame = _Frame(raw, TEE_SGX)
    return frame.quote(bodies.read_enclave(raw, frame.body_at))


def check_certified(quote: Quote[Any]) -> None:
    """Check that the quote brings what it takes to judge its QE: the PCK chain.

    Raises:
        VerifierError: `unsupported` for known certification data without a PCK chain, `malformed`
            for other data and for authentication data of another size than Intel's QEs give.
    """
    if quote.cert_type in _CERT_NAMES:
        _refuse(
            f"certification data type {quote.cert_type} ({_CERT_NAMES[quote.cert_type]}) "
            "has no PCK chain",
            Reason.UNSUPPORTED,
        )
    if quote.cert_type != CERT_PCK_CHAIN:
        _refuse(f"certification data type {CERT_PCK_CHAIN} expected, {quote.cert_type} seen")
    if len(quote.qe_auth_data) != QE_AUTH_SIZE:
        _refuse(
            f"QE authentication data: {QE_AUTH_SIZE} bytes expected, "
            f"{len(quote.qe_auth_data)} declared"
        )


@final
class _Frame:
    """A quote's bytes with the places of its parts, found and checked in order."""

    __slots__ = ("body_at", "body_type", "header", "raw", "signed_end", "version")

    def __init__(self, raw: bytes, tee: int) -> None:
        if len(raw) > MAX_QUOTE:
            _refuse(f"{len(raw)} bytes, at most {MAX_QUOTE} expected", Reason.TOO_LARGE)
        if len(raw) < _HEADER.size:
            _refuse(f"{_HEADER.size} bytes of header expected, {len(raw)} seen")
        self.raw = raw
        self.header = _HEADER.unpack_from(raw)
        version, key_type, told_tee, reserved, vendor, _ = self.header
        self.version = version
        _check_kind(version, told_tee, tee)
        if key_type == ECDSA_P384:
            _refuse("attestation key type 3 (ECDSA P-384)", Reason.UNSUPPORTED)
        if key_type != ECDSA_P256:
            _refuse(f"attestation key type {ECDSA_P256} (ECDSA P-256) expected, {key_type} seen")
        if vendor != QE_VENDOR_INTEL:
            _refuse(f"QE vendor id {QE_VENDOR_INTEL.hex()} (Intel) expected, {vendor.hex()} seen")
        if version != _VERSION_3 and any(reserved):
            _refuse(f"reserved header bytes zero expected, {reserved.hex()} seen")
        self.body_type, self.body_at = _find_body(version, raw, tee)
        self.signed_end = self.body_at + bodies.SIZES[self.body_type]
        if len(raw) < self.signed_end + 4:
            _refuse(
                f"{self.signed_end + 4} bytes to the signature's length expected, {len(raw)} seen"
            )

    def quote(self, body: B) -> Quote[B]:
        """Return the quote with this body, its signature data read."""
        raw, signed_end = self.raw, self.signed_end
        version, key_type, tee, reserved, vendor, user_data = self.header

        # The signature data: as long as declared, then zeros only.
        start = signed_end + 4
        sig_len = int.from_bytes(raw[signed_end:start], "little")
        end = start + sig_len
        if len(raw) < end:
            _refuse(f"signature data: {sig_len} bytes declared, {len(raw) - start} left")
        trailing = raw[end:]
        if trailing.strip(b"\0"):
            _refuse(f"{len(trailing)} bytes after the quote are not all zero", Reason.TRAILING_DATA)

        # Signature 64, attestation key 64, then what certifies that key: in version 3 at once, from
        # version 4 on wrapped in certification data of type 6.
        outer = start + 128
        qe_at = outer if version == _VERSION_3 else _outer_certification(raw, outer, end)
        auth_at, inner, cert_type = _inner_certification(raw, qe_at, end)
        return Quote(
            version=version,
            att_key_type=key_type,
            tee_type=tee,
            reserved=reserved,
            qe_vendor_id=vendor,
            user_data=user_data,
            body_type=self.body_type,
            body=body,
            signed=raw[:signed_end],
            signature=raw[start : start + 64],
            attestation_key=raw[start + 64 : outer],
            qe_report=bodies.read_enclave(raw, qe_at),
            qe_report_raw=raw[qe_at : qe_at + bodies.ENCLAVE_SIZE],
            qe_report_signature=raw[auth_at - 66 : auth_at - 2],
            qe_auth_data=raw[auth_at:inner],
            cert_type=cert_type,
            cert_data=raw[inner + 6 : end],
            declared_sig_len=sig_len,
            padding=len(trailing),
        )


def _check_kind(version: int, told: int, tee: int) -> None:
    """Check version and TEE type: known at all, and those of the kind that was asked for."""
    name = _TEE_NAMES[tee]
    known = " or ".join(str(each) for each in _VERSIONS[tee])
    if version not in _VERSIONS[TEE_SGX]:
        _refuse(f"version {known} expected, {version} seen")
    if told not in _TEE_NAMES:
        _refuse(f"TEE type {tee:#x} ({name}) expected, {told:#x} seen")
    if told != tee:
        _refuse(f"{name} expected, a quote of {_TEE_NAMES[told]} seen", Reason.KIND_MISMATCH)
    if version not in _VERSIONS[tee]:
        _refuse(f"version {known} expected, {version} seen")


def _find_body(version: int, raw: bytes, tee: int) -> tuple[int, int]:
    """Return the body's type and where it starts; before v5 there is one per TEE, undescribed."""
    known = _BODY_TYPES[tee]
    if version != _VERSION_5:
        return known[0], _HEADER.size
    at = _HEADER.size + _DESCRIPTOR.size
    if len(raw) < at:
        _refuse(f"{at} bytes to the body expected, {len(raw)} seen")
    body_type, body_size = _DESCRIPTOR.unpack_from(raw, _HEADER.size)
    if body_type == bodies.TD15_EXTENDED:
        _refuse("body type 4 (TD 1.5 extended)", Reason.UNSUPPORTED)
    if body_type not in bodies.SIZES:
        told = " or ".join(f"{each} ({_BODY_NAMES[each]})" for each in known)
        _refuse(f"body type {told} expected, {body_type} seen")
    if body_type not in known:
        # The header's TEE type says otherwise; one of the two is wrong.
        _refuse(
            f"body type {body_type} ({_BODY_NAMES[body_type]}) in a quote of {_TEE_NAMES[tee]}",
            Reason.KIND_MISMATCH,
        )
    if body_size != bodies.SIZES[body_type]:
        _refuse(f"body: {bodies.SIZES[body_type]} bytes expected, {body_size} declared")
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


def _inner_certification(raw: bytes, qe_at: int, end: int) -> tuple[int, int, int]:
    """Return where the QE's authentication data and what follows it stand, and the latter's type.

    The layout is QE report 384, its signature 64, length and authentication data, type and size,
    the data itself (a PCK chain, in all that can be judged).
    """
    auth_at = qe_at + bodies.ENCLAVE_SIZE + 64 + 2
    auth_len = int.from_bytes(raw[auth_at - 2 : auth_at], "little")
    inner = auth_at + auth_len
    if end < inner + 6:
        _refuse(f"QE certification data: at least {inner + 6 - qe_at} bytes expected")
    cert_type, cert_size = _DESCRIPTOR.unpack_from(raw, inner)
    if inner + 6 + cert_size != end:
        _refuse(f"PCK chain: {end - inner - 6} bytes expected, {cert_size} declared")
    return auth_at, inner, cert_type


def encode(quote: Quote[Any]) -> bytes:
    """Return the bytes of a quote, from its fields and not from the slices that it kept."""
    body: bytes = quote.body.encode()
    header = _HEADER.pack(
        quote.version,
        quote.att_key_type,
        quote.tee_type,
        quote.reserved,
        quote.qe_vendor_id,
        quote.user_data,
    )
    if quote.version == _VERSION_5:
        header += _DESCRIPTOR.pack(quote.body_type, len(body))
    certification = (
        quote.qe_report.encode()
        + quote.qe_report_signature
        + len(quote.qe_auth_data).to_bytes(2, "little")
        + quote.qe_auth_data
        + _DESCRIPTOR.pack(quote.cert_type, len(quote.cert_data))
        + quote.cert_data
    )
    if quote.version != _VERSION_3:
        certification = _DESCRIPTOR.pack(CERT_QE_REPORT, len(certification)) + certification
    data = quote.signature + quote.attestation_key + certification
    return header + body + len(data).to_bytes(4, "little") + data + bytes(quote.padding)


def claims(quote: Quote[Any]) -> dict[str, Any]:
    """Return the quote's fields for a result: hex for bytes, the manuals' names in snake case."""
    told: dict[str, Any] = {
        "quote_version": quote.version,
        "tee_type": quote.tee,
        "att_key_type": quote.att_key_type,
        "qe_vendor_id": quote.qe_vendor_id.hex(),
        "body": quote.body.claims(),
        "qe_report": quote.qe_report.claims(),
        "qe_auth_data_len": len(quote.qe_auth_data),
        "cert_data_type": quote.cert_type,
        "declared_sig_len": quote.declared_sig_len,
        "trailing_bytes": quote.padding,
        "trailing_all_zero": True,
    }
    if quote.version == _VERSION_3:
        told["qe_svn"] = int.from_bytes(quote.reserved[:2], "little")
        told["pce_svn"] = int.from_bytes(quote.reserved[2:], "little")
    if quote.version == _VERSION_5:
        told["body_type"] = quote.body_type
        told["body_size"] = bodies.SIZES[quote.body_type]
    return told
