"""An adversarial host around a runtime: every case of the threat is one test, by its name.

The host owns disks, network, broker's answers and memory outside; it may kill what it likes. What
must come out: no plaintext, no engine left, and an error that names what was wrong. Release answers
bent in every field are in `test_exchange.py` and `tests/e2e/test_guest.py`, buckets in
`test_fetch.py`, a lease revoked in the middle of an answer in `test_revocation.py`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.front.state import NotServing
from ostiary.simulator.device import serving
from tests.kit.night import Night, alive, opening, serving_night, stream
from tests.kit.runtime import MODEL, TENANT, Scripted, Served, SoftBroker
from verifier.wire import canonical, messages

Files = dict[str, Path]


def artefacts(house: Served) -> Files:
    """Return the sealed files by name."""
    assert house.sealed is not None
    folder = house.sealed / "files"
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


def largest(files: Files) -> Path:
    """Return the weights."""
    return max(files.values(), key=lambda path: path.stat().st_size)


def flipped(files: Files, _older: Files) -> str:
    path = largest(files)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 0x40
    path.write_bytes(raw)
    return path.name


def cut(files: Files, _older: Files) -> str:
    path = largest(files)
    os.truncate(path, path.stat().st_size // 2)
    return path.name


def grown(files: Files, _older: Files) -> str:
    path = largest(files)
    path.write_bytes(path.read_bytes() + bytes(16))
    return path.name


def reordered(files: Files, _older: Files) -> str:
    path, size = largest(files), 1 << 20
    raw = path.read_bytes()
    segments = [raw[start : start + size] for start in range(0, len(raw), size)]
    segments[1], segments[2] = segments[2], segments[1]
    path.write_bytes(b"".join(segments))
    return path.name


def swapped(files: Files, _older: Files) -> str:
    one, other = sorted(files.values(), key=lambda path: path.stat().st_size)[-2:]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"{one.name}|{other.name}"


def renamed(files: Files, _older: Files) -> str:
    path = largest(files)
    path.rename(path.with_name("other.gguf"))
    return path.name


def replayed(files: Files, older: Files) -> str:
    """The same file of the same model, sealed at another time with the same key."""
    path = largest(files)
    path.write_bytes(older[path.name].read_bytes())
    return path.name


def replayed_manifest(files: Files, older: Files) -> str:
    """Everything of the older version, its signed manifest too."""
    for name, path in files.items():
        path.write_bytes(older[name].read_bytes())
    manifest = next(iter(files.values())).parent.parent / "manifest.json"
    manifest.write_bytes((next(iter(older.values())).parent.parent / "manifest.json").read_bytes())
    return "manifest"


CASES: dict[Callable[[Files, Files], str], set[Fault]] = {
    flipped: {Fault.SEALED_SEGMENT},
    cut: {Fault.SEALED_TRUNCATED},
    grown: {Fault.SEALED_EXTRA},
    reordered: {Fault.SEALED_SEGMENT},
    swapped: {Fault.SEALED_TRUNCATED, Fault.SEALED_EXTRA},
    renamed: {Fault.SEALED_MISSING},
    replayed: {Fault.SEALED_SEGMENT, Fault.SEALED_HEADER},
    replayed_manifest: {Fault.MANIFEST_DIGEST},
}


@pytest.mark.parametrize("damage", CASES, ids=lambda case: case.__name__)
def test_artefacts(
    house: Served,
    broker: SoftBroker,
    model_folder: Path,
    tmp_path: Path,
    damage: Callable[[Files, Files], str],
) -> None:
    """Whatever the host makes of the sealed files: it is named, and no engine starts."""
    good = broker.manifests[MODEL]
    broker.seal(model_folder, tmp_path / "older")
    broker.manifests[MODEL] = good
    older = {path.name: path for path in (tmp_path / "older" / "files").iterdir()}
    name = damage(artefacts(house), older)

    async def play() -> Night:
        async with opening(house, tmp_path, sealed=house.sealed) as night:
            with pytest.raises(RuntimeFault, match=name) as refused:
                await night.end()
            assert refused.value.code in CASES[damage], refused.value
            return night

    night = asyncio.run(play())
    assert not night.said("engine")
    assert night.released is None
    assert night.said("lease returned")


def test_a_release_replayed(house: Served, tmp_path: Path) -> None:
    """The broker's good answer to an earlier start opens nothing in this one."""
    kept: list[bytes] = []

    async def first() -> None:
        async with opening(house, tmp_path) as night:
            await night.until(lambda: bool(night.said("release")))

    answer = house.answer

    def keep(method: str, target: str, body: bytes, span: str | None) -> Scripted:
        told = answer(method, target, body, span)
        if target == "/v1/releases":
            canonical.decode(body, messages.ReleaseRequest)
            kept.append(told[2])
        return told

    house.answer = keep  # type: ignore[method-assign]  # the host listens
    asyncio.run(first())
    house.answer = answer  # type: ignore[method-assign]  # and then answers itself
    house.script = lambda _method, target: (
        (200, {"content-type": "application/json"}, kept[0]) if target == "/v1/releases" else None
    )

    async def second() -> Night:
        async with opening(house, tmp_path) as night:
            with pytest.raises(RuntimeFault, match="not for this exchange") as refused:
                await night.end()
            assert refused.value.code is Fault.ANSWER_INVALID
            return night

    night = asyncio.run(second())
    assert [stage.name for stage in night.stages] == ["evidence"]


