"""Is a SEV-SNP report genuine? The chain of signatures, and nothing about policy.

Guarantees: `verify` returns only if a key that AMD endorses, under a pinned root, for this very
chip or cloud and this very TCB, signed the report; CRL and dates are judged at `now`. Whether such
a report is acceptable is `validate`. Where the caller waived the CRL, or CHIP_ID is hidden, the
appraisal says so, and `validate` refuses a hidden CHIP_ID unless policy admits it.

Source: AMD 56860 (ATTESTATION_REPORT), AMD 57230 (VCEK and VLEK). The steps are numbered as in the
algorithm that the project follows; validate.py goes on from 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal
from verifier.snp import product
from verifier.snp.chain import Chain, remember_chain, remembered_chain, signed_crl
from verifier.snp.claims import product_claims, report_claims
from verifier.snp.endorsements import SnpEndorsements, VekExtensions
from verifier.snp.product import CHIP_ID_SIZE, Generation
from verifier.snp.report import KEY_VCEK, KEY_VLEK, SIGNED_SIZE, SnpReport
from verifier.x509 import check_crl_window, crl_window

P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
"""Order of the P-384 group (SEC 2 §2.5.1): both signature integers lie strictly below it."""

_ECDSA: Final = ec.ECDSA(hashes.SHA384())
_LEAF_NAMES: Final = {KEY_VCEK: "SEV-VCEK", KEY_VLEK: "SEV-VLEK"}
_ISSUER_PREFIXES: Final = {KEY_VCEK: "SEV-", KEY_VLEK: "SEV-VLEK-"}


@final
@dataclass(frozen=True, slots=True)
class Genuine:
    """A report that AMD's keys vouch for.

    `tcb` holds each TCB version of the report (`current_tcb`, `reported_tcb`, `committed_tcb`,
    `launch_tcb`) by part.
    """

    report: SnpReport
    generation: Generation
    vek: VekExtensions
    tcb: Mapping[str, Mapping[str, int]]


def _check_equal(appraisal: Appraisal, name: str, reason: Reason, expected: str, seen: str) -> None:
    """Record that two values agree, or raise: genuineness stops at the first failure."""
    if seen != expected:
        raise VerifierError(reason, f"{name}: {expected} expected, {seen} seen")
    appraisal.require(name, True, reason, expected, seen)


def _check_product(appraisal: Appraisal, generation: Generation, chain: Chain) -> None:
    """Step 2: report, VEK extension, ARK and ASK speak of one product."""
    name = generation.product
    reason = Reason.PRODUCT_MISMATCH
    _check_equal(appraisal, "VEK product", reason, name, chain.extensions.generation.product)
    _check_equal(appraisal, "ARK name", reason, f"ARK-{name}", chain.issuers.ark_name)
    ask_name = chain.issuers.ask_name
    names = [prefix + name for prefix in _ISSUER_PREFIXES.values()]
    if ask_name not in names:
        raise VerifierError(reason, f"ASK name: one of {names} expected, {ask_name!r} seen")


def _check_path(
    appraisal: Appraisal, report: SnpReport, generation: Generation, chain: Chain
) -> None:
    """Step 3: SIGNING_KEY, and not the certificate at hand, decides VCEK or VLEK."""
    key = report.signing_key
    if key not in _LEAF_NAMES:
        raise VerifierError(
            Reason.SIGNATURE_INVALID, "SIGNING_KEY: VCEK or VLEK expected, the report has no key"
        )
    issuer = _ISSUER_PREFIXES[key] + generation.product
    _check_equal(appraisal, "ASK name", Reason.CHAIN_INVALID, issuer, chain.issuers.ask_name)
    leaf = _LEAF_NAMES[key]
    _check_equal(appraisal, "VEK name", Reason.CHAIN_INVALID, leaf, chain.vek_name)


def _check_root(
    appraisal: Appraisal, generation: Generation, chain: Chain, anchors: Anchors
) -> None:
    """Step 4: the ARK is, byte for byte, one that is pinned for this product."""
    if chain.root_sha256 not in anchors.amd.get(generation.product, frozenset()):
        raise VerifierError(
            Reason.ROOT_UNKNOWN,
            f"ARK {chain.root_sha256.hex()}: not a pinned root of {generation.product}",
        )
    appraisal.simulated = anchors.is_simulated(chain.root_sha256)
    seen = chain.root_sha256.hex()
    appraisal.require("ARK", True, Reason.ROOT_UNKNOWN, f"pinned for {generation.product}", seen)


def _check_revocation(
    appraisal: Appraisal,
    endorsements: SnpEndorsements,
    chain: Chain,
    now: int,
    cache: Cache | None,
) -> None:
    """Step 5: the product's CRL, by the ARK, current, without ARK or ASK.

    VEKs all have serial 0, so AMD revokes them by revoking their issuer (AMD 57230).
    """
    if endorsements.crl is None:
        if endorsements.crl_required:
            raise VerifierError(Reason.CRL_MISSING, "AMD CRL: expected, none given")
        appraisal.not_judged("revocation", "no CRL", "revocation not judged (--no-crl)")
        return
    signed = signed_crl(endorsements.crl, chain.ark, chain.root_sha256, cache)
    check_crl_window(signed.crl, now, "AMD CRL")
    signed.check(chain.ark, "ARK")
    signed.check(chain.ask, "ASK")
    appraisal.limit(crl_window(signed.crl)[1])
    appraisal.require("revocation", True, Reason.CERTIFICATE_REVOKED, "not listed", "not listed")


def _check_identity(
    appraisal: Appraisal, report: SnpReport, generation: Generation, vek: VekExtensions
) -> None:
    """Step 7: a VCEK names its chip, a VLEK its cloud, and neither the other."""
    if report.signing_key == KEY_VLEK:
        if vek.hwid is not None or vek.csp_id is None:
            raise VerifierError(Reason.CERTIFICATE_INVALID, "VLEK: a CSP id and no HWID expected")
        appraisal.require("CSP id", True, Reason.CERTIFICATE_INVALID, "named", vek.csp_id)
        return
    if vek.hwid is None or vek.csp_id is not None:
        raise VerifierError(Reason.CERTIFICATE_INVALID, "VCEK: a HWID and no CSP id expected")
    if report.chip_id_masked:
        appraisal.not_judged("CHIP_ID", "all zero", "CHIP_ID is masked")
        return
    chip_id = vek.hwid + bytes(CHIP_ID_SIZE - generation.hwid_size)
    _check_equal(appraisal, "CHIP_ID", Reason.CHIP_ID_MISMATCH, chip_id.hex(), report.chip_id.hex())


def _check_signature(key: ec.EllipticCurvePublicKey, report: SnpReport, raw: bytes) -> None:
    """Step 8: ECDSA P-384 with SHA-384 over the first 0x2A0 bytes, 0 < r, s < n."""
    r, s = report.signature_r, report.signature_s
    if not (0 < r < P384_ORDER and 0 < s < P384_ORDER):
        raise VerifierError(
            Reason.SIGNATURE_INVALID, "report signature: r and s from 1 to n - 1 expected"
        )
    try:
        key.verify(encode_dss_signature(r, s), raw[:SIGNED_SIZE], _ECDSA)
    except InvalidSignature as error:
        raise VerifierError(
            Reason.SIGNATURE_INVALID, "report signature: does not verify under the VEK"
        ) from error


def verify(
    appraisal: Appraisal,
    raw: bytes,
    endorsements: SnpEndorsements | None,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> Genuine:
    """Return the report in `raw` if it is genuine at `now` (unix seconds).

    Checks that held are added to `appraisal`, and so are the claims, as soon as they are read:
    they are there for a refused report too.

    Raises:
        VerifierError: the first thing that is not as AMD's keys vouch for.
    """
    # 1. The report is well formed.
    report = SnpReport.parse(raw)
    appraisal.claims.update(report_claims(report))
    appraisal.require("report format", True, Reason.MALFORMED, "well formed", f"v{report.version}")
    if endorsements is None:
        raise VerifierError(Reason.COLLATERAL_MISSING, "VEK, ASK and ARK: expected, none given")
    remembered = remembered_chain(endorsements, cache)
    chain = remembered or Chain.load(endorsements, cache)

    # 2. One product, from the CPUID; version 2 has none, so there the certificate says.
    if report.has_cpuid:
        generation = product.from_cpuid(report.cpuid_fam, report.cpuid_mod)
    else:
        generation = chain.extensions.generation
    names = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    tcb = {name: generation.decode_tcb(getattr(report, name), name.upper()) for name in names}
    appraisal.claims.update(product_claims(generation.product, tcb))
    _check_product(appraisal, generation, chain)

    # 3. SIGNING_KEY picks the path.
    _check_path(appraisal, report, generation, chain)

    # 4. ARK, pinned -> ASK or ASVK -> VEK; all valid now.
    _check_root(appraisal, generation, chain, anchors)
    if remembered is None:
        chain.check_signatures(cache)
        remember_chain(endorsements, chain, cache)
    appraisal.limit(chain.check_dates(now))
    appraisal.require("chain", True, Reason.CHAIN_INVALID, "ARK, ASK, VEK", "issued and valid")

    # 5. None of them revoked.
    _check_revocation(appraisal, endorsements, chain, now, cache)

    # 6. The VEK is for the TCB that the report names.
    vek = chain.extensions
    _check_equal(
        appraisal, "REPORTED_TCB", Reason.TCB_MISMATCH, str(vek.tcb), str(tcb["reported_tcb"])
    )

    # 7. The VEK is for this chip, or for a named cloud.
    _check_identity(appraisal, report, generation, vek)
    if vek.csp_id is not None:
        appraisal.claims["csp_id"] = vek.csp_id

    # 8. The VEK signed the report.
    _check_signature(chain.key, report, raw)
    appraisal.require("report signature", True, Reason.SIGNATURE_INVALID, "ECDSA P-384", "verified")
    return Genuine(report, generation, vek, tcb)
