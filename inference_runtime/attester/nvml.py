"""NVIDIA's driver through `nvidia-ml-py` (13 or later), which is imported on first use.

Guarantees: buffers are cut to the sizes that the driver returned, never passed on whole, and every
NVML error comes out as `NvmlFailure`. The package is the extra `guest-gpu`; nothing else of ours
needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, final

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.gpu_faults import NvmlCode, NvmlFailure
from inference_runtime.attester.gpus import (
    MAX_CHAIN,
    MAX_REPORT,
    ComputeSettings,
    MultiGpu,
)

_NEWEST: Final = "NVML_CC_SYSTEM_MULTIGPU_NVLE"
"""A name that nvidia-ml-py has from 13 on."""
_UNKNOWN_TO_OLD: Final = frozenset(
    {NvmlCode.FUNCTION_NOT_FOUND, NvmlCode.NOT_SUPPORTED, NvmlCode.ARGUMENT_VERSION_MISMATCH}
)


def _import() -> Any:  # noqa: ANN401 - an untyped library
    return importlib.import_module("pynvml")


@final
class PyNvml:
    """`Nvml` on a real machine."""

    __slots__ = ("_load", "_pynvml")

    def __init__(self, load: Callable[[], Any] = _import) -> None:
        self._load = load
        self._pynvml: Any = None

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Initialise NVML, and shut it down again.

        Raises:
            AttesterError: nvidia-ml-py is not installed, or too old.
            NvmlFailure: the driver does not answer.
        """
        self._pynvml = self._library()
        self._call("nvmlInit")
        try:
            yield
        finally:
            # A driver that died in between cannot be shut down; the first error counts.
            with contextlib.suppress(NvmlFailure):
                self._call("nvmlShutdown")

    def settings(self) -> ComputeSettings:
        """Return the settings; a driver that does not know multi-GPU modes has none.

        Raises:
            NvmlFailure: the driver does not say.
        """
        library = self._pynvml
        asked = library.c_nvmlSystemConfComputeSettings_v1_t()
        try:
            # nvidia-ml-py returns this function's code and does not look at it.
            _check(self._call("nvmlSystemGetConfComputeSettings", ctypes.byref(asked)))
            multi_gpu = asked.multiGpuMode
        except NvmlFailure as failure:
            if failure.code not in _UNKNOWN_TO_OLD:
                raise
            asked = self._call("nvmlSystemGetConfComputeState")
            multi_gpu = MultiGpu.NONE
        enabled = asked.ccFeature == library.NVML_CC_SYSTEM_FEATURE_ENABLED
        devtools = asked.devToolsMode != library.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF
        return ComputeSettings(asked.environment, enabled, devtools, multi_gpu)

    def count(self) -> int:
        """Return how many GPUs the driver sees.

        Raises:
            NvmlFailure: the driver does not say.
        """
        return int(self._call("nvmlDeviceGetCount"))

    def report(self, index: int, nonce: bytes) -> bytes:
        """Return a GPU's report.

        Raises:
            NvmlFailure: the driver gives none.
            AttesterError: it has an impossible size.
        """
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        given = self._call("nvmlDeviceGetConfComputeGpuAttestationReport", handle, nonce)
        return _cut(given.attestationReport, given.attestationReportSize, MAX_REPORT)

    def chain(self, index: int) -> bytes:
        """Return a GPU's attestation certificate chain.

        Raises:
            NvmlFailure: the driver gives none.
            AttesterError: it has an impossible size.
        """
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        given = self._call("nvmlDeviceGetConfComputeGpuCertificate", handle)
        return _cut(given.attestationCertChain, given.attestationCertChainSize, MAX_CHAIN)

    def ready(self) -> bool:
        """Return whether the GPUs accept work.

        Raises:
            NvmlFailure: the driver does not say.
        """
        state = self._call("nvmlSystemGetConfComputeGpusReadyState")
        return bool(state == self._pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE)

    def set_ready(self, *, ready: bool) -> None:
        """Make the GPUs accept or refuse work.

        Raises:
            NvmlFailure: the driver does not do it.
        """
        self._call("nvmlSystemSetConfComputeGpusReadyState", int(ready))

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - an untyped library
        try:
            return getattr(self._pynvml, name)(*arguments)
        except self._pynvml.NVMLError as error:
            raise NvmlFailure(int(error.value)) from error

    def _library(self) -> Any:  # noqa: ANN401 - an untyped library
        try:
            library = self._load()
        except ImportError as error:
            raise AttesterError(
                DeviceFault.GPU_TOOL_ABSENT,
                "nvidia-ml-py is not installed: install the extra `guest-gpu`",
            ) from error
        if not hasattr(library, _NEWEST):
            raise AttesterError(
                DeviceFault.GPU_TOOL_ABSENT,
                "this nvidia-ml-py is older than 13, or another package took its place (`pynvml`): "
                "install the extra `guest-gpu`",
            )
        return library


def _check(code: int) -> None:
    if code != 0:
        raise NvmlFailure(code)


def _cut(buffer: Sequence[int], size: int, limit: int) -> bytes:
    if not 0 < size <= limit:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"the driver gave {size} bytes, at most {limit} expected"
        )
    return bytes(buffer[:size])
