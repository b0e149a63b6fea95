"""Appraise a piece of evidence: the one function of the verifier, for whoever comes here first.

    appraise(evidence, endorsements, policy=..., report_data=..., now=...) -> AttestationResult

Evidence is what a machine says of itself: a TDX or SGX quote, a SEV-SNP report, the HCL report of a
VM in Azure, the quote of a TPM, and the logs that go with them. Endorsements are what its vendor
signs about such machines: certificates, revocation lists, TCB levels. The policy
says what the relying party wants: rules, and reference values for what it knows to be good. The
result lists every check with what was expected and what was seen.

Guarantees: pure (no network, clock, file or log); bad input gives a result, never an exception;
the verdict is `accept` only if the evidence is genuine, by a pinned root, and broke no rule.
What is not given is not passed over in silence: without endorsements the verdict is `reject`;
without a policy the strict default rules hold and measurements are told as "not judged"; a policy
without reference values for this kind is a `reject`.

Does not guarantee freshness: for that, `report_data` must bind a challenge of the caller's; where
the hardware does not carry it (Azure, TPM), the TPM's quote must carry its digest. Does not say
what an accepted machine may do; that is for whoever reads the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, TypeVar, assert_never, final

from verifier.anchors import PINNED, Anchors
from verifier.azure.appraise import AzureEvidence, appraise_azure
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.gcp.appraise import GcpEvidence, appraise_gcp
from verifier.maa.appraise import MaaEvidence, appraise_maa
from verifier.maa.keys import MaaKeys
from verifier.nvgpu.appraise import appraise_gpus
from verifier.nvgpu.device import DeviceEvidence
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.policy import AppraisalPolicy
from verifier.provenance.judge import appraise_provenance
from verifier.provenance.signed import Provenance
from verifier.result import Appraisal, AttestationResult
from verifier.sgx.appraise import appraise_sgx
from verifier.snp import SnpEndorsements, appraise_snp
from verifier.tdx.appraise import appraise_tdx
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm.appraise import TpmEvidence, appraise_tpm
from verifier.wire import binding

T = TypeVar("T", TdxCollateral, SnpEndorsements, MaaKeys)

Endorsements = TdxCollateral | SnpEndorsements | MaaKeys
Kind: TypeAlias = Literal[
    "tdx", "snp", "sgx", "azure-snp", "azure-tdx", "gcp-tdx", "gcp-snp", "tpm", "maa"
]

_PARTS: Final[dict[Kind, frozenset[str]]] = {
    "tdx": frozenset({"cpu", "event_log", "runtime_log"}),
    "snp": frozenset({"cpu", "event_log"}),
    "sgx": frozenset({"cpu", "event_log"}),
    "azure-snp": frozenset({"hcl_report", "tpm"}),
    "azure-tdx": frozenset({"cpu", "hcl_report", "tpm"}),
    "gcp-tdx": frozenset({"cpu", "event_log", "runtime_log", "tpm"}),
    "gcp-snp": frozenset({"cpu", "event_log", "tpm"}),
    "tpm": frozenset({"tpm"}),
    "maa": frozenset({"cpu"}),
}
"""What evidence of a kind consists of; a part of another kind is refused, not passed over."""


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What a machine says of itself.

    `kind` comes from the challenge and the policy, never from the bytes. `cpu` is the quote or the
    report as the hardware wrote it; `azure-snp` has it in the HCL report, `tpm` has none. Of `maa`
    it is a token of Azure Attestation, which policy must admit in place of all that.
    `event_log` is replayed against a TDX quote's registers; for SNP and SGX, whose CPU evidence has
    none, it is carried along and not judged. `runtime_log` is the AAEL of RTMR 3. `hcl_report` is
    Azure's, and `tpm` the quote of a TPM with its key, PCR values, certificates and own log. `gpus`
    are NVIDIA's GPUs and switches, in the order sent; a set that the policy does not ask for is
    judged all the same, and a bad one denies.
    """

    kind: Kind
    cpu: bytes = b""
    event_log: bytes = b""
    runtime_log: bytes = b""
    hcl_report: bytes = b""
    tpm: TpmEvidence | None = None
    gpus: tuple[DeviceEvidence, ...] = ()


