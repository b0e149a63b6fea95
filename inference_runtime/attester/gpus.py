"""Collects the evidence of the machine's GPUs and NVSwitches, and holds their ready state.

Guarantees: `collect` returns, for one nonce, the report and chain of every GPU that the driver
sees, and of every switch where the machine's mode makes switches part of what is trusted; each
report has the size that the driver said and carries our nonce; or an error says what to do. Does
not judge evidence: the broker does, and it also counts. `set_ready` is for after the release only:
until then the GPUs refuse CUDA work. `nvml.py` reads the real driver, `nvattest.py` real switches,
`socket_gpus.py` the simulator.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, Protocol, final

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.gpu_faults import NvmlCode, NvmlFailure, absent, explained
from verifier.wire.canonical import B64
from verifier.wire.messages import GpuEvidence

NONCE_SIZE: Final = 32
"""Bytes of the nonce in a report (SPDM 1.1 GET_MEASUREMENTS)."""
MAX_REPORT: Final = 0x2000
"""NVML_CC_GPU_ATTESTATION_REPORT_SIZE: largest report in bytes."""
MAX_CHAIN: Final = 0x1400
"""NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE: largest chain in bytes."""
MIN_REPORT: Final = 37 + 8 + 32 + 2 + 96
"""Request, response head, responder nonce, opaque length, signature: nothing measured."""
_REQUEST: Final = bytes.fromhex("11e001ff")
_NONCE: Final = slice(4, 4 + NONCE_SIZE)
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@final
class Environment(IntEnum):
    """NVML_CC_SYSTEM_ENVIRONMENT_*: what the driver says that it runs on."""

    UNAVAILABLE = 0
    SIMULATED = 1
    PRODUCTION = 2


@final
class MultiGpu(IntEnum):
    """NVML_CC_SYSTEM_MULTIGPU_*: how several GPUs work together."""

    NONE = 0
    PROTECTED_PCIE = 1
    """NVLink in the clear through switches, which so are part of what is trusted."""
    NVLINK_ENCRYPTED = 2


@final
@dataclass(frozen=True, slots=True)
class ComputeSettings:
    """What the driver says of confidential computing on this machine.

    In protected-PCIe mode `enabled` is false and `multi_gpu` says that the mode is on.
    """

    environment: int
    enabled: bool
    devtools: bool
    multi_gpu: int


class Nvml(Protocol):
    """The few NVML functions that attestation needs; all raise `NvmlFailure`."""

    def session(self) -> AbstractContextManager[None]:
        """Initialise the library for the block's time; also raises `AttesterError`."""
        ...

    def settings(self) -> ComputeSettings:
        """Return the machine's confidential computing settings."""
        ...

    def count(self) -> int:
        """Return how many GPUs the driver sees."""
        ...

    def report(self, index: int, nonce: bytes) -> bytes:
        """Return a GPU's report, of the size that the driver said."""
        ...

    def chain(self, index: int) -> bytes:
        """Return a GPU's attestation certificate chain (PEM), of the size that the driver said."""
        ...

    def ready(self) -> bool:
        """Return whether the GPUs accept work."""
        ...

    def set_ready(self, *, ready: bool) -> None:
        """Make the GPUs accept or refuse work."""
        ...


