"""Which reader a kind of machine has. The kind is told, never guessed.

Guarantees: a machine that is not of the kind that was told gives an error, whatever else it could
give: what a machine says that it is comes from its host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from inference_runtime.attester import Kind, ReportDevice
from inference_runtime.attester.azure import AzureDevice
from inference_runtime.attester.configfs import ConfigfsDevice
from inference_runtime.attester.gcp import GcpDevice
from inference_runtime.attester.tpm import client


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How to read a machine.

    `privlevel` is the VMPL to ask for (SNP). `tpm` is the vTPM's path: in Azure `/dev/tpmrm0` where
    nothing is said, at Google no vTPM is read unless it is said, nowhere else is there one.
    `ak_issuers` and `fresh_report` as in `azure.AzureDevice`.
    """

    privlevel: int | None = None
    tpm: str | None = None
    ak_issuers: Sequence[bytes] = ()
    fresh_report: bool = False


def real_device(kind: Kind, options: Options | None = None) -> ReportDevice:
    """Return the reader of a real machine.

    Raises:
        AttesterError: the machine lacks what its kind has.
        ValueError: an option that this kind has no use for.
    """
    told = options or Options()
    azure = kind in {"azure-snp", "azure-tdx"}
    if kind in {"tdx", "snp"} and told.tpm is not None:
        raise ValueError(f"a machine of kind {kind} has no vTPM that is evidence")
    if told.fresh_report and not azure:
        raise ValueError("a report is made anew in Azure only; elsewhere each one is")
    if told.ak_issuers and not azure and told.tpm is None:
        raise ValueError("issuers of an attestation key, and no vTPM to read")
    if kind == "azure-snp" or kind == "azure-tdx":  # noqa: PLR1714 - narrows the type
        if told.privlevel is not None:
            raise ValueError("in Azure the paravisor asks for reports, at its own level")
        return AzureDevice(
            kind,
            tpm=told.tpm or client.DEVICE,
            issuers=told.ak_issuers,
            fresh_report=told.fresh_report,
        )
    hardware = ConfigfsDevice(kind, privlevel=told.privlevel)
    if told.tpm is None:
        return hardware
    return GcpDevice(hardware, tpm=told.tpm, issuers=told.ak_issuers)
