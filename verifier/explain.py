"""What to do about a refusal: advice for every reason, and a result told in the order that helps.

The same text is told of a result (`ostiary explain`) and of a broker's audit entry (its door, and
`ostiary broker audit`).

Guarantees: pure; every `Reason` has its advice, and whatever field of a policy the advice names is
one of `verifier/policy.py`; a result that is not one, or contradicts itself, is refused. Does not
judge anything again: an explanation is worth what the result is worth that it was made from.
"""

from __future__ import annotations

import re
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
    there to judge by. `notes` is what else was said, that is no reason of the verifier's.
    """

    kind: str
    verdict: Verdict
    tcb_status: str | None
    simulated: bool
    problems: tuple[Problem, ...]
    not_judged: tuple[str, ...]
    notes: tuple[str, ...] = ()


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


_REASONS: Final = {reason.value: reason for reason in Reason}
_LINE: Final = re.compile(r"([a-z0-9_]+): (.*)", re.DOTALL)
_MISS: Final = re.compile(r"(.*?): expected (.*?), seen (.*)", re.DOTALL)


def explain_reasons(what: str, reasons: Iterable[str]) -> Explanation:
    """Return the explanation of a refusal as a broker's audit table keeps it.

    Args:
        what: was refused, such as `release`.
        reasons: lines, of which those of the verifier begin with its code and a colon. Lines are
            bounded, so that the end of a long value may be missing.
    """
    checks: list[_Told] = []
    notes: list[str] = []
    for line in reasons:
        told = _told(line)
        if told is None:
            notes.append(line)
        else:
            checks.append(told)
    return Explanation(
        kind=what,
        verdict=Verdict.REJECT,
        tcb_status=None,
        simulated=False,
        problems=_problems(checks),
        not_judged=(),
        notes=tuple(notes),
    )


def _told(line: str) -> _Told | None:
    """Return the failed check that a line tells of, or None for a line of another kind."""
    match = _LINE.fullmatch(line)
    reason = None if match is None else _REASONS.get(match[1])
    if match is None or reason is None:
        return None
    rest = match[2]
    parts = _MISS.fullmatch(rest)
    if parts is None:
        return _Told("evidence", ok=False, expected="valid", seen=rest, reason=reason)
    return _Told(parts[1], ok=False, expected=parts[2], seen=parts[3], reason=reason)


def text(told: Explanation) -> str:
    """Return the explanation for a person, without a line break at its end.

    What evidence may have written stands in one line and without commands for a terminal.
    """
    head = [told.verdict.value, _shown(told.kind)]
    if told.tcb_status is not None:
        head.append(f"TCB {_shown(told.tcb_status)}")
    if told.simulated:
        head.append("SIMULATED: it proves nothing")
    lines = [" · ".join(head), *map(_shown, told.notes)]
    for number, problem in enumerate(told.problems, 1):
        lines += [f"\n{number}. {problem.reason.value}"]
        lines += _lines(problem.misses)
        lines += [f"   what to do: {problem.advice}"]
    if told.verdict is Verdict.REJECT and not told.problems and not told.notes:
        lines.append(
            "\nNothing failed, and nothing was judged: give a policy with reference values."
        )
    if told.not_judged:
        lines.append(f"\nnot judged: {', '.join(map(_shown, _together(told.not_judged)))}")
    return "\n".join(lines)


def _lines(misses: Iterable[Miss]) -> list[str]:
    """Return what failed; what was expected and seen of several devices alike stands once."""
    alike: dict[tuple[str, str, int | None], list[str]] = {}
    for miss in misses:
        alike.setdefault((miss.expected, miss.seen, miss.differs_at), []).append(miss.name)
    lines = []
    for (expected, seen, at), names in alike.items():
        where = "" if at is None else f" (differs from byte {at} on)"
        shown = ", ".join(map(_shown, _together(names)))
        lines.append(
            f"   {shown}{where}\n     expected {_shown(expected)}\n     seen     {_shown(seen)}"
        )
    return lines


_OF_DEVICE: Final = re.compile(r"(gpu|switch)\[(0|[1-9][0-9]{0,3})\](\..*)?", re.DOTALL)


def _together(names: Iterable[str]) -> list[str]:
    """Return names of checks, with one for the same check of several devices: `gpu[0-7].nonce`."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = _OF_DEVICE.fullmatch(name)
        if match is None:
            found.setdefault((name, ""), [])
        else:
            found.setdefault((match[1], match[3] or ""), []).append(int(match[2]))
    return [
        f"{kind}[{_ranges(numbers)}]{check}" if numbers else kind
        for (kind, check), numbers in found.items()
    ]


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as `0-2, 5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _shown(written: str) -> str:
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in written)
    return clean or "(empty)"


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
