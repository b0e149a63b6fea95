"""A real TPM implementation for tests: swtpm, started here, provisioned with tpm2-tools.

Needs the Debian packages swtpm and tpm2-tools; `needs_swtpm` skips, saying so, without them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

MISSING = [name for name in ("swtpm", "tpm2_quote") if shutil.which(name) is None]
needs_swtpm = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {' '.join(MISSING)} (Debian: swtpm, tpm2-tools)"
)
RESTRICTED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
OPEN_NV = "ownerread|ownerwrite|authread|authwrite"


@dataclass(frozen=True)
class SoftTpm:
    """A running TPM: its folder, which is also where tools write."""

    folder: Path

    @property
    def path(self) -> str:
        """Where it takes raw commands."""
        return str(self.folder / "socket")

    def run(self, *command: str) -> bytes:
        """Run one of the tpm2-tools and return what it prints."""
        environment = {"PATH": os.environ["PATH"], "TPM2TOOLS_TCTI": f"swtpm:path={self.path}"}
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=environment,
            timeout=60,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def read(self, name: str) -> bytes:
        """Return a file that a tool wrote."""
        return (self.folder / name).read_bytes()

    def put_nv(self, index: int, data: bytes, attributes: str = OPEN_NV) -> None:
        """Define an NV index, unless it is there, and write it."""
        known = self.run("tpm2_getcap", "handles-nv-index").decode().lower()
        if f"{index:#x}" not in known:
            define = ["tpm2_nvdefine", "-Q", "-C", "o", "-s", str(len(data)), "-a", attributes]
            self.run(*define, f"{index:#x}")
        (self.folder / "nv").write_bytes(data)
        self.run("tpm2_nvwrite", "-Q", "-C", "o", "-i", "nv", f"{index:#x}")

    def put_key(self, handle: int) -> rsa.RSAPublicKey:
        """Make a restricted RSA signing key, keep it at `handle`, and return its public half."""
        self.run("tpm2_createprimary", "-Q", "-C", "e", "-G", "rsa2048", "-c", "primary")
        create = ["tpm2_create", "-Q", "-C", "primary", "-G", "rsa2048:rsassa-sha256:null"]
        self.run(*create, "-a", RESTRICTED, "-u", "ak.pub", "-r", "ak.priv")
        self.run("tpm2_flushcontext", "-t")
        self.run("tpm2_load", "-Q", "-C", "primary", "-u", "ak.pub", "-r", "ak.priv", "-c", "ak")
        self.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "ak", f"{handle:#x}")
        self.run("tpm2_flushcontext", "-t")
        self.run("tpm2_readpublic", "-Q", "-c", f"{handle:#x}", "-f", "pem", "-o", "ak.pem")
        key = serialization.load_pem_public_key(self.read("ak.pem"))
        assert isinstance(key, rsa.RSAPublicKey)
        return key


@contextmanager
def soft_tpm() -> Iterator[SoftTpm]:
    """Run a new TPM until the block ends."""
    # A unix socket's path is at most 107 bytes, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory(prefix="swtpm-") as name:
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={name}"]
        command += ["--server", f"type=unixio,path={name}/socket"]
        command += ["--ctrl", f"type=unixio,path={name}/socket.ctrl"]
        command += ["--flags", "not-need-init,startup-clear"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            made = SoftTpm(Path(name))
            end = time.monotonic() + 30
            while not (made.folder / "socket").exists():
                assert process.poll() is None, "swtpm ended"
                assert time.monotonic() < end, "swtpm did not start"
                time.sleep(0.02)
            yield made
        finally:
            process.terminate()
            process.wait(timeout=10)
