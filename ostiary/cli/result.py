"""`ostiary result`: fetch a broker's result as a token (EAR), and check one at home.

Guarantees: `verify` reads only what its arguments name and asks no server and no clock; its exit
status is 0 only for a token that the named key signed for this audience and nonce, current then,
whose status is affirming; 1 for any other, 2 for input that cannot be read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import msgspec

from ostiary.cli import common
from ostiary.cli.common import OK, REFUSED, UNREADABLE, Subparsers, console, fail
from ostiary.cli.inputs import UnreadableError, hexadecimal, parse_time, read
from verifier import x509
from verifier.ear import keys, token
from verifier.ear.claims import Ear
from verifier.ear.vector import Tier
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical

_UNREADABLE: Final = frozenset({Reason.MALFORMED, Reason.TOO_LARGE, Reason.COLLATERAL_MALFORMED})


def add_parser(subparsers: Subparsers) -> None:
    """Add `result fetch` and `result verify`."""
    parser = subparsers.add_parser("result", help="results as tokens (EAR)")
    verbs = parser.add_subparsers(required=True)
    fetch = verbs.add_parser("fetch", help="have the broker sign a token about a live lease")
    fetch.add_argument("lease", help="its id; `ostiary key list` shows them")
    fetch.add_argument("--dialect", choices=("ietf", "legacy"), default="ietf")
    fetch.add_argument("--out", type=Path, required=True, metavar="F")
    common.add_broker_options(fetch)
    fetch.set_defaults(run=common.guarded(_fetch))
    verify = verbs.add_parser(
        "verify",
        help="check a token offline",
        description="Check offline that a token is good. Exit status: 0 good and affirming, 1 not, "
        "2 something could not be read.",
    )
    verify.add_argument("token", type=Path, metavar="TOKEN", help="file with the token")
    verify.add_argument(
        "--jwks", type=Path, required=True, metavar="F", help="the broker's keys, that you pinned"
    )
    verify.add_argument("--issuer", required=True, metavar="HEX", help="the broker's id")
    verify.add_argument(
        "--at", required=True, metavar="TIME", help="judge dates at this time (RFC 3339)"
    )
    verify.add_argument("--json", action="store_true", help="print the token's content as JSON")
    verify.set_defaults(run=run)
    for verb in (fetch, verify):
        verb.add_argument("--aud", required=True, metavar="WHO", help="whom the token is for")
        verb.add_argument("--nonce", required=True, metavar="HEX", help="9 to 64 bytes")


def _fetch(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        raw = client.result(args.lease, args.aud, args.nonce, args.dialect)
    common.write(args.out, raw)
    console.print(f"wrote     {args.out}")
    return OK


def run(args: argparse.Namespace) -> int:
    """Check a token, print what it says, and return the exit status."""
    try:
        ear = _verified(args)
    except UnreadableError as error:
        return fail(f"result: {error}", UNREADABLE)
    except VerifierError as error:
        status = UNREADABLE if error.reason in _UNREADABLE else REFUSED
        return fail(f"result: {error.reason.value}: {error}", status)
    if args.json:
        print(json.dumps(_told(ear), sort_keys=True))
    else:
        _print(ear)
    return OK if ear.status is Tier.AFFIRMING else REFUSED


def _verified(args: argparse.Namespace) -> Ear:
    return token.verify(
        read("TOKEN", args.token).strip(),
        keys.read_jwks(read("--jwks", args.jwks)),
        issuer=hexadecimal("--issuer", args.issuer).hex(),
        audience=args.aud,
        nonce=hexadecimal("--nonce", args.nonce),
        now=parse_time(args.at),
    )


def _told(ear: Ear) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(ear, enc_hook=canonical.enc_hook)
    return told | {"nonce": ear.nonce.hex()}


def _print(ear: Ear) -> None:
    console.print(f"{ear.status.value} · until {x509.rfc3339(ear.expires)}", markup=False)
    if ear.basis.simulated:
        console.print("SIMULATED: it proves nothing")
    for label, each in sorted(ear.submods.items()):
        vector = msgspec.to_builtins(each.vector)
        said = ", ".join(f"{member} {value}" for member, value in vector.items() if value)
        console.print(f"{label:<10}{each.status.value}: {said or 'no claims'}", markup=False)
    evaluated = x509.rfc3339(ear.basis.evaluated)
    console.print(f"evaluated {evaluated}", markup=False)
    for name in ("policy", "evidence", "collateral", "result", "leaf"):
        console.print(f"{name:<10}{getattr(ear.basis, name).hex()}", markup=False)
