"""Appraise a TPM 2.0 quote by itself: key, quote, PCR values, and the event log where one is given.

Guarantees: without a nonce the verdict is reject unless the caller says aloud that freshness is not
judged; PCR values and boot claims are held against whole references of the policy. Does not prove
more than that a TPM with this key says so: a bare key is as good as whoever named it, and a host
that owns the TPM (a vTPM's cloud) can say anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from verifier.anchors import Anchors
from verifier.errors import Reason, VerifierError
from verifier.eventlog import appraise as logs
from verifier.eventlog.boot import BootClaims
from verifier.eventlog.judge import differences
from verifier.policy import AppraisalPolicy, TpmReference, TpmRules
from verifier.result import Appraisal
from verifier.tpm import attest as attests
from verifier.tpm import keys
from verifier.tpm.chain import verify_ak_chain
from verifier.tpm.keys import AttestationKey
from verifier.tpm.pcrs import Banks
from verifier.tpm.quote import Quote, appraise_quote


@final
@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """A quote and what goes with it; None and empty mean that it was not given.

    `ak` is a public key, TPMT_PUBLIC or certificate; `ak_certificate` a certificate for it, needed
    where `ak` is none; `ak_issuers` its intermediates and root, all DER.
    """

    attest: bytes | None
    signature: bytes | None = None
    ak: bytes | None = None
    pcrs: Banks | None = None
    ak_certificate: bytes | None = None
    ak_issuers: Sequence[bytes] = ()
    event_log: bytes = b""


def appraise_tpm(
    appraisal: Appraisal,
    evidence: TpmEvidence,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    nonce_required: bool = True,
    now: int,
    anchors: Anchors,
    makers: Collection[str] = ("azure", "gce"),
    held_to_references: bool = True,
    vouched: str = "the caller vouches for this key",
) -> None:
    """Judge a quote and record every check in `appraisal`.

    Args:
        appraisal: takes the checks and claims.
        evidence: quote, key, PCR values, log.
        policy: rules and references; None is strict rules, and PCR values are not judged.
        nonce: the qualifying data, whole.
        nonce_required: False admits None, and the result says that freshness was not judged.
        now: unix seconds, UTC.
        anchors: the pinned roots.
        makers: of the policy's makers, those that this machine's TPM can be of.
        held_to_references: False tells PCR values and boot claims as not judged.
        vouched: why a key without a certificate is taken.

    Raises:
        VerifierError: the quote is not genuine.
    """
    rules = TpmRules() if policy is None else policy.tpm
    if evidence.attest is None:
        raise VerifierError(Reason.TPM_QUOTE_MISSING, "TPM: a quote expected, none given")
    read = attests.parse(evidence.attest)
    appraisal.claims["attest"] = read.claims()
    for selection in read.selections:
        appraisal.claims[selection.bank] = read.claims()
    if evidence.signature is None:
        raise VerifierError(Reason.SIGNATURE_MISSING, "no signature of the quote was given")
    if evidence.ak is None:
        raise VerifierError(Reason.AK_REFUSED, "no attestation key was given")
    ak = keys.load(evidence.ak)
    admitted = [maker for maker in rules.makers if maker in makers]
    certified = _certify(appraisal, evidence, ak, rules, admitted, now=now, anchors=anchors)
    if not certified:
        appraisal.not_judged("ak.certificate", ak.describe(), vouched)
    if nonce is None and nonce_required:
        appraisal.require(
            "tpm.nonce_given", False, Reason.NONCE_MISSING, "the challenge's nonce", "none"
        )
    bank = _bank(read, rules, policy)
    quote = appraise_quote(
        appraisal,
        evidence.attest,
        evidence.signature,
        ak,
        evidence.pcrs or {},
        nonce,
        bank=bank,
        required=rules.pcrs,
        allow_sha1=rules.allow_sha1,
        allow_resettable=rules.allow_resettable,
    )
    boot = None
    if evidence.event_log:
        log = logs.parse(evidence.event_log, "tcg")
        boot = logs.appraise_log(appraisal, log, {bank: quote.pcrs})
    judge_references(appraisal, quote, boot, policy if held_to_references else None)


def _bank(read: attests.Attest, rules: TpmRules, policy: AppraisalPolicy | None) -> str:
    """Return the policy's bank; without a policy the one that is quoted, if it is one."""
    quoted = [selection.bank for selection in read.selections if selection.pcrs]
    return quoted[0] if policy is None and len(quoted) == 1 else rules.bank


def _certify(
    appraisal: Appraisal,
    evidence: TpmEvidence,
    ak: AttestationKey,
    rules: TpmRules,
    makers: Collection[str],
    *,
    now: int,
    anchors: Anchors,
) -> bool:
    """Check the AK's chain where one is given, and tell whether there was one."""
    certificate = evidence.ak_certificate
    if certificate is None and ak.form == "certificate":
        certificate = evidence.ak
    if evidence.ak_issuers and certificate is not None:
        verify_ak_chain(
            appraisal,
            certificate,
            evidence.ak_issuers,
            now=now,
            anchors=anchors,
            makers=makers,
            expected=ak.key,
        )
        return True
    if rules.require_ak_certificate or evidence.ak_issuers or evidence.ak_certificate is not None:
        raise VerifierError(
            Reason.AK_NOT_CERTIFIED, "AK: its certificate and the chain up to a root are required"
        )
    return False


def judge_references(
    appraisal: Appraisal, quote: Quote, boot: BootClaims | None, policy: AppraisalPolicy | None
) -> None:
    """Require one whole reference of the policy; where none fits, tell how the nearest differs.

    Args:
        appraisal: takes the checks.
        quote: a genuine quote.
        boot: what the event log proves, if there is one.
        policy: None judges no PCR value; one without a TPM reference is a refusal.
    """
    if policy is None:
        appraisal.not_judged("tpm.pcrs", f"{len(quote.pcrs)} PCRs of {quote.bank}")
        return
    references = policy.candidates(TpmReference, lambda index: quote.pcrs.get(int(index)))
    if not references:
        appraisal.require(
            "tpm.pcrs", False, Reason.NO_REFERENCE_VALUES, "a tpm reference in the policy", "none"
        )
        return
    nearest = min(references, key=lambda each: len(_differs(each, quote, boot)))
    found = _differs(nearest, quote, boot)
    if not found:
        appraisal.require("tpm.pcrs", True, Reason.MEASUREMENT_UNKNOWN, nearest.name, nearest.name)
    for name, expected, seen in found:
        missing = name == "boot"
        appraisal.require(
            f"{name} of {nearest.name}",
            False,
            Reason.EVENT_LOG_MISSING if missing else Reason.MEASUREMENT_UNKNOWN,
            expected,
            seen,
        )


def _differs(
    reference: TpmReference, quote: Quote, boot: BootClaims | None
) -> list[tuple[str, str, str]]:
    found = []
    for index, expected in reference.pcrs.items():
        seen = quote.pcrs.get(int(index))
        if seen != expected:
            found.append(
                (f"pcr{index}", expected.hex(), "not quoted" if seen is None else seen.hex())
            )
    if reference.boot is not None:
        found += differences(reference.boot, boot)
    return found
