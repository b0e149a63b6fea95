"""What every device's answer must look like before it is passed on.

Guarantees: evidence that passes has the size of its kind and carries exactly the report data that
was asked for, at the place where that kind has it. Does not look at signatures: the broker does.
"""

from __future__ import annotations

from typing import Final

from inference_runtime.attester import AttesterError, DeviceFault, Kind

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


def check_evidence(kind: Kind, cpu: bytes, report_data: bytes) -> None:
    """Refuse an answer that is not evidence for `report_data`.

    Raises:
        AttesterError: `device_answer_invalid`, or `device_raced` if it carries other report data.
    """
    if kind == "snp":
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
