"""AMD's endorsements of one report: the certificates, and what the VEK's extensions vouch for.

Guarantees: `parse_vek` returns the extensions of a VCEK or VLEK only if each has its exact type and
size, none that counts is missing, and no part of the TCB is unknown or where it must be zero, set.
Does not check signatures or dates (`chain`), nor compare anything with a report (`verify`).

Source: AMD 57230 (VCEK and VLEK certificate extensions, OID 1.3.6.1.4.1.3704.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar, final

from cryptography import x509

from verifier.der import OCTET_STRING, Der
from verifier.errors import Reason, VerifierError
from verifier.snp import product
from verifier.snp.product import Generation

_ARC: Final = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSION: Final = _ARC + "1"
_PRODUCT_NAME: Final = _ARC + "2"
_PARTS_ARC: Final = _ARC + "3."
_HWID: Final = _ARC + "4"
_CSP_ID: Final = _ARC + "5"

_PARTS: Final = {
    _PARTS_ARC + "1": "bootloader",
    _PARTS_ARC + "2": "tee",
    _PARTS_ARC + "3": "snp",
    _PARTS_ARC + "8": "microcode",
    _PARTS_ARC + "9": "fmc",
}
_SPARE_PARTS: Final = frozenset(_PARTS_ARC + str(number) for number in (4, 5, 6, 7))

_STRUCT_VERSIONS: Final = (0, 1)
_PART_BELOW: Final = 256
_IA5_STRING: Final = 0x16

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class SnpEndorsements:
    """Certificates and CRL for one report, DER as AMD's key server hands them out.

    `ask` is the ASK for a VCEK and the ASVK for a VLEK. `crl_required=False` admits a report
    without CRL and says so in the result; a broker never runs so.
    """

    vek: bytes
    ask: bytes
    ark: bytes
    crl: bytes | None
    crl_required: bool = True


@final
@dataclass(frozen=True, slots=True)
class VekExtensions:
    """What AMD says of the chip (VCEK) or the cloud (VLEK) that holds the key.

    `tcb` has exactly the generation's parts. `hwid` is None or of the generation's size, `csp_id`
    None or the text as it stands in the certificate.
    """

    generation: Generation
    tcb: Mapping[str, int]
    hwid: bytes | None
    csp_id: str | None


def _whole(raw: bytes, oid: str, read: Callable[[Der], T]) -> T:
    """Return what `read` finds in an extension, which holds nothing else."""
    der = Der(raw, f"VEK extension {oid}")
    try:
        value = read(der)
        der.end()
    except VerifierError as error:
        raise VerifierError(Reason.CERTIFICATE_INVALID, str(error)) from error
    return value


def _part(raw: bytes, oid: str) -> int:
    """Return an SVN, 0 to 255; above 127 DER needs a zero byte in front (X.690 §8.3)."""
    return _whole(raw, oid, lambda der: der.integer(below=_PART_BELOW))


def _text(raw: bytes, oid: str) -> str:
    """Return the text of an IA5String: 7-bit."""
    value = _whole(raw, oid, lambda der: der.value(_IA5_STRING))
    if not value.isascii():
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"VEK extension {oid}: not an IA5String")
    return value.decode("ascii")


def _hwid(raw: bytes, size: int) -> bytes:
    """Return the HWID: raw bytes, or in some certificates a DER OCTET STRING around them."""
    if len(raw) == size:
        return raw
    hwid = _whole(raw, _HWID, lambda der: der.value(OCTET_STRING))
    if len(hwid) != size:
        raise VerifierError(
            Reason.CERTIFICATE_INVALID, f"VEK: HWID of {len(hwid)} bytes, {size} expected"
        )
    return hwid


def _required(values: Mapping[str, bytes], oid: str) -> bytes:
    if oid not in values:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"VEK: extension {oid} is missing")
    return values[oid]


def _tcb(values: Mapping[str, bytes], generation: Generation) -> dict[str, int]:
    """Return the TCB parts that the certificate is for: exactly the generation's."""
    parts: dict[str, int] = {}
    for oid, raw in values.items():
        if not oid.startswith(_PARTS_ARC):
            continue
        svn = _part(raw, oid)
        if oid in _SPARE_PARTS:
            if svn:
                raise VerifierError(
                    Reason.CERTIFICATE_INVALID, f"VEK: spare TCB part {oid} is {svn}, 0 expected"
                )
        elif oid in _PARTS:
            parts[_PARTS[oid]] = svn
        else:
            raise VerifierError(Reason.CERTIFICATE_INVALID, f"VEK: unknown TCB part {oid}")
    if set(parts) != set(generation.tcb_parts):
        raise VerifierError(
            Reason.CERTIFICATE_INVALID,
            f"VEK: TCB parts {sorted(parts)}, {sorted(generation.tcb_parts)} expected on "
            f"{generation.product}",
        )
    return {name: parts[name] for name in generation.tcb_parts}


def parse_vek(certificate: x509.Certificate) -> VekExtensions:
    """Return AMD's extensions of a VCEK or VLEK.

    Raises:
        VerifierError: `certificate_invalid`, or `product_mismatch` for an unknown product.
    """
    values = {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    struct_version = _part(_required(values, _STRUCT_VERSION), _STRUCT_VERSION)
    if struct_version not in _STRUCT_VERSIONS:
        raise VerifierError(
            Reason.CERTIFICATE_INVALID,
            f"VEK: struct version {struct_version}, one of {_STRUCT_VERSIONS} expected",
        )
    generation = product.from_name(_text(_required(values, _PRODUCT_NAME), _PRODUCT_NAME))
    return VekExtensions(
        generation=generation,
        tcb=_tcb(values, generation),
        hwid=_hwid(values[_HWID], generation.hwid_size) if _HWID in values else None,
        csp_id=_text(values[_CSP_ID], _CSP_ID) if _CSP_ID in values else None,
    )
