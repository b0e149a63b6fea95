"""`ostiary verify maa`: a token of Azure Attestation, from files, offline.

Guarantees: as `ostiary.cli.verify`. Without a policy that lists the instance nothing is admitted;
without a nonce, or runtime data that bind the token, it is judged as far as it goes and refused.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

from ostiary.cli import inputs
from ostiary.cli.verify_azure import files, optional
from verifier.errors import VerifierError
from verifier.maa.appraise import MaaEvidence, appraise_maa
from verifier.maa.keys import MaaKeys
from verifier.result import Appraisal, AttestationResult

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


def add_parsers(kinds: _Subparsers) -> tuple[argparse.ArgumentParser, ...]:
    """Add `maa`; its `appraise` is the function that judges."""
    maa = kinds.add_parser(
        "maa",
        help="a token of Microsoft Azure Attestation",
        description="Appraise a token of Azure Attestation, which a policy must admit.",
    )
    files(
        maa,
        ("--token", "the token, compact JWS", True),
        ("--jwks", "the instance's keys (JSON, from its /certs); refused without", False),
        ("--runtime-data", "the bytes whose hash the hardware's report carries", False),
        ("--policy", "rules and reference values, TOML; refused without", False),
    )
    fresh = maa.add_mutually_exclusive_group()
    fresh.add_argument("--nonce", metavar="HEX", help="the nonce that was asked with")
    fresh.add_argument(
        "--no-nonce", action="store_true", help="do not judge freshness, and say so in the result"
    )
    maa.add_argument(
        "--at", required=True, metavar="TIME", help="judge dates at this time (RFC 3339)"
    )
    maa.add_argument("--json", action="store_true", help="print the result as JSON")
    maa.set_defaults(appraise=_maa)
    return (maa,)


def _maa(args: argparse.Namespace) -> AttestationResult:
    now = inputs.parse_time(args.at)
    policy = inputs.policy(args.policy)
    nonce = None if args.nonce is None else inputs.hexadecimal("--nonce", args.nonce)
    jwks = optional("--jwks", args.jwks)
    appraisal = Appraisal("maa")
    try:
        appraise_maa(
            appraisal,
            MaaEvidence(
                inputs.read("--token", args.token).strip(),
                optional("--runtime-data", args.runtime_data),
            ),
            None if jwks is None else MaaKeys(jwks),
            policy=policy,
            nonce=nonce,
            nonce_required=not args.no_nonce,
            now=now,
        )
    except VerifierError as error:
        appraisal.fail("genuine", error)
    return appraisal.result()
