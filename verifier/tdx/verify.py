"""Is this Intel quote genuine? Every signature, from the pinned root to the quote; TDX and SGX.

Guarantees: `verify` returns only for a quote that an Intel quoting enclave on a certified, not
revoked platform signed, with collateral that Intel signed and that is current at `now`, and says
how that platform's TCB stands. Does not say whether such a platform, TD or enclave is acceptable:
`validate` does, of each TEE.

Source: Intel QVL (the reference verifier); Intel TDX DCAP Quoting Library API and SGX ECDSA
QuoteLib API, appendices A.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, final

from cryptography.hazmat.primitives.asymmetric import ec

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, Check
from verifier.tdx import certificate, pck, quote, tcb
from verifier.tdx import collateral as endorsements
from verifier.tdx.body import EnclaveReport, TdBody
from verifier.tdx.collateral import TdxCollateral, VerifiedCollateral
from verifier.tdx.identity import IDS, QeIdentity, Tee
from verifier.tdx.pck import PckChain
from verifier.tdx.quote import B, Quote
from verifier.tdx.signature import load_point, verifies
from verifier.tdx.tcb import Tcb
from verifier.tdx.vendor_json import EnclaveLevel

SGX_DEBUG: Final = 0x02
"""ATTRIBUTES, first byte: whoever runs the machine may read and write the enclave."""
_ZEROS: Final = bytes(32)


@final
@dataclass(frozen=True, slots=True)
class Genuine(Generic[B]):
    """A quote that is genuine, with what it was judged by."""

    quote: Quote[B]
    pck: PckChain
    collateral: VerifiedCollateral
    tcb: Tcb


@final
@dataclass(frozen=True, slots=True)
class _AttestationKey:
    key: ec.EllipticCurvePublicKey


@final
class _Steps:
    """Names the step that is under way, so that a refusal says where it stopped."""

    __slots__ = ("appraisal", "name")

    def __init__(self, appraisal: Appraisal) -> None:
        self.appraisal = appraisal
        self.name = "quote format"

    def passed(self, expected: str, seen: str, then: str) -> None:
        """Record the step as good and go on to the next one."""
        self.appraisal.checks.append(Check(self.name, ok=True, expected=expected, seen=seen))
        self.name = then


def verify(
    appraisal: Appraisal,
    raw: bytes,
    collateral: TdxCollateral | None,
    *,
    parse: Callable[[bytes], Quote[B]],
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> Genuine[B] | None:
    """Return the genuine quote, or None after the failed check was recorded in `appraisal`.

    Args:
        appraisal: takes the checks, the claims, the TCB status and the earliest expiry.
        raw: the quote, with nothing but zeros after it.
        collateral: what Intel signs about this platform; None is refused.
        parse: `quote.parse` for a TDX quote, `quote.parse_sgx` for one of an enclave.
        now: unix seconds, UTC.
        anchors: the roots that this process trusts.
        cache: what earlier calls parsed and checked the signatures of, if any.
    """
    steps = _Steps(appraisal)
    try:
        read = parse(raw)
        return _verify(steps, read, collateral, now=now, anchors=anchors, cache=cache)
    except VerifierError as error:
        appraisal.fail(steps.name, error)
        return None


def _verify(
    steps: _Steps,
    read: Quote[B],
    collateral: TdxCollateral | None,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> Genuine[B]:
    """Take the steps of the reference's section 3.1, in its order and with its numbers."""
    appraisal = steps.appraisal
    # Within one call quote and collateral share Intel's CA, whether or not a caller keeps more.
    store = Cache(limit=16) if cache is None else cache

    # 0. Bytes to fields. Claims tell what was read, whatever becomes of it.
    appraisal.claims.update(quote.claims(read))
    quote.check_certified(read)
    steps.passed(f"{read.tee}, ECDSA P-256, PCK chain", f"version {read.version}", "collateral")

    # 1.-4. Collateral: chains, CRLs, signatures over the exact texts, contents, dates.
    if collateral is None:
        appraisal.claims["pck"] = pck.read_claims(read.cert_data)
        raise VerifierError(Reason.COLLATERAL_MISSING, "collateral: none was given")
    signed = _collateral(appraisal, read, collateral, anchors, store)
    endorsements.check_current(signed, now)
    steps.passed("signed by Intel, current", "it is", "PCK chain")
    # Revocation unknown is a refusal; the rest is judged all the same, so that it can be told.
    for part in signed.missing_crls:
        appraisal.require("revocation", False, Reason.CRL_MISSING, part, "missing")

    # 5. PCK chain from the quote: pinned root, dates, revocation; its platform is the collateral's.
    chain = _pck_chain(read, anchors, store)
    appraisal.claims["pck"] = chain.claims()
    appraisal.simulated = anchors.is_simulated(chain.root) or anchors.is_simulated(signed.root)
    _check_pck(chain, signed, now)
    steps.passed("issued by Intel, current, not revoked", "it is", "QE report signature")

    # 6. TDX module: the identity that Intel publishes for this major version.
    body = read.body
    if isinstance(body, TdBody):
        steps.name = "TDX module"
        _check_module(body, signed)
        steps.passed("signer and attributes as Intel publishes", "equal", "QE report signature")

    # 7. The PCK signed the QE report, and the QE report names the attestation key.
    _check_qe_report(read, chain)
    steps.passed("by the PCK, naming the attestation key", "it is", "QE identity")

    # 8. The QE is Intel's quoting enclave for this TEE, not a debug one.
    qe_level = _check_qe_identity(read.qe_report, signed.qe_identity)
    steps.passed(f"Intel's {IDS[read.tee]}", f"ISVSVN {read.qe_report.isvsvn}", "quote signature")

    # 9. The attestation key signed header and body.
    if not verifies(_attestation_key(read, store), read.signature, read.signed):
        raise VerifierError(
            Reason.SIGNATURE_INVALID, "quote: not signed by its attestation key over these bytes"
        )
    steps.passed("by the attestation key", "it is", "TCB level")

    # 10.-13. Platform, module and QE levels, converged.
    launch, current = b"", None
    if isinstance(body, TdBody):
        launch, current = body.tee_tcb_svn, body.tee_tcb_svn_2
    level = tcb.evaluate(signed.tcb_info, chain.sgx, qe_level, launch, current)
    steps.passed("a level that Intel publishes", level.status.value, "")
    _tell(appraisal, level)
    appraisal.limit(min(signed.windows.end, chain.windows.end))
    return Genuine(read, chain, signed, level)


