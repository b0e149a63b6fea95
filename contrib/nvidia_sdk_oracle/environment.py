"""An environment of its own for NVIDIA's nv-attestation-sdk, and the way to ask it something.

Guarantees: nothing is installed into ours; what is installed has the digests of `requirements.txt`;
each question is a process of its own, in an empty folder, without our modules, environment or home.
Network is used by `build` alone, and only by pip. `find` builds nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
FOLDER: Final = HERE.parents[1] / ".venv-nvidia-sdk"
REQUIREMENTS: Final = HERE / "requirements.txt"
VERSIONS: Final = ((3, 11), (3, 12))
"""Versions of Python that the SDK's pins have wheels for."""
_MARK: Final = "installed-requirements"
_TIMEOUT: Final = 300.0


class AbsentError(Exception):
    """There is no such environment and none can be made; the text says why."""


class OracleError(Exception):
    """The SDK's process did not answer at all."""


def find() -> Path | None:
    """Return the environment's Python, or None if it was not built from these requirements."""
    python, mark = FOLDER / "bin/python", FOLDER / _MARK
    current = mark.is_file() and mark.read_text() == _digest()
    return python if current and python.exists() else None


def build() -> Path:
    """Return the environment's Python, after building it where it is not there.

    Raises:
        AbsentError: no Python of a version that the SDK can use, or pip cannot install it.
    """
    found = find()
    if found is not None:
        return found
    python = _python()
    print(f"Making {FOLDER.name}: about 60 packages, 125 MB", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [str(FOLDER / "bin/python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
    for command in ([python, "-m", "venv", str(FOLDER)], [*pip, "-r", str(REQUIREMENTS)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise AbsentError(f"{' '.join(command[1:4])} failed: {''.join(last)}")
    (FOLDER / _MARK).write_text(_digest())
    return FOLDER / "bin/python"


def ask(python: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Return the SDK's answer to a question (`ask.py` has both forms).

    Raises:
        OracleError: no answer came.
    """
    with tempfile.TemporaryDirectory() as folder:  # the SDK writes logs into the folder it runs in
        try:
            done = subprocess.run(
                [str(python), "-I", str(HERE / "ask.py")],
                input=json.dumps(question),
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env={"HOME": folder, "PATH": "/usr/bin:/bin"},
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise OracleError(f"no answer in {_TIMEOUT} s") from error
    if done.returncode != 0:
        raise OracleError(f"status {done.returncode}: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _digest() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def _python() -> str:
    if sys.version_info[:2] in VERSIONS:
        return sys.executable
    for major, minor in VERSIONS:
        found = shutil.which(f"python{major}.{minor}")
        if found is not None and _runs(found, f"{major}.{minor}."):
            return found
    raise AbsentError("Python 3.11 or 3.12 is needed: the SDK's pins have no wheels for later ones")


def _runs(python: str, version: str) -> bool:
    """Tell whether a command is that Python: version managers leave names behind."""
    script = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.startswith(version)