class Switches(Protocol):
    """The machine's NVSwitches."""

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return every switch's evidence for a nonce.

        Raises:
            AttesterError: no evidence, with what to do about it.
        """
        ...


class Gpus(Protocol):
    """The machine's GPUs and switches, as the runtime needs them."""

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return the evidence of all GPUs, then of all switches, for one nonce of 32 bytes.

        Raises:
            AttesterError: no evidence, with what to do about it.
        """
        ...

    def ready(self) -> bool:
        """Return whether the GPUs accept CUDA work.

        Raises:
            AttesterError: the driver cannot say.
        """
        ...

    def set_ready(self, *, ready: bool) -> None:
        """Make the GPUs accept CUDA work (after the release, never before), or refuse it.

        Raises:
            AttesterError: the driver does not do it, with what to do about it.
        """
        ...


@final
class DriverGpus:
    """`Gpus` through an NVIDIA driver.

    Args:
        nvml: the driver's library.
        switches: asked only where the machine is in protected-PCIe mode.
        simulated_allowed: true in the demo and in tests only.
    """

    __slots__ = ("_nvml", "_simulated_allowed", "_switches")

    def __init__(self, nvml: Nvml, switches: Switches, *, simulated_allowed: bool = False) -> None:
        self._nvml = nvml
        self._switches = switches
        self._simulated_allowed = simulated_allowed

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return the evidence of all GPUs, then of all switches, for one nonce of 32 bytes.

        Raises:
            AttesterError: as `Gpus.collect`.
        """
        if len(nonce) != NONCE_SIZE:
            raise AttesterError(
                DeviceFault.REQUEST_INVALID,
                f"a GPU nonce of {len(nonce)} bytes, {NONCE_SIZE} expected",
            )
        doing = "opening the driver"
        try:
            with self._nvml.session():
                # 1. A mode in which evidence means something.
                doing = "reading the confidential computing settings"
                settings = self._nvml.settings()
                self._require_confidential(settings)
                # 2. Every GPU that the driver sees.
                doing = "counting the GPUs"
                count = self._nvml.count()
                if count == 0:
                    raise absent("the driver sees no GPU")
                found = []
                for index in range(count):
                    doing = f"asking GPU {index} for its report"
                    report = self._nvml.report(index, nonce)
                    doing = f"asking GPU {index} for its certificates"
                    found.append(evidence(1, report, self._nvml.chain(index), nonce))
        except NvmlFailure as failure:
            raise explained(failure, doing) from failure
        # 3. The switches, where they carry what the GPUs say to each other.
        if settings.multi_gpu == MultiGpu.PROTECTED_PCIE:
            found += self._switches.collect(nonce)
        return tuple(found)

    def ready(self) -> bool:
        """Return whether the GPUs accept CUDA work.

        Raises:
            AttesterError: as `Gpus.ready`.
        """
        try:
            with self._nvml.session():
                return self._nvml.ready()
        except NvmlFailure as failure:
            raise explained(failure, "reading the GPUs' ready state") from failure

    def set_ready(self, *, ready: bool) -> None:
        """Make the GPUs accept CUDA work (after the release, never before), or refuse it.

        Raises:
            AttesterError: as `Gpus.set_ready`.
        """
        try:
            with self._nvml.session():
                self._nvml.set_ready(ready=ready)
                done = self._nvml.ready()
        except NvmlFailure as failure:
            if failure.code == NvmlCode.NO_PERMISSION:
                raise AttesterError(
                    DeviceFault.DENIED,
                    "only root may set the GPUs' ready state: run the runtime's supervisor as root",
                ) from failure
            raise explained(failure, "setting the GPUs' ready state") from failure
        if done is not ready:
            raise AttesterError(
                DeviceFault.FAILED,
                f"the driver took the ready state {ready} and still says {done}: see the kernel "
                "log for what it says of the GPUs",
            )

    def _require_confidential(self, settings: ComputeSettings) -> None:
        if settings.environment == Environment.SIMULATED and not self._simulated_allowed:
            raise AttesterError(
                DeviceFault.GPU_SIMULATED,
                "these GPUs are simulated and prove nothing; only a demo may use them",
            )
        if settings.devtools:
            raise AttesterError(
                DeviceFault.GPU_DEVTOOLS,
                "the GPUs are in devtools mode, in which the host may read them: set CC mode `on` "
                "from the host and restart this machine",
            )
        if not settings.enabled and settings.multi_gpu == MultiGpu.NONE:
            raise AttesterError(
                DeviceFault.GPU_NOT_CONFIDENTIAL,
                "the GPUs are not in a confidential mode: set CC or protected-PCIe mode from the "
                "host, restart this machine, and look with `nvidia-smi conf-compute -f`",
            )


def evidence(kind: Literal[1, 2], report: bytes, chain: bytes, nonce: bytes) -> GpuEvidence:
    """Return one device's answer as evidence, if it has the form of one and carries the nonce.

    Args:
        kind: 1 GPU, 2 switch.
        report: SPDM request and response, as the device gave them.
        chain: PEM, as the device gave it.
        nonce: ours, 32 bytes.

    Raises:
        AttesterError: `device_answer_invalid`, or `device_raced` if it is for another nonce.
    """
    what = "GPU" if kind == 1 else "switch"
    if not MIN_REPORT <= len(report) <= MAX_REPORT or not report.startswith(_REQUEST):
        raise AttesterError(
            DeviceFault.ANSWER_INVALID,
            f"a {what} gave {len(report)} bytes that are no SPDM 1.1 measurement report",
        )
    if not chain.startswith(_PEM) or len(chain) > MAX_CHAIN:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID,
            f"a {what} gave {len(chain)} bytes that are no certificate chain in PEM",
        )
    if report[_NONCE] != nonce:
        raise AttesterError(
            DeviceFault.RACED,
            f"a {what}'s report is for another nonce than ours: is somebody else asking it for "
            "reports? Try again",
        )
    return GpuEvidence(kind=kind, report=B64(report), chain=B64(chain))
