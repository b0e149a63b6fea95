"""`ostiary verify`: appraise evidence from files, offline.

Guarantees: reads only the files that are named, asks no server and no clock; exit status 0 means
accept, 1 reject, 2 that something could not be read, 3 a kind that this version cannot judge.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ostiary.cli import (
    inputs,
    provenance,
    verify_azure,
    verify_gcp,
    verify_maa,
    verify_measured,
    verify_nvidia,
)
from ostiary.cli.inputs import UnreadableError, certificate, parse_time, read
from verifier import x509
from verifier.appraise import Endorsements, Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal, AttestationResult, Check, Verdict
from verifier.snp import SnpEndorsements
from verifier.tdx import collateral as tdx_collateral
from verifier.tdx import quote as quotes

ACCEPTED: Final = 0
REJECTED: Final = 1
UNREADABLE: Final = 2
UNSUPPORTED: Final = 3
_EXITS: Final = {
    Verdict.ACCEPT: ACCEPTED,
    Verdict.REJECT: REJECTED,
    Verdict.UNSUPPORTED: UNSUPPORTED,
}
_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


def add_parser(subparsers: _Subparsers) -> None:
    """Add `verify` with its kinds; `run` is its function."""
    parser = subparsers.add_parser(
        "verify",
        help="appraise evidence from files, offline",
        description="Appraise evidence from files, offline. Exit status: 0 accept, 1 reject, "
        "2 something could not be read, 3 not supported.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)

    tdx = kinds.add_parser("tdx", help="an Intel TDX quote", description="Appraise a TDX quote.")
    sgx = kinds.add_parser("sgx", help="an Intel SGX quote", description="Appraise an SGX quote.")
    for intel in (tdx, sgx):
        intel.add_argument("--quote", type=Path, required=True, metavar="F", help="quote, binary")
        intel.add_argument(
            "--collateral", type=Path, metavar="F", help="Intel's collateral, JSON; refused without"
        )
    tdx.add_argument(
        "--event-log", type=Path, metavar="F", help="the TD's CCEL, or dstack's JSON log"
    )
    tdx.add_argument("--runtime-log", type=Path, metavar="F", help="the AAEL of RTMR 3")

    snp = kinds.add_parser(
        "snp", help="an AMD SEV-SNP report", description="Appraise a SEV-SNP report."
    )
    snp.add_argument("--report", type=Path, required=True, metavar="F", help="report, binary")
    snp.add_argument("--vek", type=Path, metavar="F", help="VCEK or VLEK certificate, DER or PEM")
    snp.add_argument("--ask", type=Path, metavar="F", help="ASK or ASVK certificate, DER or PEM")
    snp.add_argument("--ark", type=Path, metavar="F", help="ARK certificate, DER or PEM")
    revocation = snp.add_mutually_exclusive_group()
    revocation.add_argument("--crl", type=Path, metavar="F", help="AMD's revocation list, DER")
    revocation.add_argument(
        "--no-crl", action="store_true", help="do not judge revocation, and say so in the result"
    )

    for kind in (tdx, sgx, snp):
        kind.add_argument(
            "--at",
            required=True,
            metavar="TIME",
            help="judge dates at this time, e.g. 2026-02-25T00:45:50Z (RFC 3339)",
        )
        kind.add_argument(
            "--policy", type=Path, metavar="F", help="rules and reference values, TOML"
        )
        kind.add_argument(
            "--report-data", metavar="HEX", help="the 64 bytes that the evidence must carry"
        )
        provenance.add_options(kind)
        kind.add_argument("--json", action="store_true", help="print the result as JSON")
        kind.set_defaults(appraise=_cpu)
    others = (
        *verify_measured.add_parsers(kinds),
        *verify_azure.add_parsers(kinds),
        *verify_gcp.add_parsers(kinds),
        *verify_maa.add_parsers(kinds),
        *verify_nvidia.add_parsers(kinds),
    )
    for kind in (tdx, sgx, snp, *others):
        kind.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Appraise what the arguments name, print the result, return the exit status."""
    try:
        result = args.appraise(args)
    except UnreadableError as error:
        print(f"ostiary verify: {error}", file=sys.stderr)
        return UNREADABLE
    if args.json:
        print(result.to_json().decode())
    else:
        _print(result)
    return _EXITS[result.verdict]


