"""OCSP responses: what a CA, or whom it named for it, says of one certificate at one time.

Guarantees: `parse` returns a response only if it is strict DER of a successful basic response, with
no extension twice and none that is critical and unknown; `check_signature` returns only if the
issuer of the certificate in question signed it, or a responder that this issuer itself named by
OCSPSigning and that is current. `answer` finds the one statement about exactly this certificate.
Does not compare the statement with a clock, and believes no status: `revocation` judges both. The
responder's own certificate is not asked about in turn: it is its issuer's, and short-lived.

Source: RFC 6960 §4.2, RFC 5280 §5.3.1, RFC 8954 (nonce).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal, final

from cryptography import x509 as c_x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from verifier import x509
from verifier.cache import Cache
from verifier.der import (
    BIT_STRING,
    ENUMERATED,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    Der,
)
from verifier.errors import Reason, VerifierError
from verifier.nvgpu.endorsements import MAX_OCSP

HashName = Literal["sha1", "sha256", "sha384"]

_HASHES: Final[dict[str, HashName]] = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
}
_SIGNATURES: Final = {
    "1.2.840.10045.4.3.2": ("secp256r1", hashes.SHA256()),
    "1.2.840.10045.4.3.3": ("secp384r1", hashes.SHA384()),
}
_BASIC: Final = "1.3.6.1.5.5.7.48.1.1"
_NONCE: Final = "1.3.6.1.5.5.7.48.1.2"
_KEY_USAGE: Final = "2.5.29.37"
_CONTEXT: Final = 0xA0
_GOOD: Final = 0x80
_REVOKED: Final = 0xA1
_UNKNOWN: Final = 0x82
_HOLD: Final = 6
_REASONS: Final = 11
_NULL: Final = 0x05
_MAX_SINGLE: Final = 64
_MAX_CERTIFICATES: Final = 6
_STATUSES: Final = ("", "malformedRequest", "internalError", "tryLater", "", "sigRequired")
_UNAUTHORIZED: Final = 6
_TIME: Final = "%Y%m%d%H%M%SZ"
_TIME_LENGTH: Final = 15
_WHAT: Final = "OCSP response"


@final
class Status(StrEnum):
    """What a responder says of a certificate; a hold may be lifted, a revocation never is."""

    GOOD = "good"
    HOLD = "certificateHold"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate: hashes of its issuer's name and key, and its serial number."""

    hash: HashName
    name: bytes
    key: bytes
    serial: int


@final
@dataclass(frozen=True, slots=True)
class Single:
    """What is said of one certificate; `next_update` is None where the responder does not say."""

    cert_id: CertId
    status: Status
    this_update: int
    next_update: int | None


@final
@dataclass(frozen=True, slots=True)
class Response:
    """A response, read and not believed. Its responder is named by name (DER) or by key (SHA-1)."""

    signed: bytes
    by_name: bytes | None
    by_key: bytes | None
    singles: tuple[Single, ...]
    nonce: bytes | None
    algorithm: str
    signature: bytes
    certificates: tuple[bytes, ...]
    sha256: bytes


@final
@dataclass(frozen=True, slots=True)
class Checked:
    """That a response's signature holds, under an issuer; from when to when its signer may sign."""

    start: int
    end: int


def parse(raw: bytes) -> Response:
    """Return the response in `raw` (DER).

    Raises:
        VerifierError: `too_large`, or `revocation_invalid` for anything else than a successful
            basic response.
    """
    if len(raw) > MAX_OCSP:
        raise VerifierError(
            Reason.TOO_LARGE, f"{_WHAT}: {len(raw)} bytes, at most {MAX_OCSP} expected"
        )
    try:
        return _response(raw)
    except VerifierError as error:
        raise VerifierError(Reason.REVOCATION_INVALID, str(error)) from error


def _invalid(why: str) -> VerifierError:
    return VerifierError(Reason.REVOCATION_INVALID, f"{_WHAT}: {why}")


def _response(raw: bytes) -> Response:
    outer = Der(raw, _WHAT)
    body = outer.sequence()
    outer.end()
    status = body.integer(tag=ENUMERATED, below=_UNAUTHORIZED + 1)
    if status:
        named = (*_STATUSES, "unauthorized")[status]
        raise _invalid(f"the responder says {named or status}")
    wrapped = body.inside(_CONTEXT)
    body.end()
    typed = wrapped.sequence()
    wrapped.end()
    if typed.oid() != _BASIC:
        raise _invalid("not a basic response")
    inner = Der(typed.value(OCTET_STRING), _WHAT)
    typed.end()
    basic = inner.sequence()
    inner.end()
    signed = basic.element(SEQUENCE)
    algorithm = basic.sequence()
    named = algorithm.oid()
    algorithm.end()
    signature = basic.whole_bits()
    certificates = _certificates(basic)
    basic.end()
    data = Der(signed, _WHAT).sequence()
    by_name, by_key = _responder(data)
    singles, nonce = _statements(data)
    return Response(
        signed=signed,
        by_name=by_name,
        by_key=by_key,
        singles=singles,
        nonce=nonce,
        algorithm=named,
        signature=signature,
        certificates=certificates,
        sha256=hashlib.sha256(raw).digest(),
    )


