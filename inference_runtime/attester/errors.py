"""The report device's own error codes.

Guarantees: every failure of a device is an `AttesterError` (a `RuntimeFault`) with a stable
`DeviceFault`, and its text says what a person can do about it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import final

from inference_runtime.errors import RuntimeFault


@final
class DeviceFault(StrEnum):
    """Why no evidence could be had. The values are stable: callers and tests may match on them."""

    ABSENT = "device_absent"
    """No report device here: not a confidential VM, or the kernel part is missing."""
    DENIED = "device_denied"
    """The device is there, and this user may not use it."""
    WRONG_KIND = "device_wrong_kind"
    """The device is of another kind than the one that was asked for."""
    RACED = "device_raced"
    """Somebody else wrote to our report request: what came out may not be ours."""
    FAILED = "device_failed"
    """The device answered with an error, or not in time."""
    ANSWER_INVALID = "device_answer_invalid"
    """The device's answer has a size or form that no such device gives."""
    NOT_PROVISIONED = "device_not_provisioned"
    """The TPM lacks an NV index, key or bank that a machine of this kind has."""
    REQUEST_INVALID = "device_request_invalid"
    """Report data that is not 64 bytes, or a GPU nonce that is not 32."""
    # GPUs and switches; what they share with the report device has its codes above.
    GPU_ABSENT = "gpu_absent"
    """No NVIDIA driver is loaded here, or it sees no GPU."""
    GPU_TOOL_ABSENT = "gpu_tool_absent"
    """nvidia-ml-py or nvattest is not installed."""
    GPU_DRIVER_UNSUITABLE = "gpu_driver_unsuitable"
    """The driver is too old for attestation, or its parts have different versions."""
    GPU_NOT_CONFIDENTIAL = "gpu_not_confidential"
    """The GPUs are not in a confidential computing mode, or cannot be."""
    GPU_DEVTOOLS = "gpu_devtools"
    """The GPUs are in devtools mode: the host may read what they compute."""
    GPU_SIMULATED = "gpu_simulated"
    """The GPUs are simulated, and this runtime is not a demo."""
    GPU_LOST = "gpu_lost"
    """A GPU fell off the bus or wants a reset."""


class AttesterError(RuntimeFault):
    """The report device gave no evidence. `code` is stable; nothing in the text is secret."""

    code: DeviceFault  # type: ignore[assignment]  # devices keep their own closed list

    def __init__(self, code: DeviceFault, message: str) -> None:
        Exception.__init__(self, message)
        self.code = code
