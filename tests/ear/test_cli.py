"""`ostiary result verify`: exit statuses, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary.__main__ import main
from tests.kit.ear import AUDIENCE, ISSUER, KEYS, KID, NONCE, accepted, made, sign
from verifier.ear import keys, token
from verifier.ear.claims import Ear


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give a folder with a key set and a good token."""
    (tmp_path / "jwks.json").write_bytes(keys.to_jwks(KEYS.values()))
    put(tmp_path, made())
    return tmp_path


def put(folder: Path, ear: Ear) -> None:
    (folder / "token").write_bytes(sign(token.signed_part(ear, KID)) + b"\n")


def verify(folder: Path, *more: str, **changes: str) -> int:
    """Run the command, with options changed."""
    options = {
        "jwks": str(folder / "jwks.json"),
        "issuer": ISSUER,
        "aud": AUDIENCE,
        "nonce": NONCE.hex(),
        "at": "2027-01-15T08:00:00Z",
    } | changes
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    return main(["result", "verify", str(folder / "token"), *given, *more])


def test_a_good_token(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and a line for each part."""
    assert verify(files) == 0

    said = capsys.readouterr().out
    assert "affirming" in said
    assert "cpu0" in said
    assert "hardware 2" in said
    assert "03" * 32 in said
    assert "SIMULATED" not in said


def test_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole content, for machines."""
    assert verify(files, "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["nonce"]) == ("affirming", NONCE.hex())
    assert told["submods"]["cpu0"]["vector"]["runtime-opaque"] == 2


def test_a_good_token_that_says_no_good(files: Path) -> None:
    """A contraindicated machine is exit 1, however well the token is signed."""
    put(files, made(found=accepted(simulated=True)))

    assert verify(files) == 1


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"aud": "other"}, 1, "token_audience"),
        ({"issuer": "00" * 32}, 1, "token_issuer"),
        ({"nonce": "00" * 32}, 1, "nonce_mismatch"),
        ({"at": "2027-01-15T09:00:00Z"}, 1, "token_expired"),
        ({"at": "2027-01-15T07:00:00Z"}, 1, "token_not_yet_valid"),
        ({"at": "soon"}, 2, "--at"),
        ({"nonce": "xyz"}, 2, "--nonce"),
        ({"jwks": "nowhere.json"}, 2, "--jwks"),
    ],
)
def test_refusals(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    status: int,
    said: str,
) -> None:
    """1 for a token that is not good for this, 2 for what cannot be read; one line that says so."""
    assert verify(files, **changes) == status

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_is_no_token(files: Path) -> None:
    """Neither a token nor a key set: unreadable."""
    (files / "token").write_bytes(b"no token")
    assert verify(files) == 2
    put(files, made())
    (files / "jwks.json").write_bytes(b"{}")
    assert verify(files) == 2
