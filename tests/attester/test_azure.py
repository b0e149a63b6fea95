"""A machine in Azure: a real TPM with Azure's NV indices and key, read as in production."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from inference_runtime.attester import AttesterError, DeviceFault, Evidence, imds, logs
from inference_runtime.attester.azure import (
    AK,
    AK_CERTIFICATE,
    HCL_REPORT,
    USER_DATA,
    AzureDevice,
    AzureKind,
)
from inference_runtime.attester.machine import Options, real_device
from inference_runtime.attester.tpm import wire
from inference_runtime.attester.tpm.channel import open_channel
from ostiary.simulator.azure import encoded, jwk
from tests.kit import azure, tpm_chain
from tests.kit.corpus import EVIDENCE
from tests.kit.swtpm import SoftTpm, needs_swtpm, soft_tpm
from tests.kit.tsm import FakeTsm
from verifier.azure import hcl
from verifier.result import Verdict
from verifier.wire import binding, canonical, messages

pytestmark = needs_swtpm
DATA = bytes(range(64))
CONFIG = "5a" * 32
LOG = b"the firmware's log"
SIZE = 2048
"""Bytes of an NV index here; in Azure 2,600 and 4,096."""
CERTIFICATE = b"\x30\x82\x01\x00" + bytes(256)


@dataclass(frozen=True)
class Provisioned:
    """A TPM as Azure makes it, and the machines whose claims name its key."""

    tpm: SoftTpm
    machines: dict[AzureKind, azure.Machine]
    claims: Callable[[str], bytes]

    def boot(self, kind: AzureKind, user_data: str = "00" * 64) -> azure.Machine:
        """Have the paravisor leave the report of a machine; return the machine."""
        make = azure.snp if kind == "azure-snp" else azure.tdx_machine
        machine = make(self.claims(user_data))
        raw = machine.evidence.hcl_report.ljust(SIZE, b"\0")
        self.tpm.put_nv(HCL_REPORT, raw)
        return machine


@pytest.fixture(scope="module")
def there() -> Iterator[Provisioned]:
    """Give a TPM with Azure's key and certificate."""
    with soft_tpm() as tpm:
        key = tpm.put_key(AK)
        tpm.put_nv(AK_CERTIFICATE, CERTIFICATE.ljust(SIZE, b"\0"))
        tpm.run("tpm2_pcrextend", f"8:sha256={CONFIG}")

        @cache
        def claims(user_data: str) -> bytes:
            # One key of the two: swtpm's NV indices hold 2,048 bytes, and Azure's more.
            return encoded(azure.runtime(keys=[jwk(key, "HCLAkPub")], user_data=user_data))

        yield Provisioned(tpm, {}, claims)


def kernel(log: bytes | None = LOG) -> FakeTsm:
    """Return a kernel's files, with or without the TPM's log."""
    files = {} if log is None else {logs.TPM.path: log}
    return FakeTsm(lambda data: (data, b""), files=files)


def metadata(machine: azure.Machine, **changes: object) -> httpx.MockTransport:
    """Return Azure's metadata service, which quotes for this machine alone."""
    local = hcl.parse(machine.evidence.hcl_report).hardware

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, str(request.url)) == ("POST", imds.QUOTE_URL)
        text = json.loads(request.content)["report"]
        assert base64.urlsafe_b64decode(text + "==") == local
        quote = base64.urlsafe_b64encode(machine.evidence.td_quote or b"").decode()
        told: dict[str, object] = {"quote": quote.rstrip("=")} | changes
        return httpx.Response(200, json=told)

    return httpx.MockTransport(answer)


def broken(status: int = 200, body: bytes = b"{}", error: bool = False) -> httpx.MockTransport:
    """Return a metadata service that does not do it."""

    def answer(request: httpx.Request) -> httpx.Response:
        if error:
            raise httpx.ConnectError("no route", request=request)
        return httpx.Response(status, content=body)

    return httpx.MockTransport(answer)


def judged(machine: azure.Machine, device: AzureDevice, found: Evidence) -> Verdict:
    """Return the verifier's verdict on what went over the wire."""
    assert found.vtpm is not None
    vtpm = canonical.decode(canonical.encode(found.vtpm), messages.Vtpm)
    pcrs = {pcr.index: bytes(pcr.value) for pcr in vtpm.pcrs}
    sent = machine.but(
        hcl_report=vtpm.hcl_report,
        td_quote=found.cpu or None,
        tpm_message=vtpm.message,
        tpm_signature=vtpm.signature,
        pcrs={"sha256": pcrs},
        ak=device.ak,
        nonce=binding.tpm_qualifying_data(DATA),
    )
    return sent.judge().verdict


@pytest.mark.parametrize("kind", ["azure-snp", "azure-tdx"])
def test_what_is_read_is_accepted(there: Provisioned, kind: AzureKind) -> None:
    """The verifier accepts what the production reader reads of a real TPM."""
    machine = there.boot(kind)
    device = AzureDevice(kind, tpm=there.tpm.path, files=kernel(), transport=metadata(machine))

    found = device.report(DATA)

    assert judged(machine, device, found) is Verdict.ACCEPT
    assert device.kind == kind
    assert found.vtpm is not None
    assert (found.vtpm.event_log, found.vtpm.certificates, found.missing) == (LOG, (), ())
    assert bool(found.cpu) == (kind == "azure-tdx")


