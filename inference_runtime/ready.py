"""The GPUs' ready state: whether the driver lets CUDA work in.

Guarantees: off from the start of a run until `on`, which the supervisor calls for a checked release
only, whatever an earlier run left; off again after `off`, if the driver does it. Without GPUs it
does nothing.
"""

from __future__ import annotations

import asyncio
from typing import final

from inference_runtime import clock
from inference_runtime.attester.gpus import Gpus
from inference_runtime.engine.protocol import Stage, Watch
from inference_runtime.errors import RuntimeFault


@final
class ReadyState:
    """Of the machine's GPUs; None for none."""

    def __init__(self, gpus: Gpus | None, watch: Watch) -> None:
        self._gpus = gpus
        self._watch = watch
        self._on = False

    async def require_off(self) -> None:
        """Have the GPUs refuse work.

        Raises:
            RuntimeFault: the driver does not do it.
        """
        gpus = self._gpus
        if gpus is not None and await asyncio.to_thread(gpus.ready):
            await asyncio.to_thread(gpus.set_ready, ready=False)

    async def on(self) -> None:
        """Let the GPUs take work: the broker has accepted them and released the key.

        Raises:
            RuntimeFault: the driver does not do it.
        """
        if self._gpus is None:
            return
        begun, self._on = clock.monotonic(), True
        await asyncio.to_thread(self._gpus.set_ready, ready=True)
        self._watch(Stage("GPUs ready", "", clock.monotonic() - begun))

    async def off(self) -> None:
        """Have the GPUs refuse work again, once nothing holds the model any more."""
        if self._gpus is None or not self._on:
            return
        try:
            await asyncio.to_thread(self._gpus.set_ready, ready=False)
        except RuntimeFault as fault:
            self._watch(Stage("GPUs still ready", str(fault), 0.0))
