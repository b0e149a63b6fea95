"""Parts from NVIDIA's services: the RIM service, the OCSP responder, the CRL server.

Guarantees: asks exactly for what the name says. A RIM is what the service's answer says it is: its
id, and the SHA-256 of its bytes. An OCSP question carries a fresh nonce, and an answer without it
is refused, so that nobody on the way can replay one. Believes nothing else; `vet` does that.

The services are asked over TLS with an operator's key for them, where NVIDIA gave one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Final, final
from urllib.parse import urlsplit

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as c_ocsp

from verifier import x509
from verifier.collateral.parts import Name, Role
from verifier.collateral.vet_nvidia import MAX_CHAIN
from verifier.collateral.web import Budget, Web, check_base
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import ocsp
from verifier.nvgpu.endorsements import MAX_OCSP, MAX_RIM
from verifier.tdx.vendor_json import loads
from verifier.x509 import MAX_CRL

RIM: Final = "https://rim.attestation.nvidia.com"
OCSP: Final = "https://ocsp.ndis.nvidia.com"
CRL: Final = "https://crl.ndis.nvidia.com"
BURST: Final = 128
PER_MINUTE: Final = 120.0
NONCE_SIZE: Final = 32

_JSON: Final = frozenset({"application/json"})
_OCSP: Final = frozenset({"application/ocsp-response"})
_CRL: Final = frozenset({"application/pkix-crl", "application/octet-stream", "binary/octet-stream"})


@final
class NvidiaService:
    """NVIDIA's services for collateral.

    Args:
        web: the client.
        rim: base URL of the RIM service, before `/v1/rim`.
        ocsp: URL of the OCSP responder.
        crl: base URL of the CRL server; the rest comes from the certificates.
        key: a service key of NVIDIA's, or empty; sent to the RIM service and the OCSP responder.
        budget: requests that may be sent.
    """

    __slots__ = ("_budget", "_crl", "_headers", "_ocsp", "_rim", "_web")

    def __init__(
        self,
        web: Web,
        rim: str = RIM,
        ocsp: str = OCSP,
        crl: str = CRL,
        *,
        key: str = "",
        budget: Budget | None = None,
    ) -> None:
        self._web = web
        self._rim, self._ocsp, self._crl = map(check_base, (rim, ocsp, crl))
        self._headers = authorization(key)
        self._budget = budget or Budget(BURST, PER_MINUTE)

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return body and PEM chain of a part of NVIDIA's.

        Args:
            name: what to ask for.
            chain: for OCSP and CRL, the certificate that is asked about and all above it.

        Raises:
            VerifierError: as `Web.get`; `collateral_malformed` and `collateral_mismatch` for an
                answer to something else; `revocation_invalid` for an OCSP answer without our nonce.
        """
        if name.role is Role.NV_RIM:
            return await self._fetch_rim(name.fields[0]), chain
        certificates = [
            x509.load_der(der, name.text)
            for der in x509.split_pem(chain, name.text, limit=MAX_CHAIN)
        ]
        if len(certificates) < 2:  # noqa: PLR2004 - a certificate and its issuer
            raise VerifierError(Reason.CHAIN_INVALID, f"{name.text}: no issuer to ask about")
        subject, issuer = certificates[:2]
        if name.role is Role.NV_OCSP:
            return await self._fetch_ocsp(subject, issuer), chain
        answer = await self._web.get(
            self._crl + crl_path(subject), types=_CRL, limit=MAX_CRL, budget=self._budget
        )
        return answer.body, chain

    async def _fetch_rim(self, rim_id: str) -> bytes:
        answer = await self._web.get(
            f"{self._rim}/v1/rim/{rim_id}",
            types=_JSON,
            limit=2 * MAX_RIM,
            headers=self._headers,
            budget=self._budget,
        )
        return rim_of(answer.body, rim_id)

    async def _fetch_ocsp(self, subject: c_x509.Certificate, issuer: c_x509.Certificate) -> bytes:
        nonce = secrets.token_bytes(NONCE_SIZE)
        answer = await self._web.get(
            f"{self._ocsp}/",
            types=_OCSP,
            limit=MAX_OCSP,
            headers=self._headers | {"content-type": "application/ocsp-request"},
            budget=self._budget,
            content=ocsp_request(subject, issuer, nonce),
        )
        ocsp.check_nonce(ocsp.parse(answer.body), nonce)
        return answer.body


def authorization(key: str) -> dict[str, str]:
    """Return the header that carries a service key, if there is one.

    Raises:
        VerifierError: `malformed` for what cannot stand in a header; it does not say the key.
    """
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or " " in key:
        raise VerifierError(Reason.MALFORMED, "NVIDIA service key: printable ASCII expected")
    return {"authorization": f"Bearer {key}"}


def rim_of(body: bytes, rim_id: str) -> bytes:
    """Return the document in an answer of the RIM service.

    Raises:
        VerifierError: `collateral_malformed`; `collateral_mismatch` for another id or SHA-256.
    """
    what = f"RIM service: {rim_id}"
    try:
        told = loads(body.decode(), what)
    except UnicodeDecodeError as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: {error}") from error
    seen, text, digest = (told.get(member) for member in ("id", "rim", "sha256"))
    if not isinstance(text, str) or not isinstance(digest, str):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: rim and sha256 expected")
    if seen != rim_id:
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{what}: id {seen!r:.200} seen")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: base64: {error}") from error
    if hashlib.sha256(raw).hexdigest() != digest.lower():
        raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{what}: sha256 of other bytes")
    return raw


def ocsp_request(subject: c_x509.Certificate, issuer: c_x509.Certificate, nonce: bytes) -> bytes:
    """Return an OCSP question (DER) about a certificate, by SHA-384 (RFC 6960 §4.1)."""
    return (
        c_ocsp.OCSPRequestBuilder()
        .add_certificate(subject, issuer, hashes.SHA384())
        .add_extension(c_x509.OCSPNonce(nonce), critical=False)
        .build()
        .public_bytes(Encoding.DER)
    )


def crl_path(subject: c_x509.Certificate) -> str:
    """Return the path of the CRL that the issuer of a certificate names in it.

    Only the path: which host is asked is the operator's to say.

    Raises:
        VerifierError: `crl_missing` if it names none.
    """
    try:
        points = subject.extensions.get_extension_for_class(c_x509.CRLDistributionPoints).value
    except c_x509.ExtensionNotFound as error:
        raise VerifierError(Reason.CRL_MISSING, "its issuer publishes no CRL") from error
    for point in points:
        for uri in point.full_name or ():
            path = urlsplit(str(uri.value)).path
            if isinstance(uri, c_x509.UniformResourceIdentifier) and path.startswith("/"):
                return path
    raise VerifierError(Reason.CRL_MISSING, "its issuer names no CRL that can be fetched")
