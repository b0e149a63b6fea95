"""What to do about a refusal: advice for every reason, and a result told in the order that helps.

Guarantees: pure; every `Reason` has its advice, and whatever field of a policy the advice names is
one of `verifier/policy.py`; a result that is not one, or contradicts itself, is refused. Does not
judge anything again: an explanation is worth what the result is worth that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

import msgspec

from verifier.advice import ADVICE, STOPS
from verifier.errors import Reason, VerifierError
from verifier.result import Verdict

MAX_RESULT: Final = 8 << 20
"""Largest result in bytes; one with a whole boot log in it stays far below."""


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A check as it stands in a result's JSON (`verifier/result.py`)."""

    name: str
    ok: bool | None
    expected: str
    seen: str
    reason: Reason | None = None


class _Result(msgspec.Struct, frozen=True):
    """What an explanation needs of a result; claims and whatever later versions add are not read.

    JSON from a later version may hold a reason that is not known here: that is refused.
    """

    kind: str
    verdict: Verdict
    tcb_status: str | None
    reasons: tuple[Reason, ...]
    checks: tuple[_Told, ...]
    simulated: bool


_DECODER: Final = msgspec.json.Decoder(_Result, strict=True)


@final
@dataclass(frozen=True, slots=True)
class Miss:
    """One check that failed. `differs_at` is the first byte (from 0) in which two values differ.

    It is None where expected and seen are not hexadecimal of one length.
    """

    name: str
    expected: str
    seen: str
    differs_at: int | None


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One reason, what to do about it, and the checks that failed for it, in their order."""

    reason: Reason
    advice: str
    misses: tuple[Miss, ...]


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """A result told for a person.

    `problems` has first what makes evidence not genuine, for nothing else counts then; then the
    nearest miss, which is the reason that the fewest checks failed for; where several failed
    equally often, the one that failed first. `not_judged` are names of checks that nothing was
    there to judge by.
    """

    kind: str
    verdict: Verdict
    tcb_status: str | None
    simulated: bool
    problems: tuple[Problem, ...]
    not_judged: tuple[str, ...]


def advice(code: str) -> str | None:
    """Return what to do about a reason, or None for a code that is not the verifier's.

    Args:
        code: a reason code, or a line of the broker's audit table that starts with one and a colon.
    """
    try:
        return ADVICE[Reason(code.partition(":")[0].strip())]
    except ValueError:
        return None


def explain(raw: bytes) -> Explanation:
    """Return the explanation of a result in the JSON that `AttestationResult.to_json` writes.

    Raises:
        VerifierError: `too_large`, or `malformed` for JSON that is no result or whose verdict,
            reasons and checks contradict one another.
    """
    if len(raw) > MAX_RESULT:
        raise VerifierError(Reason.TOO_LARGE, f"result of {len(raw)} bytes, limit {MAX_RESULT}")
    try:
        result = _DECODER.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"not a result: {error}") from error
    _check(result)
    return Explanation(
        kind=result.kind,
        verdict=result.verdict,
        tcb_status=result.tcb_status,
        simulated=result.simulated,
        problems=_problems(result.checks),
        not_judged=tuple(check.name for check in result.checks if check.ok is None),
    )


def _check(result: _Result) -> None:
    """Refuse a result that says two things at once."""
    failed = dict.fromkeys(check.reason for check in result.checks if check.ok is False)
    if any((check.reason is None) != (check.ok is not False) for check in result.checks):
        raise VerifierError(Reason.MALFORMED, "result: a failed check has a reason, no other has")
    if tuple(failed) != result.reasons:
        raise VerifierError(Reason.MALFORMED, "result: reasons are not those of its checks")
    if (result.verdict is Verdict.ACCEPT) and failed:
        raise VerifierError(Reason.MALFORMED, "result: accept with failed checks")


def _problems(checks: Iterable[_Told]) -> tuple[Problem, ...]:
    found: dict[Reason, list[Miss]] = {}
    for check in checks:
        if check.reason is not None:
            miss = Miss(check.name, check.expected, check.seen, _differs(check))
            found.setdefault(check.reason, []).append(miss)
    told = [Problem(reason, ADVICE[reason], tuple(misses)) for reason, misses in found.items()]
    return tuple(sorted(told, key=lambda each: (each.reason not in STOPS, len(each.misses))))


def _differs(check: _Told) -> int | None:
    try:
        pair = bytes.fromhex(check.expected), bytes.fromhex(check.seen)
    except ValueError:
        return None
    if len(pair[0]) != len(pair[1]):
        return None
    return next(
        (at for at, (one, other) in enumerate(zip(*pair, strict=True)) if one != other), None
    )