def _certificates(basic: Der) -> tuple[bytes, ...]:
    if not basic.next_is(_CONTEXT):
        return ()
    wrapped = basic.inside(_CONTEXT)
    each = wrapped.sequence()
    wrapped.end()
    found = []
    while not each.done():
        found.append(each.element(SEQUENCE))
    if len(found) > _MAX_CERTIFICATES:
        raise _invalid(f"{len(found)} certificates, at most {_MAX_CERTIFICATES} expected")
    return tuple(found)


def _responder(data: Der) -> tuple[bytes | None, bytes | None]:
    """Return the responder's name or key; before it stands no version, which is v1."""
    if data.next_is(_CONTEXT + 1):
        return data.value(_CONTEXT + 1), None
    wrapped = data.inside(_CONTEXT + 2)
    key = wrapped.octets(hashlib.sha1(usedforsecurity=False).digest_size)
    wrapped.end()
    return None, key


def _statements(data: Der) -> tuple[tuple[Single, ...], bytes | None]:
    _time(data)  # producedAt: thisUpdate of each statement is what counts
    each = data.sequence()
    singles = []
    while not each.done():
        singles.append(_single(each.sequence()))
    if not 1 <= len(singles) <= _MAX_SINGLE:
        raise _invalid(f"{len(singles)} statements, 1 to {_MAX_SINGLE} expected")
    extensions = _extensions(data, frozenset({_NONCE}))
    data.end()
    nonce = extensions.get(_NONCE)
    return tuple(singles), None if nonce is None else _nonce(nonce)


def _nonce(value: bytes) -> bytes:
    outer = Der(value, _WHAT)
    nonce = outer.value(OCTET_STRING)
    outer.end()
    return nonce


def _single(data: Der) -> Single:
    identity = data.sequence()
    algorithm = identity.sequence()
    named = _HASHES.get(algorithm.oid())
    if algorithm.next_is(_NULL) and algorithm.value(_NULL):
        raise _invalid("a NULL with contents")
    algorithm.end()
    if named is None:
        raise _invalid("a certID of an unknown hash")
    size = hashlib.new(named, usedforsecurity=False).digest_size
    name, key = identity.octets(size), identity.octets(size)
    serial = int.from_bytes(identity.value(INTEGER), signed=True)
    identity.end()
    status = _status(data)
    start = _time(data)
    end = None
    if data.next_is(_CONTEXT):
        wrapped = data.inside(_CONTEXT)
        end = _time(wrapped)
        wrapped.end()
    _extensions(data, frozenset())
    data.end()
    return Single(CertId(named, name, key, serial), status, start, end)


def _status(data: Der) -> Status:
    for tag, status in ((_GOOD, Status.GOOD), (_UNKNOWN, Status.UNKNOWN)):
        if data.next_is(tag):
            if data.value(tag):
                raise _invalid(f"status {status} with contents")
            return status
    revoked = data.inside(_REVOKED)
    _time(revoked)
    reason = 0
    if revoked.next_is(_CONTEXT):
        wrapped = revoked.inside(_CONTEXT)
        reason = wrapped.integer(tag=ENUMERATED, below=_REASONS)
        wrapped.end()
    revoked.end()
    return Status.HOLD if reason == _HOLD else Status.REVOKED


def _time(data: Der) -> int:
    raw = data.value(GENERALIZED_TIME)
    try:
        text = raw.decode("ascii")
        moment = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise _invalid(f"date {raw!r:.80}") from error
    if len(text) != _TIME_LENGTH or not text[:-1].isdigit():
        raise _invalid(f"date {text!r:.80}")
    return x509.unix(moment)


