"""Prompts, answers and keys appear in nothing that a runtime says, writes or leaves behind.

The runtime is a process of its own, with every library's log switched on as far as it goes: what
production prints is less. The engine's own silence is held in `tests/engine/test_llama_engine.py`.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary.simulator.device import serving
from tests.kit.runtime import MODEL, TENANT, Served, problem

CANARY = "xylophone-canary-91c7"
WORDY = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from ostiary.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


class Told:
    """Everything that was said, by where."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.answers: list[str] = []

    def holds(self, needle: bytes) -> list[str]:
        return [where for where, text in self.parts.items() if needle in text]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder that is home and temporary folder of the runtime."""
    made = tmp_path / "home"
    made.mkdir()
    return made


def forms(secret: bytes) -> list[bytes]:
    """Return the ways in which a key is written by accident."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
    ]


def ask(url: str, told: Told) -> None:
    """Send the canary in requests that succeed and requests that fail."""
    good = {
        "model": MODEL.id,
        "messages": [{"role": "user", "content": CANARY}],
        "max_tokens": 4,
    }
    bodies: list[tuple[str, Any]] = [
        ("/chat/completions", good),
        ("/chat/completions", good | {"stream": True}),
        ("/chat/completions", good | {"model": CANARY}),
        ("/chat/completions", good | {"messages": CANARY}),
        ("/chat/completions", good | {"temperature": CANARY}),
        ("/chat/completions", good | {CANARY: 1}),
        ("/chat/completions", good | {"messages": [{"role": "user", "content": CANARY * 9000}]}),
        ("/completions", {"model": MODEL.id, "prompt": CANARY, "max_tokens": 4}),
        ("/completions", f'{{"prompt": "{CANARY}'),
        (f"/{CANARY}", good),
    ]
    with httpx.Client(timeout=60, trust_env=False) as http:
        for path, body in bodies:
            content = body if isinstance(body, str) else json.dumps(body)
            answer = http.post(
                url + path, content=content, headers={"content-type": "application/json"}
            )
            if answer.status_code == 200 and not answer.headers["content-type"].startswith("text/"):
                choice = answer.json()["choices"][0]
                told.answers.append(choice.get("text") or choice["message"]["content"])
            elif answer.status_code != 200:
                told.parts[f"answer {answer.status_code} to {path[:9]}"] = answer.content
        told.parts["ready"] = http.get(url.removesuffix("/v1") + "/ready").content


def night(house: Served, folder: Path, tmp_path: Path, *, kill: bool = False) -> Told:
    """Run a runtime, ask it, end it; return what was said and left."""
    told, device = Told(), tmp_path / "machine.sock"
    command = [sys.executable, "-c", WORDY, "runtime", "serve", "--broker", house.url]
    command += ["--tenant", TENANT, "--model", f"{MODEL.id}/{MODEL.version}", "--port", "0"]
    command += ["--simulated-device", str(device), "--receipt-out", str(folder / "receipts")]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "HOME": str(folder)}
    root = Path(__file__).resolve().parents[2]
    log = tmp_path / "stderr"
    with (
        serving(device, house.broker.td()),
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=root
        ) as process,
    ):
        assert process.stdout is not None
        seen = b""
        try:
            for line in process.stdout:
                seen += line
                if line.startswith(b"serving"):
                    ask(line.split()[-1].decode(), told)
                    process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            process.wait(30)
        finally:
            process.kill()
    told.parts["stdout"], told.parts["stderr"] = seen, log.read_bytes()
    for path in folder.rglob("*"):
        if path.is_file():
            told.parts[str(path.relative_to(folder))] = path.read_bytes()
    told.parts["names"] = "\n".join(str(path) for path in folder.rglob("*")).encode()
    return told


def test_a_night_that_goes_well(house: Served, folder: Path, tmp_path: Path) -> None:
    """Nothing of a request, an answer or the key is in any log, file, name or error."""
    told = night(house, folder, tmp_path)

    assert b"HTTP Request" in told.parts["stderr"], "the libraries' logs are on"
    assert len(told.answers) >= 2
    assert told.holds(CANARY.encode()) == []
    for form in forms(house.broker.deks[MODEL]):
        assert told.holds(form) == []
    for answer in told.answers:
        if len(answer.strip()) >= 8:  # shorter ones are found by chance
            assert told.holds(answer.strip().encode()) == []


def test_a_night_that_ends_badly(house: Served, folder: Path, tmp_path: Path) -> None:
    """Neither when renewals fail, nor when the runtime is killed, does anything come out."""
    house.broker.renew_seconds = 1
    house.script = lambda _method, target: (
        problem(503, "away") if target == "/v1/renewals" else None
    )
    told = night(house, folder, tmp_path, kill=True)

    assert told.holds(CANARY.encode()) == []
    for form in forms(house.broker.deks[MODEL]):
        assert told.holds(form) == []


def test_a_start_that_fails(house: Served, folder: Path, tmp_path: Path) -> None:
    """A file that is not authentic is told by name, and neither its bytes nor the key."""
    assert house.sealed is not None
    path = max((house.sealed / "files").iterdir(), key=lambda entry: entry.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    told = night(house, folder, tmp_path)

    assert told.holds(path.name.encode()) == ["stderr"]
    assert told.holds(b"GGUF") == []
    for form in forms(house.broker.deks[MODEL]):
        assert told.holds(form) == []
