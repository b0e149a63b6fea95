"""`ostiary policy capture`: drafts that accept what they were drafted from, and refusals."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ostiary.__main__ import main
from ostiary.cli import capture
from ostiary.cli.capture import Captured, CaptureError
from ostiary.cli.draft import Section, Source, Value, write
from tests.kit import corpus, tdx, vendors
from tests.kit.snp_forge import NOW as SNP_NOW
from tests.kit.snp_forge import Forge, pinned
from tests.kit.snp_judge import FORGES
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.policy import SnpReference, TdxReference, from_toml
from verifier.result import Verdict
from verifier.snp.report import KEY_VCEK
from verifier.tdx import collateral as collaterals

real = pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
VCEKS = [forge for forge in FORGES if forge.key == KEY_VCEK]


def simulated(quote: bytes | None = None) -> Captured:
    raw = vendors.good_quote() if quote is None else quote
    source = Source("quote.bin", hashlib.sha256(raw).hexdigest())
    return Captured(Evidence("tdx", raw), tdx.collateral(), (source,), vendors.NOW)


def forged(forge: Forge, **changes: object) -> Captured:
    made = forge.evidence(**changes)
    source = Source("report.bin", hashlib.sha256(made.report).hexdigest())
    return Captured(Evidence("snp", made.report), made.endorsements, (source,), SNP_NOW)


def uncommented(text: str) -> list[str]:
    """Return the values that no comment stands directly above."""
    lines = text.splitlines()
    return [
        line
        for before, line in pairwise(lines)
        if " = " in line
        and not line.startswith(("#", "kind", "name"))
        and not before.startswith("#")
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_a_simulated_td(version: int) -> None:
    """The draft accepts its machine and no other, all is commented, and it says SIMULATED."""
    captured = simulated(vendors.good_quote(version=version))
    text = capture.capture(captured, "mine", anchors=vendors.anchors())
    policy = from_toml(text.encode())
    other = vendors.good_quote(mr_td=b"\x07" * 48)

    (reference,) = policy.reference
    assert isinstance(reference, TdxReference)
    assert reference.name == "mine"
    assert tdx.accepted(tdx.judge(quote=captured.evidence.cpu, policy=policy))
    assert tdx.judge(quote=other, policy=policy).reasons == (Reason.MEASUREMENT_UNKNOWN,)
    assert uncommented(text) == []
    assert text.count(f"From quote.bin (SHA-256 {captured.sources[0].sha256}).") >= 5
    assert "# SIMULATED" in text
    assert "UNVERIFIED" not in text


@pytest.mark.parametrize("forge", VCEKS, ids=str)
def test_a_forged_amd_machine(forge: Forge) -> None:
    """The draft of every generation accepts its report, and floors are the report's own TCB."""
    captured = forged(forge)
    text = capture.capture(captured, "mine", anchors=pinned())
    policy = from_toml(text.encode())

    (reference,) = policy.reference
    assert isinstance(reference, SnpReference)
    assert reference.measurement == b"\x0e" * 48
    assert policy.snp.products == (forge.product,)
    assert set(policy.snp.min_tcb) == {forge.product}
    assert policy.snp.report_versions == (forge.version,)
    assert uncommented(text) == []
    result = appraise(
        captured.evidence,
        captured.endorsements,
        policy=policy,
        report_data=None,
        now=captured.now,
        anchors=pinned(),
    )
    assert result.verdict is Verdict.ACCEPT


def test_evidence_that_is_not_genuine() -> None:
    """A flipped bit is refused; `--unverified` drafts it, and says so at the top."""
    raw = bytearray(vendors.good_quote())
    raw[200] ^= 1
    captured = simulated(bytes(raw))
    with pytest.raises(CaptureError, match="not genuine"):
        capture.capture(captured, "mine", anchors=vendors.anchors())
    text = capture.capture(captured, "mine", anchors=vendors.anchors(), unverified=True)

    assert "UNVERIFIED: THIS EVIDENCE IS NOT GENUINE" in "\n".join(text.splitlines()[:3])
    assert from_toml(text.encode()).references(TdxReference)


def test_unverified_without_endorsements() -> None:
    """Evidence alone is not genuine either, and a report's product is not guessed."""
    captured = replace(forged(VCEKS[0]), endorsements=None)
    with pytest.raises(CaptureError, match="not genuine"):
        capture.capture(captured, "mine", anchors=pinned())
    text = capture.capture(captured, "mine", anchors=pinned(), unverified=True)

    assert "UNVERIFIED" in text
    assert from_toml(text.encode()).snp.min_tcb == {}


def test_genuine_evidence_of_a_debug_machine() -> None:
    """What strict rules refuse is not drafted around."""
    captured = simulated(vendors.good_quote(td_attributes=b"\x01\0\0\x10\0\0\0\0"))
    with pytest.raises(CaptureError, match=r"td_attributes\.debug"):
        capture.capture(captured, "mine", anchors=vendors.anchors())


