"""The runtime's collection, over the simulated machine's socket: every shape, every failure."""

import contextlib

import pytest

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.gpu_faults import NvmlCode
from inference_runtime.attester.gpus import ComputeSettings, DriverGpus, Environment
from inference_runtime.attester.socket_device import call
from inference_runtime.attester.socket_gpus import SocketNvml, socket_gpus
from inference_runtime.attester.socket_wire import NvmlFunction
from ostiary.simulator import device as device_module
from ostiary.simulator.nvidia import faults
from ostiary.simulator.nvidia.nvml import DriverState, SimulatedDriver
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.store import SimulatorError
from tests.kit import nvgpu
from tests.kit.gpus import SHAPES, machine, received
from tests.kit.nvgpu import NONCE, NOW, Judge
from tests.kit.vendors import fake_intel
from verifier.result import Verdict


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.sock"


@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_a_simulated_machine_is_collected_whole_and_accepted(path, count, mode):
    """What the runtime collects through the socket is what the strict verifier accepts."""
    whole = nvgpu.make(count, mode)
    with machine(path, SimulatedDriver(whole)) as gpus:
        collected = gpus.collect(NONCE)
    case = Judge(whole)
    case.sent = received(collected)

    assert [each.kind for each in collected] == [each.kind for each in whole.devices]
    assert case().verdict is Verdict.ACCEPT


def test_collected_evidence_is_for_the_nonce_that_was_asked(path):
    """Another nonce, another set of reports; the verifier does not take one for the other."""
    whole = nvgpu.make(2)
    with machine(path, SimulatedDriver(whole)) as gpus:
        collected = gpus.collect(b"\1" * 32)
    case = Judge(whole)
    case.sent = received(collected)

    assert case.reasons() == ["nonce_mismatch"]


def test_the_ready_state_is_set_when_told_and_not_by_collecting(path):
    """False until the supervisor says so, after the release; and back."""
    driver = SimulatedDriver(nvgpu.make(1))
    with machine(path, driver) as gpus:
        gpus.collect(NONCE)
        assert not gpus.ready()
        gpus.set_ready(ready=True)
        assert gpus.ready()
        assert driver.state.ready
        gpus.set_ready(ready=False)
        assert not gpus.ready()


def fail(path, state, call=lambda gpus: gpus.collect(NONCE), *, whole=None, count=1, mode=None):
    """Return code and text of what goes wrong with such a driver."""
    driver = None if state is None else SimulatedDriver(whole or nvgpu.make(count, mode), state)
    with machine(path, driver) as gpus, pytest.raises(AttesterError) as caught:
        call(gpus)
    return caught.value.code, str(caught.value)


CODES = [
    (NvmlFunction.INIT, NvmlCode.DRIVER_NOT_LOADED, DeviceFault.GPU_ABSENT, "modprobe nvidia"),
    (NvmlFunction.INIT, NvmlCode.LIBRARY_NOT_FOUND, DeviceFault.GPU_ABSENT, "libnvidia-ml"),
    (NvmlFunction.INIT, NvmlCode.NO_PERMISSION, DeviceFault.DENIED, "/dev/nvidia"),
    (NvmlFunction.INIT, NvmlCode.OPERATING_SYSTEM, DeviceFault.DENIED, "container"),
    (
        NvmlFunction.INIT,
        NvmlCode.LIB_RM_VERSION_MISMATCH,
        DeviceFault.GPU_DRIVER_UNSUITABLE,
        "reload",
    ),
    (
        NvmlFunction.REPORT,
        NvmlCode.FUNCTION_NOT_FOUND,
        DeviceFault.GPU_DRIVER_UNSUITABLE,
        "GPU 0",
    ),
    (NvmlFunction.SETTINGS, NvmlCode.NOT_SUPPORTED, DeviceFault.GPU_NOT_CONFIDENTIAL, "Hopper"),
    (NvmlFunction.CHAIN, NvmlCode.RESET_REQUIRED, DeviceFault.GPU_LOST, "Xid"),
    (NvmlFunction.COUNT, NvmlCode.GPU_NOT_FOUND, DeviceFault.GPU_ABSENT, "lspci"),
    (NvmlFunction.REPORT, 999, DeviceFault.FAILED, "999"),
]


@pytest.mark.parametrize(
    ("function", "code", "fault", "advice"), CODES, ids=[f"{f.name}-{int(c)}" for f, c, *_ in CODES]
)
def test_what_the_driver_returns_says_what_to_do(path, function, code, fault, advice):
    """Each nvmlReturn_t has a code of ours and a text for a person."""
    seen, text = fail(path, DriverState(codes={function: code}))

    assert seen is fault
    assert advice in text


