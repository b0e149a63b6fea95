"""The runtime as a process: what it loads, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ostiary.simulator.device import serving
from tests.kit.runtime import MODEL, TENANT, Served, problem

FORBIDDEN = ("litestar", "sqlalchemy", "pkcs11", "broker", "alembic", "aiosqlite", "xllamacpp")


@pytest.mark.parametrize(
    "load",
    [
        "import inference_runtime.supervisor",
        "from ostiary.__main__ import main\ntry: main(['runtime', '--help'])\nexcept SystemExit: 0",
        "import ostiary.cli.vendor, ostiary.client, ostiary.cli.log, ostiary.cli.verify",
    ],
)
def test_light(load: str) -> None:
    """Runtime and vendor's tools load neither web framework, database, HSM module nor broker."""
    told = f"import sys\nprint(sorted(m for m in {FORBIDDEN} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{load}\n{told}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(part) for part in text.split()]


def gone(pid: int, seconds: float = 5) -> bool:
    """Tell whether a process ends within some seconds."""
    end = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


@contextmanager
def runtime(house: Served, tmp_path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `ostiary runtime serve` in a simulated TD."""
    device = tmp_path / "machine.sock"
    command = [sys.executable, "-m", "ostiary", "runtime", "serve", "--broker", house.url]
    command += ["--tenant", TENANT, "--model", f"{MODEL.id}/{MODEL.version}", "--port", "0"]
    command += ["--simulated-device", str(device), *more]
    with (
        serving(device, house.broker.td()),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def until_serving(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return where it serves, and everything that it printed until then."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith("serving"):
            return line.split()[-1], seen
    assert process.stderr is not None
    raise AssertionError(seen + process.stderr.read())


def test_signal(house: Served, tmp_path: Path) -> None:
    """SIGTERM ends the runtime and its engine, in order: exit status 0, nothing left behind."""
    with runtime(house, tmp_path, "--receipt-out", str(tmp_path / "kept")) as process:
        url, said = until_serving(process)
        (engine,) = children(process.pid)
        assert httpx.get(f"{url}/models").json()["data"][0]["id"] == MODEL.id
        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 0
        assert gone(engine)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "leaf.json",
        "receipt.txt",
        "result.json",
    ]
    assert json.loads((tmp_path / "kept" / "leaf.json").read_bytes())["type"] == "release"
    assert house.broker.deks[MODEL].hex() not in said


def test_killed(house: Served, tmp_path: Path) -> None:
    """A killed runtime takes its engine with it."""
    with runtime(house, tmp_path) as process:
        until_serving(process)
        (engine,) = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)

        assert gone(engine)


def test_refused(house: Served, tmp_path: Path) -> None:
    """A refused release is one line on standard error, and exit status 1."""
    house.script = lambda _method, target: (
        problem(403, "key_not_active") if target == "/v1/releases" else None
    )
    with runtime(house, tmp_path) as process:
        _, said = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said.startswith("ostiary: broker_refused: POST /v1/releases: 403: ")
    assert said.count("\n") == 1


def test_revoked(house: Served, tmp_path: Path) -> None:
    """A refused renewal ends the process, with the reason as its last word."""
    house.broker.renew_seconds = 1
    house.script = lambda _method, target: (
        problem(403, "lease_ended") if target == "/v1/renewals" else None
    )
    with runtime(house, tmp_path) as process:
        _, said = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said == f"ostiary: {MODEL.id}/{MODEL.version} stopped: lease_revoked\n"
