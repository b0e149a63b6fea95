"""Starts the HSM worker as a child of the same user, over a socket pair: for the demo and tests.

Guarantees: the child inherits its end of the pair and standard error, and neither environment nor
other descriptors; no secret stands in its arguments. Does not keep this user's processes from the
worker's memory and PIN: a production worker has its own user (`HsmClient.at`), and `info.mode`
tells which it is.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import broker
from broker.hsm.client import HsmClient

_ROOT: Final = Path(broker.__path__[0]).resolve().parent


def python_command(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return command and whole environment that run one of our modules in a bare process."""
    command = [sys.executable, "-P", "-s", "-m", module, *arguments]
    environment = {"PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return command, environment


def spawn_same_user(
    home: Path, *, simulated: bool = False, module: str = ""
) -> tuple[subprocess.Popen[bytes], HsmClient]:
    """Start a worker on `home` and return it with its client.

    Args:
        home: the broker home that holds `hsm/`.
        simulated: whether the token was made for simulated hardware; the other kind is refused.
        module: path of the PKCS#11 module, empty for SoftHSM.

    The first call waits for the start, and raises what made the worker refuse. Closing the client
    ends the worker; wait for the process then.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command, environment = python_command(
            "broker.hsm.worker",
            "--home",
            str(home),
            "--fd",
            str(theirs.fileno()),
            *(["--module", module] if module else []),
            *(["--simulated"] if simulated else []),
        )
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        except OSError:
            ours.close()
            raise
    return process, HsmClient.over(ours)
