"""docs/verifier.md: its examples run, against the simulator, and touch nothing but their files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import examples
from tests.kit.documents import ROOT

PAGE = (ROOT / "docs/verifier.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: re.findall(
        r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL
    )
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
SHARED = "What all examples share"
KINDS = {"Intel TDX", "Intel SGX", "AMD SEV-SNP", "Azure, SEV-SNP", "Azure, TDX", "TPM 2.0"} | {
    "Event logs",
    "Azure Attestation",
    "Google Cloud",
    "NVIDIA GPUs",
}
NO_DOORS = """
import sys
def refuse(event, arguments):
    door = event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn"))
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if door or writes:
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
sys.dont_write_bytecode = True
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    examples.write(made)
    return made


def test_every_kind_has_an_example() -> None:
    """No kind is described in words alone."""
    assert {name for name, blocks in SECTIONS.items() if blocks} >= KINDS | {SHARED}


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_examples_run_behind_closed_doors(folder: Path) -> None:
    """All examples, one after another, in a process without sockets, programs or written files."""
    blocks = [block for each in SECTIONS.values() for block in each]
    done = run(folder, NO_DOORS + "\n".join(blocks) + "\nprint('done')")

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    "door",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "open('file', 'w')",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_the_doors_are_closed(folder: Path, door: str) -> None:
    """What the test above forbids is noticed where it happens."""
    assert run(folder, NO_DOORS + door).returncode == 1


BANNED = {"litestar", "httpx", "ssl", "asyncio", "tenacity", "sqlalchemy", "pkcs11", "logging"}
BANNED |= {"http.client", "urllib.request", "subprocess"}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "verifier").rglob("*.py")
)
FETCHING = "verifier.collateral."
TOKENS = {"verifier.nvgpu.nras"}
"""PyJWT brings `urllib` along; no other module of the verifier imports these, as is held below."""


def test_imports_bring_no_network() -> None:
    """No module of the verifier but those that fetch imports the network, an event loop, Litestar.

    `socket` comes with `cryptography`, which uses it for nothing but names; so it is compared with
    what `cryptography` brings by itself.
    """
    pure = [name for name in MODULES if not name.startswith(FETCHING) and name not in TOKENS]
    script = (
        "import sys, importlib\n"
        "import cryptography.x509, cryptography.hazmat.primitives.asymmetric.ec\n"
        "before = set(sys.modules)\n"
        f"for name in {pure!r}: importlib.import_module(name)\n"
        f"print(sorted(({BANNED | {'socket'}!r} & set(sys.modules)) - before))\n"
    )
    done = run(ROOT, script)

    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert len(pure) > 50


def test_the_package_itself_imports_nothing() -> None:
    """`import verifier` loads one module."""
    script = "import sys; old = set(sys.modules); import verifier; print(set(sys.modules) - old)"

    assert run(ROOT, script).stdout == "{'verifier'}\n"