def _cpu(args: argparse.Namespace) -> AttestationResult:
    now = parse_time(args.at)
    policy = inputs.policy(args.policy)
    report_data = None
    if args.report_data is not None:
        report_data = inputs.hexadecimal("--report-data", args.report_data)
    return (_snp if args.kind == "snp" else _intel)(args, policy, report_data, now)


def _intel(
    args: argparse.Namespace, policy: AppraisalPolicy | None, report_data: bytes | None, now: int
) -> AttestationResult:
    evidence = Evidence(args.kind, read("--quote", args.quote))
    if args.kind == "tdx":
        logs = [
            b"" if path is None else read(option, path)
            for option, path in (
                ("--event-log", args.event_log),
                ("--runtime-log", args.runtime_log),
            )
        ]
        evidence = replace(evidence, event_log=logs[0], runtime_log=logs[1])
    collateral = None
    if args.collateral is not None:
        raw = read("--collateral", args.collateral)
        try:
            collateral = tdx_collateral.from_json(raw)
        except VerifierError as error:
            if error.reason is Reason.MALFORMED:
                raise UnreadableError(f"--collateral: {error}") from error
            return _refused(evidence, error)
    return _appraise(args, evidence, collateral, policy, report_data, now)


def _snp(
    args: argparse.Namespace, policy: AppraisalPolicy | None, report_data: bytes | None, now: int
) -> AttestationResult:
    evidence = Evidence("snp", read("--report", args.report))
    endorsements = None
    if None not in (args.vek, args.ask, args.ark):
        endorsements = SnpEndorsements(
            vek=certificate("--vek", args.vek),
            ask=certificate("--ask", args.ask),
            ark=certificate("--ark", args.ark),
            crl=None if args.crl is None else read("--crl", args.crl),
            crl_required=not args.no_crl,
        )
    return _appraise(args, evidence, endorsements, policy, report_data, now)


def _appraise(  # noqa: PLR0917 - as read, and where from
    args: argparse.Namespace,
    evidence: Evidence,
    endorsements: Endorsements | None,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
) -> AttestationResult:
    return appraise(
        evidence,
        endorsements,
        policy=policy,
        report_data=report_data,
        now=now,
        provenance=provenance.given(args),
    )


def _refused(evidence: Evidence, error: VerifierError) -> AttestationResult:
    """Return the refusal of collateral; what the quote says of itself is told all the same."""
    appraisal = Appraisal(evidence.kind)
    parse = quotes.parse if evidence.kind == "tdx" else quotes.parse_sgx
    with contextlib.suppress(VerifierError):
        appraisal.claims.update(quotes.claims(parse(evidence.cpu)))
    appraisal.fail("collateral", error)
    return appraisal.result()


def _print(result: AttestationResult) -> None:
    """Print the verdict, then every check: what failed first, what was not judged last."""
    console = Console(highlight=False)
    colour = "green" if result.verdict is Verdict.ACCEPT else "red"
    told = [f"[bold {colour}]{result.verdict.value}[/]"]
    if result.tcb_status is not None:
        told.append(f"TCB {result.tcb_status.value}")
    told.extend(escape(advisory) for advisory in result.advisory_ids)
    if result.reasons:
        told.append(f"because of {', '.join(result.reasons)}")
    if result.expires is not None:
        told.append(f"until {x509.rfc3339(result.expires)}")
    console.print(" · ".join(told), soft_wrap=True)
    for line in verify_nvidia.lines(result):
        console.print(escape(line), soft_wrap=True)
    table = Table("", box=None, pad_edge=False)
    for column in ("check", "expected", "seen"):
        table.add_column(column, overflow="fold")  # a value that is cut cannot be compared
    order: Callable[[Check], int] = lambda check: {False: 0, True: 1, None: 2}[check.ok]  # noqa: E731
    for check in sorted(result.checks, key=order):
        mark = {True: "[green]ok[/]", False: "[red]NO[/]", None: "--"}[check.ok]
        table.add_row(mark, escape(check.name), escape(check.expected), escape(check.seen))
    console.print(table)
