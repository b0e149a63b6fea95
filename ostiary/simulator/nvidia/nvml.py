"""The driver of a simulated machine: what NVML and nvattest would answer, and its failures.

Guarantees: answers have the numbers and sizes of the real library (nvml.h), errors are its
`nvmlReturn_t`; the environment that it names is "simulated", never "production". Judges nothing and
protects nothing: the ready state is a flag.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Final, final

from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.gpu_faults import NvmlCode
from inference_runtime.attester.gpus import Environment, MultiGpu
from inference_runtime.attester.socket_wire import NvmlFunction
from ostiary.simulator.nvidia.devices import NONCE_SIZE, DeviceSet

_INVALID_ARGUMENT: Final = 2
_CALL: Final = 2
"""Bytes before a call's argument: function and GPU."""
_MULTI: Final = {
    "spt": MultiGpu.NONE,
    "mpt": MultiGpu.NVLINK_ENCRYPTED,
    "ppcie": MultiGpu.PROTECTED_PCIE,
}
_ARCHITECTURE: Final = "HOPPER"
NSCQ_FAILED: Final = 10
"""A result code of `nvattest`; all but 0 are failures."""


@final
@dataclass(slots=True)
class DriverState:
    """What may be wrong with the driver; the defaults are a machine in order.

    `codes` are errors by function, `lost` GPUs that fell off the bus.
    """

    confidential: bool = True
    devtools: bool = False
    ready: bool = False
    root: bool = True
    """Whether the caller may set the ready state."""
    environment: Environment = Environment.SIMULATED
    switches_work: bool = True
    codes: dict[NvmlFunction, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)


def answer(driver: SimulatedDriver | None, code: int, payload: bytes) -> bytes | None:
    """Return the good answer to a request for GPUs or switches; None if it is no such request.

    A machine without GPUs (None) answers as one without a driver.
    """
    if code == wire.NVML and len(payload) >= _CALL:
        if driver is None:
            return _numbers(NvmlCode.DRIVER_NOT_LOADED)
        result, data = driver.call(payload[0], payload[1], payload[_CALL:])
        return _numbers(result) + data
    if code == wire.SWITCHES and len(payload) == NONCE_SIZE and driver is not None:
        return driver.nvattest(payload)
    return None


@final
@dataclass(slots=True)
class SimulatedDriver:
    """The driver of one machine."""

    devices: DeviceSet
    state: DriverState = field(default_factory=DriverState)

    def call(self, function: int, index: int, argument: bytes) -> tuple[int, bytes]:
        """Return `nvmlReturn_t` and data for one call (see `socket_wire`)."""
        try:
            asked = NvmlFunction(function)
        except ValueError:
            return NvmlCode.FUNCTION_NOT_FOUND, b""
        code = self.state.codes.get(asked, 0)
        if code:
            return code, b""
        if asked in {
            NvmlFunction.REPORT,
            NvmlFunction.CHAIN,
            NvmlFunction.UUID,
            NvmlFunction.VBIOS_VERSION,
        }:
            return self._device(asked, index, argument)
        return self._system(asked, argument)

    def _system(self, asked: NvmlFunction, argument: bytes) -> tuple[int, bytes]:
        state = self.state
        if asked == NvmlFunction.SET_READY:
            return self._set_ready(argument), b""
        multi = _MULTI[self.devices.mode] if state.confidential else MultiGpu.NONE
        # Protected PCIe is not "CC on": nvidia-smi shows CC off and the other mode.
        feature = state.confidential and self.devices.mode != "ppcie"
        answers = {
            NvmlFunction.SETTINGS: _numbers(state.environment, feature, state.devtools, multi),
            NvmlFunction.COUNT: _numbers(len(self.devices.gpus)),
            NvmlFunction.GET_READY: _numbers(state.ready),
            NvmlFunction.DRIVER_VERSION: self.devices.gpus[0].driver.encode(),
        }
        return 0, answers.get(asked, b"")

    def _set_ready(self, argument: bytes) -> int:
        if not self.state.root:
            return NvmlCode.NO_PERMISSION
        if argument not in {b"\0", b"\1"}:
            return _INVALID_ARGUMENT
        self.state.ready = argument == b"\1"
        return 0

    def _device(self, asked: NvmlFunction, index: int, argument: bytes) -> tuple[int, bytes]:
        code = self._refusal(asked, index, argument)
        if code:
            return code, b""
        gpu = self.devices.gpus[index]
        if asked == NvmlFunction.REPORT:
            return 0, gpu.report(argument)
        name = uuid.UUID(bytes=hashlib.sha256(gpu.identity.pdi).digest()[:16])
        answers = {
            NvmlFunction.CHAIN: gpu.chain,
            NvmlFunction.UUID: f"GPU-{name}".encode(),
            NvmlFunction.VBIOS_VERSION: gpu.vbios.encode(),
        }
        return 0, answers[asked]

    def _refusal(self, asked: NvmlFunction, index: int, argument: bytes) -> int:
        """Return why a GPU does not answer, or 0."""
        reporting = asked == NvmlFunction.REPORT
        if index >= len(self.devices.gpus) or (reporting and len(argument) != NONCE_SIZE):
            return _INVALID_ARGUMENT
        if index in self.state.lost:
            return NvmlCode.GPU_IS_LOST
        if not self.state.confidential and asked in {NvmlFunction.REPORT, NvmlFunction.CHAIN}:
            return NvmlCode.NOT_SUPPORTED
        return 0

    def nvattest(self, nonce: bytes) -> bytes:
        """Return what `nvattest collect-evidence --device nvswitch --format json` would print."""
        if not self.state.switches_work or not self.devices.switches:
            failed = {
                "evidences": None,
                "result_code": NSCQ_FAILED,
                "result_message": "NSCQ initialization failed",
            }
            return json.dumps(failed, indent=4).encode()
        evidences = [
            {
                "arch": each.identity.chip,
                "certificate": base64.b64encode(each.chain).decode(),
                "evidence": base64.b64encode(each.report(nonce)).decode(),
                "nonce": nonce.hex(),
                "version": "1.0",
            }
            for each in self.devices.switches
        ]
        printed = {"evidences": evidences, "result_code": 0, "result_message": "Ok"}
        return json.dumps(printed, indent=4).encode()

    def gpu_evidence(self, nonce: bytes) -> list[dict[str, str]]:
        """Return the list that nvattest and NRAS use, for the GPUs."""
        return [
            {
                "arch": _ARCHITECTURE,
                "certificate": base64.b64encode(each.chain).decode(),
                "driver_version": each.driver,
                "evidence": base64.b64encode(each.report(nonce)).decode(),
                "nonce": nonce.hex(),
                "vbios_version": each.vbios,
                "version": "1.0",
            }
            for each in self.devices.gpus
        ]


def _numbers(*values: int) -> bytes:
    return b"".join(int(value).to_bytes(4, "big") for value in values)
