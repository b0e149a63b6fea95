"""`ostiary verify maa` and `collateral fetch --maa`: statuses, and what is asked of whom."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ostiary.__main__ import main
from tests.kit.corpus import run_cli
from tests.kit.maa import ISSUER, LAUNCH, NONCE, RUNTIME_DATA, direct, guest, key_set, token

POLICY = f"""
[maa]
issuers = ["{ISSUER}"]

[[reference]]
kind = "maa"
name = "image"
attestation_type = "sevsnpvm"
launch_measurement = "{LAUNCH.hex()}"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give a folder with a token, keys and a policy."""
    (tmp_path / "token").write_bytes(token(guest()) + b"\n")
    (tmp_path / "jwks").write_bytes(key_set().jwks)
    (tmp_path / "policy").write_text(POLICY)
    return tmp_path


def verify(folder: Path, *more: str, without: str = "") -> tuple[int, dict[str, object]]:
    """Run the command; return its status and result."""
    given = ["verify", "maa", "--at", "2027-01-15T08:00:00Z", "--json", *more]
    for name in ("token", "jwks", "policy"):
        if name != without:
            given += [f"--{name}", str(folder / name)]
    status, out, _ = run_cli(given)
    return status, json.loads(out) if out else {}


def test_a_good_token(files: Path) -> None:
    """Exit 0, as kind `maa`."""
    status, result = verify(files, "--nonce", NONCE.hex())

    assert (status, result["kind"], result["verdict"]) == (0, "maa", "accept")


@pytest.mark.parametrize(
    ("more", "without", "reason"),
    [
        ((), "", "nonce_missing"),
        (("--nonce", "00"), "", "nonce_mismatch"),
        (("--nonce", NONCE.hex()), "policy", "maa_not_allowed"),
        (("--nonce", NONCE.hex()), "jwks", "collateral_missing"),
    ],
)
def test_refusals(files: Path, more: tuple[str, ...], without: str, reason: str) -> None:
    """What is not given is refused, by name."""
    status, result = verify(files, *more, without=without)

    assert (status, result["reasons"]) == (1, [reason])


def test_without_a_nonce_on_purpose(files: Path) -> None:
    """`--no-nonce` goes on and says so."""
    status, result = verify(files, "--no-nonce")

    assert status == 0
    assert isinstance(result["checks"], list)
    assert any(check["name"] == "nonce" and check["ok"] is None for check in result["checks"])


def test_runtime_data(files: Path) -> None:
    """Instead of a nonce, where the token is a direct one."""
    (files / "token").write_bytes(token(direct()))
    (files / "data").write_bytes(RUNTIME_DATA)

    assert verify(files, "--runtime-data", str(files / "data"))[0] == 0


def test_unreadable(files: Path) -> None:
    """A file that is not there, and a nonce that is no hex: 2."""
    assert verify(files, "--runtime-data", str(files / "none"))[0] == 2
    assert verify(files, "--nonce", "x")[0] == 2


@contextmanager
def instance(body: bytes, media: str = "application/json") -> Iterator[tuple[str, list[str]]]:
    """Serve a key set on this machine; give its URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-type", media)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_are_fetched_from_the_instance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From /certs, byte for byte, into a file that was not there."""
    out = tmp_path / "jwks"
    with instance(key_set().jwks) as (url, asked):
        fetch = ["collateral", "fetch", "--maa", url, "--out", str(out)]
        assert main(fetch) == 0
        assert main(fetch) == 2

    assert asked[0] == "/certs"
    assert out.read_bytes() == key_set().jwks
    assert "1 keys" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "media"), [(b"{}", "application/json"), (key_set().jwks, "text/html")]
)
def test_what_is_no_key_set_is_not_kept(tmp_path: Path, body: bytes, media: str) -> None:
    """Neither another document nor another media type."""
    with instance(body, media) as (url, _):
        assert main(["collateral", "fetch", "--maa", url, "--out", str(tmp_path / "x")]) == 1
    assert not (tmp_path / "x").exists()


def test_how_to_ask(tmp_path: Path) -> None:
    """`--maa` and `--out` go together; plain HTTP is for this machine alone."""
    out = str(tmp_path / "x")
    assert main(["collateral", "fetch", "--maa", "http://a.example", "--out", out]) == 1
    assert main(["collateral", "fetch", "--maa", ISSUER]) == 2
    assert main(["collateral", "fetch", "--product", "Milan", "--out", out]) == 2
