"""Certificates, read strictly and checked one property at a time.

Guarantees: what `load_*` returns is X.509 v3 DER with nothing after it, of bounded size, with no
extension twice and none that is critical and unknown to us, and one spelling of its signature; each
`check_*` returns only if the property that it names holds. Does not build chains or choose anchors:
the caller says who issued what, which root is pinned, and what the time is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from verifier.errors import Reason, VerifierError
from verifier.x509.library import LIBRARY_ERRORS, check_shape, expect_serial_zero
from verifier.x509.moment import rfc3339, unix
from verifier.x509.pem import split_pem

MAX_CERTIFICATE: Final = 16 * 1024
"""Largest certificate in bytes (DER)."""
_MIN_RSA: Final = 2048

_CRITICAL: Final = frozenset({"2.5.29.15", "2.5.29.19"})
"""Critical extensions that `check_ca` and `check_end_entity` honour: keyUsage, basicConstraints."""
_EAGER: Final[tuple[Callable[[x509.Certificate], object], ...]] = (
    x509.Certificate.public_key,
    attrgetter("subject"),
    attrgetter("issuer"),
    attrgetter("not_valid_before_utc"),
    attrgetter("not_valid_after_utc"),
    attrgetter("signature_hash_algorithm"),
    attrgetter("signature_algorithm_parameters"),
)


def check_extensions(
    extensions: Iterable[x509.Extension[Any]], known: frozenset[str], reason: Reason, what: str
) -> None:
    """Refuse a critical extension whose OID is not among the known ones.

    Raises:
        VerifierError: `reason`.
    """
    for extension in extensions:
        if extension.critical and extension.oid.dotted_string not in known:
            raise VerifierError(
                reason, f"{what}: unknown critical extension {extension.oid.dotted_string}"
            )


def load_der(der: bytes, what: str, *, honoured: frozenset[str] = frozenset()) -> x509.Certificate:
    """Return the certificate in `der` (RFC 5280 §4.1), named `what` in errors.

    `honoured` are critical extensions, by OID, that the caller looks at itself.

    Raises:
        VerifierError: `too_large` over 16 KiB, `certificate_invalid` for anything else than one
            v3 certificate, for a repeated extension and for an unknown critical one.
    """
    if len(der) > MAX_CERTIFICATE:
        raise VerifierError(
            Reason.TOO_LARGE, f"{what}: {len(der)} bytes, at most {MAX_CERTIFICATE} expected"
        )
    check_shape(der, what)
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        version = certificate.version
        # The library reads these when they are asked for; ask now, so that no later use fails.
        for read in _EAGER:
            read(certificate)
    except LIBRARY_ERRORS as error:
        raise VerifierError(
            Reason.CERTIFICATE_INVALID, f"{what}: not a certificate: {error}"
        ) from error
    if version is not x509.Version.v3:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: X.509 v3 expected")
    known = _CRITICAL | honoured
    check_extensions(extensions, known, Reason.CERTIFICATE_INVALID, what)
    return certificate


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
    and their serial numbers read in this package only, and its tests load one with serial 0.
    """
    expect_serial_zero()
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


def check_algorithm(
    signed: x509.Certificate | x509.CertificateRevocationList,
    issuer: x509.Certificate,
    *,
    pkcs1v15: bool = False,
) -> None:
    """Accept ECDSA P-256/SHA-256, P-384/SHA-384 and RSA-PSS SHA-384 with salt 48; else ValueError.

    The issuer's key fixes the algorithm, so that the signed thing cannot choose a weaker one. With
    `pkcs1v15` an RSA issuer (2048 bits or more) signs by that padding and SHA-256, SHA-384
    or SHA-512 instead, as makers of TPMs do.
    """
    key = issuer.public_key()
    parameters = signed.signature_algorithm_parameters
    if isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = signed.signature_hash_algorithm
        good = isinstance(parameters, ec.ECDSA) and (
            (key.curve.name == "secp256r1" and isinstance(algorithm, hashes.SHA256))
            or (key.curve.name == "secp384r1" and isinstance(algorithm, hashes.SHA384))
        )
    elif isinstance(key, rsa.RSAPublicKey) and pkcs1v15:
        good = (
            key.key_size >= _MIN_RSA
            and isinstance(parameters, padding.PKCS1v15)
            and isinstance(
                signed.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512
            )
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


def check_issued_by(
    certificate: x509.Certificate, issuer: x509.Certificate, what: str, *, pkcs1v15: bool = False
) -> None:
    """Check that `issuer` issued the certificate: its name, and its signature (RFC 5280 §6.1.3).

    `pkcs1v15` is for chains of TPM makers, whose RSA keys sign by that padding.

    Raises:
        VerifierError: `chain_invalid`.
    """
    try:
        check_algorithm(certificate, issuer, pkcs1v15=pkcs1v15)
        certificate.verify_directly_issued_by(issuer)  # compares the names first
    except InvalidSignature as error:
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: not signed by its issuer") from error
    except LIBRARY_ERRORS as error:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"{what}: issuer {issuer.subject.rfc4514_string()} expected, "
            f"{certificate.issuer.rfc4514_string()} seen: {error}",
        ) from error


def key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    """Return the key usage that the certificate names, if it does."""
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
    usage = key_usage(certificate)
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
    usage = key_usage(certificate)
    if usage is not None and (usage.key_cert_sign or not usage.digital_signature):
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: key usage is not that of a signer")
