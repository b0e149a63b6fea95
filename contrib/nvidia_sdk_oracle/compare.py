"""The differential test: the same questions to NVIDIA's SDK and to us, and a table of both answers.

    python -m contrib.nvidia_sdk_oracle.compare

Guarantees: each question is a process of its own. Where the answers differ, `expected.toml` says so
and why, or the test fails; an expectation that no longer holds fails it too. Exit status: 0 as
expected, 1 not. Without the environment or the recorded evidence it is skipped, says so, and is 0:
nothing was compared then.

Compared are: `genuine` (chain, report, signature and nonce hold), `measured` (equal to RIMs that
hold) and `accepted`. Of a set only `accepted`: the SDK's words about its devices are not theirs.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, final

from contrib.nvidia_sdk_oracle import environment, questions
from contrib.nvidia_sdk_oracle.environment import AbsentError
from contrib.nvidia_sdk_oracle.questions import Question
from verifier.nvgpu.appraise import appraise
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.result import Verdict

EXPECTED: Final = Path(__file__).with_name("expected.toml")
FACETS: Final = ("genuine", "measured", "accepted")
Answer = dict[str, bool | None]
Difference = tuple[str, bool | None, bool | None]
"""A facet, our answer and theirs."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One question with both answers, and why each of us said no."""

    name: str
    ours: Answer
    theirs: Answer
    our_reason: str
    their_reason: str

    def differences(self) -> list[Difference]:
        """Return where the answers differ."""
        return [
            (facet, self.ours[facet], self.theirs[facet])
            for facet in FACETS
            if self.ours[facet] != self.theirs[facet]
        ]


def ours(question: Question) -> tuple[Answer, str]:
    """Return our answer, and the reasons."""
    result = appraise(
        question.devices,
        GpuEndorsements(rims=tuple(question.rims.values())),
        policy=None,
        nonce=question.nonce,
        now=question.now,
        anchors=question.anchors,
        revocation_required=False,
    )
    answer: Answer = dict.fromkeys(FACETS)
    if len(question.devices) == 1:
        checks = {check.name: check.ok for check in result.checks}
        genuine = bool(result.claims["devices"][0]["genuine"])
        answer["genuine"] = genuine and checks["gpu[0].nonce"] is True
        answer["measured"] = checks.get("gpu[0].measurements") is True
    answer["accepted"] = result.verdict is Verdict.ACCEPT
    return answer, ", ".join(result.reasons)


def compared(python: Path, question: Question) -> Row:
    """Ask both."""
    mine, reason = ours(question)
    said = environment.ask(python, question.to_sdk())
    theirs: Answer = {facet: said[facet] for facet in FACETS}
    why = said["error"] + (f" ({said['network']} connections tried)" if said["network"] else "")
    return Row(question.name, mine, theirs, reason, why)


def expected(path: Path = EXPECTED) -> list[dict[str, Any]]:
    """Return the checked-in disagreements."""
    found: list[dict[str, Any]] = tomllib.loads(path.read_text())["disagreement"]
    return found


def explained(row: Row, difference: Difference, known: list[dict[str, Any]]) -> int | None:
    """Return the place of the expectation that a difference meets, or None."""
    for place, each in enumerate(known):
        if (each["facet"], each["ours"], each["theirs"]) == difference and any(
            fnmatchcase(row.name, pattern.replace("[", "[[]")) for pattern in each["questions"]
        ):
            return place
    return None


def judge(rows: list[Row], known: list[dict[str, Any]]) -> tuple[list[str], Counter[int]]:
    """Return what nobody expected, and how often each expectation was met."""
    wrong, met = [], Counter[int]()
    for row in rows:
        for difference in row.differences():
            place = explained(row, difference, known)
            if place is None:
                facet, one, other = difference
                wrong.append(f"UNEXPECTED: {row.name}: {facet}: ours {one}, theirs {other}")
            else:
                met[place] += 1
    wrong += [
        f"NO LONGER SO: {each['facet']} of {', '.join(each['questions'])}"
        for place, each in enumerate(known)
        if not met[place]
    ]
    return wrong, met


def ready() -> tuple[Path, Path]:
    """Return the recorded evidence and the environment's Python.

    Raises:
        AbsentError: one of them is not here.
    """
    folder = questions.corpus()
    if folder is None:
        raise AbsentError("no recorded evidence: set OSTIARY_EVIDENCE_DIR")
    return folder, environment.build()


def main() -> int:
    """Ask everything, print the table, return the exit status."""
    try:
        folder, python = ready()
    except AbsentError as error:
        print(f"gpu-oracle: SKIPPED, NOTHING WAS COMPARED: {error}")
        return 0
    asked = [*questions.recorded(folder), *questions.derived(folder), *questions.simulation()]
    known = expected()
    width = max(len(question.name) for question in asked)
    print(f"{'question':<{width}}  ours  SDK   (g genuine, m measured, a accepted)")
    rows = []
    for question in asked:
        row = compared(python, question)
        rows.append(row)
        places = [explained(row, difference, known) for difference in row.differences()]
        marks = ["UNEXPECTED" if place is None else f"#{place + 1}" for place in places]
        reasons = f"{row.our_reason or '-'} | {row.their_reason or '-'}"
        line = f"{row.name:<{width}}  {_shown(row.ours)}   {_shown(row.theirs)}  "
        print(f"{line} {' '.join(dict.fromkeys(marks)):<8} {reasons}", flush=True)
    for name in questions.switches(folder):
        print(f"{name:<{width}}  not asked: the SDK judges no switch without its hardware")
    wrong, met = judge(rows, known)
    print()
    for place, each in enumerate(known):
        print(f"#{place + 1} ({met[place]} times) {' '.join(each['why'].split())}")
    different = sum(bool(row.differences()) for row in rows)
    print(f"\n{len(rows)} questions, {different} with different answers, {len(wrong)} wrong")
    print("\n".join(wrong))
    return 1 if wrong else 0


def _shown(answer: Answer) -> str:
    return "".join({True: f[0], False: "-", None: " "}[answer[f]] for f in FACETS)


if __name__ == "__main__":
    sys.exit(main())
