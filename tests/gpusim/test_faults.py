"""Every shape is accepted under the simulator's roots and by nothing else; every fault is named."""

from dataclasses import replace

import pytest

from ostiary.simulator.nvidia import devices, faults
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.rim import RimText
from ostiary.simulator.nvidia.services import OLD_DRIVER
from ostiary.simulator.store import SimulatorError
from tests.kit import nvgpu
from tests.kit.gpus import SHAPES, failed, judge, services
from tests.kit.nvgpu import NOW, Judge
from verifier.anchors import PINNED, Anchors
from verifier.errors import Reason
from verifier.result import Verdict

STRANGER = b"\x77" * 8


@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_every_shape_is_accepted_and_told_to_be_simulated(count, mode):
    """Strict rules, revocation and RIMs included, under the simulator's roots."""
    result = judge(nvgpu.make(count, mode))

    assert (result.verdict, result.reasons) == (Verdict.ACCEPT, ())
    assert result.simulated


@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_no_shape_is_accepted_without_the_simulators_roots(count, mode):
    """The real vendors' roots do not know it, whatever else is right."""
    case = Judge(nvgpu.make(count, mode), options={"anchors": PINNED})
    result = case()

    assert result.verdict is Verdict.REJECT
    assert Reason.ROOT_UNKNOWN in result.reasons
    assert not any(each["genuine"] for each in result.claims["devices"])


@pytest.mark.parametrize("known", ["device", "rim"])
def test_one_root_of_the_two_is_not_enough(known):
    """A device root does not vouch for RIMs, nor a RIM root for devices."""
    vendor = nvgpu.vendor()
    pin = {
        "device": {"nvidia_device": [vendor.device_root_pin]},
        "rim": {"nvidia_rim": [vendor.rim_root_pin]},
    }[known]
    case = Judge(nvgpu.make(1), options={"anchors": Anchors().with_simulated(**pin)})

    assert case().verdict is Verdict.REJECT


def test_another_simulator_is_a_stranger():
    """Roots are keys, not names: a second simulated vendor has the same names."""
    other = devices.device_set(FakeNvidia.create(NOW), 1)

    assert Reason.ROOT_UNKNOWN in judge(other).reasons


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda d: faults.bad_measurement(d, 7), Reason.GPU_MEASUREMENT),
        (lambda d: faults.bad_measurement(d, 3), Reason.GPU_MEASUREMENT),
        (faults.bad_signature, Reason.SIGNATURE_INVALID),
        (faults.trailing_byte, Reason.TRAILING_DATA),
        (lambda d: faults.stale(d, bytes(32)), Reason.NONCE_MISMATCH),
        (faults.other_firmware_id, Reason.GPU_FWID),
        (lambda d: faults.with_field(d, devices.FWID, None), Reason.GPU_FWID),
        (lambda d: faults.with_field(d, 99, b"x"), Reason.GPU_UNSUPPORTED),
        (
            lambda d: faults.with_field(d, devices.NVDEC0_STATUS, b"\0"),
            Reason.MALFORMED,
        ),
    ],
    ids=[
        *("driver", "vbios", "signature", "trailing", "stale"),
        *("fwid", "no-fwid", "unknown-field", "nvdec"),
    ],
)
def test_a_fault_of_one_gpu_is_refused_and_named(fault, reason):
    """One GPU of four: the set is refused, and the check that failed names the GPU."""
    result = judge(faults.at_gpu(nvgpu.make(4), 2, fault))

    assert result.verdict is not Verdict.ACCEPT
    named = [name for name, why in failed(result).items() if why is reason]
    assert named
    assert all(name.startswith("gpu[2].") for name in named)


@pytest.mark.parametrize(
    "fault",
    [
        lambda whole: faults.at_switch(whole, 1, faults.unlocked),
        lambda whole: faults.at_gpu(whole, 5, lambda d: faults.open_at_gpu(d, STRANGER)),
        lambda whole: faults.at_switch(whole, 3, lambda d: faults.open_at_switch(d, STRANGER)),
    ],
    ids=["unlocked", "gpu", "switch"],
)
def test_an_open_topology_is_refused(fault):
    """A switch that is not locked, a link to a strange switch, a port to a strange GPU."""
    result = judge(fault(nvgpu.make(8, "ppcie")))

    assert result.reasons == (Reason.GPU_TOPOLOGY,)


