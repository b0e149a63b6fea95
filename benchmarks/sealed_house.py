"""Sealed models for benchmarks: made in a temporary folder, with the key at hand.

Guarantees: what is opened was sealed by the code that vendors use, and the same plain files lie
beside it. Where that is, on a disk or in memory, `kind_of` tells; a file on a disk was just written
and so stands in the page cache.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_runtime.engine.vllm.home import on_tmpfs
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.manifest import TrustedManifest
from inference_runtime.sealed.seal import ModelName, seal_model
from inference_runtime.sealed.secret import KEY_SIZE, SecretKey
from inference_runtime.sealed.source import LocalFolder
from ostiary.demo_model import HubLayout, make_hub_folder
from ostiary.demo_model.shape import Shape
from verifier import dsse

MIB: Final = 1 << 20
GIB: Final = 1 << 30
_LAYER_MIB: Final = 48
"""Of one layer of `_shape`, in half precision."""
SHARDS: Final = 4


@final
@dataclass(frozen=True, slots=True)
class House:
    """A plain folder, the same one sealed, and its data key."""

    plain: Path
    sealed: Path
    trusted: TrustedManifest
    raw_dek: bytes = field(repr=False)
    signer: bytes
    """SPKI of who signed the manifest."""

    def request(self) -> dict[str, object]:
        """Return what another process needs to open it, for a pipe: the data key is in it."""
        return {
            "plain": str(self.plain),
            "sealed": str(self.sealed),
            "dek": self.raw_dek.hex(),
            "envelope": (self.sealed / manifests.MANIFEST).read_bytes().hex(),
            "signer": self.signer.hex(),
            "digest": self.trusted.digest.hex(),
            "genesis": self.trusted.manifest.genesis.hex(),
        }

    @property
    def source(self) -> LocalFolder:
        """Where the sealed files are."""
        return LocalFolder(self.sealed)

    def dek(self) -> SecretKey:
        """Return the data key, in a buffer of its own."""
        return SecretKey(bytearray(self.raw_dek))

    @property
    def weights(self) -> list[str]:
        """Names of the weight files, in the order of loading."""
        names = (file.path for file in self.trusted.manifest.files)
        return [name for name in names if name.endswith(".safetensors")]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each of the weight files."""
        return [(self.plain / name).stat().st_size for name in self.weights]


def one_file(root: Path, size: int) -> House:
    """Seal a folder of one file of `size` random bytes."""
    plain = root / "plain"
    plain.mkdir()
    with (plain / "weights.safetensors").open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
    return _seal(root, plain)


def checkpoint(root: Path, mib: int) -> House:
    """Seal a checkpoint of about `mib` MiB that vLLM can serve, in four shards."""
    shape = Shape(
        layers=max(1, mib // _LAYER_MIB),
        width=1536,
        heads=12,
        kv_heads=4,
        feed_forward=4096,
        context=2048,
    )
    plain = make_hub_folder(root / "plain", layout=HubLayout(shards=SHARDS), shape=shape)
    return _seal(root, plain)


def kind_of(folder: Path) -> str:
    """Say what `folder` lies on."""
    return "memory (tmpfs)" if on_tmpfs(folder) else "a disk, read from the page cache"


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Let this process run on `count` processors only, so that no helper thread adds another."""
    before = os.sched_getaffinity(0)
    _bind(set(sorted(before)[:count]))
    try:
        yield
    finally:
        _bind(before)


def _bind(processors: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(thread.name), processors)


def counts() -> list[int]:
    """Return how many threads are measured at once: 1, and 2 where there are two processors."""
    return [count for count in (1, 2) if count <= len(os.sched_getaffinity(0))]


def _seal(root: Path, plain: Path) -> House:
    signer = Ed25519PrivateKey.generate()
    raw = secrets.token_bytes(KEY_SIZE)
    public = dsse.spki(signer.public_key())
    genesis = bytes(32)
    sealed = seal_model(
        plain,
        root / "sealed",
        SecretKey(bytearray(raw)),
        ModelName("bench", 1, genesis, "bench", 1),
        lambda payload: dsse.sign(manifests.PAYLOAD_TYPE, payload, signer),
    )
    trusted = manifests.verify(
        sealed.envelope,
        [public],
        1,
        expected_digest=sealed.digest,
        expected_genesis=genesis,
    )
    return House(plain, root / "sealed", trusted, raw, public)
