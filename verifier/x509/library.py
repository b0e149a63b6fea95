"""The certificate library, asked so that no thread changes what another one sees.

Guarantees: `check_shape` and `check_crl_shape` refuse, before the library reads them, certificates
and lists that are not strict DER, that have a negative serial number, a country of other than two
letters, or a signature whose BIT STRING does not use all its bits: a signature covers everything
but itself, so that the spelling of those bits would give one certificate several digests.

The library warns of two things that vendors do, and through Python's warnings, which belong to the
whole process: AMD's VCEK and VLEK certificates have serial number 0, and issuers of TPMs have
common names of more than 64 characters. `expect` sets a filter for exactly such a warning, once,
and leaves it there: filters that are put back would race between threads.
"""

from __future__ import annotations

import functools
import re
import warnings
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning

from verifier.der import INTEGER, SEQUENCE, SET, Der
from verifier.errors import Reason, VerifierError

LIBRARY_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,
)
"""What the library raises for bytes that it does not take; warnings where a process says so."""

_VERSION_TAG: Final = 0xA0
_COUNTRY: Final = bytes.fromhex("550406")
_COMMON_NAME: Final = bytes.fromhex("550403")
_COUNTRY_LENGTH: Final = 2
_LONGEST_COMMON_NAME: Final = 64


def expect(message: str, category: type[Warning]) -> None:
    """Ignore warnings of this category whose text starts so, in the whole process, from now on."""
    wanted = ("ignore", re.compile(message, re.IGNORECASE), category, None, 0)
    if wanted not in warnings.filters:
        warnings.filterwarnings("ignore", message, category)


def expect_serial_zero() -> None:
    """Ignore the library's warning of serial number 0, which the shape check has let pass."""
    expect("Parsed a serial number", CryptographyDeprecationWarning)


def check_shape(der: bytes, what: str) -> None:
    """Check a certificate as far as the library does not, or only warns (RFC 5280 §4.1).

    Raises:
        VerifierError: `certificate_invalid`.
    """
    try:
        body = _signed(der, what)
        if body.next_is(_VERSION_TAG):
            body.value(_VERSION_TAG)
        _check_serial(body.value(INTEGER), what)
        body.value(SEQUENCE)  # the signature algorithm, again
        _check_name(body.element(SEQUENCE))
        body.value(SEQUENCE)  # validity
        _check_name(body.element(SEQUENCE))
    except VerifierError as error:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: {error}") from error


def check_crl_shape(der: bytes, what: str) -> None:
    """Check a revocation list as far as the library does not, or only warns (RFC 5280 §5.1).

    Raises:
        VerifierError: `crl_invalid`.
    """
    try:
        body = _signed(der, what)
        # The library takes an absent version (v1, without extensions) for v2.
        if body.integer(below=256) != 1:
            raise VerifierError(Reason.CRL_INVALID, "v2 expected")  # noqa: TRY301 - one way out
        body.value(SEQUENCE)  # the signature algorithm, again
        _check_name(body.element(SEQUENCE))
    except VerifierError as error:
        raise VerifierError(Reason.CRL_INVALID, f"{what}: v2 expected: {error}") from error


def _signed(der: bytes, what: str) -> Der:
    """Return what is signed; the signature is of whole bytes, and nothing follows it."""
    outer = Der(der, what)
    parts = outer.sequence()
    outer.end()
    body = parts.sequence()
    parts.value(SEQUENCE)
    parts.whole_bits()
    parts.end()
    return body


def _check_serial(raw: bytes, what: str) -> None:
    number = int.from_bytes(raw, signed=True)
    if not raw or number < 0:
        raise VerifierError(Reason.CERTIFICATE_INVALID, f"{what}: negative serial number")
    if number == 0:
        expect_serial_zero()


def _check_name(raw: bytes) -> None:
    if _has_long_common_name(raw):
        expect("Attribute's length must be", UserWarning)


@functools.lru_cache(maxsize=64)
def _has_long_common_name(raw: bytes) -> bool:
    """Tell so of a Name (DER), whose country has two letters; vendors have few names."""
    name = Der(raw, "name").sequence()
    long = False
    while not name.done():
        parts = name.inside(SET)
        while not parts.done():
            attribute = parts.sequence()
            kind = attribute.oid_bytes()
            length = len(attribute.any())
            if kind == _COUNTRY and length != _COUNTRY_LENGTH:
                raise VerifierError(Reason.CERTIFICATE_INVALID, "a country of two letters expected")
            long |= kind == _COMMON_NAME and length > _LONGEST_COMMON_NAME
    return long
