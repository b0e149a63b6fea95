"""Certificates and revocation lists, read strictly and checked one property at a time.

Guarantees: what `load_*` returns is X.509 v3 DER (CRLs: v2) with nothing after it, of bounded size,
with no extension twice and none that is critical and unknown to us; each `check_*` returns only if
the property that it names holds. Does not build chains or choose anchors: the caller says who
issued what, which root is pinned, and what the time is.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.utils import CryptographyDeprecationWarning

from verifier.der import INTEGER, Der
from verifier.errors import Reason, VerifierError

MAX_CERTIFICATE: Final = 16 * 1024
"""Largest certificate in bytes (DER)."""
MAX_CRL: Final = 1024 * 1024
"""Largest revocation list in bytes (DER)."""
MAX_PEM: Final = 64 * 1024
"""Largest PEM chain in bytes."""

_CRITICAL_CERTIFICATE: Final = frozenset({"2.5.29.15", "2.5.29.19"})
"""Critical extensions that `check_ca` and `check_end_entity` honour: keyUsage, basicConstraints."""
_CRITICAL_CRL: Final = frozenset({"2.5.29.20", "2.5.29.35"})
"""CRL extensions with no effect on what the list covers: cRLNumber, authorityKeyIdentifier."""

_PEM_BLOCK = re.compile(
    rb"[\r\n]*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END CERTIFICATE-----"
)
_LIBRARY_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,
)
_EAGER_CERTIFICATE: Final[tuple[Callable[[x509.Certificate], object], ...]] = (
    x509.Certificate.public_key,
    attrgetter("subject"),
    attrgetter("issuer"),
    attrgetter("not_valid_before_utc"),
    attrgetter("not_valid_after_utc"),
    attrgetter("signature_hash_algorithm"),
    attrgetter("signature_algorithm_parameters"),
)
_EAGER_CRL: Final[tuple[Callable[[x509.CertificateRevocationList], object], ...]] = (
    attrgetter("issuer"),
    attrgetter("last_update_utc"),
    attrgetter("next_update_utc"),
    attrgetter("signature_hash_algorithm"),
    attrgetter("signature_algorithm_parameters"),
)


@contextlib.contextmanager
def _library_warnings() -> Iterator[None]:
    """Make what the library only warns of an error, but for the serial number 0 that AMD uses.

    Warning filters belong to the process: appraise on one thread at a time (the broker does, on
    its event loop), or in processes of their own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
        yield


def _check_extensions(
    extensions: Iterable[x509.Extension[Any]], known: frozenset[str], reason: Reason, what: str
) -> None:
    for extension in extensions:
        if extension.critical and extension.oid.dotted_string not in known:
            raise VerifierError(
                reason, f"{what}: unknown critical extension {extension.oid.dotted_string}"
            )


def load_der(der: bytes, what: str) -> x509.Certificate:
    """Return the certificate in `der` (RFC 5280 §4.1), named `what` in errors.

    Raises:
        VerifierError: `too_large` over 16 KiB, `certificate_invalid` for anything else than one
            v3 certificate, for a repeated extension and for an unknown critical one.
    """
    if len(der) > MAX_CERTIFICATE:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CERTIFICATE} expected"
        )
    try:
        with _library_warnings():
            certificate = x509.load_der_x509_certificate(der)
            extensions = certificate.extensions
            version = certificate.version
            # The library reads these when they are asked for; ask now, so that no later use fails.
            for read in _EAGER_CERTIFICATE:
                read(certificate)
    except _LIBRARY_ERRORS as error:
        raise VerifierError(
            Reason.CERTIFICATE_INVALID, f"{what}: not a certificate: {error}"
        ) from error
    if serial_number(certificate) < 0:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: negative serial number")
    if version is not x509.Version.v3:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: X.509 v3 expected")
    _check_extensions(extensions, _CRITICAL_CERTIFICATE, Reason.CERTIFICATE_INVALID, what)
    return certificate


def split_pem(pem: str | bytes, what: str, *, limit: int) -> tuple[bytes, ...]:
    """Return the DER of each certificate block of a PEM text (RFC 7468 §5), at most `limit`.

    Only line ends may stand around blocks, and NUL bytes at the end (quotes carry a C string).

    Raises:
        VerifierError: `too_large`, or `chain_invalid` for other text, other blocks, loose base64
            and more blocks than `limit`.
    """
    if len(pem) > MAX_PEM:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(pem)} bytes, at most {MAX_PEM} expected"
        )
    try:
        raw = pem.encode("ascii") if isinstance(pem, str) else pem
    except UnicodeEncodeError as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not ASCII") from error
    raw = raw.rstrip(b"\0")
    blocks: list[bytes] = []
    at = 0
    while raw[at:].strip(b"\r\n"):
        match = _PEM_BLOCK.match(raw, at)
        if match is None:
            raise VerifierError(
                Reason.CHAIN_INVALID, f"{what}: byte {at}: a PEM certificate block expected"
            )
        if len(blocks) == limit:
            raise VerifierError(
                Reason.CHAIN_INVALID, f"{what}: more than the expected {limit} certificates"
            )
        at = match.end()
        text = match[1].replace(b"\r", b"").replace(b"\n", b"")
        try:
            der = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise VerifierError(Reason.CHAIN_INVALID, f"{what}: base64: {error}") from error
        if base64.b64encode(der) != text:
            raise VerifierError(Reason.CHAIN_INVALID, f"{what}: base64 is not canonical")
        blocks.append(der)
    return tuple(blocks)


