"""The demo's stage: folders, processes and people, before anything happens on it.

Guarantees: everything lives under one folder that is made anew; every process is one of ours, on
loopback or a unix socket, and ends with the stage.
"""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

import httpx
from cryptography.hazmat.primitives.asymmetric import ed25519

from ostiary.client import Tenant, TenantClient
from ostiary.processes import Program
from ostiary.simulator.nvidia.devices import DRIVER
from ostiary.story import StoryError
from verifier.policy import GpuRules
from verifier.wire.messages import KeyRef

TENANT: Final = "acme"
MODEL: Final = KeyRef("tiny-llama", 1)
MARK: Final = ".ostiary-demo"
"""Stands in a folder that the demo made, so that it removes no other."""
LEASE_SECONDS: Final = 12
SHAPES: Final = {
    "1": GpuRules(count=1, modes=("spt",), min_driver=DRIVER),
    "2": GpuRules(count=2, modes=("mpt",), min_driver=DRIVER),
    "4": GpuRules(count=4, modes=("mpt",), min_driver=DRIVER),
    "8": GpuRules(count=8, modes=("mpt",), min_driver=DRIVER),
    "8+4": GpuRules(count=8, switches=4, modes=("ppcie",), min_driver=DRIVER),
}
"""The GPUs, and the NVSwitches with them, that each machine of the demo may have."""


def free_port() -> int:
    """Return a port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@final
@dataclass(slots=True)
class Stage:
    """Where the demo plays. Use it as a context manager."""

    root: Path
    shape: str = "2"
    port: int = field(default_factory=free_port)
    runtime_port: int = field(default_factory=free_port)
    vendor_port: int = field(default_factory=free_port)
    vendor: ed25519.Ed25519PrivateKey | None = None
    tenant: Tenant | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        if self.root.exists() and not (self.root / MARK).exists():
            raise StoryError(f"{self.root} exists and is not the demo's; choose another --home")
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(mode=0o700, parents=True)
        (self.root / MARK).write_text("made by `ostiary demo`, which removes it at its next run\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def gpus(self) -> GpuRules:
        """What the policy wants of a machine's GPUs."""
        return SHAPES[self.shape]

    @property
    def set(self) -> str:
        """A machine's devices in words."""
        switches = f" and {self.gpus.switches} NVSwitches" if self.gpus.switches else ""
        return f"{self.gpus.count} GPU{'s' if self.gpus.count > 1 else ''}{switches}"

    @property
    def broker(self) -> Path:
        """The broker's home."""
        return self.root / "broker"

    @property
    def simulator(self) -> Path:
        """The fake vendor's folder."""
        return self.root / "simulator"

    @property
    def vendor_key(self) -> Path:
        """The vendor's signing key."""
        return self.root / "vendor" / "key.pem"

    @property
    def sealed(self) -> Path:
        """The sealed model on the vendor's workstation."""
        return self.root / "vendor" / "sealed"

    @property
    def home(self) -> Path:
        """What the auditor took home."""
        return self.root / "auditor"

    @property
    def url(self) -> str:
        """The broker's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def runtime_url(self) -> str:
        """The runtime's OpenAI-compatible address."""
        return f"http://127.0.0.1:{self.runtime_port}"

    @property
    def vendor_url(self) -> str:
        """The address of the fake vendors' services."""
        return f"http://127.0.0.1:{self.vendor_port}"

    def the_tenant(self) -> Tenant:
        """Return the tenant, once there is one.

        Raises:
            StoryError: there is none yet.
        """
        if self.tenant is None:
            raise StoryError("the tenant is not enrolled yet")
        return self.tenant

    def the_vendor(self) -> ed25519.Ed25519PrivateKey:
        """Return the vendor's key, once there is one.

        Raises:
            StoryError: there is none yet.
        """
        if self.vendor is None:
            raise StoryError("the vendor has no key yet")
        return self.vendor

    def client(self) -> TenantClient:
        """Return the vendor's client; use it as a context manager."""
        return TenantClient(self.url, self.the_tenant(), self.the_vendor())

    def start(self, name: str, *arguments: str) -> Program:
        """Start one of our programs; it ends with the stage."""
        program = Program.start(name, arguments, self.root / "logs" / f"{name}.txt")
        return self._stack.enter_context(program)

    def start_vendors(self) -> Program:
        """Start the fake vendors' services; whoever wants something of them waits for them."""
        arguments = ("simulator", "serve", str(self.simulator), "--port", str(self.vendor_port))
        return self.start("vendors", "ostiary", *arguments)

    def let_broker_fetch(self) -> None:
        """Have the broker ask the fake vendors, and nobody else, for what it lacks."""
        services = ("intel_pcs", "amd_kds", "nvidia_rim", "nvidia_ocsp", "nvidia_crl")
        lines = ["collateral_fetch = true"]
        lines += [f'{service} = "{self.vendor_url}"' for service in services]
        with (self.broker / "broker.toml").open("a") as settings:
            settings.write("\n".join((*lines, "")))

    def start_broker(self) -> Program:
        """Start the broker and wait until it serves."""
        program = self.start("broker", "ostiary", "broker", "--home", str(self.broker), "serve")
        program.until(lambda: answers(f"{self.url}/health"), 30)
        return program

    def start_machine(self, name: str, config: bytes, *more: str) -> Path:
        """Launch a simulated TD with GPUs and this MRCONFIGID; return its device's socket."""
        path = self.root / f"{name}.sock"
        program = self.start(
            name,
            "ostiary.simulator.device",
            "--vendor",
            str(self.simulator),
            "--socket",
            str(path),
            "--config",
            config.hex(),
            "--gpus",
            str(self.gpus.count),
            "--gpu-mode",
            self.gpus.modes[0],
            *more,
        )
        program.until(path.exists, 15)
        return path


def answers(url: str) -> bool:
    """Tell whether a GET of `url` succeeds."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False
