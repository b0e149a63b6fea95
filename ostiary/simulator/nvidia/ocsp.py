"""The simulated vendor's OCSP responder (RFC 6960), honest or not.

Guarantees: an honest answer names the certificate that was asked for by the hashes that were used
to ask, carries the request's nonce, lives for a day, and is signed by a responder that the
certificate's issuer issued. Everything else is a fault that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ostiary.simulator import certificates, der
from ostiary.simulator.certificates import Certificate, EcdsaSha384Signer, Extension, key_id, name
from ostiary.simulator.nvidia.pki import ISSUERS, SUBJECTS, FakeNvidia, Role
from ostiary.simulator.store import SimulatorError

Status = Literal["good", "revoked", "hold", "unknown"]
Hash = Literal["sha1", "sha256", "sha384"]
_HASHES: Final[Mapping[Hash, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - RFC 6960's CertIDs name keys with it; nothing rests on it
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
}
_DAY: Final = 86_400
_HOUR: Final = 3_600
_EKU: Final = "2.5.29.37"
_OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer. The defaults are honest.

    `status` is of the one certificate. Times are unix seconds; None for around now. `nonce` None
    repeats the request's, b"" leaves it out. `signer` is who signs: a responder that the issuer
    made, the issuer itself, or a responder without the right to (no OCSPSigning).
    """

    status: Status = "good"
    this_update: int | None = None
    next_update: int | None = None
    no_next_update: bool = False
    nonce: bytes | None = None
    signer: Literal["responder", "issuer", "no_right", "other_issuer"] = "responder"
    serial: int | None = None
    """Another certificate's, for an answer to a question that nobody asked."""


@final
@dataclass(slots=True)
class Responder:
    """A responder with its memory. `statuses` by serial number; absent means good."""

    vendor: FakeNvidia
    statuses: dict[int, Status] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    def certificate(self, issuer: Role, *, right: bool = True) -> bytes:
        """Return the responder's certificate (DER) under an issuer."""
        signer = self.vendor.signer(issuer)
        spki = EcdsaSha384Signer(self.key).spki
        purpose = Extension(_EKU, der.sequence(der.oid(_OCSP_SIGNING)))
        return Certificate(
            subject=name(("CN", f"NVIDIA OCSP {issuer}"), ("O", "NVIDIA Corporation"), ("C", "US")),
            issuer=SUBJECTS[issuer],
            serial=int.from_bytes(key_id(spki), "big") + list(ISSUERS).index(issuer),
            not_before=self.vendor.created - 30 * _DAY,
            not_after=self.vendor.created + 700 * _DAY,
            spki=spki,
            extensions=(
                certificates.key_usage(certificates.DIGITAL_SIGNATURE),
                *((purpose, Extension(_NO_CHECK, der.null())) if right else ()),
                certificates.subject_key_id(spki),
                certificates.authority_key_id(signer.spki),
            ),
        ).issue(signer)

    def answer(self, request: bytes, now: int) -> bytes:
        """Return the answer (DER) to a request (DER), by `statuses`."""
        try:
            asked = ocsp.load_der_ocsp_request(request)
            issuer = self._issuer(asked.issuer_key_hash, asked.hash_algorithm)
        except (ValueError, SimulatorError):
            status = ocsp.OCSPResponseStatus.MALFORMED_REQUEST
            return _bytes(ocsp.OCSPResponseBuilder.build_unsuccessful(status))
        nonce = _nonce(asked)
        algorithm = next(
            key for key, value in _HASHES.items() if value.name == asked.hash_algorithm.name
        )
        status_of = self.statuses.get(asked.serial_number, "good")
        return self.respond(
            asked.serial_number, issuer, now, Answer(status_of, nonce=nonce), algorithm
        )

    def respond(
        self,
        serial: int,
        issuer: Role,
        now: int,
        said: Answer | None = None,
        algorithm: Hash = "sha1",
    ) -> bytes:
        """Return an answer (DER) about one certificate, asked or not."""
        told = said or Answer(self.statuses.get(serial, "good"))
        digest = _HASHES[algorithm]
        key_hash, name_hash = self._hashes(issuer, digest)
        start = now - _HOUR if told.this_update is None else told.this_update
        end = start + _DAY if told.next_update is None else told.next_update
        status, when, reason = _status(told.status, start)
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            name_hash,
            key_hash,
            serial if told.serial is None else told.serial,
            digest,
            status,
            _time(start),
            None if told.no_next_update else _time(end),
            when,
            reason,
        )
        if told.nonce:
            builder = builder.add_extension(x509.OCSPNonce(told.nonce), critical=False)
        own: Role = "rim_root" if told.signer == "other_issuer" else issuer
        if told.signer == "issuer":
            signing, certificate = self.vendor.keys[issuer], self.vendor.certificates[issuer]
        else:
            signing, certificate = self.key, self.certificate(own, right=told.signer != "no_right")
        shown = x509.load_der_x509_certificate(certificate)
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, shown)
        if told.signer != "issuer":
            builder = builder.certificates([shown])
        return _bytes(builder.sign(signing, hashes.SHA384()))

    def _hashes(self, issuer: Role, digest: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
        key, subject = hashes.Hash(digest), hashes.Hash(digest)
        key.update(_point(self.vendor.signer(issuer).spki))
        subject.update(SUBJECTS[issuer])
        return key.finalize(), subject.finalize()

    def _issuer(self, key_hash: bytes, digest: hashes.HashAlgorithm) -> Role:
        for role in ISSUERS:
            if self._hashes(role, digest)[0] == key_hash:
                return role
        raise SimulatorError("the request names no issuer of ours")


def _nonce(asked: ocsp.OCSPRequest) -> bytes:
    try:
        return asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return b""


def _point(spki: bytes) -> bytes:
    """Return the public key's bits: 97 bytes at the end of every P-384 key."""
    return spki[-97:]


def _time(moment: int) -> datetime:
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)


def _status(
    said: Status, at: int
) -> tuple[ocsp.OCSPCertStatus, datetime | None, x509.ReasonFlags | None]:
    if said == "good":
        return ocsp.OCSPCertStatus.GOOD, None, None
    if said == "unknown":
        return ocsp.OCSPCertStatus.UNKNOWN, None, None
    flags = x509.ReasonFlags
    reason = flags.certificate_hold if said == "hold" else flags.key_compromise
    return ocsp.OCSPCertStatus.REVOKED, _time(at), reason


def _bytes(response: ocsp.OCSPResponse) -> bytes:
    return response.public_bytes(Encoding.DER)
