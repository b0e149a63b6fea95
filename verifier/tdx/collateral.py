"""Collateral for a TDX quote: what Intel signs about platforms, modules, QEs and revocation.

Guarantees: `verify` returns only if every chain ends in one pinned root and every signature is
right over the very bytes received, before any of it is parsed as JSON. CRLs that are missing are
named in what it returns, which its user must refuse; the rest can then still be told. Does not
judge dates or revocation: those depend on the call, and `check_current` does.

Source: Intel PCS API v4; the JSON container is the one that DCAP tools exchange.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, Final, final

from cryptography import x509 as c_x509

from verifier import x509
from verifier.anchors import Anchors
from verifier.errors import Reason, VerifierError
from verifier.tdx import identity, tcbinfo
from verifier.tdx.identity import QeIdentity
from verifier.tdx.pck import PCK_CA_NAMES, check_name, check_root, identify
from verifier.tdx.signature import SIGNATURE_SIZE, p256_key, verifies
from verifier.tdx.tcbinfo import TcbInfo
from verifier.tdx.vendor_json import loads
from verifier.tdx.windows import Windows, of_certificate, of_crl, of_document

MAX_COLLATERAL: Final = 4 * 1024 * 1024
"""Largest collateral in bytes, as JSON."""
SIGNER_NAME: Final = "Intel SGX TCB Signing"


@final
@dataclass(frozen=True, slots=True)
class TdxCollateral:
    """The nine parts, exactly as received; "" or b"" where one is missing.

    PEM chains (leaf first), CRLs in DER, the signed JSON texts and their signatures (64 bytes).
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    digest: bytes = field(init=False, repr=False, compare=False)
    """SHA-256 over all parts, each behind its length."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for part in _PARTS:
            value = getattr(self, part)
            raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            digest.update(len(raw).to_bytes(8, "big") + raw)
        object.__setattr__(self, "digest", digest.digest())


_PARTS: Final = tuple(f.name for f in fields(TdxCollateral) if f.init)
_CRL_PARTS: Final = {"pck_crl_issuer_chain", "root_ca_crl", "pck_crl"}
_BINARY: Final = {"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"}


def from_json(raw: bytes) -> TdxCollateral:
    """Return the collateral in a JSON object of its nine parts: PEM, hex, and texts as strings.

    A part that is absent, null or empty is missing: `verify` refuses it by name.

    Raises:
        VerifierError: `malformed` if it is not JSON at all, `too_large` over 4 MiB, else
            `collateral_malformed`.
    """
    if len(raw) > MAX_COLLATERAL:
        raise VerifierError(
            Reason.TOO_LARGE, f"collateral: {len(raw)} bytes, at most {MAX_COLLATERAL} expected"
        )
    try:
        text = raw.decode()
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"collateral: not JSON: {error}") from error
    data = loads(text, "collateral")
    unknown = sorted(set(data) - set(_PARTS))
    if unknown:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"collateral: unknown part {unknown[0]!r}")
    return TdxCollateral(**{part: _part(data, part) for part in _PARTS})


def to_json(collateral: TdxCollateral) -> bytes:
    """Return the JSON object that `from_json` reads."""
    parts = {part: getattr(collateral, part) for part in _PARTS}
    return json.dumps(
        {part: value.hex() if part in _BINARY else value for part, value in parts.items()}
    ).encode()


def _part(data: dict[str, Any], part: str) -> Any:  # noqa: ANN401 - str or bytes, by part
    value = data.get(part)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"collateral: {part}: a string expected")
    if part not in _BINARY:
        return value
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raw = b""
    if len(value) != 2 * len(raw):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"collateral: {part}: hex expected")
    return raw


@final
@dataclass(frozen=True, slots=True)
class VerifiedCollateral:
    """Collateral whose signatures verified.

    `pck_ca` is name and key of the PCK CRL's issuer, None without that CRL. `serials` are those of
    the certificates that the root issued here. `missing_crls` must be refused.
    """

    root: bytes
    windows: Windows
    serials: tuple[int, ...]
    missing_crls: tuple[str, ...]
    root_revoked: frozenset[int]
    pck_ca: tuple[bytes, bytes] | None
    pck_revoked: frozenset[int]
    tcb_info: TcbInfo
    qe_identity: QeIdentity


def verify(collateral: TdxCollateral, anchors: Anchors) -> VerifiedCollateral:
    """Return the collateral's contents, each signature checked.

    Raises:
        VerifierError: see the module's guarantees; the reason is that of the first part that fails.
    """
    missing = [part for part in _PARTS if not getattr(collateral, part)]
    for part in missing:
        if part not in _CRL_PARTS:
            raise VerifierError(Reason.COLLATERAL_MISSING, f"collateral: {part} is missing")

    # 1. TCB signing chains: signer and pinned root, for TCB info and for QE identity.
    tcb_signer, root = _signer(collateral.tcb_info_issuer_chain, anchors, "TCB info")
    qe_signer, qe_root = tcb_signer, root
    if collateral.qe_identity_issuer_chain != collateral.tcb_info_issuer_chain:
        qe_signer, qe_root = _signer(collateral.qe_identity_issuer_chain, anchors, "QE identity")
    _one_root(root, qe_root)
    windows = [
        of_certificate(root, "Intel root"),
        of_certificate(tcb_signer, "TCB info signer"),
        of_certificate(qe_signer, "QE identity signer"),
    ]
    serials = [x509.serial_number(tcb_signer), x509.serial_number(qe_signer)]

    # 2. Root CRL by the root; PCK CRL by the PCK CA, which the same root issued.
    root_revoked = pck_revoked = frozenset[int]()
    pck_ca = None
    if not missing:
        root_crl = _crl(collateral.root_ca_crl, root, "root CRL")
        root_revoked = frozenset(entry.serial_number for entry in root_crl)
        issuer = _pck_ca(collateral.pck_crl_issuer_chain, root, anchors)
        pck_ca = identify(issuer)
        serials.append(x509.serial_number(issuer))
        pck_crl = _crl(collateral.pck_crl, issuer, "PCK CRL")
        pck_revoked = frozenset(entry.serial_number for entry in pck_crl)
        windows += [
            of_crl(root_crl, "root CRL"),
            of_certificate(issuer, "PCK CRL issuer"),
            of_crl(pck_crl, "PCK CRL"),
        ]

    # 3. Signatures over the exact texts, and only then their contents (4. fields, in range).
    _check_signature(tcb_signer, collateral.tcb_info_signature, collateral.tcb_info, "TCB info")
    tcb_info = tcbinfo.parse(collateral.tcb_info)
    windows.append(of_document(tcb_info.issue_date, tcb_info.next_update, "TCB info"))
    _check_signature(
        qe_signer, collateral.qe_identity_signature, collateral.qe_identity, "QE identity"
    )
    qe_identity = identity.parse(collateral.qe_identity)
    windows.append(of_document(qe_identity.issue_date, qe_identity.next_update, "QE identity"))

    return VerifiedCollateral(
        root=x509.fingerprint(root),
        windows=Windows.of(windows),
        serials=tuple(serials),
        missing_crls=tuple(missing),
        root_revoked=root_revoked,
        pck_ca=pck_ca,
        pck_revoked=pck_revoked,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
    )


def check_current(verified: VerifiedCollateral, now: int) -> None:
    """Check dates at `now` (unix seconds), and that no certificate of it is in the root CRL.

    Raises:
        VerifierError: the reason of the part that is out of date, or `certificate_revoked`.
    """
    verified.windows.check(now)
    for serial in verified.serials:
        if serial in verified.root_revoked:
            raise VerifierError(
                Reason.CERTIFICATE_REVOKED, f"collateral: serial {serial:x} is in the root CRL"
            )


def _signer(pem: str, anchors: Anchors, what: str) -> tuple[c_x509.Certificate, c_x509.Certificate]:
    signer, root = x509.load_pem_chain(pem, f"{what} chain", count=2)
    check_root(root, anchors, f"{what} root")
    check_name(signer, (SIGNER_NAME,), f"{what} signer")
    p256_key(signer, f"{what} signer")
    x509.check_issued_by(signer, root, f"{what} signer")
    x509.check_end_entity(signer, f"{what} signer")
    return signer, root


def _pck_ca(pem: str, root: c_x509.Certificate, anchors: Anchors) -> c_x509.Certificate:
    ca, pck_root = x509.load_pem_chain(pem, "PCK CRL chain", count=2)
    check_root(pck_root, anchors, "PCK CRL root")
    _one_root(root, pck_root)
    check_name(ca, PCK_CA_NAMES, "PCK CRL issuer")
    p256_key(ca, "PCK CRL issuer")
    x509.check_issued_by(ca, root, "PCK CRL issuer")
    x509.check_ca(ca, path_length=0, what="PCK CRL issuer")
    return ca


def _crl(der: bytes, issuer: c_x509.Certificate, what: str) -> c_x509.CertificateRevocationList:
    crl = x509.load_crl(der, what)
    x509.check_crl_signature(crl, issuer, what)
    return crl


def _one_root(*roots: c_x509.Certificate) -> None:
    if len({x509.fingerprint(root) for root in roots}) != 1:
        raise VerifierError(Reason.CHAIN_INVALID, "collateral: its chains end in different roots")


def _check_signature(signer: c_x509.Certificate, signature: bytes, text: str, what: str) -> None:
    if len(signature) != SIGNATURE_SIZE:
        raise VerifierError(
            Reason.COLLATERAL_SIGNATURE,
            f"{what}: a signature of {SIGNATURE_SIZE} bytes expected, {len(signature)} seen",
        )
    signed = text.encode("utf-8", "surrogatepass")
    if not verifies(p256_key(signer, f"{what} signer"), signature, signed):
        raise VerifierError(
            Reason.COLLATERAL_SIGNATURE, f"{what}: not signed by its signer over this text"
        )
