"""Reads MRCONFIGID of the running TD from the TDX module, not from anything the host answers.

Guarantees: the value comes from a TDREPORT that the module made for this TD (a quote would not do:
the host's quoting service returns it, and inside the guest nobody checks its signature). Two ways:
the kernel's measurement files (Linux 6.16 and later), else the TDREPORT ioctl of /dev/tdx_guest.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Final

from inference_runtime.attester import LAUNCH_CONFIG_SIZE, AttesterError, DeviceFault
from inference_runtime.attester.files import KernelFiles

MEASUREMENT: Final = "/sys/devices/virtual/misc/tdx_guest/measurements/mrconfigid"
"""Linux, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest."""
DEVICE: Final = "/dev/tdx_guest"
_GET_REPORT0: Final = 0xC4405401
"""TDX_CMD_GET_REPORT0 = _IOWR('T', 1, struct tdx_report_req) (linux/tdx-guest.h)."""
_REPORT_DATA: Final = 64
_TDREPORT: Final = 1024
_SIZE: Final = LAUNCH_CONFIG_SIZE["tdx"]
_TDINFO: Final = 512
"""TDREPORT_STRUCT: REPORTMACSTRUCT 256, TEE_TCB_INFO 239, reserved 17, then TDINFO."""
_MRCONFIGID: Final = _TDINFO + 8 + 8 + 48
"""TDINFO: ATTRIBUTES 8, XFAM 8, MRTD 48, then MRCONFIGID (TDX module ABI)."""


def tdreport() -> bytes:
    """Return a TDREPORT (1,024 bytes) of this TD for zero report data.

    Raises:
        OSError: there is no such device, or it may not be used.
    """
    handle = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = bytearray(_REPORT_DATA + _TDREPORT)
        fcntl.ioctl(handle, _GET_REPORT0, request, True)
        return bytes(request[_REPORT_DATA:])
    finally:
        os.close(handle)


def mr_config_id(files: KernelFiles, get_tdreport: Callable[[], bytes] = tdreport) -> bytes:
    """Return MRCONFIGID (48 bytes) of this TD.

    Raises:
        AttesterError: neither way works here, with what to do.
    """
    try:
        value = files.read(MEASUREMENT, _SIZE)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise _fault(error, MEASUREMENT) from error
        try:
            report = get_tdreport()
        except OSError as device_error:
            raise _fault(device_error, DEVICE) from device_error
        if len(report) != _TDREPORT:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID, f"a TDREPORT of {len(report)} bytes"
            ) from error
        value = report[_MRCONFIGID : _MRCONFIGID + _SIZE]
    if len(value) != _SIZE:
        raise AttesterError(DeviceFault.ANSWER_INVALID, f"MRCONFIGID of {len(value)} bytes")
    return value


def _fault(error: OSError, path: str) -> AttesterError:
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        return AttesterError(
            DeviceFault.ABSENT,
            f"{path} is not there: this is no TD, or the kernel lacks CONFIG_TDX_GUEST_DRIVER "
            "(try `modprobe tdx_guest`)",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return AttesterError(
            DeviceFault.DENIED, f"this user may not use {path}: give it read and write access"
        )
    return AttesterError(DeviceFault.FAILED, f"{path}: {os.strerror(error.errno or errno.EIO)}")
