"""The PCK certificate chain of a quote: which Intel platform made it, and its TCB components.

Guarantees: `load_chain` returns only for leaf, intermediate and root in that order, each issued by
the next, the root pinned, with Intel's names and a strictly read SGX extension. Does not judge
dates or revocation: `verify` does, at every call.

Source: Intel SGX PCK Certificate and CRL Profile Specification (extension 1.2.840.113741.1.13.1).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.asymmetric import ec

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.der import ENUMERATED, Der
from verifier.errors import Reason, VerifierError
from verifier.tdx import certificate
from verifier.tdx.certificate import ROOT_NAME, Certificate
from verifier.tdx.profile import common_name
from verifier.tdx.signature import p256_key
from verifier.tdx.windows import Windows

PCK_NAME: Final = "Intel SGX PCK Certificate"
PCK_CA_NAMES: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")

SGX_EXTENSION: Final = bytes.fromhex("2a864886f84d010d01")
"""1.2.840.113741.1.13.1 (DER contents); its fields' OIDs go on from it."""
check_pinned = certificate.check_pinned
_COMPONENTS: Final = 16
_PPID, _TCB, _PCEID, _FMSPC, _TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_WHAT: Final = "PCK: SGX extension"
_TWO_BYTE_LENGTH: Final = 256
_PCESVN: Final = 17
_CPUSVN: Final = 18
_FLAGS: Final = (1, 2, 3)


def _pattern(*arcs: int) -> bytes:
    """Return the pattern of a field's OID."""
    oid = SGX_EXTENSION + bytes(arcs)
    return re.escape(b"\x06" + bytes([len(oid)]) + oid)


def _svn_pattern(*arcs: int) -> bytes:
    """Return the pattern of a field with an INTEGER from 0 to 255, which is its one group."""
    oid = _pattern(*arcs)
    low = rb"\x10" + oid + rb"\x02\x01(?=[\0-\x7f])"
    high = rb"\x11" + oid + rb"\x02\x02\0(?=[\x80-\xff])"
    return rb"0(?:" + low + rb"|" + high + rb")([\s\S])"


_FIRST_FIELDS: Final = re.compile(
    rb"0\x82([\s\S]{2})"
    + (rb"0\x1e" + _pattern(_PPID) + rb"\x04\x10([\s\S]{16})")
    + (rb"0\x82([\s\S]{2})" + _pattern(_TCB) + rb"0\x82([\s\S]{2})")
    + b"".join(_svn_pattern(_TCB, index) for index in range(1, _COMPONENTS + 1))
)
"""The extension up to its last component, as every platform has it: by far most of the fields."""


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
    serial: bytes
    ca_serial: bytes
    ca: tuple[bytes, bytes]
    root: bytes
    windows: Windows
    issuer: str

    def claims(self) -> dict[str, Any]:
        """Return the PCK's fields for a result; the caller may keep and change them."""
        leaf = self.windows.each[-1]
        return _claims(self.sgx, leaf.start, leaf.end, self.issuer)


def load_chain(cert_data: bytes, anchors: Anchors, store: Cache | None = None) -> PckChain:
    """Return the PCK chain in a quote's certification data (PEM; leaf, intermediate, root).

    Args:
        cert_data: the chain.
        anchors: the roots that this process trusts.
        store: remembers Intel's CA, so that quote and collateral check its signature once.

    Raises:
        VerifierError: `chain_invalid`, `certificate_invalid`, `root_unknown`, `too_large`, or
            `malformed` for the SGX extension.
    """
    blocks = certificate.load_blocks(cert_data, "PCK chain", count=3)
    root = certificate.load_root(blocks[2], anchors, "PCK root")
    ca = load_ca(blocks[1], root, store)
    leaf = certificate.load(blocks[0], "PCK")
    certificate.check_name(leaf, PCK_NAME)
    certificate.check_issued_by(leaf, ca)
    certificate.check_end_entity(leaf)
    return PckChain(
        key=leaf.key,
        sgx=read_extension(leaf),
        serial=leaf.serial,
        ca_serial=ca.serial,
        ca=ca.authority,
        root=root.digest,
        windows=Windows.of((root.window, ca.window, leaf.window)),
        issuer=ca.common_name,
    )


def load_ca(der: bytes, root: Certificate, store: Cache | None) -> Certificate:
    """Return the PCK CA in `der`, which the root issued and `store` remembers.

    Raises:
        VerifierError: `chain_invalid`, `certificate_invalid` or `too_large`.
    """

    def load() -> Certificate:
        ca = certificate.load(der, "PCK CA")
        certificate.check_name(ca, *PCK_CA_NAMES)
        certificate.check_issued_by(ca, root)
        certificate.check_ca(ca, path_length=0)
        return ca

    if store is None:
        return load()
    return store.recall(Certificate, hashlib.sha256(root.digest + der).digest(), load)


def read_claims(cert_data: bytes) -> dict[str, Any]:
    """Return the PCK's fields for a result, of a chain that nothing was checked of.

    Raises:
        VerifierError: as `load_chain`, for what cannot be read.
    """
    blocks = certificate.load_blocks(cert_data, "PCK chain", count=3)
    leaf = certificate.load(blocks[0], "PCK")
    issuer = common_name(leaf.issuer)
    return _claims(read_extension(leaf), leaf.start, leaf.end, issuer)


