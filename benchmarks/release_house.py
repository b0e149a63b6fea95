"""A broker to measure: token, database, tenant, sealed model and policy; it serves as a process.

Everything is made as a user makes it, through the command line and the vendor's client. The lease
limit is high and the lease an hour, so that every release of a run stays live and is counted.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import httpx

from benchmarks.common import BenchmarkError
from ostiary import publish, vendor
from ostiary.cli import simulator
from ostiary.client import Tenant, TenantClient
from ostiary.demo.stage import free_port
from ostiary.processes import Program
from ostiary.simulator.machine import LaunchRequest, launch_td
from verifier.policy import AppraisalPolicy, TdxReference
from verifier.wire import binding
from verifier.wire.canonical import Hex
from verifier.wire.documents import Release
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef

TENANT: Final = "bench"
MODEL: Final = KeyRef("model", 1)
_START_SECONDS: Final = 60


@final
@dataclass(frozen=True, slots=True)
class House:
    """A broker's home, its tenant, and the address it serves at while `serving` holds."""

    root: Path
    port: int
    document: bytes

    @property
    def broker(self) -> Path:
        """The broker's home."""
        return self.root / "broker"

    @property
    def simulator(self) -> Path:
        """The fake vendor's folder."""
        return self.root / "simulator"

    @property
    def url(self) -> str:
        """Where the broker serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tenant(self) -> Tenant:
        """The tenant, as its members know it."""
        return Tenant.read(self.document)

    @contextmanager
    def serving(self) -> Iterator[Program]:
        """Run `ostiary broker serve`, and end it."""
        arguments = ("ostiary", "broker", "--home", str(self.broker), "serve")
        with Program.start("broker", arguments, self.root / "broker.txt") as program:
            program.until(self._serves, _START_SECONDS)
            yield program

    def _serves(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False


def build(root: Path) -> House:
    """Set up everything under `root`, up to a key that may be released.

    Raises:
        BenchmarkError: a step failed.
    """
    port = free_port()
    simulator.make(root / "simulator", root / "broker" / "collateral")
    key = vendor.new_key(root / "key.pem")
    _run(
        *("ostiary", "broker", "--home", str(root / "broker"), "init", "--port", str(port)),
        *("--simulated-roots", str(root / "simulator" / "roots.json")),
        *("--tenant", TENANT, "--vendor-key", str(root / "key.pem")),
    )
    document = (root / "broker" / "tenants" / f"{TENANT}.genesis.json").read_bytes()
    house = House(root, port, document)
    model = root / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"not measured here" * 64)
    tenant = house.tenant
    with house.serving(), TenantClient(house.url, tenant, key) as client:
        spki = client.create_import_key()
        sealed = vendor.seal(
            model,
            root / "sealed",
            MODEL,
            tenant,
            key,
            import_key=spki,
            pinned=hashlib.sha256(spki).digest(),
        )
        publish.push(client, root / "sealed")
        client.push_policy(
            vendor.sign_policy(_policy(tenant, sealed.digest), tenant, key, version=1)
        )
        epoch = client.state()["epoch"]
        client.order_key(vendor.sign_order(tenant, key, MODEL, KeyState.ACTIVE, epoch=epoch))
    return house


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(arguments[:2])}: {done.stdout}{done.stderr}")


def _policy(tenant: Tenant, manifest: bytes) -> vendor.PolicyFile:
    anchor = binding.anchor(bytes(tenant.genesis.broker), tenant.digest)
    td = launch_td(LaunchRequest(config=anchor))
    reference = TdxReference(
        name="benchmark",
        mr_td=Hex(td.mr_td),
        rtmr0=Hex(td.rtmr0),
        rtmr1=Hex(td.rtmr1),
        rtmr2=Hex(td.rtmr2),
        mr_config_id=Hex(anchor),
    )
    return vendor.PolicyFile(
        name="benchmark",
        keys=(f"{MODEL.id}/{MODEL.version}",),
        manifests=(Hex(manifest),),
        release=Release(lease_seconds=3600, max_leases=1 << 20),
        appraisal=AppraisalPolicy(reference=(reference,)),
    )
