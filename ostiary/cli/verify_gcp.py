"""`ostiary verify gcp-tdx` and `gcp-snp`: a confidential VM at Google, from files, offline.

Guarantees: as `ostiary.cli.verify`. The hardware report decides; the vTPM's quote, where one is
named, is judged and shown, and makes nothing good. Without a hardware report the evidence is
refused by name.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

from ostiary.cli import inputs
from ostiary.cli.verify_azure import (
    amd_options,
    files,
    judge,
    optional,
    tpm_evidence,
    tpm_options,
)
from verifier.appraise import Evidence
from verifier.result import AttestationResult

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


def add_parsers(kinds: _Subparsers) -> tuple[argparse.ArgumentParser, ...]:
    """Add `gcp-tdx` and `gcp-snp`; their `appraise` is the function that judges."""
    tdx = kinds.add_parser(
        "gcp-tdx",
        help="a confidential VM at Google, on Intel",
        description="Appraise a confidential VM at Google, on Intel TDX.",
    )
    files(
        tdx,
        ("--quote", "TD quote from configfs-tsm, binary; refused without", False),
        ("--collateral", "Intel's collateral, JSON; refused without", False),
        ("--event-log", "the TD's CCEL, or dstack's JSON log", False),
        ("--runtime-log", "the AAEL of RTMR 3", False),
    )
    snp = kinds.add_parser(
        "gcp-snp",
        help="a confidential VM at Google, on AMD",
        description="Appraise a confidential VM at Google, on AMD SEV-SNP.",
    )
    files(snp, ("--report", "SNP report from configfs-tsm, binary; refused without", False))
    amd_options(snp)
    for kind in (tdx, snp):
        tpm_options(kind, quote="the host's vTPM's quote, TPMS_ATTEST, binary", log="--tpm-log")
        files(kind, ("--ak", "the vTPM's key: public key, certificate or TPMT_PUBLIC", False))
        kind.add_argument(
            "--report-data", metavar="HEX", help="the 64 bytes that the evidence must carry"
        )
        kind.set_defaults(appraise=_gcp)
    return tdx, snp


def _gcp(args: argparse.Namespace) -> AttestationResult:
    tpm = tpm_evidence(args, optional("--tpm-log", args.tpm_log), optional("--ak", args.ak))
    if args.kind == "gcp-tdx":
        evidence = Evidence(
            args.kind,
            optional("--quote", args.quote) or b"",
            event_log=optional("--event-log", args.event_log) or b"",
            runtime_log=optional("--runtime-log", args.runtime_log) or b"",
            tpm=tpm,
        )
    else:
        evidence = Evidence(args.kind, optional("--report", args.report) or b"", tpm=tpm)
    report_data = None
    if args.report_data is not None:
        report_data = inputs.hexadecimal("--report-data", args.report_data)
    return judge(args, evidence, report_data)
