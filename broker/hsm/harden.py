"""Makes the worker's memory harder to get at for processes of the same user.

Guarantees, on Linux: no core dump, no ptrace or /proc/PID/mem by processes without CAP_SYS_PTRACE,
no new privileges; memory locked out of swap where the process may do that, and the returned line
says when it may not. Does not protect from root, the kernel or whoever owns the host.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

from broker.hsm.errors import HsmError, HsmReason

_PR_SET_DUMPABLE: Final = 4  # prctl(2)
_PR_SET_NO_NEW_PRIVS: Final = 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)
_CAP_IPC_LOCK: Final = 14  # capabilities(7)


def harden() -> tuple[str, ...]:
    """Harden this process; return a line for each thing done or not possible.

    Raises:
        HsmError: `self_test` if the kernel refuses one of the required things.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for name, option, value in (
        ("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0),
        ("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1),
    ):
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            raise HsmError(HsmReason.SELF_TEST, f"prctl {name}: {os.strerror(ctypes.get_errno())}")
    return ("process: not dumpable, no core, no new privileges", _lock_memory(libc))


def _lock_memory(libc: ctypes.CDLL) -> str:
    # With MCL_FUTURE under a finite limit a later allocation would fail, so it is tried only where
    # no limit counts.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not _may_lock():
        return f"process: memory may be swapped (RLIMIT_MEMLOCK is {soft})"
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"process: memory may be swapped ({os.strerror(ctypes.get_errno())})"
    return "process: memory is locked"


def _may_lock() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_IPC_LOCK & 1)
    return False
