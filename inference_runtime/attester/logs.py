"""Boot logs as the kernel keeps them: the TD's CCEL, and the firmware's TPM log.

Guarantees: a log comes back as the kernel has it, whole, or empty together with a sentence that
says what would make it appear; one that this user may not read is an error, never empty. Logs are
host input: they count only where registers of a verified quote replay from them.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final, final

from inference_runtime.attester.answer import MAX_EVENT_LOG
from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.files import KernelFiles


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where the kernel keeps a log, and what to do where it does not."""

    path: str
    remedy: str


CCEL: Final = Place(
    "/sys/firmware/acpi/tables/data/CCEL",
    "the firmware left no CCEL, or the kernel is older than 6.3: boot the TD with firmware that "
    "measures (TDVF), else only MRTD can be pinned",
)
"""The TD's boot event log (ACPI CCEL, UEFI 2.10 ch. 38)."""
TPM: Final = Place(
    "/sys/kernel/security/tpm0/binary_bios_measurements",
    "mount securityfs (`mount -t securityfs none /sys/kernel/security`); without the log only PCR "
    "values can be pinned",
)
"""The firmware's log of the first TPM (TCG PC Client Platform Firmware Profile)."""


def read(files: KernelFiles, place: Place) -> tuple[bytes, tuple[str, ...]]:
    """Return a log and no sentence, or nothing and one.

    Raises:
        AttesterError: it is there and cannot be read.
    """
    try:
        raw = files.read(place.path, MAX_EVENT_LOG)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENODEV}:
            return b"", (f"no event log at {place.path}: {place.remedy}",)
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise AttesterError(
                DeviceFault.DENIED,
                f"this user may not read {place.path}: run the runtime as root, or let the service "
                "manager hand it the file",
            ) from error
        if error.errno == errno.EFBIG:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"{place.path} has more than {MAX_EVENT_LOG} bytes, which no request can carry",
            ) from error
        said = os.strerror(error.errno) if error.errno else "unknown error"
        raise AttesterError(DeviceFault.FAILED, f"{place.path}: {said}") from error
    if not raw:
        return b"", (f"the event log at {place.path} is empty: {place.remedy}",)
    return raw, ()