def _extensions(data: Der, known: frozenset[str]) -> dict[str, bytes]:
    """Return the values of the extensions under [1], by OID; a critical one must be known."""
    found: dict[str, bytes] = {}
    if not data.next_is(_CONTEXT + 1):
        return found
    wrapped = data.inside(_CONTEXT + 1)
    each = wrapped.sequence()
    wrapped.end()
    while not each.done():
        extension = each.sequence()
        oid = extension.oid()
        critical = extension.next_is(0x01) and extension.boolean()
        if oid in found or (critical and oid not in known):
            raise _invalid(f"extension {oid}: twice, or critical and unknown")
        found[oid] = extension.value(OCTET_STRING)
        extension.end()
    return found


def cert_id(subject: c_x509.Certificate, issuer: c_x509.Certificate, hash_name: HashName) -> CertId:
    """Return the certID of a certificate (RFC 6960 §4.1.1)."""
    name, key = (
        hashlib.new(hash_name, part, usedforsecurity=False).digest()
        for part in (issuer.subject.public_bytes(), _key_bits(issuer))
    )
    return CertId(hash_name, name, key, x509.serial_number(subject))


@functools.lru_cache(maxsize=512)
def cert_ids(subject: c_x509.Certificate, issuer: c_x509.Certificate) -> tuple[CertId, ...]:
    """Return the certIDs of a certificate: NVIDIA's clients ask by SHA-384 or by SHA-1."""
    return tuple(cert_id(subject, issuer, name) for name in ("sha384", "sha1", "sha256"))


def _key_bits(certificate: c_x509.Certificate) -> bytes:
    """Return the contents of subjectPublicKey, without tag, length and unused bits."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    parts = Der(spki, "SPKI").sequence()
    parts.value(SEQUENCE)
    return parts.value(BIT_STRING)[1:]


def answer(
    response: Response, subject: c_x509.Certificate, issuer: c_x509.Certificate
) -> Single | None:
    """Return what a response says of a certificate, or None if it does not speak of it.

    Raises:
        VerifierError: `revocation_invalid` if it says two things.
    """
    wanted = cert_ids(subject, issuer)
    found = {single for single in response.singles if single.cert_id in wanted}
    if len(found) > 1:
        raise _invalid("two statements about one certificate")
    return found.pop() if found else None


def check_nonce(response: Response, nonce: bytes) -> None:
    """Check that a response answers the very request that carried this nonce.

    Raises:
        VerifierError: `revocation_invalid`.
    """
    if response.nonce is None or not hmac.compare_digest(response.nonce, nonce):
        raise _invalid("it does not carry the nonce that was sent")


def check_signature(
    response: Response, issuer: c_x509.Certificate, cache: Cache | None = None
) -> Checked:
    """Check who signed a response about a certificate of `issuer`, whose own chain was checked.

    Args:
        response: parsed.
        issuer: of the certificate that is asked about.
        cache: what was checked before.

    Raises:
        VerifierError: `revocation_invalid`.
    """
    if cache is None:
        return _check_signature(response, issuer)
    digest = hashlib.sha256(response.sha256 + x509.fingerprint(issuer)).digest()
    return cache.recall(Checked, digest, lambda: _check_signature(response, issuer))


def _check_signature(response: Response, issuer: c_x509.Certificate) -> Checked:
    signer = issuer
    if not _is(response, issuer):
        signer = _delegate(response, issuer)
    curve, algorithm = _SIGNATURES.get(response.algorithm, ("", hashes.SHA384()))
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        raise _invalid(f"signature algorithm {response.algorithm} for another key")
    try:
        key.verify(response.signature, response.signed, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise _invalid("not signed by its responder") from error
    return Checked(x509.not_before(signer), x509.not_after(signer))


def _is(response: Response, certificate: c_x509.Certificate) -> bool:
    """Tell whether a response names this certificate as its responder."""
    if response.by_name is not None:
        return response.by_name == certificate.subject.public_bytes()
    return response.by_key == hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest()


def _delegate(response: Response, issuer: c_x509.Certificate) -> c_x509.Certificate:
    """Return the responder's certificate, which `issuer` made for this (RFC 6960 §4.2.2.2)."""
    for der in response.certificates:
        try:
            found = x509.load_der(der, _WHAT, honoured=frozenset({_KEY_USAGE}))
        except VerifierError as error:
            raise _invalid(str(error)) from error
        if not _is(response, found):
            continue
        try:
            x509.check_issued_by(found, issuer, "responder")
            x509.check_end_entity(found, "responder")
            usage = found.extensions.get_extension_for_class(c_x509.ExtendedKeyUsage).value
        except (VerifierError, c_x509.ExtensionNotFound) as error:
            raise _invalid(f"its responder may not sign for this issuer: {error}") from error
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            raise _invalid("its responder has no OCSPSigning")
        return found
    raise _invalid("its responder is neither the issuer nor among its certificates")
