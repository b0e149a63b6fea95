"""What NVML's errors mean, and what a person can do about each.

Guarantees: every `nvmlReturn_t` becomes an `AttesterError` with a stable code; one that is not
known is `device_failed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, final

from inference_runtime.attester.errors import AttesterError, DeviceFault


@final
class NvmlCode(IntEnum):
    """Values of nvmlReturn_t that mean something to us (nvml.h)."""

    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25
    GPU_NOT_FOUND = 28


@final
class NvmlFailure(Exception):  # noqa: N818 - NVMLError is what nvidia-ml-py calls its own
    """NVML returned something else than success. `code` is its nvmlReturn_t."""

    def __init__(self, code: int) -> None:
        super().__init__(f"nvmlReturn_t {code}")
        self.code = code


_HIDDEN: Final = (
    "this user may not, or its container hides the devices: give it /dev/nvidia* and /dev/nvidiactl"
)
_OLD: Final = "this driver is too old for it: install 550 or later"
_MIXED: Final = (
    "library and kernel module have different versions: reload the module or restart this machine"
)
_NO_MODE: Final = (
    "this GPU or its mode does not have it: attestation wants Hopper or later in a confidential "
    "mode, set from the host"
)
_LOST: Final = (
    "the GPU is lost or wants a reset: restart this machine, and look at the kernel log for Xid "
    "errors"
)
_REMEDIES: Final[Mapping[int, tuple[DeviceFault, str]]] = {
    NvmlCode.NO_PERMISSION: (DeviceFault.DENIED, _HIDDEN),
    NvmlCode.OPERATING_SYSTEM: (DeviceFault.DENIED, _HIDDEN),
    NvmlCode.FUNCTION_NOT_FOUND: (DeviceFault.GPU_DRIVER_UNSUITABLE, _OLD),
    NvmlCode.ARGUMENT_VERSION_MISMATCH: (DeviceFault.GPU_DRIVER_UNSUITABLE, _OLD),
    NvmlCode.LIB_RM_VERSION_MISMATCH: (DeviceFault.GPU_DRIVER_UNSUITABLE, _MIXED),
    NvmlCode.NOT_SUPPORTED: (DeviceFault.GPU_NOT_CONFIDENTIAL, _NO_MODE),
    NvmlCode.GPU_IS_LOST: (DeviceFault.GPU_LOST, _LOST),
    NvmlCode.RESET_REQUIRED: (DeviceFault.GPU_LOST, _LOST),
}
_ABSENT: Final[Mapping[int, str]] = {
    NvmlCode.DRIVER_NOT_LOADED: "the driver is not loaded",
    NvmlCode.NOT_FOUND: "the driver has no GPU",
    NvmlCode.GPU_NOT_FOUND: "the driver has no GPU",
    NvmlCode.LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not there",
}


def absent(why: str) -> AttesterError:
    """Return the error for a machine without GPUs or driver."""
    return AttesterError(
        DeviceFault.GPU_ABSENT,
        f"{why}: is a GPU passed through to this machine (`lspci -d 10de:`), and is NVIDIA's "
        "driver loaded (`modprobe nvidia`, `nvidia-smi`)?",
    )


def explained(failure: NvmlFailure, doing: str) -> AttesterError:
    """Return the error for a failed call; `doing` says in words what was tried."""
    code = failure.code
    if code in _ABSENT:
        return absent(f"{doing}: {_ABSENT[code]}")
    if code in _REMEDIES:
        fault, remedy = _REMEDIES[code]
        return AttesterError(fault, f"{doing}: {remedy}")
    return AttesterError(
        DeviceFault.FAILED,
        f"{doing}: NVML returned {code}: see the kernel log, then try again",
    )
