"""The real nvidia-ml-py and the real nvattest reader, against the simulated library and tool."""

import ctypes
import json
import os
import stat
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester.gpu_faults import NvmlCode, NvmlFailure
from inference_runtime.attester.gpus import DriverGpus
from inference_runtime.attester.nvattest import NvattestSwitches, parse
from inference_runtime.attester.nvml import PyNvml
from inference_runtime.attester.socket_wire import NvmlFunction
from ostiary.simulator.nvidia import library
from ostiary.simulator.nvidia.nvml import DriverState, SimulatedDriver
from ostiary.simulator.store import SimulatorError
from tests.kit import nvgpu
from tests.kit.gpus import SHAPES, machine, received
from tests.kit.nvgpu import NONCE, Judge
from verifier.result import Verdict

pynvml = pytest.importorskip(
    "pynvml", reason="nvidia-ml-py is not installed: the extra `guest-gpu`"
)
needs_compiler = pytest.mark.skipif(
    library.compiler() is None, reason="no C compiler: the simulated NVML is not built"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("s") / "d.sock"


@pytest.fixture(scope="module")
def built(path, tmp_path_factory):
    """Build library and tool once, and load the library by the name that nvidia-ml-py asks for.

    A library that is loaded already is found by its soname: the loader's path need not have it.
    """
    found = library.build(tmp_path_factory.mktemp("lib"), path)
    ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)
    return found


@pytest.fixture
def gpus(built):
    switches = NvattestSwitches(str(built.with_name(library.PROGRAM)))
    return DriverGpus(PyNvml(), switches, simulated_allowed=True)


@needs_compiler
@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_the_real_binding_collects_every_shape(gpus, path, count, mode):
    """nvidia-ml-py 13 over the simulated library, switches by subprocess: accepted."""
    whole = nvgpu.make(count, mode)
    with machine(path, SimulatedDriver(whole)):
        collected = gpus.collect(NONCE)
    case = Judge(whole)
    case.sent = received(collected)

    assert [each.kind for each in collected] == [each.kind for each in whole.devices]
    assert case().verdict is Verdict.ACCEPT


@needs_compiler
def test_the_real_binding_sets_the_ready_state(gpus, path):
    """As `nvidia-smi conf-compute -srs 1`, and back."""
    with machine(path, SimulatedDriver(nvgpu.make(1))):
        assert not gpus.ready()
        gpus.set_ready(ready=True)
        assert gpus.ready()
        gpus.set_ready(ready=False)
        assert not gpus.ready()


@needs_compiler
@pytest.mark.parametrize(
    ("state", "fault"),
    [
        (DriverState(confidential=False), DeviceFault.GPU_NOT_CONFIDENTIAL),
        (DriverState(devtools=True), DeviceFault.GPU_DEVTOOLS),
        (DriverState(lost={0}), DeviceFault.GPU_LOST),
        (None, DeviceFault.GPU_ABSENT),
        (
            DriverState(codes={NvmlFunction.INIT: NvmlCode.LIB_RM_VERSION_MISMATCH}),
            DeviceFault.GPU_DRIVER_UNSUITABLE,
        ),
        (
            DriverState(codes={NvmlFunction.SETTINGS: NvmlCode.NO_PERMISSION}),
            DeviceFault.DENIED,
        ),
        (DriverState(codes={NvmlFunction.COUNT: 999}), DeviceFault.FAILED),
    ],
    ids=["off", "devtools", "lost", "none", "mismatch", "denied", "unknown"],
)
def test_the_real_bindings_errors_say_what_to_do(gpus, path, state, fault):
    """NVMLError of every sort becomes ours."""
    driver = None if state is None else SimulatedDriver(nvgpu.make(1), state)
    with machine(path, driver), pytest.raises(AttesterError) as caught:
        gpus.collect(NONCE)

    assert caught.value.code is fault


@needs_compiler
def test_a_machine_that_goes_away_is_an_error_of_nvml(gpus):
    """Nobody at the socket: unknown error, not a hang."""
    with pytest.raises(AttesterError, match="999"):
        gpus.collect(NONCE)


