"""Reads a confidential VM in Azure: the paravisor's HCL report and the vTPM's quote.

Guarantees: the HCL report is of the expected hardware and whole (its hardware report carries the
hash of its claims), the quote is by the key that Azure puts there and over our report data, and
with Intel's hardware the TD quote is of the very TDREPORT in the HCL report; or an error says what
to do. Judges nothing: that the claims name the quoting key is for the verifier to say.

Source: Azure confidential VM guest attestation (NV indices, AK handle); OpenHCL (IgvmAttest).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, final

import httpx
import msgspec

from inference_runtime.attester import (
    AttesterError,
    DeviceFault,
    Evidence,
    LaunchConfig,
    imds,
    logs,
    require_report_data,
)
from inference_runtime.attester.answer import SNP_REPORT_SIZE, check_evidence
from inference_runtime.attester.files import KernelFiles, RealFiles
from inference_runtime.attester.tpm.channel import Channel, open_channel
from inference_runtime.attester.tpm.client import DEVICE, Tpm
from inference_runtime.attester.tpm.keys import spki
from inference_runtime.attester.vtpm import quoted

HCL_REPORT: Final = 0x01400001
USER_DATA: Final = 0x01400002
"""64 bytes that the paravisor puts into the claims of its next report, as `user-data`."""
AK_CERTIFICATE: Final = 0x01C101D0
AK: Final = 0x81000003
ANCHOR_PCR: Final = 8
"""What the image's first stage extends with the launch's anchor; see `binding.anchor_pcr`."""
AzureKind = Literal["azure-snp", "azure-tdx"]

_TYPES: Final[dict[int, AzureKind]] = {2: "azure-snp", 4: "azure-tdx"}
_HARDWARE: Final = 0x20
_DATA: Final = _HARDWARE + SNP_REPORT_SIZE
_CLAIMS: Final = _DATA + 20
_REPORT_DATA: Final[dict[AzureKind, int]] = {"azure-snp": 0x50, "azure-tdx": 128}
_TRIES: Final = 8
_WAIT_S: Final = 1.0
"""The paravisor makes a report anew at most every two seconds or so."""


class _Claims(msgspec.Struct):
    user_data: str = msgspec.field(name="user-data", default="")


@final
class AzureDevice:
    """A `ReportDevice` on a confidential VM in Azure.

    Args:
        kind: what this machine is meant to be.
        tpm: path of the vTPM.
        issuers: certificates above the AK's own, the root last (DER). Azure leaves only the AK's
            in the machine; without these none is sent, and the hardware report alone vouches.
        fresh_report: also write the report data into NV index 0x01400002, so that the hardware
            signs anew, with it among the claims. Not needed for freshness: the quote has that. It
            replaces user data that a policy may pin.
        files: the kernel's files.
        opener: opens the TPM.
        transport: to the metadata service, instead of the network.
        sleep: waits, in seconds.

    Raises:
        AttesterError: there is no TPM, or it has no such key.
    """

    __slots__ = (
        "_ak",
        "_files",
        "_fresh",
        "_issuers",
        "_kind",
        "_opener",
        "_path",
        "_sleep",
        "_transport",
    )

    def __init__(
        self,
        kind: AzureKind,
        *,
        tpm: str = DEVICE,
        issuers: Sequence[bytes] = (),
        fresh_report: bool = False,
        files: KernelFiles | None = None,
        opener: Callable[[str], Channel] = open_channel,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kind = kind
        self._path = tpm
        self._issuers = tuple(issuers)
        self._fresh = fresh_report
        self._files: KernelFiles = RealFiles() if files is None else files
        self._opener = opener
        self._transport = transport
        self._sleep = sleep
        with self._tpm() as opened:
            self._ak = spki(opened.public(AK, "Azure's attestation key"))

    @property
    def kind(self) -> AzureKind:
        """The kind of evidence that this machine gives."""
        return self._kind

    @property
    def ak(self) -> bytes:
        """The vTPM's attestation key (SPKI, DER), as it was when this was made."""
        return self._ak

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence bound to 64 bytes.

        Raises:
            AttesterError: as `ReportDevice.report`.
        """
        require_report_data(report_data)
        log, missing = logs.read(self._files, logs.TPM)
        # 1. The hardware's report, whole; made anew where that was asked for.
        if self._fresh:
            with self._tpm() as tpm:
                tpm.write_nv(USER_DATA, report_data, "Azure's user data")
        hcl = self._hcl_report(report_data.hex() if self._fresh else None)
        # 2. Its TDREPORT, quoted: on its own it proves nothing to anybody else.
        cpu = b""
        if self._kind == "azure-tdx":
            local = hcl[_HARDWARE : _HARDWARE + imds.TDREPORT_SIZE]
            cpu = imds.td_quote(local, transport=self._transport)
        # 3. The quote, by the key that the claims name.
        with self._tpm() as tpm:
            vtpm = quoted(
                tpm,
                AK,
                report_data,
                certificates=self._certificates(tpm) if self._issuers else (),
                event_log=log,
                hcl_report=hcl,
            )
        check_evidence(self._kind, cpu, report_data, vtpm)
        return Evidence(cpu, b"", b"", vtpm, missing)

    def launch_config(self) -> LaunchConfig:
        """Return PCR 8, which the image's first stage extends with the launch's anchor.

        Raises:
            AttesterError: it cannot be read.
        """
        with self._tpm() as tpm:
            return LaunchConfig(tpm.read_pcrs([ANCHOR_PCR])[ANCHOR_PCR], extended=True)

    def certificate(self) -> bytes:
        """Return the AK's certificate (DER), which is worth something only with its issuers'.

        Raises:
            AttesterError: there is none.
        """
        with self._tpm() as tpm:
            return read_certificate(tpm, AK_CERTIFICATE)

    def _tpm(self) -> Tpm:
        return Tpm(self._path, opener=self._opener)

    def _certificates(self, tpm: Tpm) -> tuple[bytes, ...]:
        return (read_certificate(tpm, AK_CERTIFICATE), *self._issuers)

    def _hcl_report(self, user_data: str | None) -> bytes:
        """Return the HCL report once it is whole, and once it has our user data."""
        why = ""
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(_WAIT_S)
            with self._tpm() as tpm:  # let go of between tries: others may want it
                raw = tpm.read_nv(HCL_REPORT, "Azure's HCL report")
            claims, bound = self._split(raw)
            # It is read in pieces, and the paravisor may have replaced it between two.
            if hashlib.sha256(claims).digest() != bound:
                why = "its hardware report is not of its claims"
                continue
            if user_data is not None and _user_data(claims) != user_data:
                why = "the user data that was written is not in it"
                continue
            return raw
        raise AttesterError(
            DeviceFault.RACED,
            f"the HCL report is not what it should be after {_TRIES} tries: {why}; does something "
            "else on this machine ask for reports all the time?",
        )

    def _split(self, raw: bytes) -> tuple[bytes, bytes]:
        """Return the claims, and what the hardware's report data says of them."""
        seen = _TYPES.get(int.from_bytes(raw[_DATA + 8 : _DATA + 12], "little"))
        size = int.from_bytes(raw[_DATA + 16 : _DATA + 20], "little")
        if not raw.startswith(b"HCLA") or seen is None or _CLAIMS + size > len(raw):
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"NV index {HCL_REPORT:#010x} holds {len(raw)} bytes that are no HCL report",
            )
        if seen != self._kind:
            raise AttesterError(
                DeviceFault.WRONG_KIND,
                f"this machine is of kind {seen}, {self._kind} was asked for: choose the kind that "
                "the machine is",
            )
        at = _HARDWARE + _REPORT_DATA[seen]
        return raw[_CLAIMS : _CLAIMS + size], raw[at : at + 32]


def read_certificate(tpm: Tpm, index: int) -> bytes:
    """Return the certificate (DER) at the start of an NV index, without its padding.

    Raises:
        AttesterError: there is none.
    """
    raw = tpm.read_nv(index, "the attestation key's certificate")
    end = 4 + int.from_bytes(raw[2:4], "big")
    if raw[:2] != b"\x30\x82" or end > len(raw):
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"NV index {index:#010x} holds no certificate"
        )
    return raw[:end]


def _user_data(claims: bytes) -> str:
    try:
        return msgspec.json.decode(claims, type=_Claims).user_data.lower()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, "the HCL report's claims are no JSON"
        ) from error
