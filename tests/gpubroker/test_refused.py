"""GPU sets that get no key: not bound, not whole, not genuine, not what the policy wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ostiary.simulator.nvidia import devices, faults
from ostiary.simulator.nvidia.devices import Device, DeviceSet
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.services import Reply
from tests.kit import nvgpu
from tests.kit.broker_guest import Asked
from tests.kit.gpu_broker import Site, evidence, nonce_of
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64
from verifier.wire.messages import GpuEvidence


def two() -> DeviceSet:
    """Return the session's machine with two GPUs."""
    return nvgpu.make(2, "mpt")


def other_two() -> DeviceSet:
    """Return another machine with two GPUs."""
    return devices.device_set(nvgpu.vendor(), 2, "mpt")


def unbound(asked: Asked, site: Site, gpus: tuple[GpuEvidence, ...]) -> messages.Evidence:
    """Return evidence whose CPU part commits to the set in `asked`, sent with another one."""
    return msgspec.structs.replace(asked.evidence(site.machine()), gpus=gpus)


def test_a_set_that_the_cpu_does_not_commit_to(shared: Site) -> None:
    """A genuine, fresh set of another machine does not fit behind a CPU's evidence."""
    shared.require(2)
    asked = shared.ask(two())
    spliced = evidence(other_two().devices, nonce_of(asked))

    shared.refused(
        asked, sent=unbound(asked, shared, spliced), why="report_data_mismatch: report_data"
    )


@pytest.mark.parametrize("what", ["stripped", "added", "swapped", "of nothing", "chain spaced"])
def test_what_is_sent_is_what_is_bound(shared: Site, what: str) -> None:
    """Not even order or white space of the set may differ from what the CPU committed to."""
    shared.require(2)
    asked = shared.ask(two())
    first, second = asked.gpus
    spaced = msgspec.structs.replace(first, chain=B64(bytes(first.chain) + b"\n"))
    (third,) = evidence(other_two().devices[:1], nonce_of(asked))
    sent = {
        "stripped": (first,),
        "added": (first, second, third),
        "swapped": (second, first),
        "of nothing": (),
        "chain spaced": (spaced, second),
    }[what]

    shared.refused(asked, sent=unbound(asked, shared, sent), why="report_data_mismatch")


def test_no_evidence_is_not_no_gpu_needed(shared: Site) -> None:
    """A policy for GPUs is not met by a machine that shows none."""
    shared.require(1)

    shared.refused(shared.house.ask(), why="gpu_evidence_missing: gpus: expected evidence of 1")


def test_no_gpu_wanted_is_not_any_gpu_taken(shared: Site) -> None:
    """A policy without GPUs does not take a machine that shows some, however good."""
    shared.require(0)

    shared.refused(shared.ask(two()), why="gpu_count: gpus.count")


def test_devices_asked_for_another_challenge(shared: Site) -> None:
    """A set that the CPU commits to still answers to this exchange's nonce, not an older one."""
    shared.require(2)
    older = shared.ask(two())
    asked = replace(shared.ask(two()), gpus=older.gpus)

    reasons = shared.refused(asked, why="nonce_mismatch: gpu[0].nonce")
    assert "nonce_mismatch: gpu[1].nonce" in reasons


def test_devices_asked_with_other_keys(shared: Site) -> None:
    """The nonce names the recipients: a set that answered to another guest's keys is not ours."""
    shared.require(2)
    asked, other = shared.ask(two()), shared.house.ask(name="other")
    stolen = evidence(two().devices, nonce_of(replace(asked, recipients=other.identity.recipients)))

    shared.refused(replace(asked, gpus=stolen), why="nonce_mismatch: gpu[0].nonce")