def load_pem_chain(pem: str | bytes, what: str, *, count: int) -> tuple[x509.Certificate, ...]:
    """Return the `count` certificates of a PEM text, in its order.

    Raises:
        VerifierError: as `split_pem` and `load_der`; `chain_invalid` for any other number.
    """
    blocks = split_pem(pem, what, limit=count)
    if len(blocks) != count:
        raise VerifierError(
            Reason.CHAIN_INVALID, f"{what}: {count} certificates expected, {len(blocks)} seen"
        )
    return tuple(
        load_der(der, f"{what}, certificate {number}") for number, der in enumerate(blocks, 1)
    )


def unix(moment: datetime) -> int:
    """Return an aware date and time in unix seconds."""
    return int(moment.timestamp())


def rfc3339(seconds: int) -> str:
    """Return unix seconds as a UTC date and time, as vendors print them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def not_before(certificate: x509.Certificate) -> int:
    """Return the first second (unix) at which the certificate is valid."""
    return unix(certificate.not_valid_before_utc)


def not_after(certificate: x509.Certificate) -> int:
    """Return the last second (unix) at which the certificate is valid."""
    return unix(certificate.not_valid_after_utc)


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or "" unless there is exactly one."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def serial_number(certificate: x509.Certificate) -> int:
    """Return the serial number, which is 0 in all of AMD's VCEK and VLEK certificates.

    The library warns of 0 and says that a later release will refuse it; certificates are loaded
    and their serial numbers read in this module only, and its tests load one with serial 0.
    """
    with _library_warnings():
        return certificate.serial_number


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of the certificate's DER."""
    return certificate.fingerprint(hashes.SHA256())


def check_window(certificate: x509.Certificate, now: int, what: str) -> None:
    """Check that the certificate is valid at `now` (unix seconds; RFC 5280 §4.1.2.5).

    Raises:
        VerifierError: `certificate_expired` after it, `certificate_invalid` before it.
    """
    start, end = not_before(certificate), not_after(certificate)
    if now < start:
        raise VerifierError(
            Reason.CERTIFICATE_INVALID, f"{what}: valid from {rfc3339(start)}, at {rfc3339(now)}"
        )
    if now > end:
        raise VerifierError(
            Reason.CERTIFICATE_EXPIRED, f"{what}: valid until {rfc3339(end)}, at {rfc3339(now)}"
        )


def _check_algorithm(
    signed: x509.Certificate | x509.CertificateRevocationList, issuer: x509.Certificate
) -> None:
    """Accept ECDSA P-256/SHA-256, P-384/SHA-384 and RSA-PSS SHA-384 with salt 48; else ValueError.

    The issuer's key fixes the algorithm, so that the signed thing cannot choose a weaker one.
    """
    key = issuer.public_key()
    parameters = signed.signature_algorithm_parameters
    if isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = signed.signature_hash_algorithm
        good = isinstance(parameters, ec.ECDSA) and (
            (key.curve.name == "secp256r1" and isinstance(algorithm, hashes.SHA256))
            or (key.curve.name == "secp384r1" and isinstance(algorithm, hashes.SHA384))
        )
    elif isinstance(key, rsa.RSAPublicKey):
        good = (
            isinstance(parameters, padding.PSS)
            and isinstance(signed.signature_hash_algorithm, hashes.SHA384)
            and isinstance(parameters.mgf, padding.MGF1)
            and isinstance(parameters.mgf._algorithm, hashes.SHA384)  # noqa: SLF001 - no other way to see it
            and parameters._salt_length == hashes.SHA384.digest_size  # noqa: SLF001 - same
        )
    else:
        good = False
    if not good:
        raise ValueError("signature algorithm is not the one that the issuer's key fixes")


def check_issued_by(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> None:
    """Check that `issuer` issued the certificate: its name, and its signature (RFC 5280 §6.1.3).

    Raises:
        VerifierError: `chain_invalid`.
    """
    if certificate.issuer != issuer.subject:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{what}: issuer {issuer.subject.rfc4514_string()} expected, "
            f"{certificate.issuer.rfc4514_string()} seen",
        )
    try:
        _check_algorithm(certificate, issuer)
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not signed by its issuer") from error
    except _LIBRARY_ERRORS as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: {error}") from error


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def check_ca(
    certificate: x509.Certificate, *, path_length: int, what: str = "CA certificate"
) -> None:
    """Check that the certificate may issue certificates (RFC 5280 §4.2.1.3, §4.2.1.9).

    Args:
        certificate: the issuer.
        path_length: how many CA certificates stand below it in this chain.
        what: its name in errors.

    Raises:
        VerifierError: `chain_invalid`.
    """
    constraints = _basic_constraints(certificate)
    if constraints is None or not constraints.ca:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not a CA certificate")
    if constraints.path_length is not None and constraints.path_length < path_length:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{what}: path length {path_length} needed, {constraints.path_length} allowed",
        )
    usage = _key_usage(certificate)
    if usage is None or not usage.key_cert_sign:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: may not sign certificates")