@pytest.mark.parametrize(
    ("state", "fault", "advice"),
    [
        (DriverState(confidential=False), DeviceFault.GPU_NOT_CONFIDENTIAL, "conf-compute -f"),
        (DriverState(devtools=True), DeviceFault.GPU_DEVTOOLS, "devtools"),
        (DriverState(lost={0}), DeviceFault.GPU_LOST, "GPU 0"),
        (None, DeviceFault.GPU_ABSENT, "modprobe"),
    ],
    ids=["off", "devtools", "lost", "none"],
)
def test_machines_that_cannot_attest_say_why(path, state, fault, advice):
    """CC off, devtools mode, a lost GPU, no GPU at all."""
    seen, text = fail(path, state)

    assert seen is fault
    assert advice in text


def test_one_lost_gpu_of_eight_fails_the_whole_collection(path):
    """Nothing is sent that leaves a device out."""
    seen, text = fail(path, DriverState(lost={6}), count=8, mode="mpt")

    assert seen is DeviceFault.GPU_LOST
    assert "GPU 6" in text


def test_only_root_may_set_the_ready_state(path):
    """Said in as many words."""
    seen, text = fail(path, DriverState(root=False), lambda gpus: gpus.set_ready(ready=True))

    assert seen is DeviceFault.DENIED
    assert "root" in text


@pytest.mark.parametrize("call", ["ready", "set"])
def test_a_driver_that_dies_between_release_and_ready_is_told(path, call):
    """Ready state of a lost GPU."""
    state = DriverState(
        codes=dict.fromkeys((NvmlFunction.GET_READY, NvmlFunction.SET_READY), NvmlCode.GPU_IS_LOST)
    )
    do = {"ready": lambda g: g.ready(), "set": lambda g: g.set_ready(ready=True)}[call]

    assert fail(path, state, do)[0] is DeviceFault.GPU_LOST


@pytest.mark.parametrize("works", [True, False])
def test_switches_are_asked_in_protected_pcie_mode_only(path, works):
    """NSCQ that fails is no matter for a machine without switches, and fails one with them."""
    state = DriverState(switches_work=works)
    with machine(path, SimulatedDriver(nvgpu.make(8, "mpt"), state)) as gpus:
        assert len(gpus.collect(NONCE)) == 8

    if not works:
        seen, text = fail(path, state, count=8, mode="ppcie")
        assert seen is DeviceFault.FAILED
        assert "NSCQ" in text


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (lambda d: faults.stale(d, bytes(32)), DeviceFault.RACED),
        (lambda d: faults.with_field(d, 12, bytes(9000)), DeviceFault.ANSWER_INVALID),
    ],
    ids=["stale", "huge"],
)
def test_answers_that_are_not_our_evidence_are_refused(path, fault, code):
    """Another nonce's report, and one that no buffer of the driver holds."""
    whole = faults.at_gpu(nvgpu.make(2), 1, fault)

    assert fail(path, DriverState(), whole=whole)[0] is code


def test_a_nonce_of_another_size_is_the_callers_error(path):
    """Nobody is asked."""
    seen, _ = fail(path, DriverState(), lambda gpus: gpus.collect(b"short"))

    assert seen is DeviceFault.REQUEST_INVALID


def test_simulated_gpus_are_refused_outside_of_a_demo(path):
    """The driver says what it is, and the runtime listens."""
    with machine(path, SimulatedDriver(nvgpu.make(1))):
        gpus = socket_gpus(path, simulated_allowed=False)
        with pytest.raises(AttesterError, match="only a demo") as caught:
            gpus.collect(NONCE)

    assert caught.value.code is DeviceFault.GPU_SIMULATED


class Listed:
    """An `Nvml` that answers from a list: shapes that no machine has."""

    def __init__(self, count=1, chain=b"-----BEGIN CERTIFICATE-----", **settings):
        self._count, self._chain = count, chain
        plain = {"environment": Environment.PRODUCTION, "enabled": True, "devtools": False}
        self._settings = ComputeSettings(**{**plain, "multi_gpu": 0, **settings})

    session = contextlib.nullcontext

    def settings(self):
        return self._settings

    def count(self):
        return self._count

    def report(self, index, nonce):
        return nvgpu.make(1).gpus[index].report(nonce)

    def chain(self, _index):
        return self._chain

    def ready(self):
        return False

    def set_ready(self, *, ready):
        pass


@pytest.mark.parametrize(
    ("nvml", "fault"),
    [
        (Listed(count=0), DeviceFault.GPU_ABSENT),
        (Listed(chain=b"\x30\x82"), DeviceFault.ANSWER_INVALID),
        (Listed(chain=b"-----BEGIN CERTIFICATE-----" + bytes(0x1400)), DeviceFault.ANSWER_INVALID),
        (Listed(environment=Environment.SIMULATED), DeviceFault.GPU_SIMULATED),
    ],
    ids=["none", "der", "huge", "simulated"],
)
def test_what_makes_no_sense_is_not_passed_on(nvml, fault):
    """No GPU behind a driver, a chain that is no PEM or too long, a simulator in production."""
    with pytest.raises(AttesterError) as caught:
        DriverGpus(nvml, None).collect(NONCE)

    assert caught.value.code is fault


def test_a_driver_that_takes_the_ready_state_and_does_not_keep_it_fails():
    """Set, read back, compared."""
    with pytest.raises(AttesterError, match="still says") as caught:
        DriverGpus(Listed(), None).set_ready(ready=True)

    assert caught.value.code is DeviceFault.FAILED


