"""Who signed a part of NVIDIA's, what it is about, and from when to when it may be used.

Guarantees: as `vet`, which calls this for RIMs, OCSP responses and CRLs. A RIM must be able to have
the name that it was asked for by: what of the name it says itself is compared. An OCSP response or
CRL comes with the chain of the certificate that it was asked about, up to a pinned root key, and is
kept whatever it says of it: the appraisal judges that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier import x509
from verifier.anchors import Anchors
from verifier.collateral.parts import Name, Role
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import ocsp, rim
from verifier.tdx.windows import Window, of_certificate, of_crl, of_document

MAX_CHAIN: Final = 4
"""A certificate that is asked about, and all above it: BROM, ICA, identity CA, root."""

NVIDIA: Final = frozenset({Role.NV_RIM, Role.NV_OCSP, Role.NV_CRL})

Found = tuple[list[Window], int, int]


def ocsp_digest(subject: c_x509.Certificate, issuer: c_x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's certID, which names the part about it."""
    found = ocsp.cert_id(subject, issuer, "sha384")
    serial = found.serial.to_bytes(32, signed=True)
    return hashlib.sha256(found.name + found.key + serial).digest()


def spki_digest(certificate: c_x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's key."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def vet_nvidia(name: Name, body: bytes, chain: bytes, anchors: Anchors) -> Found:
    """Return a part's windows, number and date of issue, once its signatures hold.

    Raises:
        VerifierError: the reason why it is not taken.
    """
    if name.role is Role.NV_RIM:
        return _rim(name, body, chain, anchors)
    certificates = load_chain(chain, anchors, name.text)
    if name.role is Role.NV_OCSP:
        return _ocsp(name, body, certificates)
    return _crl(name, body, certificates)


def load_chain(pem: bytes, anchors: Anchors, what: str) -> tuple[c_x509.Certificate, ...]:
    """Return a certificate and all above it, each issued by the next, the last one pinned.

    Raises:
        VerifierError: `chain_invalid`, `root_unknown`, `certificate_invalid`.
    """
    blocks = x509.split_pem(pem, f"{what}: chain", limit=MAX_CHAIN)
    chain = tuple(x509.load_der(der, f"{what}: chain") for der in blocks)
    check_chain(chain, anchors, what)
    return chain


def check_chain(chain: Sequence[c_x509.Certificate], anchors: Anchors, what: str) -> None:
    """Check that each certificate was issued by the next, and that the last one's key is pinned.

    Raises:
        VerifierError: `chain_invalid`, `root_unknown`.
    """
    if len(chain) < 2:  # noqa: PLR2004 - a certificate and its issuer
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: a certificate and its issuers expected")
    if spki_digest(chain[-1]) not in anchors.nvidia_device | anchors.nvidia_rim:
        raise VerifierError(Reason.ROOT_UNKNOWN, f"{what}: its root is not a pinned one of NVIDIA")
    for place, certificate in enumerate(chain):
        issuer = chain[min(place + 1, len(chain) - 1)]
        x509.check_issued_by(certificate, issuer, f"{what}: {x509.common_name(certificate)}")
        if place:
            x509.check_ca(certificate, path_length=0, what=f"{what}: issuer")


def _windows(chain: Sequence[c_x509.Certificate], what: str) -> list[Window]:
    return [of_certificate(c, f"{what}: {x509.common_name(c)}") for c in chain]


def _rim(name: Name, body: bytes, chain: bytes, anchors: Anchors) -> Found:
    if chain:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{name.text}: it holds its own chain")
    found, root_spki = rim.read(body)
    if root_spki not in anchors.nvidia_rim:
        raise VerifierError(Reason.ROOT_UNKNOWN, f"{name.text}: its root is not a pinned one")
    if not rim.may_be(found, name.fields[0]):
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{name.text}: it is about {found.id}")
    return _windows(found.certificates, name.text), 0, found.issued


def _ocsp(name: Name, body: bytes, chain: Sequence[c_x509.Certificate]) -> Found:
    subject, issuer = chain[:2]
    if ocsp_digest(subject, issuer).hex() != name.fields[0]:
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{name.text}: of another certificate")
    response = ocsp.parse(body)
    single = ocsp.answer(response, subject, issuer)
    checked = ocsp.check_signature(response, issuer)
    if single is None or single.next_update is None:
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"{name.text}: it does not speak of this certificate"
        )
    windows = [
        of_document(single.this_update, single.next_update - 1, f"{name.text}: answer"),
        of_document(checked.start, checked.end, f"{name.text}: responder"),
        *_windows(chain, name.text),
    ]
    return windows, 0, single.this_update


def _crl(name: Name, body: bytes, chain: Sequence[c_x509.Certificate]) -> Found:
    issuer = chain[1]
    if spki_digest(issuer).hex() != name.fields[0]:
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{name.text}: of another issuer")
    crl = x509.load_crl(body, name.text)
    x509.check_crl_signature(crl, issuer, name.text)
    numbers = [e.value.crl_number for e in crl.extensions if isinstance(e.value, c_x509.CRLNumber)]
    windows = [of_crl(crl, name.text), *_windows(chain, name.text)]
    return windows, sum(numbers), windows[0].start
