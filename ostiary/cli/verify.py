"""`ostiary verify tdx` and `ostiary verify snp`: appraise evidence from files, offline.

Guarantees: reads only the files that are named, asks no server and no clock; exit status 0 means
accept, 1 reject, 2 that something could not be read, 3 a kind that this version cannot judge.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verifier import policy as policies
from verifier import x509
from verifier.appraise import Endorsements, Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy
from verifier.result import Appraisal, AttestationResult, Check, Verdict
from verifier.snp import SnpEndorsements
from verifier.tdx import collateral as tdx_collateral

ACCEPTED: Final = 0
REJECTED: Final = 1
UNREADABLE: Final = 2
UNSUPPORTED: Final = 3
_EXITS: Final = {
    Verdict.ACCEPT: ACCEPTED,
    Verdict.REJECT: REJECTED,
    Verdict.UNSUPPORTED: UNSUPPORTED,
}
MAX_FILE: Final = 8 * 1024 * 1024
"""Most bytes read of any file."""
_PEM_START: Final = b"-----BEGIN CERTIFICATE-----"

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


class _UnreadableError(Exception):
    """An input that is not what its option says; the text names the option."""


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
    tdx.add_argument("--quote", type=Path, required=True, metavar="F", help="quote, binary")
    tdx.add_argument(
        "--collateral", type=Path, metavar="F", help="Intel's collateral, JSON; refused without"
    )

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

    for kind in (tdx, snp):
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
        kind.add_argument("--json", action="store_true", help="print the result as JSON")
        kind.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Appraise what the arguments name, print the result, return the exit status."""
    try:
        now = parse_time(args.at)
        policy = None if args.policy is None else _policy(args.policy)
        report_data = None if args.report_data is None else _hex(args.report_data)
        result = (_tdx if args.kind == "tdx" else _snp)(args, policy, report_data, now)
    except _UnreadableError as error:
        print(f"ostiary verify: {error}", file=sys.stderr)
        return UNREADABLE
    if args.json:
        print(result.to_json().decode())
    else:
        _print(result)
    return _EXITS[result.verdict]


def parse_time(text: str) -> int:
    """Return the unix seconds of an RFC 3339 date and time with `Z` or an offset."""
    if _TIME.fullmatch(text) is None:
        raise _UnreadableError("--at: a time like 2026-02-25T00:45:50Z expected (RFC 3339)")
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp())
    except (ValueError, OverflowError) as error:
        raise _UnreadableError(f"--at: {error}") from error


def _tdx(
    args: argparse.Namespace, policy: AppraisalPolicy | None, report_data: bytes | None, now: int
) -> AttestationResult:
    evidence = Evidence("tdx", _read("--quote", args.quote))
    collateral = None
    if args.collateral is not None:
        raw = _read("--collateral", args.collateral)
        try:
            collateral = tdx_collateral.from_json(raw)
        except VerifierError as error:
            if error.reason is Reason.MALFORMED:
                raise _UnreadableError(f"--collateral: {error}") from error
            return _refused("tdx", error)
    return _appraise(evidence, collateral, policy, report_data, now)


def _snp(
    args: argparse.Namespace, policy: AppraisalPolicy | None, report_data: bytes | None, now: int
) -> AttestationResult:
    evidence = Evidence("snp", _read("--report", args.report))
    endorsements = None
    if None not in (args.vek, args.ask, args.ark):
        endorsements = SnpEndorsements(
            vek=_certificate("--vek", args.vek),
            ask=_certificate("--ask", args.ask),
            ark=_certificate("--ark", args.ark),
            crl=None if args.crl is None else _read("--crl", args.crl),
            crl_required=not args.no_crl,
        )
    return _appraise(evidence, endorsements, policy, report_data, now)


def _appraise(
    evidence: Evidence,
    endorsements: Endorsements | None,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
    now: int,
) -> AttestationResult:
    return appraise(evidence, endorsements, policy=policy, report_data=report_data, now=now)


def _refused(kind: str, error: VerifierError) -> AttestationResult:
    appraisal = Appraisal(kind)
    appraisal.fail("collateral", error)
    return appraisal.result()


def _read(option: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"{option}: {error}") from error
    if len(raw) > MAX_FILE:
        raise _UnreadableError(f"{option}: {path}: more than {MAX_FILE} bytes")
    return raw


def _certificate(option: str, path: Path) -> bytes:
    """Return DER; PEM with exactly one certificate is turned into it."""
    raw = _read(option, path)
    if _PEM_START not in raw[:1024]:
        return raw
    try:
        blocks = x509.split_pem(raw, option, limit=1)
    except VerifierError as error:
        raise _UnreadableError(str(error)) from error
    return blocks[0]


def _policy(path: Path) -> AppraisalPolicy:
    try:
        return policies.from_toml(_read("--policy", path))
    except VerifierError as error:
        raise _UnreadableError(f"--policy: {error}") from error


def _hex(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise _UnreadableError(f"--report-data: {error}") from error
    if len(text) != 2 * len(raw):
        raise _UnreadableError("--report-data: hexadecimal without spaces expected")
    return raw


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
    table = Table("", box=None, pad_edge=False)
    for column in ("check", "expected", "seen"):
        table.add_column(column, overflow="fold")  # a value that is cut cannot be compared
    order: Callable[[Check], int] = lambda check: {False: 0, True: 1, None: 2}[check.ok]  # noqa: E731
    for check in sorted(result.checks, key=order):
        mark = {True: "[green]ok[/]", False: "[red]NO[/]", None: "--"}[check.ok]
        table.add_row(mark, escape(check.name), escape(check.expected), escape(check.seen))
    console.print(table)
