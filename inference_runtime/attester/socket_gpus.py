"""The GPUs and switches of a simulated machine: a client of its unix socket.

Guarantees: the same calls, errors and checks as with a real driver, so the runtime cannot tell and
need not. Is not evidence of anything: the driver says "simulated environment", which `DriverGpus`
refuses unless it was told that this is a demo, and the evidence rests on a simulator's roots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from inference_runtime.attester import nvattest, socket_device
from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.gpu_faults import NvmlFailure
from inference_runtime.attester.gpus import ComputeSettings, DriverGpus
from inference_runtime.attester.socket_wire import NvmlFunction
from verifier.wire.messages import GpuEvidence

_NUMBER: Final = 4
"""Bytes of a number on the wire."""


def socket_gpus(path: Path, *, simulated_allowed: bool) -> DriverGpus:
    """Return the GPUs of the simulated machine that listens at `path`."""
    switches = SocketSwitches(path)
    return DriverGpus(SocketNvml(path), switches, simulated_allowed=simulated_allowed)


@final
class SocketNvml:
    """`Nvml` of a simulated machine."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Ask whether there is a driver.

        Raises:
            AttesterError: nobody listens there.
            NvmlFailure: there is no driver.
        """
        self._numbers(NvmlFunction.INIT, 0)
        yield

    def settings(self) -> ComputeSettings:
        """Return the machine's settings.

        Raises:
            NvmlFailure: the simulated driver does not say.
        """
        environment, feature, devtools, multi = self._numbers(NvmlFunction.SETTINGS, 4)
        return ComputeSettings(environment, feature == 1, devtools != 0, multi)

    def count(self) -> int:
        """Return how many GPUs there are.

        Raises:
            NvmlFailure: the simulated driver does not say.
        """
        return self._numbers(NvmlFunction.COUNT, 1)[0]

    def report(self, index: int, nonce: bytes) -> bytes:
        """Return a GPU's report.

        Raises:
            NvmlFailure: the simulated driver gives none.
        """
        return self._call(NvmlFunction.REPORT, index, nonce)

    def chain(self, index: int) -> bytes:
        """Return a GPU's certificate chain.

        Raises:
            NvmlFailure: the simulated driver gives none.
        """
        return self._call(NvmlFunction.CHAIN, index)

    def ready(self) -> bool:
        """Return whether the GPUs accept work.

        Raises:
            NvmlFailure: the simulated driver does not say.
        """
        return self._numbers(NvmlFunction.GET_READY, 1)[0] == 1

    def set_ready(self, *, ready: bool) -> None:
        """Make the GPUs accept or refuse work.

        Raises:
            NvmlFailure: the simulated driver does not do it.
        """
        self._call(NvmlFunction.SET_READY, 0, bytes([ready]))

    def _call(self, function: NvmlFunction, index: int = 0, argument: bytes = b"") -> bytes:
        payload = bytes([function, index]) + argument
        answer = socket_device.call(self._path, wire.NVML, payload)
        if len(answer) < _NUMBER:
            raise AttesterError(DeviceFault.ANSWER_INVALID, "an NVML answer without a code")
        code = int.from_bytes(answer[:_NUMBER])
        if code != 0:
            raise NvmlFailure(code)
        return answer[_NUMBER:]

    def _numbers(self, function: NvmlFunction, count: int) -> list[int]:
        data = self._call(function)
        if len(data) != _NUMBER * count:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"an NVML answer of {len(data)} bytes to {function.name}",
            )
        return [int.from_bytes(data[at : at + _NUMBER]) for at in range(0, len(data), _NUMBER)]


@final
class SocketSwitches:
    """`Switches` of a simulated machine."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return every switch's evidence for a nonce.

        Raises:
            AttesterError: as `Switches.collect`.
        """
        return nvattest.parse(socket_device.call(self._path, wire.SWITCHES, nonce), nonce)
