"""The launch digest of a SEV-SNP guest: MEASUREMENT in its reports.

Guarantees: computed by `sev-snp-measure` (extra `measure`) over the very bytes that were given,
after the firmware's structure was checked here. Assumes what that library does: pages, VMSA and
their order as QEMU with KVM (or EC2, or Google's VMM) launches them; the number of vCPUs, their
type and SEV_FEATURES change the digest, and so does the firmware's build. Google's own firmware is
not published as a file that fits a running machine by itself: take Google's signed endorsement, or
capture from reviewed evidence.

Source: AMD 56860 §8.17 (SNP_LAUNCH_UPDATE, PAGE_INFO); QEMU target/i386/sev.c (SEV hash table).
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

from ostiary.measure.errors import MeasureError
from ostiary.measure.firmware import (
    PAGE,
    SEV_HASH_TABLE,
    SEV_RESET_BLOCK,
    Firmware,
    SevSectionType,
)

Vmm: TypeAlias = Literal["qemu", "ec2", "gce"]
MAX_VCPUS: Final = 4096
SNP_ACTIVE: Final = 1
"""SEV_FEATURES bit 0 (AMD APM Vol. 2, VMSA): set in every SNP guest."""
_HASH_TABLE: Final = 176
"""Bytes of QEMU's table of hashes, padded."""


@final
@dataclass(frozen=True, slots=True)
class SnpLaunch:
    """What a guest is started with.

    `kernel`, `initrd` and `append` are QEMU's `-kernel`, `-initrd` and `-append` with
    `kernel-hashes=on`; without a kernel nothing of them is measured. `vcpu_type` is QEMU's CPU
    model; EC2 and Google ignore it. `guest_features` is SEV_FEATURES as the host sets it: 1, or
    0x21 where KVM switches DebugSwap on.
    """

    firmware: bytes
    vcpus: int
    kernel: bytes | None = None
    initrd: bytes | None = None
    append: str | None = None
    vcpu_type: str | None = None
    guest_features: int = SNP_ACTIVE
    vmm: Vmm = "qemu"


def launch_digest(launch: SnpLaunch) -> bytes:
    """Return the 48 bytes that MEASUREMENT must hold.

    Raises:
        MeasureError: `not_installed` without the extra; `malformed` or `not_computable` otherwise.
    """
    guest, cpus, modes, vmms = (
        _library(name) for name in ("guest", "vcpu_types", "sev_mode", "vmm_types")
    )
    _check(launch)
    signature = 0
    if launch.vmm == "qemu":
        if launch.vcpu_type not in cpus.CPU_SIGS:
            known = " ".join(sorted(cpus.CPU_SIGS))
            raise MeasureError("malformed", f"vCPU type {launch.vcpu_type!r}; known are {known}")
        signature = cpus.CPU_SIGS[launch.vcpu_type]
    vmm = vmms.VMMType[{"qemu": "QEMU"}.get(launch.vmm, launch.vmm)]
    with tempfile.TemporaryDirectory(prefix="ostiary-measure-") as folder:
        # The library reads files; these are what was hashed for the provenance, and no others.
        firmware = _file(folder, "firmware", launch.firmware)
        kernel = None if launch.kernel is None else _file(folder, "kernel", launch.kernel)
        initrd = None if launch.initrd is None else _file(folder, "initrd", launch.initrd)
        try:
            digest = guest.calc_launch_digest(
                modes.SevMode.SEV_SNP,
                launch.vcpus,
                signature,
                firmware,
                kernel,
                initrd,
                launch.append,
                launch.guest_features,
                vmm_type=vmm,
            )
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
            raise MeasureError("not_computable", f"sev-snp-measure: {error!r}") from error
    return bytes(digest)


def _library(name: str) -> Any:  # noqa: ANN401 - a module without types
    try:
        with warnings.catch_warnings():  # newer Pythons deprecate how it lays out its structures
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(f"sevsnpmeasure.{name}")
    except ImportError as error:
        raise MeasureError(
            "not_installed",
            "the SNP launch digest is computed by sev-snp-measure, which is not installed here: "
            "install ostiary[measure]",
        ) from error


def _file(folder: str, name: str, raw: bytes) -> str:
    path = Path(folder, name)
    path.write_bytes(raw)
    return str(path)


def _check(launch: SnpLaunch) -> None:
    if not 0 < launch.vcpus <= MAX_VCPUS:
        raise MeasureError("malformed", f"{launch.vcpus} vCPUs: 1 to {MAX_VCPUS} expected")
    if not 0 <= launch.guest_features < 1 << 64 or not launch.guest_features & SNP_ACTIVE:
        raise MeasureError(
            "malformed", f"guest features {launch.guest_features:#x}: bit 0 (SNP) must be set"
        )
    if launch.kernel is None and (launch.initrd is not None or launch.append is not None):
        raise MeasureError(
            "malformed",
            "an initrd or a command line without a kernel is in no launch digest: give the kernel, "
            "or prove them by the boot's own measurements (`policy measure pcr`)",
        )
    if launch.append is not None and "\0" in launch.append:
        raise MeasureError("malformed", "the command line has a NUL")
    firmware = Firmware.parse(launch.firmware)
    sections = firmware.sev_sections()
    kinds = [section.kind for section in sections]
    if launch.vcpus > 1 and firmware.number(SEV_RESET_BLOCK) == 0:
        raise MeasureError("malformed", "firmware: no reset block for more than one vCPU")
    if launch.kernel is not None:
        if SevSectionType.KERNEL_HASHES not in kinds:
            raise MeasureError(
                "not_computable",
                "this firmware does not check kernel hashes (no SNP_KERNEL_HASHES section), so "
                "that nothing of the kernel is in the launch digest: use OVMF's AmdSev build",
            )
        at = firmware.number(SEV_HASH_TABLE) % PAGE
        sizes = [s.size for s in sections if s.kind is SevSectionType.KERNEL_HASHES]
        if sizes != [PAGE] or at + _HASH_TABLE > PAGE:
            raise MeasureError("malformed", "firmware: its table of kernel hashes is not one page")
