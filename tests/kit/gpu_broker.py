"""A broker that knows simulated GPUs: NVIDIA's services at a port, policies by shape, machines."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx
import msgspec

from broker import settings as broker_settings
from ostiary import vendor
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import Machine, TdxMachine
from ostiary.simulator.nvidia.devices import Device, DeviceSet
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.pck import Platform
from ostiary.simulator.services import Vendors, VendorServer, serving
from tests.kit import nvgpu, vendors
from tests.kit.broker import House, running
from tests.kit.broker_guest import Asked
from tests.kit.broker_home import Clock, Prepared, anchor_of
from verifier.policy import GpuRules
from verifier.wire import binding
from verifier.wire.canonical import B64
from verifier.wire.messages import GpuEvidence, KeyRef, Purpose

MAIN: Final = "main"


class Through(httpx.BaseTransport):
    """Carries a runtime's requests to the house's broker."""

    def __init__(self, house: House) -> None:
        self.house = house

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one on."""
        answer = self.house.send(
            request.method,
            request.url.raw_path.decode(),
            request.read(),
            content_type=request.headers.get("content-type"),
        )
        return httpx.Response(
            answer.status_code,
            headers={"content-type": answer.headers["content-type"]},
            stream=httpx.ByteStream(answer.content),
        )


@functools.cache
def platform(name: str) -> Platform:
    """Return one of the session's Intel machines, beside `vendors.platform`."""
    return vendors.fake_intel().platform() if name else vendors.platform()


def evidence(devices: Sequence[Device], nonce: bytes) -> tuple[GpuEvidence, ...]:
    """Return what devices say, in this order."""
    return tuple(
        GpuEvidence(each.kind, B64(each.report(nonce)), B64(each.chain)) for each in devices
    )


@dataclass
class Site:
    """A running broker, NVIDIA's services, and the policies in force by name."""

    house: House
    nvidia: NvidiaServices
    server: VendorServer
    policies: dict[str, bytes]
    versions: dict[str, int] = field(default_factory=dict)

    def require(self, count: int, switches: int = 0, *, name: str = MAIN, **rules: Any) -> None:
        """Put a policy in force that wants so many GPUs and switches, unless one is."""
        gpu = GpuRules(count=count, switches=switches, **rules)
        before = self.policies[name]
        draft = vendor.policy_file(before)
        if draft.appraisal.gpu == gpu:
            return
        appraisal = msgspec.structs.replace(draft.appraisal, gpu=gpu)
        self.versions[name] = self.versions.get(name, 1) + 1
        self.policies[name] = vendor.sign_policy(
            msgspec.structs.replace(draft, appraisal=appraisal),
            self.house.tenant,
            self.house.key,
            version=self.versions[name],
            predecessor=vendor.policy_digest(before),
        )
        self.house.vendor("PUT", "/policies", self.policies[name])

    def machine(self, on: str = "") -> Machine:
        """Return a TD on one of the session's platforms, launched for the tenant."""
        launched = launch_td(LaunchRequest(anchor_of(self.house.tenant)))
        return TdxMachine(platform(on), launched)

    def ask(
        self,
        whole: DeviceSet | Sequence[Device],
        *,
        name: str = "guest",
        lease: str = "",
        purpose: Purpose = "release",
        **fields: Any,
    ) -> Asked:
        """Ask for a challenge, as a guest with these devices, and have them report on it."""
        asked = self.house.ask(purpose, name=name, lease=lease, **fields)
        devices = whole.devices if isinstance(whole, DeviceSet) else whole
        return replace(asked, gpus=evidence(devices, nonce_of(asked)))

    def refused(self, asked: Asked, code: str = "evidence_refused", **more: Any) -> str:
        """Check that a release is refused, and return the reasons."""
        on = more.pop("on", "")
        sent = more.pop("sent", None)
        body = asked.body(asked.evidence(self.machine(on)) if sent is None else sent)
        return self.house.refused(body, code, **more)

    def released(self, asked: Asked, on: str = "") -> str:
        """Have keys released to a guest on a platform, and return the lease."""
        answer = self.house.release(asked.body(asked.evidence(self.machine(on))))
        assert answer.status_code == 200, (answer.text, self.house.reasons())
        return asked.open(answer.content).lease.id

    def renewing(
        self, whole: DeviceSet, lease: str, *, name: str = "guest", keys: tuple[KeyRef, ...] = ()
    ) -> Asked:
        """Ask for a challenge to renew."""
        more = {"keys": keys} if keys else {}
        return self.ask(whole, name=name, lease=lease, purpose="renew", **more)

    def states(self) -> dict[str, str]:
        """Return how every lease of the database stands."""
        rows = self.house.sql("SELECT id, state, cause FROM leases")
        return {lease: cause or state for lease, state, cause in rows}


def nonce_of(asked: Asked) -> bytes:
    """Return the nonce that devices report on in an exchange."""
    return binding.gpu_nonce(asked.challenge, asked.recipients or asked.identity.recipients)


@contextlib.contextmanager
def site(prepared: Prepared, clock: Clock | None = None) -> Iterator[Site]:
    """Run a broker that trusts and asks the session's NVIDIA; the home is changed."""
    ticking = clock or Clock()
    roots = json.loads((prepared.home / "roots.json").read_text())
    roots["nvidia_device"] = [nvgpu.vendor().device_root_pin.hex()]
    roots["nvidia_rim"] = [nvgpu.vendor().rim_root_pin.hex()]
    (prepared.home / "roots.json").write_text(json.dumps(roots))
    nvidia = NvidiaServices.published(nvgpu.vendor(), ticking)
    with serving(Vendors(ticking, nvidia=nvidia)) as server:
        path = prepared.home / broker_settings.FILE
        lines = [f'nvidia_{name} = "{server.url}"' for name in ("rim", "ocsp", "crl")]
        lines += ["collateral_fetch = true", "nvidia_per_minute = 6000"]
        path.write_text("\n".join((path.read_text(), *lines)))
        with running(prepared, ticking) as house:
            yield Site(house, nvidia, server, dict(prepared.policies))
