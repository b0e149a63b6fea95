"""Documents say only what is there: links, paths, commands, options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import documents as kit
from tests.kit.documents import ROOT

DOCUMENTS = kit.documents()
README = (ROOT / "README.md").read_text()


def test_documents_are_found() -> None:
    """The pages that everyone looks for are there."""
    names = {str(path) for path in DOCUMENTS}

    assert names >= {"README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert names >= {"docs/architecture.md", "docs/threat-model.md", "docs/glossary.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link leads to a file, and every anchor to a heading of it."""
    text = (ROOT / path).read_text()
    broken = []
    for link in kit.links(text):
        if link.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        if not target.exists() or (anchor and anchor not in kit.anchors(target.read_text())):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_named_files_exist(path: Path) -> None:
    """Every file of this tree that a page names in backticks exists."""
    missing = [name for name in kit.paths((ROOT / path).read_text()) if not (ROOT / name).exists()]

    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_make_targets_exist(path: Path) -> None:
    """Every `make X` that a page names is a target of the Makefile."""
    text = (ROOT / path).read_text()
    lines = re.findall(r"`(make [a-z-]+)`", text) + kit.commands(text)
    named = {line.split()[1] for line in lines if line.startswith("make ")}

    assert named <= kit.make_targets()


def ostiary_commands() -> list[str]:
    pages = ((ROOT / path).read_text() for path in DOCUMENTS)
    lines = (line for page in pages for line in kit.commands(page))
    return sorted({line for line in lines if re.match(r"(\.venv/bin/)?ostiary ", line)})


@pytest.mark.parametrize("line", ostiary_commands())
def test_ostiary_commands_have_their_options(line: str) -> None:
    """Every `ostiary` command in a page is one, and takes the options that it is shown with."""
    words = shlex.split(line)[1:]
    nouns = [word for word in words[:3] if not word.startswith("-")]
    shown = subprocess.run(
        [sys.executable, "-m", "ostiary", *nouns, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown.returncode == 0, shown.stderr
    options = set(re.findall(r"--[a-z0-9-]+", shown.stdout))
    unknown = [word for word in words if word.startswith("--") and word not in options]
    assert unknown == []


@pytest.mark.parametrize(
    ("kind", "case"), [("tdx", "v4-00806f-cos113-ccel"), ("snp", "v3-genoa-vcek-ms")]
)
def test_readme_verifies_evidence(kind: str, case: str, evidence_dir: Path) -> None:
    """The README's two commands accept the recorded evidence that they were written for."""
    (line,) = [line for line in kit.commands(README) if f"verify {kind}" in line]
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", *shlex.split(line)[1:]],
        cwd=evidence_dir / kind / case,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "accept" in done.stdout


def test_error_codes_of_the_rooms_exist() -> None:
    """Every code that the architecture's tables name is one of the broker's."""
    from broker.errors import Code  # noqa: PLC0415 - the rest of this file needs no broker

    text = (ROOT / "docs/architecture.md").read_text()
    table = text.partition("| # | room |")[2].partition("\n\n")[0]
    named = {
        code for row in table.splitlines()[2:] for code in re.findall(r"`(\w+)`", row.split("|")[4])
    }

    assert len(named) > 10
    assert named <= {code.value for code in Code}


def test_operators_settings_are_all_listed() -> None:
    """The operators' page lists exactly the settings that there are."""
    from broker.settings import Settings  # noqa: PLC0415 - as above

    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("| setting | default |")[2].partition("\n\n")[0]
    listed = {
        name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }

    assert listed == set(Settings.__struct_fields__)
