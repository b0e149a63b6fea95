"""`ostiary explain`: what it says of real results, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.__main__ import main
from tests.kit import corpus, tdx
from verifier.advice import ADVICE
from verifier.errors import Reason, VerifierError
from verifier.explain import MAX_RESULT, explain, explain_reasons, text
from verifier.policy import AppraisalPolicy, TdxReference, TdxRules
from verifier.result import Appraisal, TcbStatus, Verdict
from verifier.wire.canonical import Hex

DEBUG = b"\x01\0\0\x10\0\0\0\0"
LONG = Hex(bytes(48))


def appraisal(*failed: Reason) -> Appraisal:
    made = Appraisal("tdx")
    made.require("good", True, Reason.VMPL, "1", "1")
    for number, reason in enumerate(failed):
        made.require(f"check {number}", False, reason, "00ff", "00fe")
    made.not_judged("measurements", "none")
    return made


def told(*failed: Reason) -> dict[str, Any]:
    return dict(json.loads(appraisal(*failed).result().to_json()))


def cli(path: Path, raw: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    path.write_bytes(raw)
    status = main(["explain", str(path)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_nearest_miss_is_first() -> None:
    """Fewest failed checks first, then the order in which they failed."""
    found = explain(
        appraisal(Reason.VMPL, Reason.VMPL, Reason.GUEST_POLICY, Reason.DEBUG_ENABLED)
        .result()
        .to_json()
    )

    assert [problem.reason for problem in found.problems] == [
        Reason.GUEST_POLICY,
        Reason.DEBUG_ENABLED,
        Reason.VMPL,
    ]
    assert [len(problem.misses) for problem in found.problems] == [1, 1, 2]
    assert found.problems[0].advice == ADVICE[Reason.GUEST_POLICY]
    assert found.problems[0].misses[0].differs_at == 1
    assert found.not_judged == ("measurements",)


def test_what_is_not_genuine_comes_before_everything() -> None:
    """A forged signature counts more than any number of rules."""
    failed = (Reason.VMPL, Reason.SIGNATURE_INVALID, Reason.SIGNATURE_INVALID)
    found = explain(appraisal(*failed).result().to_json())

    assert found.problems[0].reason is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("expected", "seen", "at"),
    [("00", "00", None), ("00", "0000", None), ("x", "00", None), ("0001", "0002", 1)],
)
def test_where_values_differ(expected: str, seen: str, at: int | None) -> None:
    """Only hexadecimal of one length is compared byte by byte."""
    made = Appraisal("tdx")
    made.require("value", False, Reason.VMPL, expected, seen)

    assert explain(made.result().to_json()).problems[0].misses[0].differs_at == at


def test_a_debug_machine_with_another_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real results of simulated hardware: every reason with values and advice; exit status 1."""
    reference = TdxReference("mine", LONG, LONG, LONG, LONG)
    result = tdx.judge(
        body=tdx.vendors.good_body(td_attributes=DEBUG),
        policy=AppraisalPolicy(reference=(reference,)),
    )
    status, out, _ = cli(tmp_path / "result.json", result.to_json(), capsys)

    assert status == 1
    assert out.startswith("reject · tdx · TCB UpToDate · SIMULATED")
    assert "1. debug_enabled" in out
    assert "2. measurement_unknown" in out
    assert "mr_td of mine (differs from byte 0 on)" in out
    assert ADVICE[Reason.DEBUG_ENABLED] in out


def test_accept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An accept has exit status 0 and names what nothing was there to judge by."""
    status, out, _ = cli(tmp_path / "result.json", tdx.judge().to_json(), capsys)

    assert status == 0
    assert out.startswith("accept")
    assert "not judged: " in out
    assert "measurements" in out


def test_unsupported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kind that cannot be judged has exit status 3."""
    status, out, _ = cli(tmp_path / "r", json.dumps(told(Reason.UNSUPPORTED)).encode(), capsys)

    assert status == 3
    assert ADVICE[Reason.UNSUPPORTED] in out


def test_nothing_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reject for want of anything to judge says so."""
    status, out, _ = cli(tmp_path / "r", Appraisal("tpm").result().to_json(), capsys)

    assert status == 1
    assert "nothing was judged" in out


def test_evidence_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escapes, new lines and markup in values are shown and not obeyed."""
    made = Appraisal("tdx")
    made.require("name", False, Reason.VMPL, "", "\x1b[2J\naccept [bold]x[/]")
    status, out, _ = cli(tmp_path / "r", made.result().to_json(), capsys)

    assert status == 1
    assert "\x1b" not in out
    assert "\naccept" not in out
    assert "accept [bold]x[/]" in out
    assert "(empty)" in out