def appraise(
    evidence: Evidence,
    endorsements: Endorsements | None,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
    nonce: bytes | None = None,
    nonce_required: bool = True,
    provenance: Provenance | None = None,
    gpu_nonce: bytes | None = None,
    gpu_endorsements: GpuEndorsements | None = None,
    anchors: Anchors = PINNED,
    cache: Cache | None = None,
) -> AttestationResult:
    """Return what can be said of the evidence.

    Args:
        evidence: of any kind.
        endorsements: of the same vendor; None is refused with `collateral_missing`, but for `tpm`,
            which has none.
        policy: rules and reference values; None is strict rules and measurements not judged.
        report_data: the 64 bytes that the evidence must carry; None is not judged. In Azure and of
            a bare TPM it is the quote that must carry it, as `nonce`.
        nonce: the qualifying data that a TPM's quote must carry, whole; None is
            `binding.tpm_qualifying_data` of the report data.
        nonce_required: False admits a TPM's quote without a nonce, and the result says that its
            freshness was not judged.
        provenance: Sigstore bundles about what was measured, for a policy that demands them.
        gpu_nonce: the 32 bytes that every GPU and switch must have been asked with; None is refused
            where `report_data` is given, and not judged where that is not either.
        gpu_endorsements: NVIDIA's of the set; None is none, and refused for what is then missing.
        now: unix seconds, UTC; every date and revocation list is judged by it.
        anchors: the vendors' roots, pinned in this package.
        cache: kept by the caller to check the signatures of one vendor document once.
    """
    appraisal = Appraisal(evidence.kind)
    if nonce is None and nonce_required and report_data is not None:
        nonce = binding.tpm_qualifying_data(report_data)
    try:
        _check_parts(evidence)
        kind = evidence.kind
        match kind:
            case "tdx":
                appraise_tdx(
                    appraisal,
                    evidence.cpu,
                    _of_kind(endorsements, TdxCollateral),
                    policy=policy,
                    report_data=report_data,
                    now=now,
                    anchors=anchors,
                    cache=cache,
                    event_log=evidence.event_log,
                    runtime_log=evidence.runtime_log,
                )
            case "sgx":
                appraise_sgx(
                    appraisal,
                    evidence.cpu,
                    _of_kind(endorsements, TdxCollateral),
                    policy=policy,
                    report_data=report_data,
                    now=now,
                    anchors=anchors,
                    cache=cache,
                )
            case "snp":
                appraise_snp(
                    appraisal,
                    evidence.cpu,
                    _of_kind(endorsements, SnpEndorsements),
                    policy=policy,
                    report_data=report_data,
                    now=now,
                    anchors=anchors,
                    cache=cache,
                )
            case "azure-snp" | "azure-tdx":
                appraise_azure(
                    appraisal,
                    _azure(kind, evidence),
                    _of_hardware(endorsements),
                    policy=policy,
                    nonce=nonce,
                    nonce_required=nonce_required,
                    now=now,
                    anchors=anchors,
                    cache=cache,
                )
            case "gcp-tdx" | "gcp-snp":
                appraise_gcp(
                    appraisal,
                    _gcp(kind, evidence),
                    _of_hardware(endorsements),
                    policy=policy,
                    report_data=report_data,
                    nonce=nonce,
                    nonce_required=nonce_required,
                    now=now,
                    anchors=anchors,
                    cache=cache,
                )
            case "tpm":
                appraise_tpm(
                    appraisal,
                    evidence.tpm or TpmEvidence(None),
                    policy=policy,
                    nonce=nonce,
                    nonce_required=nonce_required,
                    now=now,
                    anchors=anchors,
                )
            case "maa":
                appraise_maa(
                    appraisal,
                    MaaEvidence(evidence.cpu),
                    _of_kind(endorsements, MaaKeys),
                    policy=policy,
                    nonce=nonce,
                    nonce_required=nonce_required,
                    now=now,
                )
            case _:
                assert_never(kind)
        appraise_provenance(appraisal, provenance, policy=policy, now=now, cache=cache)
    except VerifierError as error:
        appraisal.fail("genuine", error)
    _judge_gpus(
        appraisal,
        evidence.gpus,
        gpu_endorsements,
        policy=policy,
        nonce=gpu_nonce,
        nonce_required=report_data is not None,
        now=now,
        anchors=anchors,
        cache=cache,
    )
    return appraisal.result()


