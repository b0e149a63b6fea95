"""Simulated GPU machines that a runtime can ask, and services that a test may change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from inference_runtime.attester.gpus import DriverGpus
from inference_runtime.attester.socket_gpus import socket_gpus
from ostiary.simulator.device import serving
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import TdxMachine
from ostiary.simulator.nvidia.devices import DeviceSet, Mode
from ostiary.simulator.nvidia.nvml import SimulatedDriver
from ostiary.simulator.nvidia.services import NvidiaServices, endorsements
from tests.kit import nvgpu
from tests.kit.nvgpu import NOW, Judge
from tests.kit.vendors import platform
from verifier.errors import Reason
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.result import AttestationResult
from verifier.wire.messages import GpuEvidence

SHAPES: tuple[tuple[int, Mode], ...] = (
    (1, "spt"),
    (2, "mpt"),
    (4, "mpt"),
    (8, "mpt"),
    (8, "ppcie"),
)


def services(now: int = NOW) -> NvidiaServices:
    """Return services of the session's NVIDIA, which a test may change."""
    return NvidiaServices.published(nvgpu.vendor(), lambda: now)


def judge(whole: DeviceSet, known: NvidiaServices | None = None) -> AttestationResult:
    """Return the strict verifier's result for a set, with all that its services know of it."""
    case = Judge(whole)
    if known is not None:
        case.endorsements = GpuEndorsements(*endorsements(known, whole, NOW))
    return case()


def failed(result: AttestationResult) -> dict[str, Reason]:
    """Return the checks that failed, with their reasons."""
    return {check.name: check.reason for check in result.checks if check.reason is not None}


def received(collected: tuple[GpuEvidence, ...]) -> list[DeviceEvidence]:
    """Return what the runtime collected as the verifier gets it."""
    return [
        DeviceEvidence(DeviceKind(each.kind), bytes(each.report), bytes(each.chain))
        for each in collected
    ]


@contextlib.contextmanager
def machine(path: Path, driver: SimulatedDriver | None) -> Iterator[DriverGpus]:
    """Serve a simulated TD with these GPUs, and give the runtime's view of them."""
    body = launch_td(LaunchRequest(bytes(48)))
    with serving(path, TdxMachine(platform(), body), driver):
        yield socket_gpus(path, simulated_allowed=True)
