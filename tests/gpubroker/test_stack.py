"""Every shape of machine through the whole stack: sockets, runtime, HTTP, SoftHSM, log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_runtime import exchange
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.attester.socket_gpus import socket_gpus
from inference_runtime.client import BrokerClient
from ostiary.simulator.device import serving
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.devices import Mode
from ostiary.simulator.nvidia.nvml import SimulatedDriver
from tests.kit import nvgpu
from tests.kit.broker_guest import identity
from tests.kit.broker_home import MODEL, TENANT
from tests.kit.gpu_broker import Site, Through
from tests.kit.gpus import SHAPES
from verifier.wire import leaf
from verifier.wire.messages import Purpose


@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_release_and_renewal(shared: Site, tmp_path: Path, count: int, mode: Mode) -> None:
    """The key goes to 1, 2, 4, 8 and 8+4 devices, the log says to what, and the lease goes on."""
    whole = devices.device_set(nvgpu.vendor(), count, mode)
    shared.require(count, len(whole.switches))
    who = identity(f"{count} {mode}")
    gpus = socket_gpus(tmp_path / "device", simulated_allowed=True)
    ids = sorted(each.identity.brom_serial.to_bytes(9) for each in whole.devices)

    def attested(client: BrokerClient, lease: str) -> tuple[exchange.Anchor, exchange.Bound]:
        device = SocketDevice(tmp_path / "device")
        purpose: Purpose = "renew" if lease else "release"
        answer = client.challenge(TENANT, purpose, "tdx", who)
        measured = device.launch_config().value
        anchor = exchange.read_anchor(answer.document, measured, simulated_allowed=True)
        return anchor, exchange.attest(
            device,
            who,
            anchor,
            challenge=answer.challenge,
            purpose=purpose,
            keys=(MODEL,),
            lease=lease,
            claims=json.dumps({"tensor_parallel_size": count, "gpus": count}).encode(),
            gpus=gpus,
        )

    with (
        serving(tmp_path / "device", shared.machine(), SimulatedDriver(whole)),
        BrokerClient("http://broker", transport=Through(shared.house)) as client,
    ):
        anchor, bound = attested(client, "")
        envelope = client.release(exchange.release_request(bound, who))
        released = exchange.open_release(envelope, bound, who, anchor)
        anchor, again = attested(client, released.lease.id)
        envelope = client.renew(exchange.renew_request(again, who))
        renewed = exchange.open_renewal(envelope, again, who, anchor)

    assert bytes(released.deks[MODEL].view()) == shared.house.prepared.dek
    assert renewed.id == released.lease.id
    entry = leaf.decode(released.answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    assert (entry.gpus, entry.devices) == (count, leaf.of_devices(ids))
    result = json.loads(released.answer.result)
    told = result["claims"]["devices"]
    assert sorted(each["device_id"] for each in told) == [each.hex() for each in ids]
    assert {each["verdict"] for each in told} == {"accept"}
    held = shared.house.sql("SELECT device FROM lease_devices WHERE lease = ?", renewed.id)
    assert sorted(row[0] for row in held) == ids


def test_endorsements_are_asked_for_once(own: Site) -> None:
    """Eight GPUs of one board cost two RIMs and at most 16 OCSP answers; again, they cost none."""
    whole = nvgpu.make(8, "mpt")
    own.require(8)
    own.released(own.ask(whole))
    asked = own.server.asked.copy()
    own.released(own.ask(whole))

    assert sum(count for path, count in asked.items() if path.startswith("/v1/rim/")) == 2
    assert 0 < asked["/"] <= 16
    assert own.server.asked == asked
