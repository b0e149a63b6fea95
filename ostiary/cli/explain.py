"""`ostiary explain`: say what a result means, and what to do about it.

Guarantees: judges nothing and asks no one; the exit status is the result's own: 0 accept, 1 reject,
3 unsupported, and 2 for a file that cannot be read or is no result.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ostiary.cli.common import OK, REFUSED, UNREADABLE, Subparsers, console, fail
from ostiary.cli.inputs import UnreadableError, read
from verifier.errors import VerifierError
from verifier.explain import explain, text
from verifier.result import Verdict

UNSUPPORTED: Final = 3
_EXITS: Final = {
    Verdict.ACCEPT: OK,
    Verdict.REJECT: REFUSED,
    Verdict.UNSUPPORTED: UNSUPPORTED,
}


def add_parser(subparsers: Subparsers) -> None:
    """Add `explain`; `run` is its function."""
    parser = subparsers.add_parser(
        "explain",
        help="say what a result means, and what to do about it",
        description="Say what failed first, what was expected and seen, and what to change in the "
        "policy or on the machine. Exit status: that of the result, or 2.",
    )
    parser.add_argument(
        "result",
        type=Path,
        metavar="RESULT",
        help="what `ostiary verify … --json` printed, or the result stored with a release",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain the result that the argument names; return the exit status."""
    try:
        told = explain(read("RESULT", args.result))
    except UnreadableError as error:
        return fail(f"explain: {error}", UNREADABLE)
    except VerifierError as error:
        return fail(f"explain: {args.result}: {error}", UNREADABLE)
    console.print(text(told), markup=False)
    return _EXITS[told.verdict]
