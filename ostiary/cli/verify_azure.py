"""`ostiary verify azure-snp` and `azure-tdx`: a confidential VM in Azure, from files, offline.

Guarantees: as `ostiary.cli.verify`. Evidence without a TPM quote or without a nonce is judged as
far as it goes and refused; `--no-nonce` says aloud that freshness is not asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from ostiary.cli import inputs, provenance
from ostiary.cli.inputs import UnreadableError
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, AttestationResult
from verifier.snp import SnpEndorsements
from verifier.tdx import collateral as tdx_collateral
from verifier.tdx.collateral import TdxCollateral
from verifier.tpm import pcrs
from verifier.tpm.appraise import TpmEvidence

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


def add_parsers(kinds: _Subparsers) -> tuple[argparse.ArgumentParser, ...]:
    """Add `azure-snp` and `azure-tdx`; their `appraise` is the function that judges."""
    snp = kinds.add_parser(
        "azure-snp",
        help="a confidential VM in Azure, on AMD",
        description="Appraise a confidential VM in Azure, on AMD SEV-SNP.",
    )
    files(snp, ("--hcl-report", "HCL report, NV index 0x01400001", True))
    amd_options(snp)
    tdx = kinds.add_parser(
        "azure-tdx",
        help="a confidential VM in Azure, on Intel",
        description="Appraise a confidential VM in Azure, on Intel TDX.",
    )
    files(
        tdx,
        ("--hcl-report", "HCL report, NV index 0x01400001", True),
        ("--td-quote", "TD quote made of the HCL report's TDREPORT, binary", False),
        ("--collateral", "Intel's collateral, JSON; refused without", False),
    )
    for kind in (snp, tdx):
        tpm_options(kind)
        kind.set_defaults(appraise=_azure)
    return snp, tdx


def files(kind: argparse.ArgumentParser, *options: tuple[str, str, bool]) -> None:
    """Add options that name files: option, what it is, whether it must be there."""
    for option, what, required in options:
        kind.add_argument(option, type=Path, required=required, metavar="F", help=what)


def amd_options(kind: argparse.ArgumentParser) -> None:
    """Add AMD's endorsements."""
    for option, what in (("vek", "VCEK"), ("ask", "ASK"), ("ark", "ARK")):
        files(kind, (f"--{option}", f"{what} certificate, DER or PEM", False))
    revocation = kind.add_mutually_exclusive_group()
    revocation.add_argument("--crl", type=Path, metavar="F", help="AMD's revocation list, DER")
    revocation.add_argument(
        "--no-crl", action="store_true", help="do not judge revocation, and say so in the result"
    )


def tpm_options(
    kind: argparse.ArgumentParser,
    *,
    quote: str = "the TPM's quote, TPMS_ATTEST, binary; refused without",
    log: str = "--event-log",
) -> None:
    """Add what clouds have in common: the TPM's quote, its key's chain, time and policy."""
    files(
        kind,
        ("--tpm-message", quote, False),
        ("--tpm-signature", "TPMT_SIGNATURE, or the bare RSA signature", False),
        ("--pcrs", "PCR values, JSON", False),
        (log, "the TPM's event log, binary", False),
        ("--policy", "rules and reference values, TOML", False),
    )
    kind.add_argument(
        "--ak-chain",
        type=Path,
        nargs="+",
        default=(),
        metavar="F",
        help="the AK's certificate (NV index 0x01C101D0), its issuers, and the root last",
    )
    fresh = kind.add_mutually_exclusive_group()
    fresh.add_argument("--nonce", metavar="HEX", help="the qualifying data that was asked for")
    fresh.add_argument(
        "--no-nonce", action="store_true", help="do not judge freshness, and say so in the result"
    )
    kind.add_argument(
        "--at", required=True, metavar="TIME", help="judge dates at this time (RFC 3339)"
    )
    provenance.add_options(kind)
    kind.add_argument("--json", action="store_true", help="print the result as JSON")


def _azure(args: argparse.Namespace) -> AttestationResult:
    tdx = args.kind == "azure-tdx"
    evidence = Evidence(
        args.kind,
        cpu=(optional("--td-quote", args.td_quote) or b"") if tdx else b"",
        hcl_report=inputs.read("--hcl-report", args.hcl_report),
        tpm=tpm_evidence(args, optional("--event-log", args.event_log)),
    )
    return judge(args, evidence)


def judge(
    args: argparse.Namespace, evidence: Evidence, report_data: bytes | None = None
) -> AttestationResult:
    """Appraise a cloud's evidence with the endorsements, nonce and policy that are named.

    Raises:
        UnreadableError: a file or an option is not what it should be.
    """
    now = inputs.parse_time(args.at)
    policy = inputs.policy(args.policy)
    nonce = None if args.nonce is None else inputs.hexadecimal("--nonce", args.nonce)
    try:
        endorsements = amd(args) if args.kind.endswith("-snp") else intel(args)
    except VerifierError as error:
        refused = Appraisal(args.kind)
        refused.fail("collateral", error)
        return refused.result()
    return appraise(
        evidence,
        endorsements,
        policy=policy,
        report_data=report_data,
        nonce=nonce,
        nonce_required=not args.no_nonce,
        now=now,
        provenance=provenance.given(args),
    )


def tpm_evidence(
    args: argparse.Namespace, event_log: bytes | None, ak: bytes | None = None
) -> TpmEvidence | None:
    """Return the TPM's quote and what goes with it; None where nothing of it is named.

    A signature, PCR values or a log without a quote are kept: evidence that lacks it is refused.
    """
    chain = [inputs.certificate("--ak-chain", path) for path in args.ak_chain]
    made = TpmEvidence(
        attest=optional("--tpm-message", args.tpm_message),
        signature=optional("--tpm-signature", args.tpm_signature),
        ak=ak,
        pcrs=_pcrs(args.pcrs),
        ak_certificate=chain[0] if chain else None,
        ak_issuers=chain[1:],
        event_log=event_log or b"",
    )
    return None if made == TpmEvidence(None, ak_issuers=[]) else made


def optional(option: str, path: Path | None) -> bytes | None:
    """Return the bytes of a file, or None where none is named."""
    return None if path is None else inputs.read(option, path)


def _pcrs(path: Path | None) -> pcrs.Banks | None:
    if path is None:
        return None
    try:
        return pcrs.from_json(inputs.read("--pcrs", path))
    except VerifierError as error:
        raise UnreadableError(f"--pcrs: {error}") from error


def amd(args: argparse.Namespace) -> SnpEndorsements | None:
    """Return AMD's endorsements, or None where they are not all named."""
    if None in (args.vek, args.ask, args.ark):
        return None
    return SnpEndorsements(
        vek=inputs.certificate("--vek", args.vek),
        ask=inputs.certificate("--ask", args.ask),
        ark=inputs.certificate("--ark", args.ark),
        crl=None if args.crl is None else inputs.read("--crl", args.crl),
        crl_required=not args.no_crl,
    )


def intel(args: argparse.Namespace) -> TdxCollateral | None:
    """Return the collateral; what is no JSON is unreadable, what is refused is `genuine`'s."""
    if args.collateral is None:
        return None
    raw = inputs.read("--collateral", args.collateral)
    try:
        return tdx_collateral.from_json(raw)
    except VerifierError as error:
        if error.reason is Reason.MALFORMED:
            raise UnreadableError(f"--collateral: {error}") from error
        raise