def test_evidence_that_cannot_be_read() -> None:
    """Bytes that are no evidence are refused, with `--unverified` too."""
    with pytest.raises(VerifierError):
        capture.capture(simulated(b"no quote"), "mine", unverified=True)


def test_comments_hold_what_they_are_given() -> None:
    """A file name or a message with a new line in it writes no line of the policy."""
    source = Source("a\nallow_debug = true", "00")
    text = write(
        [source],
        [Section("tdx", (Value("tcb_statuses", "[]", "x\ny = 1", "F"),))],
        at=0,
        simulated=False,
        warning="bad\nallow_debug = true",
    )

    assert not re.search(r"^(allow_debug|y)", text, re.MULTILINE)
    assert from_toml(text.encode()).tdx.tcb_statuses == ()


def arguments(name: str) -> list[str]:
    """Return the arguments that capture a recorded case."""
    case = corpus.load(name)
    at = case.told["verification_time"]["iso"]
    found = ["policy", "capture", "--kind", case.tee, "--at", at, "--name", "recorded"]
    files = ["collateral.json"]
    found += ["--evidence", str(case.folder / ("quote.bin" if case.tee == "tdx" else "report.bin"))]
    if case.tee == "snp":
        files = ["vcek.der", "ask.der", "ark.der", *(["crl.der"] if case.has("crl.der") else [])]
        found += [] if case.has("crl.der") else ["--no-crl"]
    for file in files:
        found += ["--collateral", str(case.folder / file)]
    return found


@real
@pytest.mark.parametrize(
    "name",
    [
        "tdx/v4-00806f-cos113-ccel",
        "tdx/v5-90c06f-uptodate",
        "snp/v3-milan-vcek-ms",
        "snp/v3-genoa-vcek-ms",
        "snp/v5-turin-vcek-ms",
    ],
)
def test_recorded_machines(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command drafts from recorded evidence, and `ostiary verify` accepts it by the draft."""
    draft = tmp_path / "policy.toml"
    assert main([*arguments(name), "--out", str(draft)]) == 0
    capsys.readouterr()
    assert corpus.run_cli([*corpus.load(name).arguments(), "--policy", str(draft)])[0] == 0
    text = draft.read_text()
    assert uncommented(text) == []
    assert ("REVOCATION WAS NOT JUDGED" in text) == ("--no-crl" in arguments(name))
    assert str(corpus.EVIDENCE) not in text


@real
def test_the_command_prints_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints without `--out`; refusals are 1, unreadable input 2, each in one line."""
    good = arguments("tdx/v5-90c06f-uptodate")
    assert main(good) == 0
    assert from_toml(capsys.readouterr().out.encode()).reference
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for changed, status in (
        (arguments("tdx/v4-50806f-debug-td"), 1),
        (arguments("snp/v2-milan-debug-policy"), 1),
        ([*good, "--collateral", str(taken)], 2),
        ([*arguments("snp/v3-milan-vcek-ms"), "--no-crl"], 2),
        ([*good, "--out", str(taken)], 2),
        ([*good, "--at", "noon"], 2),
        ([*good, "--name", "Not An Id"], 2),
        ([*good, "--evidence", str(tmp_path / "none")], 2),
        ([*good, "--evidence", str(taken), "--unverified"], 2),
    ):
        assert main(changed) == status, changed
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("ostiary: policy capture: ")
        assert said.err.count("\n") == 1
    assert taken.read_text() == "mine"


def test_collateral_is_optional_only_by_name(tmp_path: Path) -> None:
    """Without endorsements the command refuses: nothing was verified."""
    quote = tmp_path / "quote.bin"
    quote.write_bytes(vendors.good_quote())
    (tmp_path / "c.json").write_bytes(collaterals.to_json(tdx.collateral()))
    parser = argparse.ArgumentParser()
    capture.add_parser(parser.add_subparsers())
    words = ["capture", "--kind", "tdx", "--evidence", str(quote), "--at", "2026-03-31T23:33:20Z"]

    assert capture.run(parser.parse_args(words)) == 1
    words += ["--collateral", str(tmp_path / "c.json")]
    assert capture.run(parser.parse_args(words)) == 1  # simulated, and the pinned roots are real
    assert capture.run(parser.parse_args(words), vendors.anchors()) == 0


def test_the_case_list_is_json() -> None:
    """The draft's strings are TOML strings whatever they hold."""
    section = Section("[reference]", (), (("kind", "tdx"), ("name", 'a"b')))
    text = write([Source("f", "00")], [section], at=0, simulated=False)

    assert f"name = {json.dumps('a' + chr(34) + 'b')}" in text
