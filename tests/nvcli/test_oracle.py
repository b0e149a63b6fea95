"""The differential test with NVIDIA's SDK: what of it needs no SDK.

`make gpu-oracle` runs the whole; it installs 125 MB and is no part of `make test`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contrib.nvidia_sdk_oracle import ask, compare, environment, questions
from contrib.nvidia_sdk_oracle.compare import Row
from tests.kit.corpus import ABSENT
from tests.kit.documents import ROOT

ALL: compare.Answer = {"genuine": True, "measured": True, "accepted": True}
NONE: compare.Answer = dict.fromkeys(ALL, False)
KNOWN = [
    {"questions": ["rubin/*"], "facet": "genuine", "ours": True, "theirs": False, "why": "new"}
]


def row(name: str, ours: compare.Answer, theirs: compare.Answer) -> Row:
    return Row(name, ours, theirs, "", "")


def test_a_difference_that_nobody_expected_fails() -> None:
    """One facet that differs is one line, also where another question may differ so."""
    one: compare.Answer = {"genuine": True, "measured": False, "accepted": False}
    wrong, met = compare.judge([row("rubin/x gpu[0]", one, NONE)], KNOWN)
    assert (wrong, met[0]) == ([], 1)
    wrong, _ = compare.judge([row("rubin/x", one, NONE), row("hopper/x", one, NONE)], KNOWN)
    assert wrong == ["UNEXPECTED: hopper/x: genuine: ours True, theirs False"]
    wrong, _ = compare.judge([row("rubin/x", one, NONE), row("rubin/y", NONE, one)], KNOWN)
    assert wrong == ["UNEXPECTED: rubin/y: genuine: ours False, theirs True"]


def test_an_expectation_that_is_over_fails() -> None:
    """A difference that is listed and does not occur is reported as well."""
    wrong, _ = compare.judge([row("rubin/x", ALL, ALL)], KNOWN)

    assert wrong == ["NO LONGER SO: genuine of rubin/*"]


def test_expected_differences_have_their_reasons() -> None:
    """Each one names questions, a facet, two different answers, and why."""
    known = compare.expected()

    assert len(known) >= 7
    for each in known:
        assert set(each) == {"questions", "facet", "ours", "theirs", "why"}
        assert each["facet"] in compare.FACETS
        assert each["ours"] != each["theirs"]
        assert len(each["why"]) > 8
    # The only thing that we accept and the SDK does not.
    lenient = [each["questions"] for each in known if each["facet"] == "accepted" and each["ours"]]
    assert lenient == [["SIMULATED other measurement at 35"]]


def test_our_answers_to_all_questions() -> None:
    """We accept of all questions exactly those that are good, with or without the SDK at hand."""
    folder = questions.corpus()
    if folder is None:
        pytest.skip(ABSENT)
    asked = [*questions.recorded(folder), *questions.derived(folder), *questions.simulation()]
    accepted = {each.name for each in asked if compare.ours(each)[0]["accepted"]}

    assert len(asked) > 50
    assert accepted == {
        "hopper/h100-550.90.07-full gpu[0]",
        "SIMULATED one GPU",
        "SIMULATED one GPU, driver 570",
        "SIMULATED other measurement at 35",
        "SIMULATED eight GPUs",
    }
    assert len(list(questions.switches(folder))) == 3


def test_without_evidence_it_is_skipped_loudly() -> None:
    """Nothing is installed and nothing compared, and it says so."""
    done = subprocess.run(
        [sys.executable, "-m", "contrib.nvidia_sdk_oracle.compare"],
        cwd=ROOT,
        env={"OSTIARY_EVIDENCE_DIR": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gpu-oracle: SKIPPED, NOTHING WAS COMPARED: ")


def test_no_python_of_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no Python can hold the SDK's pins the reason is told."""
    monkeypatch.setattr(environment, "VERSIONS", ((2, 7), (9, 9)))
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "environment")

    assert environment.find() is None
    with pytest.raises(environment.AbsentError, match=r"Python 3\.11 or 3\.12"):
        environment.build()


def test_an_sdk_that_does_not_answer(tmp_path: Path) -> None:
    """A process that ends without an answer is an error, not a verdict."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat >/dev/null\necho no such module >&2\nexit 3\n")
    python.chmod(0o700)

    with pytest.raises(environment.OracleError, match="status 3: no such module"):
        environment.ask(python, {})


def test_the_oracle_has_no_network() -> None:
    """In its process a connection ends with an error and is counted."""
    script = (
        "import json, runpy, socket, sys\n"
        f"module = runpy.run_path({str(ask.__file__)!r})\n"
        "module['close_doors']()\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except PermissionError: pass\n"
        "print(json.dumps(len(module['NETWORK'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False
    )

    assert (done.stderr, json.loads(done.stdout)) == ("", 1)


def test_the_sdk_is_pinned_and_never_ours() -> None:
    """Every package has digests, and none of this project's dependencies names the SDK."""
    lines = environment.REQUIREMENTS.read_text().splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line]
    assert names.count("nv-attestation-sdk") == 1
    assert sum("--hash=sha256:" in line for line in lines) >= len(names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "nv-attestation" not in json.dumps([project["project"], project["dependency-groups"]])
    assert not [
        n
        for n in ("requirements.lock", "requirements-dev.lock")
        if "nv-attestation" in (ROOT / n).read_text()
    ]
