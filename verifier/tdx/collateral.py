"""Collateral for an Intel quote: what Intel signs of platforms, modules, QEs and revocation.

Guarantees: `verify` returns only if every chain ends in one pinned root and every signature is
right over the very bytes received, before any of it is parsed as JSON. CRLs that are missing are
named in what it returns, which its user must refuse; the rest can then still be told. Does not
judge dates or revocation: those depend on the call, and `check_current` does.

Source: Intel PCS API v4; the JSON container is the one that DCAP tools exchange.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar, final

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.tdx import certificate, crl, identity, tcbinfo
from verifier.tdx.certificate import Certificate
from verifier.tdx.crl import RevocationList
from verifier.tdx.identity import QeIdentity, Tee
from verifier.tdx.pck import load_ca
from verifier.tdx.signature import SIGNATURE_SIZE, verifies
from verifier.tdx.tcbinfo import TcbInfo
from verifier.tdx.vendor_json import loads
from verifier.tdx.windows import Windows, of_document

T = TypeVar("T")

MAX_COLLATERAL: Final = 4 * 1024 * 1024
"""Largest collateral in bytes, as JSON."""
SIGNER_NAME: Final = "Intel SGX TCB Signing"


@final
@dataclass(frozen=True)
class TdxCollateral:
    """The nine parts, exactly as received; "" or b"" where one is missing. SGX has the same.

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

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 over all parts, each behind its length."""
        digest = hashlib.sha256()
        for part in _PARTS:
            value = getattr(self, part)
            raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return digest.digest()


_PARTS: Final = tuple(f.name for f in fields(TdxCollateral))
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
        data = loads(raw.decode(), "collateral")
    except UnicodeDecodeError as error:
        raise VerifierError(Reason.MALFORMED, f"collateral: not JSON: {error}") from error
    except VerifierError as error:
        if isinstance(error.__cause__, json.JSONDecodeError | RecursionError):
            raise VerifierError(Reason.MALFORMED, str(error)) from error
        raise
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
    serials: tuple[bytes, ...]
    missing_crls: tuple[str, ...]
    root_revoked: frozenset[bytes]
    pck_ca: tuple[bytes, bytes] | None
    pck_revoked: frozenset[bytes]
    tcb_info: TcbInfo
    qe_identity: QeIdentity


def verify(
    collateral: TdxCollateral, anchors: Anchors, tee: Tee = "TDX", store: Cache | None = None
) -> VerifiedCollateral:
    """Return the collateral's contents, for quotes of this TEE, each signature checked.

    `store` remembers what serves more than one kind of platform, by its exact bytes: Intel's PCK CA
    and TCB signer, the two CRLs and the QE identity. Only TCB info is of one FMSPC.

    Raises:
        VerifierError: see the module's guarantees; the reason is that of the first part that fails.
    """
    missing = [part for part in _PARTS if not getattr(collateral, part)]
    for part in missing:
        if part not in _CRL_PARTS:
            raise VerifierError(Reason.COLLATERAL_MISSING, f"collateral: {part} is missing")

    # 1. TCB signing chains: signer and pinned root, for TCB info and for QE identity.
    tcb_signer, root = _signer(collateral.tcb_info_issuer_chain, anchors, "TCB info", store)
    qe_signer, qe_root = tcb_signer, root
    if collateral.qe_identity_issuer_chain != collateral.tcb_info_issuer_chain:
        qe_signer, qe_root = _signer(
            collateral.qe_identity_issuer_chain, anchors, "QE identity", store
        )
    _one_root(root, qe_root)
    windows = [root.window, tcb_signer.window, qe_signer.window]
    serials = [tcb_signer.serial, qe_signer.serial]

    # 2. Root CRL by the root; PCK CRL by the PCK CA, which the same root issued.
    root_revoked = pck_revoked = frozenset[bytes]()
    pck_ca = None
    if not missing:
        root_crl = _crl(collateral.root_ca_crl, root, "root CRL", store)
        root_revoked = root_crl.revoked
        issuer = _pck_ca(collateral.pck_crl_issuer_chain, root, anchors, store)
        pck_ca = issuer.authority
        serials.append(issuer.serial)
        pck_crl = _crl(collateral.pck_crl, issuer, "PCK CRL", store)
        pck_revoked = pck_crl.revoked
        windows += [root_crl.window, issuer.window, pck_crl.window]

    # 3. Signatures over the exact texts, and only then their contents (4. fields, in range).
    _check_signature(tcb_signer, collateral.tcb_info_signature, collateral.tcb_info, "TCB info")
    tcb_info = tcbinfo.parse(collateral.tcb_info, tee)
    windows.append(of_document(tcb_info.issue_date, tcb_info.next_update, "TCB info"))
    qe_identity = _qe_identity(collateral, qe_signer, tee, store)
    windows.append(of_document(qe_identity.issue_date, qe_identity.next_update, "QE identity"))

    return VerifiedCollateral(
        root=root.digest,
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
                Reason.CERTIFICATE_REVOKED, f"collateral: serial {serial.hex()} is in the root CRL"
            )


@final
@dataclass(frozen=True, slots=True)
class _Signer:
    certificate: Certificate


def _signer(
    pem: str, anchors: Anchors, what: str, store: Cache | None
) -> tuple[Certificate, Certificate]:
    blocks = certificate.load_blocks(pem, f"{what} chain", count=2)
    root = certificate.load_root(blocks[1], anchors, f"{what} root")

    def load() -> _Signer:
        signer = certificate.load(blocks[0], f"{what} signer")
        certificate.check_name(signer, SIGNER_NAME)
        certificate.check_issued_by(signer, root)
        certificate.check_end_entity(signer)
        return _Signer(signer)

    return _remembered(store, _Signer, load, root.digest, blocks[0]).certificate, root


def _qe_identity(
    collateral: TdxCollateral, signer: Certificate, tee: Tee, store: Cache | None
) -> QeIdentity:
    text, signature = collateral.qe_identity, collateral.qe_identity_signature

    def load() -> QeIdentity:
        _check_signature(signer, signature, text, "QE identity")
        return identity.parse(text, tee)

    raw = text.encode("utf-8", "surrogatepass")
    return _remembered(store, QeIdentity, load, signer.digest, tee.encode(), signature, raw)


def _remembered(store: Cache | None, kind: type[T], load: Callable[[], T], *depends: bytes) -> T:
    """Return what `load` makes of these bytes, once for as long as `store` remembers it."""
    if store is None:
        return load()
    digest = hashlib.sha256(b"".join(len(raw).to_bytes(8, "big") + raw for raw in depends))
    return store.recall(kind, digest.digest(), load)


def _pck_ca(pem: str, root: Certificate, anchors: Anchors, store: Cache | None) -> Certificate:
    blocks = certificate.load_blocks(pem, "PCK CRL chain", count=2)
    _one_root(root, certificate.load_root(blocks[1], anchors, "PCK CRL root"))
    return load_ca(blocks[0], root, store)


def _crl(der: bytes, issuer: Certificate, what: str, store: Cache | None) -> RevocationList:
    def load() -> RevocationList:
        found = crl.load(der, what)
        crl.check_signature(found, issuer)
        return found

    return _remembered(store, RevocationList, load, issuer.digest, what.encode(), der)


def _one_root(*roots: Certificate) -> None:
    if len({root.digest for root in roots}) != 1:
        raise VerifierError(Reason.CHAIN_INVALID, "collateral: its chains end in different roots")


def _check_signature(signer: Certificate, signature: bytes, text: str, what: str) -> None:
    if len(signature) != SIGNATURE_SIZE:
        raise VerifierError(
            Reason.COLLATERAL_SIGNATURE,
            f"{what}: a signature of {SIGNATURE_SIZE} bytes expected, {len(signature)} seen",
        )
    if not verifies(signer.key, signature, text.encode("utf-8", "surrogatepass")):
        raise VerifierError(
            Reason.COLLATERAL_SIGNATURE, f"{what}: not signed by its signer over this text"
        )