FORGED: dict[str, tuple[Callable[[Device], Device], str]] = {
    "signature": (faults.bad_signature, "signature_invalid: gpu[1].genuine"),
    "byte too many": (faults.trailing_byte, "trailing_data: gpu[1].genuine"),
    "firmware id": (faults.other_firmware_id, "gpu_fwid: gpu[1].genuine"),
    "measurement": (
        lambda device: faults.bad_measurement(device, 23),
        "gpu_measurement: gpu[1].measurements",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_one_bad_device_denies_the_set_and_is_named(shared: Site, what: str) -> None:
    """The other device is good, and is not blamed."""
    shared.require(2)
    bend, why = FORGED[what]
    bent = faults.at_gpu(two(), 1, bend)

    reasons = shared.refused(shared.ask(bent), why=why)
    assert "gpu[0]" not in reasons


def of_strangers(whole: DeviceSet) -> list[Device]:
    """Return the set with one device of a vendor that nobody trusts."""
    stranger = devices.device_set(FakeNvidia.create(nvgpu.NOW), 1)
    return [whole.devices[0], stranger.devices[0]]


SETS: dict[str, tuple[Callable[[DeviceSet], Any], str]] = {
    "one of two": (lambda whole: whole.devices[:1], "gpu_count"),
    "three": (lambda whole: [*whole.devices, *other_two().devices[:1]], "gpu_count"),
    "one twice": (lambda whole: [whole.devices[0]] * 2, "gpu_duplicate"),
    "of another vendor": (of_strangers, "root_unknown: gpu[1]"),
    "two drivers": (
        lambda whole: [
            whole.devices[0],
            devices.device_set(nvgpu.vendor(), 1, driver="570.86.10").devices[0],
        ],
        "gpu_set_mixed",
    ),
    "a switch for a GPU": (
        lambda whole: [whole.devices[0], nvgpu.make(8, "ppcie").switches[0]],
        "gpu_count",
    ),
}


@pytest.mark.parametrize("what", SETS)
def test_sets_that_are_not_what_the_policy_wants(shared: Site, what: str) -> None:
    """Count, identity, vendor, driver and kind are exact, though the CPU commits to the set."""
    shared.require(2)
    make, why = SETS[what]

    shared.refused(shared.ask(make(two())), why=why)


@pytest.mark.parametrize("what", ["7 of 8", "3 switches", "switches only", "open"])
def test_protected_pcie_sets(shared: Site, what: str) -> None:
    """Eight GPUs and four switches close on one another, or there is no key."""
    shared.require(8, 4)
    whole = nvgpu.make(8, "ppcie")
    sent: DeviceSet | list[Device] = {
        "7 of 8": [*whole.gpus[:7], *whole.switches],
        "3 switches": [*whole.gpus, *whole.switches[:3]],
        "switches only": [*whole.switches],
        "open": [
            *faults.at_gpu(whole, 5, lambda gpu: faults.open_at_gpu(gpu, b"\x77" * 8)).devices
        ],
    }[what]

    why = "gpu_topology: gpus.topology" if what == "open" else "gpu_count"
    shared.refused(shared.ask(sent), why=why)


def test_a_device_under_another_kind(shared: Site) -> None:
    """The certificate says what a device is, not whoever sends it."""
    shared.require(2)
    asked = shared.ask(two())
    first, second = asked.gpus
    renamed = msgspec.structs.replace(second, kind=2)

    shared.refused(replace(asked, gpus=(first, renamed)), why="kind_mismatch: switch[0]")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"tensor_parallel_size": 4}, "tensor_parallel_size 4 claimed, 2 GPUs attested"),
        ({"tensor_parallel_size": 1, "gpus": 3}, "3 GPUs claimed, 2 attested"),
        ({"tensor_parallel_size": "2"}, "cannot be read"),
    ],
)
def test_more_parts_than_gpus(shared: Site, claims: dict[str, object], why: str) -> None:
    """A runtime that would spread the model over more GPUs than it showed gets no key."""
    shared.require(2)
    asked = shared.ask(two(), claims=json.dumps(claims).encode())

    shared.refused(asked, "denied", why=why)


def test_what_nvidia_does_not_have(own: Site) -> None:
    """Missing RIMs and OCSP answers are refused by name, never passed over."""
    own.require(2)
    own.server.fail("/", Reply(404))

    reasons = own.refused(own.ask(two()), why="collateral_missing: gpu[0].rim.driver")
    assert "revocation_missing: gpu[1].revocation.brom" in reasons


def test_nvidia_cannot_be_asked(own: Site) -> None:
    """A broker that is not answered says that it is its own lack."""
    own.require(2)
    own.server.fail("/v1/rim", Reply(400))

    own.refused(own.ask(two()), "collateral_unavailable", why="/v1/rim/NV_GPU_DRIVER")


def test_nobody_is_asked_about_devices_that_are_not_genuine(own: Site) -> None:
    """Forged devices cost no request, whatever RIM they name."""
    own.require(2)
    bent = faults.at_gpu(faults.at_gpu(two(), 0, faults.bad_signature), 1, faults.bad_signature)
    own.refused(own.ask(bent), why="signature_invalid")

    assert not own.server.asked


def test_a_revoked_device(own: Site) -> None:
    """A GPU whose certificate NVIDIA revoked gets nothing, and is named."""
    own.require(2)
    whole = other_two()
    own.nvidia.responder.statuses[whole.devices[1].identity.brom_serial] = "revoked"

    reasons = own.refused(own.ask(whole), why="revoked: gpu[1].")
    assert "gpu[0]" not in reasons


def test_the_largest_set_fits_into_a_request() -> None:
    """Sixty-four devices do not have to; eight and four of the largest do, with a full CPU part."""
    largest = GpuEvidence(1, B64(bytes(messages.MAX_DEVICE)), B64(bytes(messages.MAX_DEVICE)))
    whole = messages.Evidence(
        cpu=B64(bytes(128 * 1024)), event_log=B64(bytes(128 * 1024)), gpus=(largest,) * 12
    )

    assert len(canonical.encode(whole)) < canonical.MAX_MESSAGE