def test_the_anchor_is_pcr_8(there: Provisioned) -> None:
    """The launch configuration is what the first stage extended PCR 8 with, once."""
    launched = AzureDevice("azure-snp", tpm=there.tpm.path).launch_config()

    assert launched.extended
    assert launched.value == bytes.fromhex(
        there.tpm.run("tpm2_pcrread", "sha256:8").decode().split("0x")[1]
    )


def test_the_certificate_goes_with_its_issuers(there: Provisioned) -> None:
    """Azure's padding is cut; without issuers the certificate proves nothing and stays home."""
    there.boot("azure-snp")
    root = tpm_chain.root().der
    device = AzureDevice("azure-snp", tpm=there.tpm.path, issuers=[root], files=kernel())

    found = device.report(DATA).vtpm

    assert found is not None
    assert found.certificates == (CERTIFICATE, root)
    assert device.certificate() == CERTIFICATE


def test_no_log(there: Provisioned) -> None:
    """A log that is not there is told, with what to do; one that may not be read is an error."""
    there.boot("azure-snp")
    found = AzureDevice("azure-snp", tpm=there.tpm.path, files=kernel(None)).report(DATA)

    assert found.vtpm is not None
    assert found.vtpm.event_log == b""
    (sentence,) = found.missing
    assert "securityfs" in sentence


def test_a_fresh_report(there: Provisioned) -> None:
    """What is written into user data is waited for, until it is among the claims."""
    there.boot("azure-snp")
    waited: list[float] = []

    def paravisor(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            there.boot(
                "azure-snp", there.tpm.run("tpm2_nvread", "-C", "o", hex(USER_DATA)).hex().upper()
            )

    device = AzureDevice(
        "azure-snp", tpm=there.tpm.path, fresh_report=True, files=kernel(), sleep=paravisor
    )
    found = device.report(DATA)

    assert len(waited) == 2
    assert found.vtpm is not None
    assert hcl.parse(found.vtpm.hcl_report).claims == there.claims(DATA.hex().upper())
    with pytest.raises(AttesterError, match="user data that was written is not in it") as refused:
        AzureDevice(
            "azure-snp",
            tpm=there.tpm.path,
            fresh_report=True,
            files=kernel(),
            sleep=lambda _seconds: None,
        ).report(bytes(63) + b"x")
    assert refused.value.code is DeviceFault.RACED


def test_a_report_that_is_torn(there: Provisioned) -> None:
    """Claims that the hardware report does not carry were read while they were replaced."""
    raw = bytearray(there.boot("azure-snp").evidence.hcl_report.ljust(SIZE, b"\0"))
    raw[hcl.CLAIMS_AT + 5] ^= 1
    there.tpm.put_nv(HCL_REPORT, bytes(raw))
    tries: list[float] = []

    def repaired(seconds: float) -> None:
        tries.append(seconds)
        there.boot("azure-snp")

    def device(sleep: Callable[[float], None]) -> AzureDevice:
        return AzureDevice("azure-snp", tpm=there.tpm.path, files=kernel(), sleep=sleep)

    with pytest.raises(AttesterError, match="not of its claims") as refused:
        device(lambda _seconds: None).report(DATA)
    assert refused.value.code is DeviceFault.RACED
    assert device(repaired).report(DATA).vtpm is not None
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (bytes(SIZE), DeviceFault.ANSWER_INVALID),
        (b"HCLA".ljust(SIZE, b"\0"), DeviceFault.ANSWER_INVALID),
    ],
)
def test_no_hcl_report(there: Provisioned, raw: bytes, code: DeviceFault) -> None:
    """Bytes that are no HCL report are refused by name."""
    there.tpm.put_nv(HCL_REPORT, raw)
    with pytest.raises(AttesterError, match="no HCL report") as refused:
        AzureDevice("azure-snp", tpm=there.tpm.path, files=kernel()).report(DATA)
    assert refused.value.code is code


def test_another_kind(there: Provisioned) -> None:
    """A machine is of the kind that was told, or an error names the kind that it is."""
    there.boot("azure-snp")
    with pytest.raises(AttesterError, match="of kind azure-snp") as refused:
        AzureDevice("azure-tdx", tpm=there.tpm.path, files=kernel()).report(DATA)
    assert refused.value.code is DeviceFault.WRONG_KIND


