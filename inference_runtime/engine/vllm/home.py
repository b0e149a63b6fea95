"""The private place of a vLLM engine: a folder in memory, an environment, and their end.

Guarantees: the folder lies on tmpfs, so that nothing in it reaches a disk, and only this user can
enter it; every cache, temporary and home folder that vLLM and its libraries know of points into
it; the environment is made from nothing and names no secret. `close` removes the folder and what
the engine left in the machine's shared memory.
Does not keep tmpfs from being swapped: the machine must have no swap.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, final

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm.wire import LOAD_FORMAT

SHARED: Final = Path("/dev/shm")  # noqa: S108 - where the kernel keeps POSIX shared memory
_TMPFS: Final = 0x01021994  # include/uapi/linux/magic.h
_STATFS_BYTES: Final = 256
# As vLLM, torch, NCCL and Python's multiprocessing name their shared memory.
_LEFT: Final = ("vllm_", "psm_", "sem.mp-", "torch_", "nccl-", "cuda.shm.")
_FOLDERS: Final = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "VLLM_CACHE_ROOT": "cache/vllm",
    "VLLM_CONFIG_ROOT": "config/vllm",
    "VLLM_RPC_BASE_PATH": "tmp",
    "HF_HOME": "cache/hf",
    "TORCHINDUCTOR_CACHE_DIR": "cache/inductor",
    "TRITON_CACHE_DIR": "cache/triton",
    "CUDA_CACHE_PATH": "cache/cuda",
    "FLASHINFER_WORKSPACE_BASE": "cache/flashinfer",
}
_FIXED: Final = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Nothing is fetched, nothing is reported.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    # Our plug-in and no other: any installed package could run code in the ranks otherwise.
    "VLLM_PLUGINS": LOAD_FORMAT,
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Its processes talk over the loopback and over shared memory.
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "VLLM_LOGGING_COLOR": "0",
}


@final
class Home:
    """One engine's folder: `model` for the small files, `socket` and `handout` to be bound."""

    def __init__(self, parent: Path = SHARED) -> None:
        """Make the folder below `parent`.

        Raises:
            EngineError: NO_PRIVATE_MEMORY: `parent` is not on tmpfs or cannot be written.
        """
        if not on_tmpfs(parent):
            raise EngineError(
                EngineFault.NO_PRIVATE_MEMORY,
                f"{parent} is not on tmpfs; the engine's files must lie in memory",
            )
        self._before = _shared_names()
        try:
            self.path = Path(tempfile.mkdtemp(prefix="ostiary-vllm-", dir=parent))
            self.model = self.path / "model"
            self.model.mkdir(0o700)
            for name in sorted(set(_FOLDERS.values())):
                (self.path / name).mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(
                EngineFault.NO_PRIVATE_MEMORY, f"{parent}: {error.strerror}"
            ) from error
        self.socket = self.path / "engine.sock"
        self.handout = self.path / "handout.sock"

    def environment(self) -> dict[str, str]:
        """Return everything that vLLM may read from its environment."""
        return _FIXED | {name: str(self.path / part) for name, part in _FOLDERS.items()}

    def write(self, name: str, data: bytes) -> None:
        """Write a file into `model`, for reading only.

        Raises:
            EngineError: NO_PRIVATE_MEMORY.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.model / name, flags, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise EngineError(EngineFault.NO_PRIVATE_MEMORY, f"{name}: {error.strerror}") from error

    def close(self) -> None:
        """Remove the folder and the engine's shared memory; its processes must have ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        fresh = {name for name in _shared_names() - self._before if name.startswith(_LEFT)}
        for name in fresh - _in_use(fresh):
            (SHARED / name).unlink(missing_ok=True)


def on_tmpfs(path: Path) -> bool:
    """Tell whether `path` lies on a file system that is memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), room) != 0:
        return False
    # `struct statfs` begins with f_type, a long. See statfs(2).
    return ctypes.c_long.from_buffer(room).value == _TMPFS


def _shared_names() -> set[str]:
    """Return this user's files in shared memory."""
    found: set[str] = set()
    try:
        with os.scandir(SHARED) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.geteuid() and entry.is_file(follow_symlinks=False):
                    found.add(entry.name)
    except OSError:  # one went away meanwhile: there is nothing of it to remove
        return found
    return found


def _in_use(names: set[str]) -> set[str]:
    """Return those of `names` that a living process has mapped: another engine's, not ours."""
    used: set[str] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and names - used:
            try:
                maps = (process / "maps").read_text(encoding="utf-8", errors="replace")
            except OSError:  # gone, or not ours to read
                continue
            # The path is the last of six columns; see proc_pid_maps(5).
            mapped = {line.split(maxsplit=5)[-1] for line in maps.splitlines()}
            used |= {name for name in names - used if f"{SHARED}/{name}" in mapped}
    return used