@needs_compiler
@pytest.mark.usefixtures("built")
def test_the_library_has_the_rest_of_what_people_look_at(path):
    """Versions, UUID, architecture, state, and the checks of its arguments."""
    with machine(path, SimulatedDriver(nvgpu.make(2))):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(1)
        seen = (
            pynvml.nvmlSystemGetDriverVersion(),
            pynvml.nvmlDeviceGetVbiosVersion(handle),
            pynvml.nvmlDeviceGetArchitecture(handle),
            pynvml.nvmlSystemGetConfComputeState().environment,
        )
        assert pynvml.nvmlDeviceGetUUID(handle).startswith("GPU-")
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetHandleByIndex(2)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlSystemSetConfComputeGpusReadyState(2)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetConfComputeGpuCertificate(None)
        wrong = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
        wrong.version = 1
        assert pynvml.nvmlSystemGetConfComputeSettings(ctypes.byref(wrong)) == 25
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetTemperature(handle, 0)
        pynvml.nvmlShutdown()

    assert seen == ("590.12", "96.00.A5.00.01", pynvml.NVML_DEVICE_ARCH_HOPPER, 1)


@needs_compiler
def test_the_library_says_that_it_is_simulated(built, path):
    """On stderr, in a process of its own, found through the loader's path."""
    code = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    environment = os.environ | {"LD_LIBRARY_PATH": str(built.parent)}
    with machine(path, SimulatedDriver(nvgpu.make(4))):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert done.stdout == "4\n"
    assert "SIMULATED" in done.stderr


@needs_compiler
def test_a_library_needs_a_path_and_a_compiler(tmp_path, monkeypatch):
    """Too long, unprintable, no compiler, a compiler that fails."""
    for bad in ("x" * 108, 'a"b', "ä"):
        with pytest.raises(SimulatorError, match="socket's path"):
            library.build(tmp_path, bad)
    monkeypatch.setattr(library, "SOURCE", tmp_path / "none.c")
    with pytest.raises(SimulatorError, match="failed"):
        library.build(tmp_path, "/s")
    monkeypatch.setattr(library, "_COMPILERS", ())
    with pytest.raises(SimulatorError, match="C compiler"):
        library.build(tmp_path, "/s")


# nvidia-ml-py that is not there, is old, or talks to another driver.


def test_without_nvidia_ml_py_the_error_names_the_extra():
    """Not installed, and an older one or another package of the name."""

    def absent():
        raise ModuleNotFoundError("No module named 'pynvml'")

    for load in (absent, lambda: types.SimpleNamespace(nvmlInit=None)):
        with pytest.raises(AttesterError, match="guest-gpu") as caught:
            DriverGpus(PyNvml(load), None).collect(NONCE)
        assert caught.value.code is DeviceFault.GPU_TOOL_ABSENT


class BindingError(Exception):
    """The error of `binding`."""

    value = 13


class OldSettings(ctypes.Structure):
    """The structure of `binding`."""

    _fields_ = (("environment", ctypes.c_uint), ("ccFeature", ctypes.c_uint))


def binding(code=0, size=100):
    """Return a stand-in for the module alone: what the simulated library never answers.

    Args:
        code: what asking for the settings returns.
        size: what a report is said to have.
    """

    def shutdown():
        raise BindingError

    state = types.SimpleNamespace(environment=2, ccFeature=1, devToolsMode=0)
    report = types.SimpleNamespace(attestationReport=[7] * 0x2000, attestationReportSize=size)
    return types.SimpleNamespace(
        NVMLError=BindingError,
        NVML_CC_SYSTEM_MULTIGPU_NVLE=2,
        NVML_CC_SYSTEM_FEATURE_ENABLED=1,
        NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF=0,
        c_nvmlSystemConfComputeSettings_v1_t=OldSettings,
        nvmlInit=lambda: None,
        nvmlShutdown=shutdown,
        nvmlSystemGetConfComputeSettings=lambda _asked: code,
        nvmlSystemGetConfComputeState=lambda: state,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetConfComputeGpuAttestationReport=lambda _handle, _nonce: report,
    )


@pytest.mark.parametrize("code", [3, 13, 25])
def test_a_driver_before_multi_gpu_modes_has_none(code):
    """Function, mode or structure unknown: the older question is asked."""
    nvml = PyNvml(lambda: binding(code))
    with nvml.session():
        told = nvml.settings()

    assert (told.enabled, told.devtools, told.multi_gpu) == (True, False, 0)