def test_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file, no JSON, another document: exit status 2 and one line."""
    assert main(["explain", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for raw in (b"", b"{}", b"[]", b'{"verdict":"accept"}', b"[" * 100_000, b"\xff"):
        status, out, err = cli(tmp_path / "r", raw, capsys)
        assert (status, out) == (2, "")
        assert err.startswith("ostiary: explain: ")


@pytest.mark.parametrize(
    "change",
    [
        {"reasons": []},
        {"reasons": ["debug_enabled"]},
        {"verdict": "accept"},
        {"verdict": "maybe"},
        {"reasons": ["made_up"]},
        {"checks": []},
        {"checks": [{"name": "x", "ok": False, "expected": "", "seen": ""}]},
        {"checks": [{"name": "x", "ok": True, "expected": "", "seen": "", "reason": "vmpl"}]},
        {"checks": [{"name": "x", "ok": True, "expected": "", "seen": "", "more": 1}]},
        {"simulated": None},
    ],
)
def test_contradictions(change: dict[str, Any]) -> None:
    """A result that was edited so that it disagrees with itself is refused."""
    with pytest.raises(VerifierError) as caught:
        explain(json.dumps(told(Reason.VMPL) | change).encode())
    assert caught.value.reason is Reason.MALFORMED


def test_too_large() -> None:
    """There is a bound."""
    with pytest.raises(VerifierError) as caught:
        explain(b" " * (MAX_RESULT + 1))
    assert caught.value.reason is Reason.TOO_LARGE


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bytes_of_any_kind(data: st.DataObject) -> None:
    """Bent results give an explanation or our own error."""
    raw = bytearray(json.dumps(told(Reason.VMPL, Reason.TCB_STATUS)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = explain(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except VerifierError:
        return
    assert found.verdict in Verdict


def test_advice_helps() -> None:
    """What the advice names, set in the policy, takes the reason away."""
    rules = TdxRules(allow_debug=True, tcb_statuses=(TcbStatus.UP_TO_DATE,))
    body = tdx.vendors.good_body(td_attributes=DEBUG)
    refused = tdx.judge(body=body)
    reference = TdxReference("mine", *(Hex(getattr(body, f)) for f in ("mr_td", *RTMRS)))
    admitted = tdx.judge(body=body, policy=AppraisalPolicy(tdx=rules, reference=(reference,)))

    assert Reason.DEBUG_ENABLED in refused.reasons
    assert "`tdx.allow_debug`" in ADVICE[Reason.DEBUG_ENABLED]
    assert tdx.accepted(admitted)


RTMRS = ("rtmr0", "rtmr1", "rtmr2")


@pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
@pytest.mark.parametrize("name", corpus.NAMES)
def test_the_corpus_explains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every recorded case's result is explained, with the exit status that verify gave."""
    case = corpus.load(name)
    if not case.has("quote.bin") and not case.has("report.bin"):
        pytest.skip("no quote of its own in this case")
    status, out, _ = corpus.run_cli(case.arguments())
    again, said, _ = cli(tmp_path / "result.json", out.encode(), capsys)

    assert again == status
    for reason in json.loads(out)["reasons"]:
        assert ADVICE[Reason(reason)] in said


def test_audit_lines() -> None:
    """Lines of an audit table give the problems, advice and order that their result gives."""
    result = appraisal(Reason.VMPL, Reason.VMPL, Reason.GUEST_POLICY).result()
    lines = [
        f"{c.reason.value}: {c.name}: expected {c.expected}, seen {c.seen}"
        for c in result.checks
        if c.reason is not None
    ]
    found = explain_reasons("release", ["the evidence was not accepted", *lines])

    assert found.problems == explain(result.to_json()).problems
    assert found.notes == ("the evidence was not accepted",)
    assert text(found).startswith("reject · release\nthe evidence was not accepted\n\n1. ")


def test_audit_lines_of_other_forms() -> None:
    """An error without a check is told as one; a line of the broker's own stands as it is."""
    found = explain_reasons(
        "x", ["signature_invalid: not by the VCEK", "lease a\x1bb", "denied: no"]
    )

    (problem,) = found.problems
    assert problem.reason is Reason.SIGNATURE_INVALID
    assert (problem.misses[0].expected, problem.misses[0].seen) == ("valid", "not by the VCEK")
    assert found.notes == ("lease a\x1bb", "denied: no")
    assert "lease a\N{REPLACEMENT CHARACTER}b" in text(found)
