"""A machine at Google: the hardware's report, and a real TPM with Google's template beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference_runtime.attester import AttesterError, DeviceFault, logs
from inference_runtime.attester.configfs import ConfigfsDevice
from inference_runtime.attester.gcp import AK_CERTIFICATE, AK_TEMPLATE, GcpDevice
from inference_runtime.attester.tdreport import MEASUREMENT
from tests.kit import tpm_chain
from tests.kit.swtpm import SoftTpm, needs_swtpm, soft_tpm
from tests.kit.tsm import FakeTsm
from tests.kit.vendors import good_quote
from verifier.tpm import attest as attests
from verifier.tpm import keys
from verifier.wire import binding

pytestmark = needs_swtpm
DATA = bytes(range(64))
LOG = b"the firmware's log"
CONFIG = b"\x5c" * 48
CERTIFICATE = b"\x30\x82\x01\x00" + bytes(256)
TEMPLATE = bytes.fromhex("0001 000b 00050072 0000 0010 0014 000b 0800 00000000 0100") + bytes(256)
"""TPMT_PUBLIC of a restricted RSA signing key with a zero unique, as Google's is."""


def kernel() -> FakeTsm:
    """Return the kernel of a TD with both logs."""
    files = {logs.TPM.path: LOG, logs.CCEL.path: b"ccel", MEASUREMENT: CONFIG}
    return FakeTsm(lambda data: (good_quote(data), b""), provider="tdx_guest", files=files)


def hardware(files: FakeTsm) -> ConfigfsDevice:
    return ConfigfsDevice("gcp-tdx", files=files)


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftTpm]:
    """Give a TPM with Google's template and certificate."""
    with soft_tpm() as made:
        made.put_nv(AK_TEMPLATE, TEMPLATE)
        made.put_nv(AK_CERTIFICATE, CERTIFICATE)
        yield made


def test_hardware_and_vtpm(tpm: SoftTpm) -> None:
    """Both carry the same report data, and the key is the template's in each report."""
    files = kernel()
    device = GcpDevice(hardware(files), tpm=tpm.path, files=files)

    for _ in range(2):
        found = device.report(DATA)
        assert found.vtpm is not None
        assert found.cpu[568:632] == DATA
        assert (found.event_log, found.vtpm.event_log, found.missing) == (b"ccel", LOG, ())
        assert found.vtpm.certificates == ()
        read = attests.parse(found.vtpm.message)
        assert read.extra_data == binding.tpm_qualifying_data(DATA)
        keys.check_signature(keys.load(device.ak), found.vtpm.signature, found.vtpm.message)
    assert device.kind == "gcp-tdx"
    assert device.launch_config().value == CONFIG


def test_the_certificate_goes_with_its_issuers(tpm: SoftTpm) -> None:
    """Without issuers it proves nothing and stays home."""
    files = kernel()
    root = tpm_chain.root().der
    found = GcpDevice(hardware(files), tpm=tpm.path, issuers=[root], files=files).report(DATA).vtpm

    assert found is not None
    assert found.certificates == (CERTIFICATE, root)


def test_a_tpm_without_the_template() -> None:
    """The error says what is missing; the hardware alone would do, without asking for a vTPM."""
    with soft_tpm() as other, pytest.raises(AttesterError, match="0x01c10001") as refused:
        GcpDevice(hardware(kernel()), tpm=other.path)
    assert refused.value.code is DeviceFault.NOT_PROVISIONED


def test_a_certificate_that_is_none(tpm: SoftTpm) -> None:
    """Bytes that are no certificate are refused by name."""
    tpm.run("tpm2_nvundefine", "-C", "o", hex(AK_CERTIFICATE))
    tpm.put_nv(AK_CERTIFICATE, bytes(16))
    files = kernel()
    device = GcpDevice(hardware(files), tpm=tpm.path, issuers=[b"x"], files=files)
    with pytest.raises(AttesterError, match="no certificate"):
        device.report(DATA)


def test_other_hardware() -> None:
    """Only a machine at Google has Google's vTPM."""
    with pytest.raises(ValueError, match="tdx is no machine at Google"):
        GcpDevice(ConfigfsDevice("tdx", files=kernel()))
