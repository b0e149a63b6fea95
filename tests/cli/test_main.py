"""`ostiary` itself: what it knows, and what it says about what it does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostiary.__main__ import _NOUNS
from tests.cli.conftest import Run, one_line


def test_usage(ostiary: Run) -> None:
    """Asked for help it lists every noun; called without a word it does too, and fails."""
    for words, status in ((("--help",), 0), (("-h",), 0), ((), 2)):
        said = ostiary(*words)
        assert said.status == status
        assert all(f"  {noun} " in said.out for noun in _NOUNS)


@pytest.mark.parametrize("noun", _NOUNS)
def test_help(ostiary: Run, noun: str) -> None:
    """Every noun has help; a noun alone is an error with its verbs, but for the demo."""
    assert ostiary(noun, "--help").status == 0
    if noun != "demo":
        said = ostiary(noun)
        assert said.status == 2
        assert f"usage: ostiary {noun}" in said.err


@pytest.mark.parametrize(
    "noun", ["nonsense", "", "--version", "Broker", "../broker", "ostiary.cli"]
)
def test_unknown_noun(ostiary: Run, noun: str) -> None:
    """What it does not know it says in one line."""
    one_line(ostiary(noun, "x"), 2, "no such command", "--help")


def test_unknown_verb(ostiary: Run) -> None:
    """A verb that is none is answered with those that are."""
    said = ostiary("key", "burn")
    assert said.status == 2
    assert "order" in said.err


def test_as_a_module() -> None:
    """`python -m ostiary` is the command, and its exit status the process's."""
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", "nonsense"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ostiary: no such command")


VERBS = (
    ("vendor", "sign-genesis", "FILE", "--key", "FILE", "--out", "OUT"),
    ("policy", "lint", "FILE"),
    ("policy", "sign", "FILE", "--genesis", "FILE", "--key", "FILE", "--out", "OUT"),
    ("policy", "push", "FILE", "--broker", "TEXT", "--genesis", "FILE", "--key", "FILE"),
    ("model", "push", "FILE", "--broker", "TEXT", "--genesis", "FILE", "--key", "FILE"),
    ("key", "order", "TEXT", "active", "--broker", "TEXT", "--genesis", "FILE", "--key", "FILE"),
    ("key", "list", "--broker", "TEXT", "--genesis", "FILE", "--key", "FILE"),
    ("log", "fetch", "1", "--out", "OUT", "--broker", "TEXT", "--genesis", "FILE", "--key", "FILE"),
    ("log", "verify", "--receipt", "FILE", "--leaf", "FILE", "--origin", "TEXT", "--vkey", "TEXT"),
    ("verify", "tdx", "--quote", "FILE", "--at", "TEXT"),
    (
        "verify",
        "snp",
        "--report",
        "FILE",
        "--vek",
        "FILE",
        "--ask",
        "FILE",
        "--ark",
        "FILE",
        "--crl",
        "FILE",
        "--at",
        "2026-01-01T00:00:00Z",
    ),
    ("broker", "--home", "DIR", "enrol", "FILE"),
    ("broker", "--home", "DIR", "serve"),
    ("broker", "--home", "DIR", "show"),
    (
        "runtime",
        "attest",
        "--broker",
        "TEXT",
        "--tenant",
        "TEXT",
        "--model",
        "TEXT",
        "--simulated-device",
        "FILE",
    ),
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_input(ostiary: Run, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in files and arguments: an exit status and words, never a traceback."""
    words: list[str] = []
    for number, word in enumerate(data.draw(st.sampled_from(VERBS))):
        if word == "FILE":
            path = tmp_path / f"file{number}"
            kind = data.draw(st.sampled_from(("bytes", "json", "missing", "folder")))
            path.unlink(missing_ok=True) if path.is_file() else None
            if kind == "bytes":
                path.write_bytes(data.draw(st.binary(max_size=60)))
                path.chmod(0o600)
            elif kind == "json":
                path.write_text('{"payload":"e30=","payloadType":"x","signatures":[]}')
            words.append(str(tmp_path if kind == "folder" else path))
        elif word == "TEXT":
            letters = st.characters(min_codepoint=1, exclude_categories=["Cs"])
            words.append(data.draw(st.text(letters, max_size=20)))
        else:
            words.append({"OUT": str(tmp_path / "out"), "DIR": str(tmp_path)}.get(word, word))
    said = ostiary(*words)

    assert said.status in {1, 2, 3}, (words, said)
    assert said.err or said.out