def test_an_error_of_the_settings_is_not_passed_over():
    """nvidia-ml-py returns the code of this one function instead of raising it."""
    nvml = PyNvml(lambda: binding(4))
    with nvml.session(), pytest.raises(NvmlFailure) as caught:
        nvml.settings()

    assert caught.value.code == NvmlCode.NO_PERMISSION


@pytest.mark.parametrize("size", [0, 0x2001])
def test_a_size_that_the_buffer_does_not_have_is_refused(size):
    """And a good one cuts it: never the whole buffer."""
    nvml = PyNvml(lambda: binding(size=size))
    with nvml.session(), pytest.raises(AttesterError) as caught:
        nvml.report(0, NONCE)
    assert caught.value.code is DeviceFault.ANSWER_INVALID

    nvml = PyNvml(binding)
    with nvml.session():
        assert nvml.report(0, NONCE) == b"\7" * 100


# nvattest


def tool(folder, text):
    """Return the path of a program that does this."""
    path = folder / "nvattest"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def collected_by(program, timeout=30.0):
    with pytest.raises(AttesterError) as caught:
        NvattestSwitches(program, timeout=timeout).collect(NONCE)
    return caught.value.code, str(caught.value)


def test_without_nvattest_the_error_says_what_for(tmp_path):
    """Absent, and there without being a program."""
    assert collected_by("no-such-nvattest")[0] is DeviceFault.GPU_TOOL_ABSENT
    broken = tmp_path / "nvattest"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(stat.S_IRWXU)

    code, text = collected_by(str(broken))
    assert code is DeviceFault.GPU_TOOL_ABSENT
    assert "cannot be run" in text


def test_a_tool_that_fails_or_hangs_is_told(tmp_path):
    """Its own words, cut; and a time limit."""
    code, text = collected_by(tool(tmp_path, "echo no fabric >&2; exit 3"))
    assert code is DeviceFault.FAILED
    assert "ended with 3: no fabric" in text

    code, text = collected_by(tool(tmp_path, "exec sleep 60"), timeout=0.2)
    assert code is DeviceFault.FAILED
    assert "0.2 seconds" in text


def printed(**changes):
    whole = SimulatedDriver(nvgpu.make(8, "ppcie"))
    return json.dumps(json.loads(whole.nvattest(NONCE)) | changes).encode()


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (b"nvattest 1.0", DeviceFault.ANSWER_INVALID),
        (b"[]", DeviceFault.ANSWER_INVALID),
        (b"{}", DeviceFault.FAILED),
        (printed(result_code=10, result_message="no NSCQ"), DeviceFault.FAILED),
        (printed(evidences=None), DeviceFault.ANSWER_INVALID),
        (printed(evidences=[]), DeviceFault.ANSWER_INVALID),
        (printed(evidences=[1]), DeviceFault.ANSWER_INVALID),
        (printed(evidences=[{"evidence": "x", "certificate": ""}]), DeviceFault.ANSWER_INVALID),
        (printed(evidences=[{"evidence": "ä"}]), DeviceFault.ANSWER_INVALID),
        (printed(evidences=[{"evidence": "AAAA", "certificate": ""}]), DeviceFault.ANSWER_INVALID),
    ],
    ids=["text", "list", "empty", "code", "null", "none", "number", "b64", "utf8", "short"],
)
def test_what_the_tool_does_not_print_is_refused(output, code):
    """Every member is looked at."""
    with pytest.raises(AttesterError) as caught:
        parse(output, NONCE)

    assert caught.value.code is code


def test_switches_for_another_nonce_are_refused():
    """A tool that answers from memory."""
    with pytest.raises(AttesterError) as caught:
        parse(printed(), bytes(32))

    assert caught.value.code is DeviceFault.RACED


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_output_is_evidence_or_our_error(output):
    """Never anything else."""
    with pytest.raises(AttesterError):
        parse(output, NONCE)


@needs_compiler
def test_the_simulated_tool_takes_the_real_arguments_only(built, path):
    """And fails as the real one does where there are no switches."""
    program = str(built.with_name(library.PROGRAM))
    with machine(path, SimulatedDriver(nvgpu.make(1))):
        code, text = collected_by(program)
        wrong = subprocess.run([program, "attest"], capture_output=True, timeout=60, check=False)

    assert code is DeviceFault.FAILED
    assert "NSCQ" in text
    assert wrong.returncode == 1
    assert b"SIMULATED" in wrong.stderr
