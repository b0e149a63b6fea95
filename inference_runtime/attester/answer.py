"""What every device's answer must look like before it is passed on.

Guarantees: evidence that passes has the size of its kind and carries exactly the report data that
was asked for, at the place where that kind has it: in Azure in the TPM's quote. Does not look at
signatures: the broker does.
"""

from __future__ import annotations

from typing import Final

from inference_runtime.attester import AttesterError, DeviceFault, Kind, Vtpm
from verifier.wire import binding

MAX_CPU: Final = 128 * 1024
"""Largest quote or report in bytes."""
MAX_AUX: Final = 128 * 1024
"""Largest auxiliary blob in bytes (SNP: a certificate table)."""
MAX_EVENT_LOG: Final = 256 * 1024
"""Largest event log in bytes that a request can carry."""
SNP_REPORT_SIZE: Final = 0x4A0
"""AMD 56860, ATTESTATION_REPORT."""
SNP_HOST_DATA: Final = slice(0xC0, 0xE0)
_SNP_REPORT_DATA: Final = 0x50
_TDX_REPORT_DATA: Final = {4: 48 + 520, 5: 54 + 520}
"""By quote version: header, v5's descriptor, REPORTDATA in the TD report (TDX DCAP API, app. A)."""

_QUOTE: Final = bytes.fromhex("ff5443478018")
_QUALIFIED_SIGNER: Final = len(_QUOTE)


def check_evidence(kind: Kind, cpu: bytes, report_data: bytes, vtpm: Vtpm | None = None) -> None:
    """Refuse an answer that is not evidence for `report_data`.

    Raises:
        AttesterError: `device_answer_invalid`, or `device_raced` if it carries other report data.
    """
    azure = kind in {"azure-snp", "azure-tdx"}
    if vtpm is not None:
        _check_quote(vtpm, report_data)
    if (vtpm is None and azure) or (vtpm is not None and kind in {"tdx", "snp"}):
        raise AttesterError(
            DeviceFault.ANSWER_INVALID,
            f"the device gave {'no' if vtpm is None else 'a'} vTPM's quote for {kind}",
        )
    if not azure:
        _check_cpu(kind, cpu, report_data)


def _check_quote(vtpm: Vtpm, report_data: bytes) -> None:
    """Refuse a TPM's quote over other data (TCG TPM 2.0 Library part 2, TPMS_ATTEST)."""
    message = bytes(vtpm.message)
    at = _QUALIFIED_SIGNER + 2 + int.from_bytes(message[_QUALIFIED_SIGNER:][:2], "big")
    size = int.from_bytes(message[at : at + 2], "big")
    if not message.startswith(_QUOTE) or len(message) < at + 2 + size:
        raise AttesterError(DeviceFault.ANSWER_INVALID, "the device gave no TPM's quote")
    if message[at + 2 : at + 2 + size] != binding.tpm_qualifying_data(report_data):
        raise AttesterError(
            DeviceFault.RACED, "the TPM's quote is bound to other report data than ours"
        )


def _check_cpu(kind: Kind, cpu: bytes, report_data: bytes) -> None:
    if kind in {"snp", "gcp-snp"}:
        if len(cpu) != SNP_REPORT_SIZE:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"an SNP report has {SNP_REPORT_SIZE} bytes, the device gave {len(cpu)}",
            )
        offset = _SNP_REPORT_DATA
    else:
        version = int.from_bytes(cpu[:2], "little")
        offset = _TDX_REPORT_DATA.get(version, MAX_CPU)
        if not offset + len(report_data) <= len(cpu) <= MAX_CPU:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"the device gave {len(cpu)} bytes of quote version {version}; 4 and 5 are known",
            )
    if cpu[offset : offset + len(report_data)] != report_data:
        raise AttesterError(
            DeviceFault.RACED, "the device's answer is bound to other report data than ours"
        )
