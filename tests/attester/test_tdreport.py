"""MRCONFIGID from the TDX module: by the kernel's file, else by the ioctl."""

import errno
from pathlib import Path

import pytest

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester import tdreport as td
from tests.kit.tsm import FakeTsm, os_error
from tests.kit.vendors import good_body

CONFIG = bytes(range(100, 148))


def kernel(**knobs):
    return FakeTsm(lambda _: (b"", b""), **knobs)


def report():
    """Return a TDREPORT whose TDINFO is of a TD with our MRCONFIGID (TDX module ABI)."""
    body = good_body(mr_config_id=CONFIG)
    info = body.td_attributes + body.xfam + body.mr_td + body.mr_config_id + body.mr_owner
    return (bytes(512) + info).ljust(1024, b"\x55")


def raises(number):
    def call():
        raise os_error(number, "/dev/tdx_guest")

    return call


def fault(files, get_tdreport=report):
    with pytest.raises(AttesterError) as caught:
        td.mr_config_id(files, get_tdreport)
    return caught.value


def test_the_measurement_file_is_enough():
    """A new kernel needs no ioctl."""
    files = kernel(files={td.MEASUREMENT: CONFIG})

    assert td.mr_config_id(files, raises(errno.ENOENT)) == CONFIG


def test_an_old_kernel_answers_by_ioctl():
    """The same 48 bytes stand in the TDREPORT."""
    assert td.mr_config_id(kernel(), report) == CONFIG


@pytest.mark.parametrize("size", [0, 47, 1023, 1025])
def test_a_tdreport_of_another_size_is_refused(size):
    """A TDREPORT has 1,024 bytes."""
    assert fault(kernel(), lambda: bytes(size)).code == DeviceFault.ANSWER_INVALID


@pytest.mark.parametrize("size", [0, 47])
def test_a_measurement_of_another_size_is_refused(size):
    """A short value is never padded."""
    assert fault(kernel(files={td.MEASUREMENT: bytes(size)})).code == DeviceFault.ANSWER_INVALID


@pytest.mark.parametrize(
    ("number", "code", "advice"),
    [
        (errno.ENOENT, DeviceFault.ABSENT, "modprobe tdx_guest"),
        (errno.ENXIO, DeviceFault.ABSENT, "no TD"),
        (errno.EACCES, DeviceFault.DENIED, "may not use"),
        (errno.EIO, DeviceFault.FAILED, "Input/output"),
    ],
)
def test_a_device_that_fails_says_what_to_do(number, code, advice):
    """The errors of open and ioctl."""
    found = fault(kernel(), raises(number))

    assert found.code == code
    assert advice in str(found)


def test_a_file_that_may_not_be_read_is_no_reason_to_look_elsewhere():
    """Denied is denied; only a missing file means an old kernel."""
    files = kernel(files={td.MEASUREMENT: CONFIG}, fails={("read", "mrconfigid"): errno.EACCES})

    assert fault(files).code == DeviceFault.DENIED


def test_no_machine_here_has_the_device():
    """The real ioctl path on a machine without a TDX guest device."""
    if Path(td.DEVICE).exists():
        pytest.skip(f"{td.DEVICE} is here: this is a TD")

    assert fault(kernel(), td.tdreport).code == DeviceFault.ABSENT