def test_an_old_driver_is_below_the_floor():
    """Its RIM is published and its measurements are right; only the policy says no."""
    whole = devices.device_set(nvgpu.vendor(), 1, driver=OLD_DRIVER)
    case = Judge(whole)

    assert case().verdict is Verdict.ACCEPT

    case.policy = nvgpu.rules(whole, min_driver="580.95.05")

    assert case.reasons() == ["tcb_below_minimum"]


def test_a_driver_that_nobody_published_is_not_accepted():
    """Genuine, and without a RIM."""
    result = judge(devices.device_set(nvgpu.vendor(), 1, driver="599.01"))

    assert result.reasons == (Reason.COLLATERAL_MISSING,)
    assert result.claims["devices"][0]["genuine"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [("revoked", Reason.CERTIFICATE_REVOKED), ("hold", Reason.CERTIFICATE_HOLD)],
)
def test_a_revoked_device_is_refused(status, reason):
    """OCSP says so of its boot ROM's certificate."""
    whole, known = nvgpu.make(2), services()
    known.responder.statuses[whole.gpus[1].identity.brom_serial] = status
    result = judge(whole, known)

    assert result.verdict is Verdict.REJECT
    ((name, why),) = failed(result).items()
    assert name.startswith("gpu[1].revocation.brom")
    assert why is reason


def test_a_revoked_rim_signer_is_refused():
    """So says OCSP of the certificate that signs RIMs."""
    known = services()
    known.responder.statuses[known.vendor.serial("gh100_rim_l4")] = "revoked"

    assert Reason.CERTIFICATE_REVOKED in judge(nvgpu.make(1), known).reasons


def test_a_rim_with_other_values_is_a_mismatch():
    """The same version issued again, with other golden values, validly signed."""
    known = services()
    text = RimText("vbios", devices.VBIOS, salt="second issue")
    known.publish("vbios", devices.VBIOS, text.sign(known.vendor))

    assert judge(nvgpu.make(1), known).reasons == (Reason.GPU_MEASUREMENT,)


def test_firmware_that_changed_keeps_the_device_and_not_its_key():
    """Same PDI and boot ROM, another attestation key for another driver."""
    vendor = nvgpu.vendor()
    first = nvgpu.make(1).gpus[0].identity
    second = vendor.device("GH100", bytes(48), pdi=first.pdi, brom_key=first.brom_key)

    assert first.chain[1] != second.chain[1]
    assert first.brom_serial == second.brom_serial
    assert first.chain[0] != second.chain[0]


@pytest.mark.parametrize(
    ("count", "mode", "driver"),
    [(3, None, devices.DRIVER), (4, "ppcie", devices.DRIVER), (2, "mpt", "550.90.07")],
)
def test_machines_that_do_not_exist_are_refused(count, mode, driver):
    """Three GPUs; protected PCIe with four; a mode that the driver does not have."""
    with pytest.raises(SimulatorError):
        devices.device_set(nvgpu.vendor(), count, mode, driver=driver)


def test_identities_must_fit_the_machine():
    """Eight GPUs do not make a machine of four and four."""
    whole = nvgpu.make(8, "ppcie")
    with pytest.raises(SimulatorError, match="not the devices"):
        devices.device_set(
            nvgpu.vendor(), 8, "ppcie", identities=[each.identity for each in whole.gpus]
        )


def test_a_nonce_has_32_bytes():
    """Anything else is the caller's error."""
    with pytest.raises(SimulatorError, match="nonce"):
        nvgpu.make(1).gpus[0].report(b"short")


def test_a_fault_leaves_the_honest_device_alone():
    """Faults make another device; the first still reports as before."""
    honest = nvgpu.make(1)
    faults.at_gpu(honest, 0, faults.bad_signature)

    assert judge(honest).verdict is Verdict.ACCEPT
    assert judge(replace(honest)).verdict is Verdict.ACCEPT
