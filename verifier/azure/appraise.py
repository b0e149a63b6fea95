"""Appraise a confidential VM in Azure: hardware, claims, key of the vTPM, quote, one after another.

Guarantees: the hardware report is judged in full and carries the SHA-256 of the exact claims, the
claims name the TPM's key, that key signed the quote, and the quote covers the PCR values; each link
that breaks is a refusal, whatever the others say. Without a quote the verdict is reject unless
policy says otherwise, and without a nonce unless the caller says aloud that freshness is not
judged.

Does not take a certificate of the key for more than it is: Azure certified keys that a VM's
administrator had swapped (CVE-2025-49707), so the claims, bound by the hardware, are the authority,
and the certificate only adds whose TPM it is. Does not know the guest by the launch measurement,
which is the paravisor's: policy has to pin PCRs or a boot log. Does not know Azure without a policy
that pins the paravisor: anybody's confidential VM can write claims and a key of its own into its
report, and call itself one of Azure's; then measurements are told as not judged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from cryptography import x509 as certificates

from verifier import x509
from verifier.anchors import Anchors
from verifier.azure import hcl, runtime, tdreport
from verifier.azure.hcl import HclReport
from verifier.azure.runtime import RuntimeClaims
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.eventlog import appraise as logs
from verifier.policy import AppraisalPolicy, AzureRules, TpmReference, TpmRules
from verifier.result import Appraisal
from verifier.snp import SnpEndorsements, appraise_snp
from verifier.snp.report import SnpReport
from verifier.tdx import quote as quotes
from verifier.tdx.appraise import appraise_tdx
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm import attest as attests
from verifier.tpm import keys
from verifier.tpm.appraise import judge_references
from verifier.tpm.chain import trim_der, verify_ak_chain
from verifier.tpm.pcrs import Banks
from verifier.tpm.quote import appraise_quote

_MAKER: Final = "azure"


@final
@dataclass(frozen=True, slots=True)
class AzureEvidence:
    """What a VM in Azure says of itself; None and empty mean that it was not given.

    `kind` comes from the challenge and the policy, never from the bytes. `hcl_report` is NV index
    0x01400001; `td_quote` the quote that was made of its TDREPORT, for `azure-tdx` only. The TPM
    signed `tpm_message` (TPMS_ATTEST) with `tpm_signature`; `pcrs` are values that the VM reports.
    `ak`, where given, is the key that the VM says it quotes with (in a release its report data is
    bound to it), and must be HCLAkPub; it is not the authority. `ak_certificate` is NV index
    0x01C101D0, padding included, `ak_issuers` its intermediates and root (DER).
    """

    kind: Literal["azure-snp", "azure-tdx"]
    hcl_report: bytes
    td_quote: bytes | None = None
    tpm_message: bytes | None = None
    tpm_signature: bytes | None = None
    pcrs: Banks | None = None
    ak: bytes | None = None
    ak_certificate: bytes | None = None
    ak_issuers: Sequence[bytes] = ()
    event_log: bytes = b""


def appraise_azure(
    appraisal: Appraisal,
    evidence: AzureEvidence,
    endorsements: SnpEndorsements | TdxCollateral | None,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    nonce_required: bool = True,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
) -> None:
    """Judge the evidence and record every check in `appraisal`.

    Args:
        appraisal: takes the checks and claims: `hcl`, `runtime_claims`, `snp` or `quote`, `tpm`.
        evidence: HCL report, TD quote, TPM quote and what goes with them.
        endorsements: of the hardware; None is refused with `collateral_missing`.
        policy: rules and references; None is strict rules, measurements and PCRs are not judged.
        nonce: the qualifying data that the TPM quote must carry, whole.
        nonce_required: False admits None, and the result says that freshness was not judged.
        now: unix seconds, UTC.
        anchors: the pinned roots.
        cache: of the hardware's endorsements.

    Raises:
        VerifierError: a link is broken; the reason is the first thing that was wrong.
    """
    rules = AzureRules() if policy is None else policy.azure
    report = hcl.parse(evidence.hcl_report)
    appraisal.claims["hcl"] = report.told()
    claims = runtime.parse(report.claims)
    appraisal.claims["runtime_claims"] = claims.told
    appraisal.claims["key_ids"] = list(claims.key_ids)
    if evidence.kind != f"azure-{report.kind}":
        raise VerifierError(
            Reason.KIND_MISMATCH,
            f"HCL report: one of {evidence.kind} expected, azure-{report.kind} seen",
        )
    appraisal.require("hcl.format", True, Reason.MALFORMED, "well formed", f"v{report.version}")
    if evidence.tpm_message is not None:
        appraisal.claims["tpm"] = attests.parse(evidence.tpm_message).claims()
    bound = hashlib.sha256(report.claims).digest() + bytes(32)
    if report.kind == "snp":
        _snp(appraisal, report, endorsements, bound, policy, now=now, anchors=anchors, cache=cache)
    else:
        _tdx(
            appraisal,
            report,
            evidence.td_quote,
            endorsements,
            bound,
            policy,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    _configuration(appraisal, claims, rules)
    _same_ak(appraisal, evidence.ak, claims)
    _certify(appraisal, evidence, claims, policy, now=now, anchors=anchors)
    _quote(appraisal, evidence, claims, policy, nonce, nonce_required=nonce_required)


def _bind(appraisal: Appraisal, name: str, seen: bytes, bound: bytes) -> None:
    """Require the hash of the claims in report data: nothing in the claims counts without it."""
    if not hmac.compare_digest(seen, bound):
        raise VerifierError(
            Reason.REPORT_DATA_MISMATCH,
            f"{name}: SHA-256 of the claims and zeros, {bound.hex()}, expected, {seen.hex()} seen",
        )
    appraisal.require(name, True, Reason.REPORT_DATA_MISMATCH, bound.hex(), seen.hex())


def _snp(
    appraisal: Appraisal,
    report: HclReport,
    endorsements: SnpEndorsements | TdxCollateral | None,
    bound: bytes,
    policy: AppraisalPolicy | None,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    if isinstance(endorsements, TdxCollateral):
        raise VerifierError(Reason.KIND_MISMATCH, "endorsements: AMD's expected, Intel's seen")
    with appraisal.part("snp", "snp") as inner:
        appraise_snp(
            inner,
            report.hardware,
            endorsements,
            policy=policy,
            report_data=bound,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    read = SnpReport.parse(report.hardware)
    _bind(appraisal, "hcl.report_data", read.report_data, bound)
    # At VMPL 0 runs the paravisor. Whatever a policy for other machines admits, a report from a
    # higher VMPL is the guest's own, and so would be the key that its report data names.
    appraisal.require("hcl.vmpl", read.vmpl == 0, Reason.VMPL, 0, read.vmpl)


def _tdx(  # noqa: PLR0917 - what one quote is judged by
    appraisal: Appraisal,
    report: HclReport,
    quote: bytes | None,
    endorsements: SnpEndorsements | TdxCollateral | None,
    bound: bytes,
    policy: AppraisalPolicy | None,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    if isinstance(endorsements, SnpEndorsements):
        raise VerifierError(Reason.KIND_MISMATCH, "endorsements: Intel's expected, AMD's seen")
    local = tdreport.parse(report.hardware)
    if quote is None:
        raise VerifierError(
            Reason.SIGNATURE_MISSING,
            "TD quote: expected, none given: a TDREPORT alone proves nothing to another machine",
        )
    with appraisal.part("tdx", "quote") as inner:
        appraise_tdx(
            inner,
            quote,
            endorsements,
            policy=policy,
            report_data=bound,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    body = quotes.parse(quote).body
    _bind(appraisal, "hcl.report_data", local["report_data"], bound)
    _bind(appraisal, "hcl.quote_report_data", body.report_data, bound)
    differing = tdreport.differences(local, body)
    if differing:
        raise VerifierError(
            Reason.REPORT_DATA_MISMATCH,
            f"TDREPORT and TD quote are of different TDs: {', '.join(differing)} differ",
        )
    appraisal.require("hcl.tdreport", True, Reason.REPORT_DATA_MISMATCH, "the quote's", "equal")


def _configuration(appraisal: Appraisal, claims: RuntimeClaims, rules: AzureRules) -> None:
    """Hold the VM's settings and the guest's user data against the rules."""
    seen = claims.configuration
    for name, required, ok, wanted in (
        ("secure-boot", rules.require_secure_boot, seen.secure_boot, "true"),
        ("tpm-enabled", rules.require_tpm_enabled, seen.tpm_enabled, "true"),
        ("console-enabled", not rules.allow_console, not seen.console_enabled, "false"),
    ):
        appraisal.require(
            f"vm.{name}",
            ok or not required,
            Reason.VM_CONFIGURATION,
            wanted if required else "any",
            str(claims.told["vm-configuration"][name]).lower(),
        )
    if rules.user_data is None:
        appraisal.not_judged("vm.user-data", claims.user_data.hex(), "no expected user data")
        return
    appraisal.require(
        "vm.user-data",
        hmac.compare_digest(claims.user_data, rules.user_data),
        Reason.USER_DATA_MISMATCH,
        rules.user_data.hex(),
        claims.user_data.hex(),
    )


def _same_ak(appraisal: Appraisal, ak: bytes | None, claims: RuntimeClaims) -> None:
    """Require HCLAkPub, in both n and e, where the VM names the key that it quotes with."""
    if ak is None:
        return
    told = keys.load(ak)
    if not keys.same_key(told.key, claims.ak.key):
        raise VerifierError(
            Reason.AK_REFUSED,
            f"AK: HCLAkPub, {claims.ak.describe()}, expected, {told.describe()} seen",
        )
    appraisal.require("ak", True, Reason.AK_REFUSED, claims.ak.describe(), told.describe())


def _certify(
    appraisal: Appraisal,
    evidence: AzureEvidence,
    claims: RuntimeClaims,
    policy: AppraisalPolicy | None,
    *,
    now: int,
    anchors: Anchors,
) -> None:
    """Check the key's chain where one is given: Azure's roots, and HCLAkPub in both n and e."""
    rules = TpmRules() if policy is None else policy.tpm
    if evidence.ak_certificate is None:
        if rules.require_ak_certificate or evidence.ak_issuers:
            raise VerifierError(
                Reason.AK_NOT_CERTIFIED, "AK: its certificate and chain are required"
            )
        appraisal.not_judged(
            "ak.certificate", claims.ak.describe(), "no certificate; the hardware report vouches"
        )
        return
    certificate = verify_ak_chain(
        appraisal,
        trim_der(evidence.ak_certificate),
        evidence.ak_issuers,
        now=now,
        anchors=anchors,
        makers=[maker for maker in rules.makers if maker == _MAKER],
        expected=claims.ak.key,
    )
    appraisal.claims["ak_cert"] = _told(certificate)


def _told(certificate: certificates.Certificate) -> dict[str, object]:
    """Return what a verified AK certificate says, for people."""
    try:
        usage = certificate.extensions.get_extension_for_class(certificates.ExtendedKeyUsage).value
        purposes = [purpose.dotted_string for purpose in usage]
    except certificates.ExtensionNotFound:
        purposes = []
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": x509.rfc3339(x509.not_before(certificate)),
        "not_after": x509.rfc3339(x509.not_after(certificate)),
        "eku": purposes,
    }


def _quote(
    appraisal: Appraisal,
    evidence: AzureEvidence,
    claims: RuntimeClaims,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    *,
    nonce_required: bool,
) -> None:
    """Judge the TPM's quote under HCLAkPub, then PCR values and boot log."""
    if evidence.tpm_message is None:
        _hardware_only(appraisal, policy, evidence, nonce)
        return
    if evidence.tpm_signature is None:
        raise VerifierError(Reason.SIGNATURE_MISSING, "TPM quote: no signature was given")
    if nonce is None and nonce_required:
        appraisal.require(
            "tpm.nonce_given", False, Reason.NONCE_MISSING, "the challenge's nonce", "none"
        )
    rules = TpmRules() if policy is None else policy.tpm
    quote = appraise_quote(
        appraisal,
        evidence.tpm_message,
        evidence.tpm_signature,
        claims.ak,
        evidence.pcrs or {},
        nonce,
        bank=rules.bank,
        required=rules.pcrs,
        allow_sha1=rules.allow_sha1,
        allow_resettable=rules.allow_resettable,
    )
    appraisal.claims["tpm"] = appraisal.claims.pop("attest")
    appraisal.claims["pcrs"] = {
        quote.bank: {str(index): value.hex() for index, value in quote.pcrs.items()}
    }
    boot = None
    if evidence.event_log:
        log = logs.parse(evidence.event_log, "tcg")
        boot = logs.appraise_log(appraisal, log, {quote.bank: quote.pcrs})
    judge_references(appraisal, quote, boot, policy)


def _hardware_only(
    appraisal: Appraisal,
    policy: AppraisalPolicy | None,
    evidence: AzureEvidence,
    nonce: bytes | None,
) -> None:
    """Refuse evidence without a TPM quote, unless policy admits it and nothing needs the quote."""
    admitted = policy is not None and not policy.azure.require_tpm_quote
    needed = [
        what
        for what, there in (
            ("a signature", evidence.tpm_signature is not None),
            ("PCR values", evidence.pcrs is not None),
            ("an event log", bool(evidence.event_log)),
            ("a nonce", nonce is not None),
            ("PCRs in the policy", policy is not None and bool(policy.tpm.pcrs)),
            ("TPM references", policy is not None and bool(policy.references(TpmReference))),
        )
        if there
    ]
    if admitted and not needed:
        appraisal.not_judged(
            "tpm.quote", "none", "policy admits hardware alone: no freshness, no guest boot"
        )
        return
    appraisal.require(
        "tpm.quote",
        False,
        Reason.TPM_QUOTE_MISSING,
        f"a TPM quote, for {', '.join(needed)}" if needed else "a TPM quote: freshness and PCRs",
        "none: the hardware report and the claims alone",
    )
