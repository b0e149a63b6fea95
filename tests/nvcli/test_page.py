"""docs/nvidia.md: its commands run on the evidence that they were written for."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contrib.nvidia_sdk_oracle import compare
from tests.kit import corpus, documents, nvgpu
from tests.kit.documents import ROOT
from verifier import policy

PAGE = (ROOT / "docs/nvidia.md").read_text()
COMMANDS = [line for line in documents.commands(PAGE) if line.startswith("ostiary verify")]
TEXTS = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
recorded = pytest.mark.skipif(not nvgpu.NAMES, reason=corpus.ABSENT)


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ostiary", *shlex.split(line)[1:]],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@recorded
def test_one_device() -> None:
    """The first command accepts the device, in the words that stand there."""
    done = run(COMMANDS[0], nvgpu.FOLDER / "hopper/h100-550.90.07-full")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(TEXTS[0])


@recorded
def test_a_board_and_its_explanation(tmp_path: Path) -> None:
    """The second command finds twelve genuine devices without RIMs; `explain` says which ones."""
    done = run(COMMANDS[1], nvgpu.FOLDER / "hgx/hgx8-h100-4xls10-ppcie-590.12")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert [each["genuine"] for each in result["claims"]["devices"]] == [True] * 12
    assert result["reasons"] == ["collateral_missing"]
    assert {c["ok"] for c in result["checks"] if c["name"] == "gpus.topology"} == {True}

    (tmp_path / "result.json").write_text(done.stdout)
    told = run("ostiary explain result.json", tmp_path)
    assert told.returncode == 1
    assert TEXTS[1] in told.stdout


def test_every_option_is_there() -> None:
    """The table names every option of the command, but those that name the evidence."""
    done = run("ostiary verify nvidia --help", ROOT)
    evidence = {"--help", "--evidence", "--switch-evidence", "--report", "--chain"}
    table = PAGE.partition("| option | what |")[2].partition("\n\n")[0]

    assert set(re.findall(r"--[a-z][a-z-]+", table)) == (
        set(re.findall(r"--[a-z][a-z-]+", done.stdout)) - evidence
    )


def test_the_policy_is_one() -> None:
    """The example of a policy is read, and asks for 8 GPUs and 4 switches."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    rules = policy.from_toml(text.encode()).gpu

    assert (rules.count, rules.switches, rules.modes) == (8, 4, ("ppcie",))
    assert tomllib.loads(text)["gpu"]["min_driver"] == rules.min_driver


def test_differences_from_the_sdk_are_the_listed_ones() -> None:
    """The page's table has a row for each thing that one accepts and the other does not."""
    table = PAGE.partition("| the two differ |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = [each for each in compare.expected() if each["facet"] == "accepted"]

    assert len([row for row in table if "cannot judge" not in row]) == len(listed)
    assert len([row for row in table if "| accepts |" in row]) == len(
        [each for each in listed if each["theirs"]]
    )
