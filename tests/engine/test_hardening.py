from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, resource, sys
from inference_runtime.hardening import harden_process
libc = ctypes.CDLL(None)
def seen():
    return (libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0),
            resource.getrlimit(resource.RLIMIT_CORE)[0] == 0)
before = seen()
harden_process()
print(before[:2], seen())
"""


def test_a_hardened_process_is_undumpable_without_cores_or_new_privileges() -> None:
    """The kernel itself reports the protections, which were not there before."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=20
    )

    assert done.stdout == "(1, 0) (0, 1, True)\n"
