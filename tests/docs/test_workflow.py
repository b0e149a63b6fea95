"""The workflow: no rights by default, nothing that can change under us."""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]  # no stubs here

from tests.kit.documents import ROOT

TEXT = (ROOT / ".github/workflows/ci.yml").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(TEXT)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_no_rights_by_default() -> None:
    """The workflow has no permissions; each job asks for reading at most."""
    assert WORKFLOW["permissions"] == {}
    assert all(job["permissions"] == {"contents": "read"} for job in WORKFLOW["jobs"].values())


def test_actions_are_pinned() -> None:
    """Every action is pinned by a full commit, with its version beside it."""
    used = [line for line in TEXT.splitlines() if "uses:" in line]

    assert used
    assert [u for u in used if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", u)] == []


def test_no_credentials_stay() -> None:
    """A checkout leaves no token behind."""
    checkouts = [step for step in STEPS if "actions/checkout" in step.get("uses", "")]

    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_text_from_outside_reaches_a_shell() -> None:
    """No expression stands inside a command, so no title or branch name is run."""
    assert [step["run"] for step in STEPS if "${{" in step.get("run", "")] == []


def test_it_calls_what_developers_run() -> None:
    """The check job runs .ci/run, on every Python that we say we support."""
    check = WORKFLOW["jobs"]["check"]

    assert {"run": "bash .ci/run"} in check["steps"]
    assert check["strategy"]["matrix"]["python"][0] == "3.11"
    assert (ROOT / ".ci/run").exists()


def test_every_job_ends() -> None:
    """Every job has a time limit."""
    assert all(0 < job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())
