"""vLLM as an engine: starts its API server, hands the weights over, watches it, and ends it.

Guarantees: this side imports neither torch nor vLLM; vLLM's processes get an environment made from
nothing, a private folder in memory with the authenticated small files only, and the weights as
sealed memfds; what they print is kept in memory until they serve, to tell what failed, and thrown
away from then on. Ready means that a request was answered. If the server or any rank ends, all end;
`stop` leaves no process, folder or shared memory behind.
Does not decide when to serve, nor whether its GPUs are attested: the supervisor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, final

import msgspec

import inference_runtime
from inference_runtime import clock
from inference_runtime.engine import control
from inference_runtime.engine.protocol import (
    EngineAddress,
    EngineError,
    EngineFault,
    Model,
    Stage,
    Watch,
)
from inference_runtime.engine.vllm import files, probe
from inference_runtime.engine.vllm.handout import Handout
from inference_runtime.engine.vllm.home import Home
from inference_runtime.engine.vllm.options import VllmSettings, arguments, environment
from inference_runtime.engine.vllm.order import EXIT_NO_PLUGIN, EXIT_NOT_HARDENED, HARDENED, Order
from inference_runtime.engine.vllm.output import Output
from inference_runtime.engine.vllm.watch import Watchman, kill_group
from inference_runtime.errors import RuntimeFault

_CHILD: Final = "inference_runtime.engine.vllm.child"
_HOME: Final = Path(inference_runtime.__path__[0]).resolve().parent
_MAX_ALIAS: Final = 128
_END_SECONDS: Final = 10.0
_LAST_WORDS_SECONDS: Final = 5.0


@final
class VllmEngine:
    """`Engine` by vLLM; see `protocol.Engine` for what each method promises."""

    def __init__(self, settings: VllmSettings | None = None) -> None:
        """Prepare an engine; nothing is started yet."""
        self._settings = settings or VllmSettings()
        self._home: Home | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._output = Output()
        self._watchman = Watchman()
        self._address: EngineAddress | None = None
        self._used = False

    @property
    def ranks(self) -> int:
        """The tensor parallel size."""
        return self._settings.tensor_parallel_size

    @property
    def gpus(self) -> int:
        """As many as ranks; none where it runs on the processor, for development."""
        return 0 if self._settings.cpu else self.ranks

    @property
    def address(self) -> EngineAddress:
        """Where it serves; raises EngineError (STATE) unless it was started."""
        if self._address is None:
            raise EngineError(EngineFault.STATE, "the engine is not serving")
        return self._address

    @property
    def pid(self) -> int:
        """The API server's process id; raises EngineError (STATE) unless it was started."""
        return self._child().pid

    @property
    def last_words(self) -> str:
        """Which of its processes ended first, and whether the kernel killed for memory."""
        death = self._watchman.death
        if death is None:
            return ""
        return f"{death.who}, memory ran out" if death.out_of_memory else death.who

    async def load(self, model: Model, *, alias: str, watch: Watch) -> EngineAddress:
        """Start vLLM with `model`, hand its weights over, and wait until it has answered.

        Raises:
            EngineError: it is not installed, the model is none for it, it ended or took too long.
            RuntimeFault: a file of the model is not what it should be; the text names it.
        """
        if self._used:
            raise EngineError(EngineFault.STATE, "an engine is started once")
        self._used = True
        if not alias or len(alias) > _MAX_ALIAS or not alias.isprintable():
            raise EngineError(EngineFault.BAD_NAME, "the alias is not a printable short name")
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                return await self._load(model, alias, watch)
        except TimeoutError as error:
            await self.stop()
            raise EngineError(EngineFault.TIMED_OUT, "the engine did not start in time") from error
        except (EngineError, RuntimeFault, asyncio.CancelledError):
            await self.stop()
            raise
        finally:
            await asyncio.to_thread(model.close)

    async def wait_exit(self) -> int:
        """Return the server's exit status once it, or one of its ranks, has ended."""
        process = self._child()
        await self._watchman.wait(process)
        # A server without one of its ranks answers nobody, and may hang instead of ending.
        await kill_group(process, _END_SECONDS)
        return await process.wait()

    async def drain(self, seconds: float) -> bool:
        """Ask vLLM to end its requests and itself; True if it has ended within `seconds`."""
        process = self._child()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Kill every process of the engine, and remove its folder and its shared memory."""
        self._address = None
        if self._process is not None:
            await kill_group(self._process, _END_SECONDS)
            await self._output.ended()
        self._watchman.close()
        home, self._home = self._home, None
        if home is not None:
            await asyncio.to_thread(home.close)

    def _child(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EngineError(EngineFault.STATE, "the engine was not started")
        return self._process

    async def _load(self, model: Model, alias: str, watch: Watch) -> EngineAddress:
        settings = self._settings
        timer = _Timer(watch)
        # 1. The version that the plug-in was written against, and no other.
        installed = probe.require_vllm(cpu=settings.cpu)
        # 2. Small files, authenticated, in a private folder in memory; headers of the weights.
        home = self._home = await asyncio.to_thread(Home, settings.parent)
        prepared = await asyncio.to_thread(files.prepare, model, home)
        timer.done("small files", f"{len(prepared.plan.small)} files in {home.path}")
        # 3. A child that is hardened before it learns anything.
        address = EngineAddress(str(home.socket), "http://engine", secrets.token_urlsafe(32))
        process = await self._start(home, address.api_key, alias)
        # 4. The weights, each decrypted once, for all ranks.
        handout = Handout(
            home.handout, model, prepared.plan.weights, settings.tensor_parallel_size, process.pid
        )
        handout.heads = prepared.heads
        async with handout:
            await self._unless_dead(process, handout.came())
            timer.done("engine", f"vLLM {installed}, pid {process.pid}, ranks {self.ranks}")
            await self._unless_dead(process, handout.wait())
            self._watchman.follow(handout.take_peers())
        timer.done(
            "weights", f"{len(prepared.plan.weights)} files, {prepared.size} bytes, in memory only"
        )
        # 5. It is up when it has answered: the first request of several ranks takes seconds.
        await self._unless_dead(process, probe.until_healthy(address))
        timer.done("engine up", "its server answers")
        await self._unless_dead(process, probe.warm_up(address, alias))
        timer.done("warm-up", "one token")
        self._output.forget()
        self._address = address
        return address

    async def _start(self, home: Home, key: str, alias: str) -> asyncio.subprocess.Process:
        ours, theirs = control.pair()
        ours.setblocking(False)
        printed, prints = os.pipe()
        self._output.follow(printed)
        with ours, theirs, os.fdopen(prints, "wb") as out:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", _CHILD, str(theirs.fileno())),
                cwd=_HOME,
                env=home.environment() | environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # one group to end them all by
            )
            theirs.close()
            out.close()
            loop = asyncio.get_running_loop()
            if await loop.sock_recv(ours, len(HARDENED)) != HARDENED:
                await self._explain(process)
            order = Order(arguments(self._settings, home, alias), key)
            ours.send(msgspec.json.encode(order))
        return process

    async def _unless_dead(
        self, process: asyncio.subprocess.Process, work: Coroutine[Any, Any, None]
    ) -> None:
        """Wait for `work`, unless the engine ends before."""
        doing = asyncio.create_task(work)
        died = asyncio.create_task(self._watchman.wait(process))
        try:
            await asyncio.wait({doing, died}, return_when=asyncio.FIRST_COMPLETED)
            failure = _error(doing)
            left = isinstance(failure, EngineError) and failure.fault is EngineFault.LOAD_FAILED
            if left:
                # A rank that fails lets go of us first, and says why while it ends.
                await asyncio.wait({died}, timeout=_LAST_WORDS_SECONDS)
            if left or not doing.done():
                await self._explain(process, failure)
            doing.result()
        finally:
            for task in (doing, died):
                task.cancel()
            await asyncio.wait({doing, died})

    async def _explain(
        self, process: asyncio.subprocess.Process, otherwise: BaseException | None = None
    ) -> None:
        """Raise what is known of an engine that ended while it started, or `otherwise`."""
        await kill_group(process, _END_SECONDS)
        await self._output.ended()
        if self._settings.output is not None:
            with contextlib.suppress(OSError):
                self._output.save(self._settings.output)
        status = await process.wait()
        if status == EXIT_NOT_HARDENED:
            raise EngineError(EngineFault.EXITED, "the engine's process could not be hardened")
        if status == EXIT_NO_PLUGIN:
            raise EngineError(
                EngineFault.NOT_INSTALLED,
                "vLLM does not find our plug-in: install this package where vLLM is installed",
            )
        if self._output.short_of_memory() or self._watchman.memory_was_short():
            raise EngineError(EngineFault.OUT_OF_MEMORY, "memory ran out while the engine started")
        cause = self._output.cause()
        if otherwise is not None and not cause:
            raise otherwise
        raise EngineError(
            EngineFault.LOAD_FAILED if cause else EngineFault.EXITED,
            f"the engine ended while it started ({cause or f'status {status}'})",
        )


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


@final
class _Timer:
    """Tells the watcher how long each stage took."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._since = clock.monotonic()

    def done(self, name: str, detail: str) -> None:
        """End a stage and begin the next one."""
        now = clock.monotonic()
        self._watch(Stage(name, detail, now - self._since))
        self._since = now