def _tell(appraisal: Appraisal, level: Tcb) -> None:
    appraisal.tcb_status = level.status
    appraisal.advisory_ids = level.advisories
    appraisal.claims["tcb"] = {
        "platform": level.platform.value,
        "module": None if level.module is None else level.module.value,
        "qe": level.qe.value,
        "date": x509.rfc3339(level.date),
    }


def _collateral(
    appraisal: Appraisal,
    read: Quote[B],
    collateral: TdxCollateral,
    anchors: Anchors,
    store: Cache,
) -> VerifiedCollateral:
    try:
        signed = store.recall(
            VerifiedCollateral,
            collateral.digest,
            lambda: endorsements.verify(collateral, anchors, read.tee, store),
        )
        certificate.check_pinned(signed.root, anchors, "collateral root")
        _check_tee(signed, read.tee)
    except VerifierError:
        appraisal.claims["pck"] = pck.read_claims(read.cert_data)
        raise
    return signed


def _check_tee(signed: VerifiedCollateral, tee: Tee) -> None:
    """Refuse what is remembered from judging a quote of the other TEE."""
    if signed.tcb_info.tee != tee:
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"TCB info: {tee} expected, {signed.tcb_info.tee} seen"
        )


def _pck_chain(read: Quote[B], anchors: Anchors, store: Cache) -> PckChain:
    digest = hashlib.sha256(read.cert_data).digest()
    chain = store.recall(PckChain, digest, lambda: pck.load_chain(read.cert_data, anchors, store))
    certificate.check_pinned(chain.root, anchors, "PCK root")
    return chain


