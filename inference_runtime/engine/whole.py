"""For engines that want the whole model open before they start.

Guarantees: every file is open, and the key gone, before the engine's process exists.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from inference_runtime import clock
from inference_runtime.engine.protocol import EngineAddress, Model, ModelFile, Stage, Watch


class WholeModelEngine(ABC):
    """The half of an `Engine` that opens the model; `start` is the other one."""

    @property
    def ranks(self) -> int:
        """One: it does not split layers."""
        return 1

    @property
    def gpus(self) -> int:
        """None: it computes on the processor."""
        return 0

    @property
    def last_words(self) -> str:
        """Nothing is known of an end."""
        return ""

    @property
    @abstractmethod
    def pid(self) -> int:
        """See `protocol.Engine.pid`."""

    @abstractmethod
    async def start(self, files: Sequence[ModelFile], *, alias: str) -> EngineAddress:
        """Start with the open files; raises EngineError, and then leaves nothing running."""

    async def load(self, model: Model, *, alias: str, watch: Watch) -> EngineAddress:
        """Open every file, wipe the key, then start; see `protocol.Engine.load`."""
        begun = clock.monotonic()
        try:
            opened = await asyncio.to_thread(model.open_all)
        finally:
            await asyncio.to_thread(model.close)
        with opened:
            size = sum(file.size for file in opened.files.values())
            detail = f"{len(opened.files)} files, {size} bytes, in memory only"
            watch(Stage("weights", detail, clock.monotonic() - begun))
            begun = clock.monotonic()
            files = [ModelFile(name, file.fileno()) for name, file in opened.files.items()]
            address = await self.start(files, alias=alias)
            watch(Stage("engine", f"pid {self.pid}", clock.monotonic() - begun))
            return address
