"""RTMR 1 and 2, and PCR 4, 9, 11 and 12, from what is booted.

Guarantees: every digest is of the artefact that was given or of a constant that the specifications
name; the order is one that real boot logs show. Assumes no option ROM and no driver beyond the
firmware's own, one boot attempt, and nothing measured after the boot but systemd's phases.

Refused by name: RTMR 0 (the host's TD HOB and ACPI tables, Secure Boot variables, boot variables);
what GRUB measures (each command of its configuration); what systemd-stub hands to the kernel (an
initrd that it puts together); RTMR 2 of a UKI for that reason. Such values come from reviewed
evidence (`ostiary policy capture`), or a reference leaves them out and names boot claims instead.

Source: TCG PC Client Platform Firmware Profile (PCR 4 and 5); UEFI 2.10 §38 (PCR to RTMR); Linux
drivers/firmware/efi/libstub (PCR 9; RTMR 2 from Linux 6.9 on); systemd-stub(7), systemd-measure(1).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from ostiary.measure.errors import MeasureError
from ostiary.measure.pe import Image
from verifier.eventlog.boot import CALLING, EXIT_INVOKED, EXIT_RETURNED

Bank: TypeAlias = Literal["sha256", "sha384", "sha512"]
InitrdOption: TypeAlias = Literal["before", "after", "none"]
SEPARATOR: Final = bytes(4)
PHASES: Final = "enter-initrd:leave-initrd:sysinit:ready"
"""What systemd measures into PCR 11 of a machine that is up (systemd-pcrphase)."""

_MEASURED: Final = (
    *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat"),
    ".pcrpkey",
)
"""Sections in the order in which systemd-stub measures them; `.pcrsig` is about PCR 11."""
_CHOSEN: Final = (".profile", ".dtbauto", ".hwids", ".efifw")
"""Sections by which newer stubs choose among others, so that no one value holds."""
_CODE: Final = (".text", ".rodata", ".data", ".rdata")

_GPT_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_SECTOR: Final = 512
_MAX_ENTRIES: Final = 1024


def extend(bank: Bank, digests: Iterable[bytes], start: bytes | None = None) -> bytes:
    """Return what a register holds after these digests; it starts at zero."""
    value = bytes(hashlib.new(bank).digest_size) if start is None else start
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value


@final
@dataclass(frozen=True, slots=True)
class Boot:
    """How the firmware came to its boot applications.

    `images` are Authenticode digests of all of them, in order. `direct` is QEMU's `-kernel`: the
    image is loaded before the firmware says that it boots; otherwise it boots from a disk, whose
    `partition_table` is measured (see `gpt_event`; None where there is none). `separator` is False
    for older OVMF, which measured RTMR 1's separator into RTMR 0.
    """

    images: tuple[bytes, ...]
    direct: bool
    partition_table: bytes | None = None
    separator: bool = True


def rtmr1(boot: Boot) -> bytes:
    """Return RTMR 1: boot applications, and the hand-over (PCR 2 to 6)."""
    marks = [CALLING, *([SEPARATOR] if boot.separator else [])]
    start = [hashlib.sha384(mark).digest() for mark in marks]
    images = list(boot.images)
    if boot.partition_table is not None:
        images.insert(0, hashlib.sha384(boot.partition_table).digest())
    ends = [hashlib.sha384(action).digest() for action in (EXIT_INVOKED, EXIT_RETURNED)]
    order = [*images, *start] if boot.direct else [*start, *images]
    return extend("sha384", [*order, *ends])


def pcr4(boot: Boot, bank: Bank) -> bytes:
    """Return PCR 4: boot applications."""
    start = [hashlib.new(bank, mark).digest() for mark in (CALLING, SEPARATOR)]
    images = list(boot.images)
    return extend(bank, [*images, *start] if boot.direct else [*start, *images])


def load_options(append: str, *, initrd: InitrdOption) -> bytes:
    """Return what OVMF hands to the kernel: UTF-16, with a NUL.

    `initrd` says where OVMF writes `initrd=initrd`, by which the kernel finds it: `before` the
    command line (since 2025) or `after` it (earlier); `none` where there is no initrd.
    """
    text = {"before": f"initrd=initrd {append}", "after": f"{append} initrd=initrd"}.get(
        initrd, append
    )
    if "\0" in append:
        raise MeasureError("malformed", "the command line has a NUL")
    return (text + "\0").encode("utf-16-le")


def stub_digests(bank: Bank, options: bytes, initrd: bytes | None) -> tuple[bytes, ...]:
    """Return what the Linux EFI stub measures: PCR 9, or RTMR 2. Nothing for no options."""
    told = [options] if options != b"\0\0" else []
    return tuple(
        hashlib.new(bank, each).digest() for each in (*told, *([initrd] if initrd else []))
    )


def pcr11(uki: Image, bank: Bank, *, phases: str = PHASES) -> bytes:
    """Return PCR 11: a UKI's sections, then systemd's phases, separated by colons; maybe none.

    Raises:
        MeasureError: `malformed` for no UKI, `not_computable` for one that holds several.
    """
    digests: list[bytes] = []
    for name in _sections(uki):
        content = uki.section(name) or b""
        digests += [hashlib.new(bank, each).digest() for each in (name.encode() + b"\0", content)]
    words = phases.split(":") if phases else []
    digests += [hashlib.new(bank, word.encode()).digest() for word in words]
    return extend(bank, digests)


def _sections(uki: Image) -> list[str]:
    """Return the sections that this UKI's own stub measures: those whose names it knows."""
    held = uki.contents()
    if not held.keys() >= {".linux", ".sdmagic"}:
        raise MeasureError("malformed", "UKI: no .linux, or not systemd's stub (no .sdmagic)")
    chosen = [name for name in _CHOSEN if name in held]
    if chosen:
        raise MeasureError(
            "not_computable",
            f"UKI: {' '.join(chosen)}: its stub chooses at boot what it measures; capture PCR 11 "
            "from reviewed evidence",
        )
    code = b"\0".join(held[name] for name in _CODE if name in held)
    return [name for name in _MEASURED if name in held and name.encode() + b"\0" in code]


