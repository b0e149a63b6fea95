"""NVIDIA's collateral as its services answer: RIM service, OCSP responder, CRLs.

Guarantees: paths, members and media types of the real ones, so that the real fetcher runs
unchanged:

    GET  /v1/rim/ids                   {"ids": [...], ...}
    GET  /v1/rim/<id>                  {"id", "rim" (base64), "sha256", "request_id", "rim_format"}
    POST /                             an OCSP request (DER), answered as application/ocsp-response
    GET  /crl/l1-root.crl, /crl/l2-gh100.crl, /crl-corim/l1-corim

Knows no HTTP: `ostiary.simulator.services` does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, final

from ostiary.simulator.nvidia import devices, rim
from ostiary.simulator.nvidia.devices import DeviceSet
from ostiary.simulator.nvidia.firmware import RimKind
from ostiary.simulator.nvidia.ocsp import Responder
from ostiary.simulator.nvidia.pki import CRL_PATHS, ICAS, ISSUERS, RIM_CHAINS, FakeNvidia, Role
from ostiary.simulator.nvidia.rim import RimText

OLD_DRIVER: Final = "570.86.10"
"""A driver that is published and that a policy may find too old."""
_RIM: Final = "/v1/rim/"


@final
@dataclass(slots=True)
class NvidiaServices:
    """What the services know. `rims` by id; `responder.statuses` and `crl_revoked` by serial."""

    vendor: FakeNvidia
    clock: Callable[[], int]
    rims: dict[str, bytes] = field(default_factory=dict)
    responder: Responder = field(init=False)
    crl_revoked: set[int] = field(default_factory=set)
    wrong_digest: bool = False
    """The service's own sha256 of a RIM is another one's."""

    def __post_init__(self) -> None:
        self.responder = Responder(self.vendor)

    @classmethod
    def published(cls, vendor: FakeNvidia, clock: Callable[[], int]) -> NvidiaServices:
        """Return services that know the RIMs of the simulated firmware."""
        services = cls(vendor, clock)
        for version in (devices.DRIVER, OLD_DRIVER):
            services.publish("driver", version)
        services.publish("vbios", devices.VBIOS)
        services.publish("switch", devices.SWITCH_BIOS)
        return services

    def publish(self, kind: RimKind, version: str, document: bytes | None = None) -> bytes:
        """Put a RIM (None for the right one) under the id of a version, and return it."""
        signed = RimText(kind, version).sign(self.vendor) if document is None else document
        self.rims[rim.rim_id(kind, version)] = signed
        return signed

    def get(self, path: str) -> tuple[str, bytes] | None:
        """Return media type and body for a path, or None for not found."""
        if path == f"{_RIM}ids":
            listed = {"ids": sorted(self.rims), "request_id": str(uuid.uuid4())}
            return "application/json", json.dumps(listed).encode()
        if path.startswith(_RIM):
            return self._rim(path.removeprefix(_RIM))
        role = CRL_PATHS.get(path)
        if role is None:
            return None
        crl = self.vendor.crl(role, self.clock(), revoked=sorted(self.crl_revoked))
        return "application/pkix-crl", crl

    def post(self, path: str, body: bytes) -> tuple[str, bytes] | None:
        """Return media type and body for an OCSP request, or None for not found."""
        if path not in {"", "/"}:
            return None
        return "application/ocsp-response", self.responder.answer(body, self.clock())

    def _rim(self, name: str) -> tuple[str, bytes] | None:
        document = self.rims.get(name)
        if document is None:
            return None
        told = document + b"\n" if self.wrong_digest else document
        body = {
            "id": name,
            "rim": base64.b64encode(document).decode(),
            "sha256": hashlib.sha256(told).hexdigest(),
            "request_id": str(uuid.uuid4()),
            "rim_format": "SWIDTAG",
        }
        return "application/json", json.dumps(body).encode()


def subjects(vendor: FakeNvidia, whole: DeviceSet) -> list[tuple[int, Role]]:
    """Return what revocation must be asked of for a set: serial number and issuer, each once."""
    found: dict[tuple[int, Role], None] = {}
    for device in whole.devices:
        chip = device.identity.chip
        found[device.identity.brom_serial, ICAS[chip]] = None
        for role in (ICAS[chip], "identity", *RIM_CHAINS[chip][:-1]):
            said: Role = role
            found[vendor.serial(said), ISSUERS[said]] = None
    return list(found)


def endorsements(
    services: NvidiaServices, whole: DeviceSet, now: int
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """Return RIMs, OCSP answers and CRLs (DER) that judge a set at `now`, each thing once."""
    wanted = {rim.driver_id(each.driver) for each in whole.gpus}
    wanted |= {rim.vbios_id(each.vbios) for each in whole.gpus}
    wanted |= {rim.switch_id(each.vbios) for each in whole.switches}
    asked = subjects(services.vendor, whole)
    revoked = sorted(services.crl_revoked)
    return (
        tuple(services.rims[each] for each in sorted(wanted) if each in services.rims),
        tuple(services.responder.respond(serial, issuer, now) for serial, issuer in asked),
        tuple(services.vendor.crl(role, now, revoked=revoked) for role in CRL_PATHS.values()),
    )
