"""Makes a process that holds plaintext hard to look into.

Guarantees, after `harden_process` returned: no core dump is written, no other process of the same
user may read this one's memory, descriptors or environment through /proc or ptrace, and no
program it starts gains privileges.
Does not guard against root or the kernel: that is the confidential VM's work. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final, final

# include/uapi/linux/prctl.h; the numbers are kernel ABI.
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


@final
class HardeningError(Exception):
    """The kernel refused a protection; the process must not go on to hold a secret."""


def harden_process() -> None:
    """Refuse core dumps, debuggers and new privileges for this process.

    What it holds should come after this call: an exec makes a process readable again, so a child
    calls it first of all.

    Raises:
        HardeningError: the kernel refused, or reports another state than the one asked for.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise HardeningError("core dumps cannot be switched off") from error
    _prctl(_PR_SET_DUMPABLE, 0, "the process cannot be made undumpable")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "new privileges cannot be refused")
    if _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HardeningError("the process is still dumpable")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    A parent that had already died is not noticed here: watch a pipe to it as well.

    Raises:
        HardeningError: the kernel refused.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "the parent's death cannot be followed")


def _prctl(option: int, value: int, refusal: str) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise HardeningError(f"{refusal}: {os.strerror(ctypes.get_errno())}")