def inner_kernel(uki: Image) -> Image:
    """Return the kernel in a UKI, which most stubs have the firmware load, and measure, too.

    Raises:
        MeasureError: `malformed`.
    """
    raw = uki.section(".linux")
    if raw is None:
        raise MeasureError("malformed", "UKI: no .linux")
    return Image.parse(raw)


def gpt_event(disk: bytes) -> bytes:
    """Return UEFI_GPT_DATA, which firmware measures of the disk that it boots from.

    Args:
        disk: the disk's beginning, with the whole primary partition table; sectors of 512 bytes.

    Raises:
        MeasureError: `malformed`.
    """
    if len(disk) < 2 * _SECTOR:
        raise MeasureError("malformed", "disk: shorter than a partition table")
    header = disk[_SECTOR : _SECTOR + _GPT_HEADER.size]
    signature, _, size, *_, first, count, entry, _ = _GPT_HEADER.unpack(header)
    if signature != b"EFI PART" or size != _GPT_HEADER.size:
        raise MeasureError("malformed", "disk: no GUID partition table")
    start = first * _SECTOR
    if not 0 < count <= _MAX_ENTRIES or entry % 128 or start + count * entry > len(disk):
        raise MeasureError("malformed", f"disk: {count} partition entries of {entry} bytes")
    entries = [disk[start + i * entry : start + (i + 1) * entry] for i in range(count)]
    used = [each for each in entries if any(each[:16])]
    return header + struct.pack("<Q", len(used)) + b"".join(used)


def refuse_registers(asked: Sequence[int], computable: Iterable[int]) -> None:
    """Refuse PCRs that cannot be computed, each by name.

    Raises:
        MeasureError: `not_computable`, with the reason and what to do.
    """
    missing = [register for register in asked if register not in set(computable)]
    if missing:
        told = "; ".join(f"PCR {each}: {_WHY.get(each, _OTHER)}" for each in missing)
        raise MeasureError(
            "not_computable",
            f"{told}. Capture it from reviewed evidence, or leave it out and name boot claims",
        )


_OTHER: Final = "nothing is known of what is measured there"
_WHY: Final = {
    0: "the firmware as the host measures it",
    1: "the host's configuration: ACPI tables, boot variables",
    2: "option ROMs, which the host chooses",
    3: "option ROMs' configuration",
    4: "needs --uki, --kernel or --application",
    5: "the partition table and boot attempts",
    6: "the host's own",
    7: "Secure Boot variables of the machine",
    8: "GRUB measures each command of its configuration",
    9: "files that GRUB reads, or the initrd that systemd-stub puts together",
    11: "needs --uki",
    12: "needs --uki",
}