@pytest.mark.parametrize(
    ("service", "code", "words"),
    [
        (broken(error=True), DeviceFault.ABSENT, "firewall"),
        (broken(404), DeviceFault.FAILED, "404"),
        (broken(500), DeviceFault.FAILED, "again in a minute"),
        (broken(body=b"no JSON"), DeviceFault.ANSWER_INVALID, "no quote"),
        (broken(body=b"{}"), DeviceFault.ANSWER_INVALID, "no quote"),
        (broken(body=b'{"quote":"\xc3\xa4"}'), DeviceFault.ANSWER_INVALID, ""),
        (broken(body=b'{"quote":"AAAA"}'), DeviceFault.ANSWER_INVALID, ""),
        (broken(body=b" " * 300_000), DeviceFault.ANSWER_INVALID, "too much"),
    ],
)
def test_the_metadata_service(
    there: Provisioned, service: httpx.MockTransport, code: DeviceFault, words: str
) -> None:
    """Whatever the service does instead of quoting is an error that says what to do."""
    there.boot("azure-tdx")
    device = AzureDevice("azure-tdx", tpm=there.tpm.path, files=kernel(), transport=service)
    with pytest.raises(AttesterError) as refused:
        device.report(DATA)
    assert refused.value.code is code
    assert words in str(refused.value)


def test_a_quote_of_another_machine(there: Provisioned) -> None:
    """A quote that is not of the HCL report's TDREPORT is noticed before it is sent."""
    other = azure.tdx_machine(there.claims("11" * 64)).evidence.td_quote or b""
    machine = there.boot("azure-tdx")
    service = metadata(machine, quote=base64.urlsafe_b64encode(other).decode())
    device = AzureDevice("azure-tdx", tpm=there.tpm.path, files=kernel(), transport=service)
    with pytest.raises(AttesterError) as refused:
        device.report(DATA)
    assert refused.value.code is DeviceFault.RACED


def test_a_tpm_that_is_none_of_azures() -> None:
    """Without Azure's key there is no device, and the error says which key is missing."""
    with soft_tpm() as tpm, pytest.raises(AttesterError, match="0x81000003") as refused:
        AzureDevice("azure-snp", tpm=tpm.path)
    assert refused.value.code is DeviceFault.NOT_PROVISIONED


RECORDED = [
    path
    for path in sorted(EVIDENCE.glob("az-*/*/hcl_report.bin"))
    if "az-snp" in str(path) or path.with_name("td_quote.bin").exists()
]


class Wide:
    """A way to the TPM that has one NV index more, larger than swtpm's can be."""

    def __init__(self, path: str, index: int, content: bytes) -> None:
        self.inner, self.index, self.content = open_channel(path), wire.u32(index), content

    def transmit(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10])
        if code == wire.Command.NV_READ_PUBLIC and command[10:14] == self.index:
            public = self.index + bytes.fromhex("000b 22060006 0000") + wire.u16(len(self.content))
            return response(wire.NO_SESSIONS, wire.sized(public) + wire.sized(b""))
        if code == wire.Command.NV_READ and command[14:18] == self.index:
            size, at = int.from_bytes(command[-4:-2]), int.from_bytes(command[-2:])
            piece = wire.sized(self.content[at : at + size])
            return response(
                wire.SESSIONS, wire.u32(len(piece)) + piece + bytes.fromhex("0000010000")
            )
        return self.inner.transmit(command)

    def close(self) -> None:
        self.inner.close()


def response(tag: int, body: bytes) -> bytes:
    """Return a good response of a TPM."""
    return wire.u16(tag) + wire.u32(wire.HEADER + len(body)) + bytes(4) + body


@pytest.mark.skipif(not RECORDED, reason="the evidence corpus is not here")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_recorded_reports(there: Provisioned, path: Path) -> None:
    """The report of a real machine is whole, of the kind that the corpus says, and unchanged."""
    kind: AzureKind = "azure-snp" if "az-snp" in str(path) else "azure-tdx"
    quote = path.with_name("td_quote.bin")
    told = base64.urlsafe_b64encode(quote.read_bytes()).decode() if quote.exists() else ""
    device = AzureDevice(
        kind,
        tpm=there.tpm.path,
        files=kernel(),
        transport=broken(body=json.dumps({"quote": told}).encode()),
        opener=lambda tpm: Wide(tpm, HCL_REPORT, path.read_bytes()),
    )

    found = device.report(DATA)

    assert found.vtpm is not None
    assert found.vtpm.hcl_report == path.read_bytes()
    assert found.cpu == (quote.read_bytes() if kind == "azure-tdx" else b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tdx", Options(tpm="/dev/tpm0")),
        ("snp", Options(fresh_report=True)),
        ("gcp-tdx", Options(ak_issuers=[b"x"])),
        ("azure-snp", Options(privlevel=0)),
        ("tdx", Options(privlevel=0)),
    ],
)
def test_options_without_a_use(kind: messages.Kind, options: Options) -> None:
    """An option that a kind has no use for is refused, not ignored."""
    with pytest.raises(ValueError, match=r"a|privilege"):
        real_device(kind, options)


def test_every_kind_has_its_reader(there: Provisioned) -> None:
    """The kind that was told decides which reader there is."""
    assert real_device("azure-snp", Options(tpm=there.tpm.path)).kind == "azure-snp"
    for kind in ("tdx", "snp", "gcp-tdx", "gcp-snp"):
        assert real_device(kind).kind == kind