def _check_pck(chain: PckChain, signed: VerifiedCollateral, now: int) -> None:
    chain.windows.check(now)
    if chain.root != signed.root:
        raise VerifierError(Reason.CHAIN_INVALID, "PCK chain: its root is not the collateral's")
    if chain.ca_serial in signed.root_revoked:
        raise VerifierError(
            Reason.CERTIFICATE_REVOKED, f"PCK CA: serial {chain.ca_serial.hex()} is in the root CRL"
        )
    if not signed.missing_crls and chain.ca != signed.pck_ca:
        raise VerifierError(Reason.CRL_INVALID, "PCK CRL: it is not by the CA that issued the PCK")
    if chain.serial in signed.pck_revoked:
        raise VerifierError(
            Reason.CERTIFICATE_REVOKED, f"PCK: serial {chain.serial.hex()} is in the PCK CRL"
        )
    info = signed.tcb_info
    if (chain.sgx.fmspc, chain.sgx.pceid) != (info.fmspc, info.pce_id):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH,
            f"TCB info: FMSPC {chain.sgx.fmspc.hex()} and PCEID {chain.sgx.pceid.hex()} expected, "
            f"{info.fmspc.hex()} and {info.pce_id.hex()} seen",
        )


def _check_module(body: TdBody, signed: VerifiedCollateral) -> None:
    identity = tcb.module_identity(signed.tcb_info, body.tee_tcb_svn)
    if body.mrsigner_seam != identity.mrsigner:
        raise VerifierError(
            Reason.TDX_MODULE_MISMATCH,
            f"MRSIGNERSEAM: {identity.mrsigner.hex()} expected, {body.mrsigner_seam.hex()} seen",
        )
    attributes = int.from_bytes(body.seam_attributes)
    if attributes != 0 or attributes & identity.attributes_mask != identity.attributes:
        raise VerifierError(
            Reason.TDX_MODULE_MISMATCH,
            f"SEAMATTRIBUTES: zero expected, {body.seam_attributes.hex()} seen",
        )


def _check_qe_report(read: Quote[B], chain: PckChain) -> None:
    if not verifies(chain.key, read.qe_report_signature, read.qe_report_raw):
        raise VerifierError(Reason.QE_REPORT_INVALID, "QE report: not signed by the PCK")
    named = hashlib.sha256(read.attestation_key + read.qe_auth_data).digest() + _ZEROS
    if read.qe_report.reportdata != named:
        raise VerifierError(
            Reason.QE_REPORT_INVALID,
            f"QE report: REPORTDATA {named.hex()} (the attestation key) expected, "
            f"{read.qe_report.reportdata.hex()} seen",
        )


def _check_qe_identity(report: EnclaveReport, identity: QeIdentity) -> EnclaveLevel:
    for name, expected, seen in (
        (
            "MISCSELECT under its mask",
            identity.miscselect,
            int.from_bytes(report.miscselect) & identity.miscselect_mask,
        ),
        (
            "ATTRIBUTES under its mask",
            identity.attributes,
            int.from_bytes(report.attributes) & identity.attributes_mask,
        ),
        ("MRSIGNER", identity.mrsigner, report.mrsigner),
        ("ISVPRODID", identity.isvprodid, report.isvprodid),
        # Whatever the mask says (a mask without this bit would admit a debug QE).
        ("ATTRIBUTES.DEBUG", 0, report.attributes[0] & SGX_DEBUG),
    ):
        if expected != seen:
            told, was = (v.hex() if isinstance(v, bytes) else f"{v:#x}" for v in (expected, seen))
            raise VerifierError(
                Reason.QE_IDENTITY_MISMATCH, f"QE {name}: {told} expected, {was} seen"
            )
    return tcb.enclave_level(identity.levels, report.isvsvn, "QE")


def _attestation_key(read: Quote[B], store: Cache) -> ec.EllipticCurvePublicKey:
    raw = read.attestation_key
    return store.recall(
        _AttestationKey,
        hashlib.sha256(raw).digest(),
        lambda: _AttestationKey(load_point(raw, "attestation key")),
    ).key
