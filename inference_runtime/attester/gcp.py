"""Reads a confidential VM at Google: the hardware's report, and the host's vTPM beside it.

Guarantees: the hardware report is `ConfigfsDevice`'s, unchanged. The vTPM's quote is by the key
that Google's template makes, and over the same report data; it is the host's word and repairs
nothing, so reading it is asked for by name.

Source: Google, go-tpm-tools (NV indices of the attestation key's certificate and template).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, final

from inference_runtime.attester import Evidence, Kind, LaunchConfig, logs
from inference_runtime.attester.answer import check_evidence
from inference_runtime.attester.azure import read_certificate
from inference_runtime.attester.configfs import ConfigfsDevice
from inference_runtime.attester.files import KernelFiles, RealFiles
from inference_runtime.attester.tpm.channel import Channel, open_channel
from inference_runtime.attester.tpm.client import DEVICE, Tpm
from inference_runtime.attester.tpm.keys import spki
from inference_runtime.attester.vtpm import quoted

AK_CERTIFICATE: Final = 0x01C10000
"""Of the RSA key; absent on machines without Shielded VM's integrity."""
AK_TEMPLATE: Final = 0x01C10001
"""TPMT_PUBLIC that makes the RSA key in the endorsement hierarchy."""
_KEY: Final = "Google's template of the attestation key"


@final
class GcpDevice:
    """A `ReportDevice` on a confidential VM at Google, its vTPM included.

    Args:
        hardware: of kind `gcp-tdx` or `gcp-snp`.
        tpm: path of the vTPM.
        issuers: certificates above the AK's own, the root last (DER); without them none is sent.
        files: the kernel's files.
        opener: opens the TPM.

    Raises:
        AttesterError: there is no TPM, or it has no such template.
        ValueError: the hardware is of another kind.
    """

    __slots__ = ("_ak", "_files", "_hardware", "_issuers", "_opener", "_path")

    def __init__(
        self,
        hardware: ConfigfsDevice,
        *,
        tpm: str = DEVICE,
        issuers: Sequence[bytes] = (),
        files: KernelFiles | None = None,
        opener: Callable[[str], Channel] = open_channel,
    ) -> None:
        if hardware.kind not in {"gcp-tdx", "gcp-snp"}:
            raise ValueError(f"{hardware.kind} is no machine at Google")
        self._hardware = hardware
        self._path = tpm
        self._issuers = tuple(issuers)
        self._files: KernelFiles = RealFiles() if files is None else files
        self._opener = opener
        with self._tpm() as opened:
            template = opened.read_nv(AK_TEMPLATE, _KEY)
            with opened.primary(template, _KEY) as (_, public):
                self._ak = spki(public)

    @property
    def kind(self) -> Kind:
        """The kind of evidence that this machine gives."""
        return self._hardware.kind

    @property
    def ak(self) -> bytes:
        """The vTPM's attestation key (SPKI, DER), as it was when this was made."""
        return self._ak

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence bound to 64 bytes.

        Raises:
            AttesterError: as `ReportDevice.report`.
        """
        found = self._hardware.report(report_data)
        log, missing = logs.read(self._files, logs.TPM)
        with self._tpm() as tpm:
            certificates: tuple[bytes, ...] = ()
            if self._issuers:
                certificates = (read_certificate(tpm, AK_CERTIFICATE), *self._issuers)
            template = tpm.read_nv(AK_TEMPLATE, _KEY)
            with tpm.primary(template, _KEY) as (key, _):
                vtpm = quoted(tpm, key, report_data, certificates=certificates, event_log=log)
        check_evidence(self.kind, found.cpu, report_data, vtpm)
        return replace(found, vtpm=vtpm, missing=(*found.missing, *missing))

    def launch_config(self) -> LaunchConfig:
        """Return MRCONFIGID or HOST_DATA, from the hardware."""
        return self._hardware.launch_config()

    def _tpm(self) -> Tpm:
        return Tpm(self._path, opener=self._opener)
