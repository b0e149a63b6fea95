"""Fixtures of the command line's suite: `ostiary` in this process, and a site that it set up."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ostiary.__main__ import main


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def ostiary(capsys: pytest.CaptureFixture[str]) -> Run:
    """Give the command line; every word of what it says is kept, and nothing may be raised."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(status, said.out, said.err)

    return run


def one_line(said: Said, status: int, *words: str) -> None:
    """Check that a command failed with one line on standard error that has these words."""
    assert said.status == status, said
    assert said.err.startswith("ostiary: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err, said


@dataclass(frozen=True)
class Site:
    """A broker that serves, a vendor with a key, and a tenant between them; made by commands."""

    root: Path
    url: str
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """The broker's home."""
        return self.root / "broker"

    @property
    def pristine(self) -> Path:
        """A copy of it from before it was served."""
        return self.root / "pristine"

    @property
    def key(self) -> Path:
        """The vendor's key."""
        return self.root / "key.pem"

    @property
    def genesis(self) -> Path:
        """The tenant's genesis."""
        return self.root / "genesis.json"

    @property
    def options(self) -> tuple[str, ...]:
        """What every command of the vendor is given."""
        return (
            *("--broker", self.url),
            *("--genesis", str(self.genesis)),
            *("--key", str(self.key)),
        )


def command(*words: object) -> None:
    """Run `ostiary` as a process of its own; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a site, set up as operator and vendor do it."""
    root = tmp_path_factory.mktemp("site")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = ("broker", "--home", root / "broker")
    command("simulator", "init", root / "simulator", "--collateral", root / "broker" / "collateral")
    roots = root / "simulator" / "roots.json"
    command(*home, "init", "--simulated-roots", roots, "--port", port)
    command("vendor", "keygen", root / "key.pem")
    draft = root / "draft.json"
    command(*home, "tenant", "acme", "--signer", root / "key.pem.pub", "--out", draft)
    genesis = root / "genesis.json"
    command("vendor", "sign-genesis", draft, "--key", root / "key.pem", "--out", genesis)
    command(*home, "enrol", genesis)
    shutil.copytree(root / "broker", root / "pristine")
    words = [sys.executable, "-m", "ostiary", *map(str, home), "serve"]
    url = f"http://127.0.0.1:{port}"
    with (
        (root / "serve.txt").open("wb") as log,
        subprocess.Popen(words, stdout=log, stderr=log) as process,
    ):
        try:
            until_it_serves(url, process)
            yield Site(root, url, process)
        finally:
            process.terminate()
            assert process.wait(20) == 0


def until_it_serves(url: str, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Wait for a broker."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError("the broker does not serve")


def digest_of(folder: Path, *but: str) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, but those with these endings."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(but)
    }
