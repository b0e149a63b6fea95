"""The PCK certificate chain of a quote: which Intel platform made it, and its TCB components.

Guarantees: `load_chain` returns only for leaf, intermediate and root in that order, each issued by
the next, the root pinned, with Intel's names and a strictly read SGX extension. Does not judge
dates or revocation: `verify` does, at every call.

Source: Intel SGX PCK Certificate and CRL Profile Specification (extension 1.2.840.113741.1.13.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier import x509
from verifier.anchors import Anchors
from verifier.der import BOOLEAN, ENUMERATED, Der
from verifier.errors import Reason, VerifierError
from verifier.tdx.signature import p256_key
from verifier.tdx.windows import Windows, of_certificate

T = TypeVar("T")

ROOT_NAME: Final = "Intel SGX Root CA"
PCK_NAME: Final = "Intel SGX PCK Certificate"
PCK_CA_NAMES: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
_COMPONENTS = 16


@final
@dataclass(frozen=True, slots=True)
class SgxExtension:
    """What Intel certifies of a platform: identity, and the TCB that the certificate is for."""

    ppid: bytes
    components: tuple[int, ...]
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    fmspc: bytes
    sgx_type: int


@final
@dataclass(frozen=True, slots=True)
class PckChain:
    """A PCK chain whose signatures verified. `ca` is name and key of the intermediate."""

    key: ec.EllipticCurvePublicKey
    sgx: SgxExtension
    serial: int
    ca_serial: int
    ca: tuple[bytes, bytes]
    root: bytes
    windows: Windows
    issuer: str

    def claims(self) -> dict[str, Any]:
        """Return the PCK's fields for a result; the caller may keep and change them."""
        leaf = self.windows.each[-1]
        return _claims(self.sgx, leaf.start, leaf.end, self.issuer)