def check_end_entity(certificate: x509.Certificate, what: str) -> None:
    """Check that the certificate may sign, but not issue certificates.

    Raises:
        VerifierError: `chain_invalid`.
    """
    constraints = _basic_constraints(certificate)
    if constraints is not None and constraints.ca:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: a CA certificate as end entity")
    usage = _key_usage(certificate)
    if usage is not None and (usage.key_cert_sign or not usage.digital_signature):
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: key usage is not that of a signer")


def load_crl(der: bytes, what: str) -> x509.CertificateRevocationList:
    """Return the complete v2 CRL in `der` (RFC 5280 §5.1).

    Raises:
        VerifierError: `too_large` over 1 MiB; `crl_invalid` for another version, a missing
            nextUpdate, a repeated extension, or a critical one that narrows or widens the list.
    """
    if len(der) > MAX_CRL:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CRL} expected"
        )
    try:
        with _library_warnings():
            crl = x509.load_der_x509_crl(der)
            extensions = crl.extensions
            for read in _EAGER_CRL:
                read(crl)
            entries = [extension for entry in crl for extension in entry.extensions]
    except _LIBRARY_ERRORS as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: not a CRL: {error}") from error
    # The library takes an absent version (v1, without extensions) for v2.
    try:
        version = Der(der, what).sequence().sequence().integer(tag=INTEGER, below=256)
    except VerifierError as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: v2 expected: {error}") from error
    if version != 1 or crl.next_update_utc is None:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: a v2 CRL with nextUpdate expected")
    _check_extensions(extensions, _CRITICAL_CRL, Reason.CRL_INVALID, what)
    _check_extensions(entries, frozenset(), Reason.CRL_INVALID, f"{what}: entry")
    return crl


def crl_window(crl: x509.CertificateRevocationList) -> tuple[int, int]:
    """Return thisUpdate and nextUpdate in unix seconds.

    Raises:
        VerifierError: `crl_invalid` if there is no nextUpdate.
    """
    if crl.next_update_utc is None:
        raise VerifierError(Reason.CRL_INVALID, "CRL: no nextUpdate")
    return unix(crl.last_update_utc), unix(crl.next_update_utc)


def check_crl_signature(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, what: str
) -> None:
    """Check that `issuer` signed the CRL: its name, its right to, its signature (RFC 5280 §6.3.3).

    Raises:
        VerifierError: `crl_invalid`.
    """
    if crl.issuer != issuer.subject:
        raise VerifierError(
            Reason.CRL_INVALID,
            f"{what}: issuer {issuer.subject.rfc4514_string()} expected, "
            f"{crl.issuer.rfc4514_string()} seen",
        )
    usage = _key_usage(issuer)
    if usage is None or not usage.crl_sign:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: its issuer may not sign CRLs")
    try:
        _check_algorithm(crl, issuer)
        good = crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # _check_algorithm leaves EC and RSA keys only
    except _LIBRARY_ERRORS as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: {error}") from error
    if not good:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: not signed by its issuer")


def check_crl_window(crl: x509.CertificateRevocationList, now: int, what: str) -> None:
    """Check thisUpdate <= now <= nextUpdate (unix seconds), with no grace.

    Raises:
        VerifierError: `crl_expired` after it, `crl_invalid` before it.
    """
    start, end = crl_window(crl)
    if now < start:
        raise VerifierError(
            Reason.CRL_INVALID, f"{what}: issued {rfc3339(start)}, at {rfc3339(now)}"
        )
    if now > end:
        raise VerifierError(
            Reason.CRL_EXPIRED, f"{what}: next update {rfc3339(end)}, at {rfc3339(now)}"
        )


def check_crl(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, now: int, what: str
) -> None:
    """Check that `issuer` signed the CRL and that it is current at `now` (unix seconds).

    Raises:
        VerifierError: `crl_invalid` or `crl_expired`.
    """
    check_crl_signature(crl, issuer, what)
    check_crl_window(crl, now, what)


def check_not_revoked(
    certificate: x509.Certificate, crl: x509.CertificateRevocationList, what: str
) -> None:
    """Check that the certificate is not listed. The CRL must be its issuer's, checked before.

    Raises:
        VerifierError: `certificate_revoked`, or `crl_invalid` for another issuer's list.
    """
    if certificate.issuer != crl.issuer:
        raise VerifierError(
            Reason.CRL_INVALID,
            f"{what}: CRL of {certificate.issuer.rfc4514_string()} expected, "
            f"{crl.issuer.rfc4514_string()} seen",
        )
    serial = serial_number(certificate)
    if crl.get_revoked_certificate_by_serial_number(serial) is not None:
        raise VerifierError(Reason.CERTIFICATE_REVOKED, f"{what}: serial {serial:x} is revoked")