def pid_of(night: Night) -> int:
    """Return the engine's process id; 0 before there is one."""
    try:
        return night.engine.pid
    except EngineError:
        return 0


def test_the_engine_killed_while_it_starts(house: Served, tmp_path: Path) -> None:
    """An engine that the host or the kernel kills at its start ends the start, by a code."""

    async def play() -> Night:
        async with opening(house, tmp_path) as night:
            await night.until(lambda: pid_of(night) != 0)
            os.kill(night.engine.pid, signal.SIGKILL)
            with pytest.raises(EngineError) as refused:
                await night.end()
            assert refused.value.fault is EngineFault.EXITED
            return night

    night = asyncio.run(play())
    assert not night.said("serving")
    assert night.said("lease returned")


def test_the_engine_killed_in_the_middle_of_an_answer(house: Served, tmp_path: Path) -> None:
    """The answer breaks off without an end, and the runtime ends with its own code."""

    async def play() -> None:
        async with serving_night(house, tmp_path) as night:
            asked = asyncio.create_task(stream(night))
            await asyncio.sleep(0.2)
            os.kill(night.engine.pid, signal.SIGKILL)
            assert await night.end() is NotServing.ENGINE_EXITED
            _, pieces, _ = await asked
            assert b"[DONE]" not in b"".join(pieces)
            assert night.said("lease returned")

    asyncio.run(play())


def test_the_engine_stopped_in_its_tracks(house: Served, tmp_path: Path) -> None:
    """An engine that the host halts, rather than kills, does not outlive the runtime."""

    async def play() -> int:
        async with serving_night(house, tmp_path) as night:
            pid = night.engine.pid
            os.kill(pid, signal.SIGSTOP)
            night.running.cancel()
            await asyncio.gather(night.running, return_exceptions=True)
            return pid

    assert not alive(asyncio.run(play()))


LIMITS: dict[str, tuple[int, int]] = {
    # Memory files count as files: a limit on their size is what a full memory looks like.
    "no memory for the weights": (resource.RLIMIT_FSIZE, 256 << 10),
    "no memory for small files": (resource.RLIMIT_FSIZE, 16),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_out_of_memory(house: Served, tmp_path: Path, limit: str) -> None:
    """A machine that runs out ends the start with one line, and leaves nothing behind."""
    which, most = LIMITS[limit]
    device = tmp_path / "machine.sock"
    command = [sys.executable, "-m", "ostiary", "runtime", "serve", "--broker", house.url]
    command += ["--tenant", TENANT, "--model", f"{MODEL.id}/{MODEL.version}", "--port", "0"]
    command += ["--simulated-device", str(device)]
    launcher = (
        "import os, resource, sys\n"
        f"resource.setrlimit({which}, ({most}, {most}))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    with serving(device, house.broker.td()):
        done = subprocess.run(
            [sys.executable, "-c", launcher, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=Path(__file__).resolve().parents[2],
        )
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("ostiary: "), done.stderr
    assert house.broker.deks[MODEL].hex() not in done.stdout + done.stderr
    assert "memory_unavailable" in done.stderr
    assert [method for method, _ in house.asked].count("DELETE") == 1
