"""llama.cpp as an engine: a child process, a unix socket, a random key.

Guarantees: the child gets the model as a sealed memfd and the key over an inherited socket, both
only after it is hardened; nothing of either stands in argv, environment or on a disk; the child's
output goes nowhere; its socket lies in a private folder that `stop` removes.
Does not decide when to serve: the supervisor does. A crash of the supervisor ends the child (the
kernel's parent-death signal, and the closed control socket); the empty private folder may stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec

import inference_runtime
from inference_runtime.engine import control
from inference_runtime.engine.protocol import EngineAddress, EngineError, EngineFault, ModelFile
from inference_runtime.engine.whole import WholeModelEngine

_ALL_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHILD: Final = "inference_runtime.engine.llama_child"
# `-m` finds the package from the folder that it is started in, installed or in a checkout.
_HOME: Final = Path(inference_runtime.__path__[0]).resolve().parent
# Everything that the child may read from its environment. No debugger is started on an abort.
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "GGML_NO_BACKTRACE": "1"}
_MAX_ALIAS: Final = 128


@final
@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """Sizes of the engine: tokens, requests at a time, threads, seconds."""

    context: int = 2048
    answer: int = 256
    slots: int = 2
    threads: int = 2
    start_seconds: float = 60.0


@final
class LlamaEngine(WholeModelEngine):
    """`Engine` by llama.cpp; see `protocol.Engine` for what each method promises."""

    def __init__(
        self, settings: LlamaSettings | None = None, *, parent: Path | None = None
    ) -> None:
        """Prepare an engine whose private folder is made under `parent` (default: temporary)."""
        self._settings = settings or LlamaSettings()
        self._parent = parent
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._address: EngineAddress | None = None
        self._used = False

    @property
    def address(self) -> EngineAddress:
        """Where it serves; raises EngineError (STATE) unless it was started."""
        if self._address is None:
            raise EngineError(EngineFault.STATE, "the engine is not serving")
        return self._address

    @property
    def pid(self) -> int:
        """The child's process id; raises EngineError (STATE) unless it was started."""
        return self._child().pid

    async def start(self, files: Sequence[ModelFile], *, alias: str) -> EngineAddress:
        """Start the child, hand it the one GGUF among `files`, and wait until it answers.

        Raises:
            EngineError: a file is not a sealed memfd, there is not exactly one GGUF, the child
                could not load it, ended, or took longer than `start_seconds`.
        """
        if self._used:
            raise EngineError(EngineFault.STATE, "an engine is started once")
        self._used = True
        if not alias or len(alias) > _MAX_ALIAS or not alias.isprintable():
            raise EngineError(EngineFault.BAD_NAME, "the alias is not a printable short name")
        model = _the_model(files)
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                return await self._start(model, alias)
        except TimeoutError as error:
            await self.stop()
            raise EngineError(EngineFault.TIMED_OUT, "the engine did not start in time") from error
        except OSError as error:
            await self.stop()
            raise EngineError(EngineFault.EXITED, "the engine could not be reached") from error
        except (EngineError, asyncio.CancelledError):
            await self.stop()
            raise

    async def wait_exit(self) -> int:
        """Return the child's exit status once it has ended."""
        return await self._child().wait()

    async def drain(self, seconds: float) -> bool:
        """Tell the child to finish; True if it has ended within `seconds`."""
        process = self._child()
        if self._control is not None:
            with contextlib.suppress(OSError):  # it has ended already
                self._control.send(control.encode(control.Finish()))
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Kill the child if it runs, and remove its private folder."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._address = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _child(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EngineError(EngineFault.STATE, "the engine was not started")
        return self._process

    async def _start(self, model: int, alias: str) -> EngineAddress:
        # 1. A folder that no other user can enter, and a child with nothing in it yet.
        self._folder = Path(tempfile.mkdtemp(prefix="ostiary-engine-", dir=self._parent))
        ours, theirs = control.pair()
        self._control = ours
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", _CHILD, str(theirs.fileno())),
                cwd=_HOME,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        # 2. It says that it is hardened; only then it gets the key and the model.
        await self._expect(control.Hardened)
        address = EngineAddress(
            uds=str(self._folder / "engine.sock"),
            base_url="http://engine",
            api_key=secrets.token_urlsafe(32),
        )
        order = control.Begin(
            socket_path=address.uds,
            api_key=address.api_key,
            alias=alias,
            context=self._settings.context,
            answer=self._settings.answer,
            slots=self._settings.slots,
            threads=self._settings.threads,
        )
        socket.send_fds(ours, [control.encode(order)], [model])
        # 3. It says that the model is loaded and the socket listens.
        await self._expect(control.Ready)
        self._address = address
        return address

    async def _expect(self, kind: type[control.Message]) -> None:
        if self._control is None:
            raise EngineError(EngineFault.STATE, "the engine was stopped")
        loop = asyncio.get_running_loop()
        packet = await loop.sock_recv(self._control, control.MAX_MESSAGE)
        if not packet:
            raise EngineError(EngineFault.EXITED, "the engine ended before it was ready")
        try:
            message = control.decode(packet)
        except msgspec.DecodeError as error:
            raise EngineError(EngineFault.EXITED, "the engine spoke out of turn") from error
        if isinstance(message, control.Failed):
            raise EngineError(EngineFault.LOAD_FAILED, "the engine could not load the model")
        if not isinstance(message, kind):
            raise EngineError(EngineFault.EXITED, "the engine spoke out of turn")


def _the_model(files: Sequence[ModelFile]) -> int:
    """Return the descriptor of the only GGUF, after checking that every file is sealed memory."""
    for file in files:
        if not _is_sealed(file.fd):
            raise EngineError(EngineFault.NOT_SEALED, "a model file is not a sealed memfd")
    models = [file.fd for file in files if file.name.lower().endswith(".gguf")]
    if len(models) != 1:
        raise EngineError(EngineFault.NO_MODEL, f"{len(models)} GGUF files, expected one")
    return models[0]


def _is_sealed(fd: int) -> bool:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # EINVAL: a file system that knows no seals, so a real file
        return False
    # memfd and a tmpfs file both know seals; only the first has no name to be found by.
    return seals & _ALL_SEALS == _ALL_SEALS and os.fstat(fd).st_nlink == 0
