"""A simulated confidential VM at Google: plain hardware reports, and the host's vTPM beside them.

Guarantees: the hardware report is what any TD or SNP guest gives. The vTPM belongs to the host: it
says what it is told to. Unlike at Google, the launch configuration can be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from ostiary.simulator.machines import SnpMachine, TdxMachine
from ostiary.simulator.tpm import FakeTpm
from verifier.wire.messages import Vtpm


@final
@dataclass(frozen=True, slots=True, repr=False)
class GcpMachine:
    """A running VM: hardware that launched the guest, and a TPM of the host's, or None."""

    hardware: TdxMachine | SnpMachine
    tpm: FakeTpm | None

    @property
    def kind(self) -> Literal["gcp-tdx", "gcp-snp"]:
        """The kind of evidence."""
        return "gcp-tdx" if isinstance(self.hardware, TdxMachine) else "gcp-snp"

    @property
    def ak(self) -> bytes:
        """The vTPM's public key (SPKI, DER); empty without one."""
        return b"" if self.tpm is None else self.tpm.ak

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return what the hardware gives for 64 bytes."""
        return self.hardware.report(report_data)

    def vtpm(self, report_data: bytes) -> Vtpm | None:
        """Return the TPM's quote for the same 64 bytes."""
        return None if self.tpm is None else self.tpm.says(report_data)

    def claims(self) -> tuple[bytes, bytes]:
        """Return MRCONFIGID or HOST_DATA, and the body or report."""
        return self.hardware.claims()
