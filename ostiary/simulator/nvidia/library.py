"""Builds the simulated `libnvidia-ml.so.1` and `nvattest` for one simulated machine.

Guarantees: what is built talks to the machine at one socket path and to nothing else, and says
SIMULATED when it starts. With them the real `nvidia-ml-py` and the runtime's real `nvattest` reader
run against a simulated machine: put the folder into LD_LIBRARY_PATH and PATH. Needs a C compiler.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import inference_runtime
from ostiary.simulator import store
from ostiary.simulator.store import SimulatorError

LIBRARY: Final = "libnvidia-ml.so.1"
PROGRAM: Final = "nvattest"
SOURCE: Final = Path(__file__).with_name("nvml.c")
_MAX_SOCKET_PATH: Final = 107
"""Bytes of a path in sockaddr_un, without the NUL."""
_COMPILERS: Final = ("cc", "gcc", "clang")
_TIMEOUT_S: Final = 60.0
_ROOT: Final = str(Path(inference_runtime.__file__).parents[1])
_SCRIPT: Final = """#!{python}
# SIMULATED nvattest: it proves nothing, there are no switches.
import socket, sys
sys.path.insert(0, {root!r})
from inference_runtime.attester import socket_wire as wire
arguments = sys.argv[1:]
expected = ["collect-evidence", "--device", "nvswitch", "--nonce", None, "--format", "json"]
if len(arguments) != len(expected) or any(e not in (a, None) for a, e in zip(arguments, expected)):
    sys.exit("SIMULATED nvattest: it knows " + " ".join(each or "HEX" for each in expected))
with socket.socket(socket.AF_UNIX) as machine:
    machine.connect({path!r})
    machine.sendall(wire.frame(wire.SWITCHES, bytes.fromhex(arguments[4])))
    status, printed = wire.read_frame(machine, wire.MAX_ANSWER)
sys.stdout.write(printed.decode())
sys.exit(status or ('"result_code": 0' not in printed.decode()))
"""


def compiler() -> str | None:
    """Return the path of a C compiler, or None."""
    return next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def build(folder: Path, socket_path: Path) -> Path:
    """Build library and program into a folder; return the library's path.

    Raises:
        SimulatorError: there is no compiler, it failed, or the socket's path is too long.
    """
    found = compiler()
    if found is None:
        raise SimulatorError("the simulated NVML needs a C compiler: install gcc")
    text = str(socket_path)
    if len(text.encode()) > _MAX_SOCKET_PATH or not text.isascii() or set(text) & set('"\\'):
        raise SimulatorError(f"{text} cannot be a socket's path")
    store.make_folder(folder)
    target = folder / LIBRARY
    options = ["-std=c11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command = [found, *options, f"-Wl,-soname,{LIBRARY}", f'-DSOCKET_PATH="{text}"']
    done = subprocess.run(  # noqa: S603 - a compiler, over our own source
        [*command, "-o", str(target), str(SOURCE)],
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SimulatorError(f"{found} failed: {done.stderr.decode(errors='replace')[-500:]}")
    program = folder / PROGRAM
    program.write_text(_SCRIPT.format(python=sys.executable, path=text, root=_ROOT))
    program.chmod(0o700)
    return target