def _judge_gpus(
    appraisal: Appraisal,
    devices: tuple[DeviceEvidence, ...],
    endorsements: GpuEndorsements | None,
    *,
    policy: AppraisalPolicy | None,
    nonce: bytes | None,
    nonce_required: bool,
    now: int,
    anchors: Anchors,
    cache: Cache | None,
) -> None:
    """Judge a machine's GPUs, or that there are none; they are as fresh as the machine must be."""
    if not devices:
        if policy is not None and policy.gpu.count:
            wanted = f"evidence of {policy.gpu.count}"
            appraisal.require("gpus", False, Reason.GPU_EVIDENCE_MISSING, wanted, "none")
        return
    if nonce is None and nonce_required:
        appraisal.require(
            "gpus.nonce_given", False, Reason.NONCE_MISSING, "the challenge's GPU nonce", "none"
        )
    try:
        appraise_gpus(
            appraisal,
            devices,
            endorsements,
            policy=policy,
            nonce=nonce,
            now=now,
            anchors=anchors,
            cache=cache,
        )
    except VerifierError as error:
        appraisal.fail("gpus", error)


def _check_parts(evidence: Evidence) -> None:
    """Refuse parts that this kind of evidence does not have: nobody would look at them."""
    given = [
        part
        for part in ("cpu", "event_log", "runtime_log", "hcl_report", "tpm")
        if getattr(evidence, part)
    ]
    foreign = [part for part in given if part not in _PARTS.get(evidence.kind, ())]
    if foreign:
        raise VerifierError(
            Reason.KIND_MISMATCH, f"evidence: {evidence.kind} has no {', '.join(foreign)}"
        )


def _azure(kind: Literal["azure-snp", "azure-tdx"], evidence: Evidence) -> AzureEvidence:
    tpm = evidence.tpm
    made = AzureEvidence(kind, evidence.hcl_report, td_quote=evidence.cpu or None)
    if tpm is None:
        return made
    return replace(
        made,
        tpm_message=tpm.attest,
        tpm_signature=tpm.signature,
        pcrs=tpm.pcrs,
        ak=tpm.ak,
        ak_certificate=tpm.ak_certificate,
        ak_issuers=tpm.ak_issuers,
        event_log=tpm.event_log,
    )


def _gcp(kind: Literal["gcp-tdx", "gcp-snp"], evidence: Evidence) -> GcpEvidence:
    return GcpEvidence(
        kind,
        evidence.cpu,
        event_log=evidence.event_log,
        runtime_log=evidence.runtime_log,
        vtpm=evidence.tpm,
    )


def _of_hardware(endorsements: Endorsements | None) -> TdxCollateral | SnpEndorsements | None:
    if isinstance(endorsements, MaaKeys):
        raise VerifierError(Reason.KIND_MISMATCH, "endorsements: a hardware vendor's expected")
    return endorsements


def _of_kind(endorsements: Endorsements | None, kind: type[T]) -> T | None:
    if endorsements is None or isinstance(endorsements, kind):
        return endorsements
    raise VerifierError(
        Reason.KIND_MISMATCH,
        f"endorsements: {kind.__name__} expected, {type(endorsements).__name__} seen",
    )