def test_a_multi_gpu_mode_counts_as_confidential_though_cc_is_off():
    """As nvidia-smi shows it on machines with protected PCIe."""
    gpus = DriverGpus(Listed(enabled=False, multi_gpu=2), None)

    assert len(gpus.collect(NONCE)) == 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0\0\0", b"\0\0\0\0\0\0"],
    ids=["empty", "short", "numbers"],
)
def test_a_device_that_does_not_speak_nvml_is_refused(path, monkeypatch, answer):
    """No code, or numbers that are not there."""
    monkeypatch.setattr(device_module.nvml, "answer", lambda *_: answer)
    with machine(path, SimulatedDriver(nvgpu.make(1))), pytest.raises(AttesterError) as caught:
        SocketNvml(path).count()

    assert caught.value.code is DeviceFault.ANSWER_INVALID


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (wire.NVML, b""),
        (wire.NVML, b"\2"),
        (wire.SWITCHES, b"short"),
        (9, b""),
    ],
)
def test_requests_that_are_none_are_told_so(path, code, payload):
    """The machine's side of the socket."""
    with (
        machine(path, SimulatedDriver(nvgpu.make(1))),
        pytest.raises(AttesterError, match="a request is"),
    ):
        call(path, code, payload)


def test_the_simulated_driver_knows_its_functions():
    """Unknown ones, other GPUs and other arguments are errors of NVML."""
    driver = SimulatedDriver(nvgpu.make(1))

    assert driver.call(77, 0, b"") == (NvmlCode.FUNCTION_NOT_FOUND, b"")
    assert driver.call(NvmlFunction.REPORT, 1, NONCE)[0] == 2
    assert driver.call(NvmlFunction.REPORT, 0, b"")[0] == 2
    assert driver.call(NvmlFunction.SET_READY, 0, b"\2")[0] == 2
    off = SimulatedDriver(nvgpu.make(1), DriverState(confidential=False))
    assert off.call(NvmlFunction.REPORT, 0, NONCE)[0] == NvmlCode.NOT_SUPPORTED
    assert driver.call(NvmlFunction.DRIVER_VERSION, 0, b"") == (0, b"590.12")
    assert driver.call(NvmlFunction.VBIOS_VERSION, 0, b"") == (0, b"96.00.A5.00.01")
    assert driver.call(NvmlFunction.UUID, 0, b"")[1].startswith(b"GPU-")
    assert [each["arch"] for each in driver.gpu_evidence(NONCE)] == ["HOPPER"]


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor")
    fake_intel().save(folder)
    nvgpu.vendor().save(folder)
    return folder


def options(vendor, *more):
    config = ("--config", "00" * 48)
    return device_module._options(["--vendor", str(vendor), "--socket", "s", *config, *more])


def test_the_command_line_launches_gpus_and_keeps_them(vendor, tmp_path):
    """The same devices after a restart; another driver gives another key, on the same device."""
    kept = ("--machine", str(tmp_path / "m"), "--gpus", "8", "--gpu-mode", "ppcie")
    first = device_module.launch_gpus(options(vendor, *kept)).devices
    again = device_module.launch_gpus(options(vendor, *kept)).devices
    newer = device_module.launch_gpus(options(vendor, *kept, "--gpu-driver", "595.71.05")).devices

    chains = [[each.identity.chain for each in whole.devices] for whole in (first, again, newer)]
    assert chains[0] == chains[1]
    assert chains[0][8:] == chains[2][8:]
    assert all(
        a[0] != c[0] and a[1:2] != () for a, c in zip(chains[0][:8], chains[2][:8], strict=True)
    )
    serials = [[each.identity.brom_serial for each in whole.devices] for whole in (first, newer)]
    assert serials[0] == serials[1]


def test_a_machine_has_no_gpus_unless_told(vendor):
    """The default is a machine without a driver; a set without a folder is kept nowhere."""
    assert device_module.launch_gpus(options(vendor)) is None
    assert len(device_module.launch_gpus(options(vendor, "--gpus", "4")).devices.gpus) == 4


def test_gpus_of_another_vendor_or_number_are_refused(vendor, tmp_path):
    """Their evidence would not verify."""
    kept = ("--machine", str(tmp_path / "m"))
    device_module.launch_gpus(options(vendor, *kept, "--gpus", "2"))
    other = tmp_path / "other"
    FakeNvidia.create(NOW).save(other)

    with pytest.raises(SimulatorError, match="not the devices"):
        device_module.launch_gpus(options(vendor, *kept, "--gpus", "4"))
    with pytest.raises(SimulatorError, match="another vendor"):
        device_module.launch_gpus(options(other, *kept, "--gpus", "2"))
    (tmp_path / "m/gpus/gpus.json").write_text("{}]")
    with pytest.raises(SimulatorError, match="saved GPUs"):
        device_module.launch_gpus(options(vendor, *kept, "--gpus", "2"))