def identify(certificate: c_x509.Certificate) -> tuple[bytes, bytes]:
    """Return what makes two certificates the same authority: subject and public key (DER)."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), key


def check_name(certificate: c_x509.Certificate, names: tuple[str, ...], what: str) -> None:
    """Check the common name.

    Raises:
        VerifierError: `chain_invalid`.
    """
    seen = x509.common_name(certificate)
    if seen not in names:
        raise VerifierError(
            Reason.CHAIN_INVALID, f"{what}: common name {' or '.join(names)} expected, {seen} seen"
        )


def check_root(root: c_x509.Certificate, anchors: Anchors, what: str) -> bytes:
    """Check that this is a pinned Intel root, self-signed, with its own name; return its SHA-256.

    Raises:
        VerifierError: `root_unknown`, or `chain_invalid`.
    """
    digest = x509.fingerprint(root)
    check_pinned(digest, anchors, what)
    check_name(root, (ROOT_NAME,), what)
    p256_key(root, what)
    x509.check_issued_by(root, root, what)
    x509.check_ca(root, path_length=1, what=what)
    return digest


def check_pinned(root: bytes, anchors: Anchors, what: str) -> None:
    """Check that a root (SHA-256 of its DER) is trusted by this process.

    Raises:
        VerifierError: `root_unknown`.
    """
    if root not in anchors.intel:
        raise VerifierError(
            Reason.ROOT_UNKNOWN, f"{what}: SHA-256 {root.hex()} is not a pinned Intel root"
        )


def load_chain(cert_data: bytes, anchors: Anchors) -> PckChain:
    """Return the PCK chain in a quote's certification data (PEM; leaf, intermediate, root).

    Raises:
        VerifierError: `chain_invalid`, `certificate_invalid`, `root_unknown`, `too_large`, or
            `malformed` for the SGX extension.
    """
    leaf, ca, root = x509.load_pem_chain(cert_data, "PCK chain", count=3)
    digest = check_root(root, anchors, "PCK root")
    check_name(ca, PCK_CA_NAMES, "PCK CA")
    check_name(leaf, (PCK_NAME,), "PCK")
    p256_key(ca, "PCK CA")
    key = p256_key(leaf, "PCK")
    x509.check_issued_by(ca, root, "PCK CA")
    x509.check_ca(ca, path_length=0, what="PCK CA")
    x509.check_issued_by(leaf, ca, "PCK")
    x509.check_end_entity(leaf, "PCK")
    sgx = read_extension(leaf)
    return PckChain(
        key=key,
        sgx=sgx,
        serial=x509.serial_number(leaf),
        ca_serial=x509.serial_number(ca),
        ca=identify(ca),
        root=digest,
        windows=Windows.of(
            (
                of_certificate(root, "PCK root"),
                of_certificate(ca, "PCK CA"),
                of_certificate(leaf, "PCK"),
            )
        ),
        issuer=_issuer(leaf),
    )


def read_claims(cert_data: bytes) -> dict[str, Any]:
    """Return the PCK's fields for a result, of a chain that nothing was checked of.

    Raises:
        VerifierError: as `load_chain`, for what cannot be read.
    """
    leaf, _, _ = x509.load_pem_chain(cert_data, "PCK chain", count=3)
    window = of_certificate(leaf, "PCK")
    return _claims(read_extension(leaf), window.start, window.end, _issuer(leaf))


def _issuer(leaf: c_x509.Certificate) -> str:
    names = leaf.issuer.get_attributes_for_oid(c_x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _claims(sgx: SgxExtension, start: int, end: int, issuer: str) -> dict[str, Any]:
    return {
        "fmspc": sgx.fmspc.hex(),
        "pceid": sgx.pceid.hex(),
        "sgx_type": f"{sgx.sgx_type:02x}",
        "cpusvn_components": list(sgx.components),
        "pcesvn": sgx.pcesvn,
        "not_before": x509.rfc3339(start),
        "not_after": x509.rfc3339(end),
        "issuer": issuer,
    }


def read_extension(leaf: c_x509.Certificate) -> SgxExtension:
    """Return the SGX extension of a PCK certificate.

    Raises:
        VerifierError: `malformed` for any other DER than the profile's, `certificate_invalid` if
            there is no such extension.
    """
    try:
        extension = leaf.extensions.get_extension_for_oid(c_x509.ObjectIdentifier(SGX_EXTENSION))
    except c_x509.ExtensionNotFound as error:
        raise VerifierError(Reason.CERTIFICATE_INVALID, "PCK: no SGX extension") from error
    return parse_extension(extension.value.public_bytes())


def parse_extension(der: bytes) -> SgxExtension:
    """Return the fields of an SGX extension's value.

    Raises:
        VerifierError: `malformed`; also for a field twice, unknown or out of order.
    """
    outer = Der(der, "PCK: SGX extension")
    fields = outer.sequence()
    outer.end()
    ppid = _field(fields, "1", lambda field: field.octets(16))
    tcb = _field(fields, "2", Der.sequence)
    components = tuple(
        _field(tcb, f"2.{index}", lambda field: field.integer(below=256))
        for index in range(1, _COMPONENTS + 1)
    )
    pcesvn = _field(tcb, "2.17", lambda field: field.integer(below=65536))
    cpusvn = _field(tcb, "2.18", lambda field: field.octets(16))
    tcb.end()
    pceid = _field(fields, "3", lambda field: field.octets(2))
    fmspc = _field(fields, "4", lambda field: field.octets(6))
    sgx_type = _field(fields, "5", lambda field: field.integer(tag=ENUMERATED, below=256))
    if not fields.done():  # Platform CA only: platform instance id and its configuration
        _field(fields, "6", lambda field: field.octets(16))
        configuration = _field(fields, "7", Der.sequence)
        for index in range(1, 4):
            _field(configuration, f"7.{index}", lambda field: field.value(BOOLEAN))
        configuration.end()
    fields.end()
    return SgxExtension(ppid, components, pcesvn, cpusvn, pceid, fmspc, sgx_type)


def _field(parent: Der, number: str, read: Callable[[Der], T]) -> T:
    """Return what `read` makes of the next field, which must be this one and nothing more."""
    field = parent.sequence()
    oid = field.oid()
    if oid != f"{SGX_EXTENSION}.{number}":
        raise VerifierError(
            Reason.MALFORMED, f"PCK: SGX extension: field {number} expected, {oid} seen"
        )
    value = read(field)
    field.end()
    return value