def _claims(sgx: SgxExtension, start: int, end: int, issuer: str) -> dict[str, Any]:
    return {
        "ppid": sgx.ppid.hex(),
        "fmspc": sgx.fmspc.hex(),
        "pceid": sgx.pceid.hex(),
        "sgx_type": f"{sgx.sgx_type:02x}",
        "cpusvn_components": list(sgx.components),
        "pcesvn": sgx.pcesvn,
        "not_before": x509.rfc3339(start),
        "not_after": x509.rfc3339(end),
        "issuer": issuer,
    }


def read_extension(leaf: Certificate) -> SgxExtension:
    """Return the SGX extension of a PCK certificate.

    Raises:
        VerifierError: `malformed` for any other DER than the profile's, `certificate_invalid` if
            there is no such extension.
    """
    value = leaf.extensions.get(SGX_EXTENSION)
    if value is None:
        raise VerifierError(Reason.CERTIFICATE_INVALID, "PCK: no SGX extension")
    return parse_extension(value)


def parse_extension(der: bytes) -> SgxExtension:
    """Return the fields of an SGX extension's value.

    Raises:
        VerifierError: `malformed`; also for a field twice, unknown or out of order.
    """
    first = _FIRST_FIELDS.match(der)
    if first is None or not _lengths_fit(first, len(der)):
        return parse_fields(der)
    end = first.start(4) + 2 + int.from_bytes(first[4])
    components = tuple(b"".join(first.groups()[4:]))
    return _rest(first[2], components, Der(der[first.end() : end], _WHAT), Der(der[end:], _WHAT))


def parse_fields(der: bytes) -> SgxExtension:
    """Return what `parse_extension` does, one field after the other; any form of DER comes here.

    Raises:
        VerifierError: as `parse_extension`.
    """
    outer = Der(der, _WHAT)
    fields = outer.sequence()
    outer.end()
    ppid = _octets(fields, 16, _PPID)
    tcb = _sequence(fields, _TCB)
    components = tuple(_integer(tcb, 256, _TCB, index) for index in range(1, _COMPONENTS + 1))
    return _rest(ppid, components, tcb, fields)


def _rest(ppid: bytes, components: tuple[int, ...], tcb: Der, fields: Der) -> SgxExtension:
    """Return the extension, its fields read from PCESVN on."""
    pcesvn = _integer(tcb, 65536, _TCB, _PCESVN)
    cpusvn = _octets(tcb, 16, _TCB, _CPUSVN)
    tcb.end()
    pceid = _octets(fields, 2, _PCEID)
    fmspc = _octets(fields, 6, _FMSPC)
    kind = _field(fields, _TYPE)
    sgx_type = kind.integer(tag=ENUMERATED, below=256)
    kind.end()
    if not fields.done():  # Platform CA only: platform instance id and its configuration
        _octets(fields, 16, _INSTANCE)
        configuration = _sequence(fields, _CONFIGURATION)
        for index in _FLAGS:
            flag = _field(configuration, _CONFIGURATION, index)
            flag.boolean()
            flag.end()
        configuration.end()
    fields.end()
    return SgxExtension(ppid, components, pcesvn, cpusvn, pceid, fmspc, sgx_type)


def _lengths_fit(first: re.Match[bytes], size: int) -> bool:
    """Tell whether the three long lengths are those of all, of the TCB field and of its value."""
    whole, field, value = (int.from_bytes(first[group]) for group in (1, 3, 4))
    end = first.start(4) + 2 + value
    return (
        first.start(1) + 2 + whole == size
        and first.start(3) + 2 + field == end <= size
        and first.end() <= end
        and value >= _TWO_BYTE_LENGTH
    )


def _field(parent: Der, *arcs: int) -> Der:
    """Return the value of the next field, which must have this number."""
    field = parent.sequence()
    oid = field.oid_bytes()
    if oid != SGX_EXTENSION + bytes(arcs):
        raise VerifierError(
            Reason.MALFORMED,
            f"PCK: SGX extension: field {'.'.join(map(str, arcs))} expected, OID {oid.hex()} seen",
        )
    return field


def _octets(parent: Der, length: int, *arcs: int) -> bytes:
    field = _field(parent, *arcs)
    value = field.octets(length)
    field.end()
    return value


def _integer(parent: Der, below: int, *arcs: int) -> int:
    field = _field(parent, *arcs)
    value = field.integer(below=below)
    field.end()
    return value


def _sequence(parent: Der, *arcs: int) -> Der:
    field = _field(parent, *arcs)
    value = field.sequence()
    field.end()
    return value


# What follows takes certificates of the library's type, as the fetchers of collateral have them.


def check_name(found: c_x509.Certificate, names: tuple[str, ...], what: str) -> None:
    """Check the common name.

    Raises:
        VerifierError: `chain_invalid`.
    """
    seen = x509.common_name(found)
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
