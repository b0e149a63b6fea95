"""Build small PE images: kernels, boot loaders, and UKIs with something like systemd's stub."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final

HEADERS: Final = 1024
ALIGN: Final = 512
START: Final = 128
OPTIONAL: Final = START + 24
STUB: Final = b"".join(
    name.encode() + b"\0"
    for name in (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".pcrpkey")
)


def image(
    sections: Mapping[str, bytes],
    *,
    tail: bytes = b"",
    certificates: bytes = b"",
    magic: int = 0x20B,
    directories: int = 16,
    reverse: bool = False,
) -> bytes:
    """Return an image; contents are padded in the file to 512 bytes, or laid out in reverse."""
    fixed = 112 if magic == 0x20B else 96
    optional = bytearray(fixed + 8 * directories)
    struct.pack_into("<H", optional, 0, magic)
    struct.pack_into("<I", optional, 60, HEADERS)
    struct.pack_into("<I", optional, 64, 0xC4EC54)
    struct.pack_into("<I", optional, fixed - 4, directories)
    raw = {name: content + bytes(-len(content) % ALIGN) for name, content in sections.items()}
    offsets, at = {}, HEADERS
    for name in reversed(raw) if reverse else raw:
        offsets[name] = at if raw[name] else 0
        at += len(raw[name])
    if certificates:
        struct.pack_into("<II", optional, fixed + 32, at + len(tail), len(certificates))
    table = b"".join(
        struct.pack(
            "<8sIIII16x", name.encode(), len(sections[name]), 4096, len(raw[name]), offsets[name]
        )
        for name in sections
    )
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(raw), 0, 0, 0, len(optional), 0)
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", START)
    headers = (dos.ljust(START, b"\0") + coff + bytes(optional) + table).ljust(HEADERS, b"\0")
    body = b"".join(raw[name] for name in sorted(raw, key=lambda each: offsets[each]))
    return headers + body + tail + certificates


def digest(raw: bytes, bank: str, *, certificates: int = 0, directories: bool = True) -> bytes:
    """Return the Authenticode digest of an image of ours, read from its layout by hand."""
    checksum, security = OPTIONAL + 64, OPTIONAL + 112 + 32
    hashed = hashlib.new(bank, raw[:checksum])
    if directories:
        hashed.update(raw[checksum + 4 : security])
        hashed.update(raw[security + 8 : len(raw) - certificates])
    else:
        hashed.update(raw[checksum + 4 : len(raw) - certificates])
    return hashed.digest()


KERNEL: Final = image({".text": b"kernel code", ".data": b"kernel data"})


def uki(stub: bytes = STUB, **sections: bytes) -> bytes:
    """Return a UKI; sections are named without their dot."""
    told = {
        ".text": stub,
        ".sdmagic": b"#### LoaderInfo: systemd-stub 255 ####",
        ".osrel": b"ID=example\n",
        ".cmdline": b"root=/dev/mapper/root ro",
        ".initrd": b"an initrd",
        ".linux": KERNEL,
    }
    told |= {f".{name}": content for name, content in sections.items()}
    return image({name: content for name, content in told.items() if content is not None})
