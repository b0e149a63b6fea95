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
from verifier.explain import Explanation, Miss, explain
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
    _print(told)
    return _EXITS[told.verdict]


def _print(told: Explanation) -> None:
    head = [told.verdict.value, _shown(told.kind)]
    if told.tcb_status is not None:
        head.append(f"TCB {_shown(told.tcb_status)}")
    if told.simulated:
        head.append("SIMULATED: it proves nothing")
    _say(" · ".join(head))
    for number, problem in enumerate(told.problems, 1):
        _say(f"\n{number}. {problem.reason.value}")
        for miss in problem.misses:
            _say(_line(miss))
        _say(f"   what to do: {problem.advice}")
    if told.verdict is Verdict.REJECT and not told.problems:
        _say("\nNothing failed, and nothing was judged: give a policy with reference values.")
    if told.not_judged:
        _say(f"\nnot judged: {', '.join(map(_shown, told.not_judged))}")


def _line(miss: Miss) -> str:
    where = "" if miss.differs_at is None else f" (differs from byte {miss.differs_at} on)"
    return (
        f"   {_shown(miss.name)}{where}\n     expected {_shown(miss.expected)}"
        f"\n     seen     {_shown(miss.seen)}"
    )


def _shown(text: str) -> str:
    """Return text that evidence may have written, in one line and without terminal commands."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean or "(empty)"


def _say(text: str) -> None:
    console.print(text, markup=False)
