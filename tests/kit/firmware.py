"""Build small OVMF-like firmware images, and an SNP launch digest of our own to compare with.

`snp_digest` is written from AMD's and QEMU's descriptions, not from the library that
`ostiary.measure.snp` uses: where both agree, two readings of the same rules do.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from uuid import UUID

from ostiary.measure.firmware import (
    FOOTER,
    PAGE,
    SEV_HASH_TABLE,
    SEV_METADATA,
    SEV_RESET_BLOCK,
    TDX_METADATA,
)

RESET_EIP = 0x80B004
HASHES_GPA = 0x810C00
EPYC_V4 = 0x00800F12

AMD_SEV = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x810000, 0x1000, 0x10),
    (0x811000, 0xF000, 1),
)
"""The sections of OVMF's AmdSev build of 2024, as its metadata list them."""
OVMF_X64 = (*AMD_SEV[:5], (0x810000, 0x10000, 1))


def entry(guid: UUID, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + guid.bytes_le


def image(
    *,
    sev: Sequence[tuple[int, int, int]] | None = AMD_SEV,
    tdx: Sequence[tuple[int, int, int, int, int, int]] | None = None,
    size: int = 2 * PAGE,
    entries: bytes = b"",
    reset: int = RESET_EIP,
    hashes: int = HASHES_GPA,
) -> bytes:
    """Return an image: patterned bytes, the metadata in its last page, and the table."""
    body = bytearray(hashlib.shake_256(b"firmware").digest(size))
    body[-32:] = b"\x90" * 32
    body[-PAGE:-32] = bytes(PAGE - 32)
    table = entries
    if sev is not None:
        at = size - PAGE + 0x100
        raw = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sev), 1, len(sev))
        raw += b"".join(struct.pack("<III", *each) for each in sev)
        body[at : at + len(raw)] = raw
        table += entry(SEV_METADATA, struct.pack("<I", size - at))
        table += entry(SEV_HASH_TABLE, struct.pack("<II", hashes, 0x400))
        table += entry(SEV_RESET_BLOCK, struct.pack("<I", reset))
    if tdx is not None:
        at = size - PAGE + 0x400
        raw = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(tdx), 1, len(tdx))
        raw += b"".join(struct.pack("<IIQQII", *each) for each in tdx)
        body[at : at + len(raw)] = raw
        table += entry(TDX_METADATA, struct.pack("<I", size - at))
    table += struct.pack("<H", len(table) + 18) + FOOTER.bytes_le
    body[-32 - len(table) : -32] = table
    return bytes(body)


class Digest:
    """SNP's running launch digest (AMD 56860 §8.17.2): one PAGE_INFO hashed for each page."""

    def __init__(self, seed: bytes = bytes(48)) -> None:
        self.value = seed

    def page(self, kind: int, gpa: int, content: bytes | None) -> None:
        digest = bytes(48) if content is None else hashlib.sha384(content).digest()
        info = self.value + digest + struct.pack("<HBBIQ", 0x70, kind, 0, 0, gpa)
        self.value = hashlib.sha384(info).digest()


def hashes_page(kernel: bytes, initrd: bytes, append: str, at: int) -> bytes:
    """Return QEMU's page of hashes (target/i386/sev.c): cmdline, initrd, kernel in one table."""
    rows = b""
    for guid, raw in (
        ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", append.encode() + b"\0"),
        ("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd),
        ("4de79437-abd2-427f-b835-d5b172d2045b", kernel),
    ):
        rows += UUID(guid).bytes_le + struct.pack("<H", 50) + hashlib.sha256(raw).digest()
    head = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
    table = head + struct.pack("<H", 18 + len(rows)) + rows
    return bytes(at) + table + bytes(PAGE - at - len(table))


def vmsa(eip: int, features: int, signature: int) -> bytes:
    """Return a vCPU's first state under KVM and QEMU (AMD APM Vol. 2, table B-4)."""
    page = bytearray(PAGE)
    wide = 0xFFFF
    for at, values in {
        0x00: (0, 0x93, wide, 0),  # ES
        0x10: (0xF000, 0x9B, wide, eip & 0xFFFF0000),  # CS
        0x20: (0, 0x93, wide, 0),  # SS
        0x30: (0, 0x93, wide, 0),  # DS
        0x40: (0, 0x93, wide, 0),  # FS
        0x50: (0, 0x93, wide, 0),  # GS
        0x60: (0, 0, wide, 0),  # GDTR
        0x70: (0, 0x82, wide, 0),  # LDTR
        0x80: (0, 0, wide, 0),  # IDTR
        0x90: (0, 0x8B, wide, 0),  # TR
    }.items():
        struct.pack_into("<HHIQ", page, at, *values)
    for at, value in {
        0xD0: 0x1000,  # EFER.SVME
        0x148: 0x40,  # CR4.MCE
        0x158: 0x10,  # CR0
        0x160: 0x400,  # DR7
        0x168: 0xFFFF0FF0,  # DR6
        0x170: 2,  # RFLAGS
        0x178: eip & 0xFFFF,
        0x268: 0x0007040600070406,  # PAT
        0x310: signature,  # RDX
        0x3B0: features,
        0x3E8: 1,  # XCR0
    }.items():
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, 0x408, 0x1F80)  # MXCSR
    struct.pack_into("<H", page, 0x410, 0x37F)  # x87 control word
    return bytes(page)


def snp_digest(
    firmware: bytes,
    sections: Sequence[tuple[int, int, int]],
    *,
    vcpus: int,
    features: int,
    boot: tuple[bytes, bytes, str] | None = None,
    signature: int = EPYC_V4,
    seed: bytes | None = None,
) -> bytes:
    """Return the launch digest under QEMU. `seed` is the digest after the firmware's own pages."""
    digest = Digest(bytes(48) if seed is None else seed)
    if seed is None:
        start = (1 << 32) - len(firmware)
        for at in range(0, len(firmware), PAGE):
            digest.page(1, start + at, firmware[at : at + PAGE])
    for gpa, size, kind in sections:
        for page in range(gpa, gpa + size, PAGE):
            if kind == 0x10 and boot is not None:
                digest.page(1, page, hashes_page(*boot, HASHES_GPA % PAGE))
            else:
                digest.page({2: 5, 3: 6}.get(kind, 3), page, None)
    for index in range(vcpus):
        eip = RESET_EIP if index else 0xFFFFFFF0
        digest.page(2, 0xFFFFFFFFF000, vmsa(eip, features, signature))
    return digest.value
