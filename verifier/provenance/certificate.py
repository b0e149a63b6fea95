"""Read who signed from a Fulcio certificate: one name, one issuer, and the source if it is a CI's.

Guarantees: exactly one subject alternative name; where both extensions for the issuer are there
they agree. Does not check the certificate: `bundle` had it verified.

Source: Fulcio, OID information (1.3.6.1.4.1.57264.1).
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509 import ObjectIdentifier, OtherName, RFC822Name, UniformResourceIdentifier

from verifier.der import Der
from verifier.errors import Reason, VerifierError

_UTF8: Final = 0x0C
_ARC: Final = "1.3.6.1.4.1.57264.1."
_ISSUER_V1: Final = ObjectIdentifier(f"{_ARC}1")
_OTHER_NAME: Final = ObjectIdentifier(f"{_ARC}7")
_ISSUER: Final = ObjectIdentifier(f"{_ARC}8")
_REPOSITORY: Final = ObjectIdentifier(f"{_ARC}12")
_REF: Final = ObjectIdentifier(f"{_ARC}14")


def identity(certificate: x509.Certificate) -> str:
    """Return the one name that the certificate is for.

    Raises:
        VerifierError: `provenance_invalid`: there is none, or more than one.
    """
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = list(extension.value)
    name = names[0] if len(names) == 1 else None
    if isinstance(name, RFC822Name | UniformResourceIdentifier):
        return name.value
    if isinstance(name, OtherName) and name.type_id == _OTHER_NAME:
        return _text(name.value)
    raise _invalid(f"one name expected, {len(names)} seen")


def issuer(certificate: x509.Certificate) -> str:
    """Return the OIDC issuer whose token the signer showed.

    Raises:
        VerifierError: `provenance_invalid`: there is none, or two that differ.
    """
    old = _extension(certificate, _ISSUER_V1)
    new = _extension(certificate, _ISSUER)
    told = {
        *([] if old is None else [old.decode("utf-8", "replace")]),
        *([] if new is None else [_text(new)]),
    }
    if len(told) != 1:
        raise _invalid(f"one issuer expected, {len(told)} seen")
    return told.pop()


def source(certificate: x509.Certificate) -> tuple[str | None, str | None]:
    """Return the source repository's URI and the ref, as the CI's token named them.

    Raises:
        VerifierError: `provenance_invalid`.
    """
    repository, ref = (_extension(certificate, oid) for oid in (_REPOSITORY, _REF))
    return (
        None if repository is None else _text(repository),
        None if ref is None else _text(ref),
    )


def _extension(certificate: x509.Certificate, oid: ObjectIdentifier) -> bytes | None:
    for extension in certificate.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _text(raw: bytes) -> str:
    """Return a DER UTF8String's text."""
    try:
        der = Der(raw, "certificate")
        text = der.value(_UTF8)
        der.end()
        return text.decode()
    except (VerifierError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error


def _invalid(message: str) -> VerifierError:
    return VerifierError(Reason.PROVENANCE_INVALID, f"certificate: {message}")
