"""`ostiary verify tpm` and `ostiary verify eventlog`: what was measured, from files, offline.

Guarantees: as `ostiary.cli.verify`; a key that is given bare counts as vouched for by whoever named
it, and registers in a file as taken from a verified quote: the result says so.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.cli import inputs, provenance
from ostiary.cli.inputs import UnreadableError
from verifier.appraise import Evidence, appraise
from verifier.errors import VerifierError
from verifier.eventlog import appraise as logs
from verifier.eventlog import registers
from verifier.result import Appraisal, AttestationResult
from verifier.tpm.appraise import TpmEvidence
from verifier.tpm.chain import trim_der

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it

KINDS: Final = ("tcg", "ccel", "dstack", "aael")


def add_parsers(kinds: _Subparsers) -> tuple[argparse.ArgumentParser, ...]:
    """Add `tpm` and `eventlog`; their `appraise` is the function that judges."""
    tpm = kinds.add_parser("tpm", help="a TPM 2.0 quote", description="Appraise a TPM 2.0 quote.")
    for option, what, required in (
        ("--attest", "TPMS_ATTEST, binary", True),
        ("--signature", "TPMT_SIGNATURE, or the bare RSA signature", False),
        ("--ak", "attestation key: public key or certificate (DER, PEM), TPMT_PUBLIC", False),
        ("--pcrs", "PCR values, JSON", False),
        ("--ak-certificate", "the key's certificate, where --ak is none; DER or PEM", False),
        ("--event-log", "the TPM's event log, binary", False),
    ):
        tpm.add_argument(option, type=Path, required=required, metavar="F", help=what)
    tpm.add_argument(
        "--ak-chain",
        type=Path,
        nargs="+",
        default=(),
        metavar="F",
        help="the AK certificate's issuers, its own first and the root last",
    )
    fresh = tpm.add_mutually_exclusive_group()
    fresh.add_argument("--nonce", metavar="HEX", help="the qualifying data that was asked for")
    fresh.add_argument(
        "--no-nonce", action="store_true", help="do not judge freshness, and say so in the result"
    )
    tpm.add_argument(
        "--at", required=True, metavar="TIME", help="judge dates at this time (RFC 3339)"
    )
    tpm.add_argument("--policy", type=Path, metavar="F", help="rules and reference values, TOML")
    provenance.add_options(tpm)
    tpm.set_defaults(appraise=_tpm)

    log = kinds.add_parser(
        "eventlog", help="an event log", description="Replay an event log, and read it."
    )
    log.add_argument("--log", type=Path, required=True, metavar="F", help="the log")
    log.add_argument("--kind", required=True, choices=KINDS, help="its kind")
    log.add_argument(
        "--registers", type=Path, metavar="F", help="quoted registers, JSON: PCRs or RTMRs"
    )
    log.add_argument(
        "--register", type=int, default=logs.RTMR_RUNTIME, metavar="N", help="what an AAEL extends"
    )
    log.set_defaults(appraise=_eventlog)
    for kind in (tpm, log):
        kind.add_argument("--json", action="store_true", help="print the result as JSON")
    return tpm, log


def _tpm(args: argparse.Namespace) -> AttestationResult:
    now = inputs.parse_time(args.at)
    policy = inputs.policy(args.policy)
    nonce = None if args.nonce is None else inputs.hexadecimal("--nonce", args.nonce)
    evidence = TpmEvidence(
        attest=inputs.read("--attest", args.attest),
        signature=_optional("--signature", args.signature),
        ak=_ak(args.ak),
        pcrs=None if args.pcrs is None else _registers("--pcrs", args.pcrs),
        ak_certificate=(
            None
            if args.ak_certificate is None
            else _trimmed(inputs.certificate("--ak-certificate", args.ak_certificate))
        ),
        ak_issuers=[inputs.certificate("--ak-chain", path) for path in args.ak_chain],
        event_log=_optional("--event-log", args.event_log) or b"",
    )
    return appraise(
        Evidence("tpm", tpm=evidence),
        None,
        policy=policy,
        report_data=None,
        nonce=nonce,
        nonce_required=not args.no_nonce,
        now=now,
        provenance=provenance.given(args),
    )


def _eventlog(args: argparse.Namespace) -> AttestationResult:
    raw = inputs.read("--log", args.log)
    quoted = {} if args.registers is None else _registers("--registers", args.registers)
    appraisal = Appraisal("eventlog")
    try:
        log = logs.parse(raw, args.kind, register=args.register)
    except VerifierError as error:
        appraisal.fail("event_log.read", error)
        return appraisal.result()
    logs.appraise_log(appraisal, log, quoted)
    appraisal.claims.update(
        format=log.format, events=log.count, bytes_used=log.used, banks=list(log.banks)
    )
    return appraisal.result()


def _optional(option: str, path: Path | None) -> bytes | None:
    return None if path is None else inputs.read(option, path)


def _ak(path: Path | None) -> bytes | None:
    """Return the key's file; a certificate in a padded NV buffer is cut at its end."""
    raw = _optional("--ak", path)
    return None if raw is None else _trimmed(raw)


def _trimmed(raw: bytes) -> bytes:
    with contextlib.suppress(VerifierError):
        return trim_der(raw)
    return raw


def _registers(option: str, path: Path) -> dict[str, dict[int, bytes]]:
    try:
        return registers.from_json(inputs.read(option, path))
    except VerifierError as error:
        raise UnreadableError(f"{option}: {error}") from error
