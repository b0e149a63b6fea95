"""Read an OVMF firmware image: its GUIDed table, and what is said there to be measured at launch.

Guarantees: every offset and length is checked against the file; sections are whole pages; anything
else is refused. Does not run or judge the firmware.

Source: edk2 OvmfPkg/ResetVector (GUIDed structure, OvmfSevMetadata, TdxMetadata); Intel TDX Virtual
Firmware Design Guide, "TDVF descriptor".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, final
from uuid import UUID

from ostiary.measure.errors import MeasureError

PAGE: Final = 4096
MAX_FIRMWARE: Final = 64 << 20
MAX_SECTIONS: Final = 64
MAX_SECTION_SIZE: Final = 256 << 20
"""Most memory in bytes that one section may name: a bound on the work, far above any real one."""

FOOTER: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_HASH_TABLE: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_RESET_BLOCK: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

_ENTRY: Final = struct.Struct("<H16s")
_AFTER_TABLE: Final = 32
_DESCRIPTOR: Final = struct.Struct("<4sIII")
_SEV_SECTION: Final = struct.Struct("<III")
_TDX_SECTION: Final = struct.Struct("<IIQQII")


@final
class SevSectionType(IntEnum):
    """What a section of the SEV metadata is for (OvmfSevMetadata)."""

    MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


_SEV_TYPES: Final = frozenset(map(int, SevSectionType))


@final
@dataclass(frozen=True, slots=True)
class SevSection:
    """Guest memory that SNP's launch measures without taking it from the file."""

    gpa: int
    size: int
    kind: SevSectionType


@final
@dataclass(frozen=True, slots=True)
class TdxSection:
    """Guest memory of a TD at its launch; `data` fills it from its start, zeros follow.

    `kind` as in the design guide: 0 BFV, 1 CFV, 2 TD HOB, 3 temporary memory, 4 permanent memory,
    5 payload, 6 payload parameter.
    """

    data: bytes
    gpa: int
    size: int
    kind: int
    extend: bool
    augmented: bool


@final
@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware image that ends at 4 GiB, and its table: what stands there, by GUID."""

    data: bytes
    table: Mapping[UUID, bytes]

    @classmethod
    def parse(cls, data: bytes) -> Firmware:
        """Read the table of an image.

        Raises:
            MeasureError: `malformed`: it is no OVMF image with a table, or the table is broken.
        """
        if not data or len(data) > MAX_FIRMWARE or len(data) % PAGE:
            raise _malformed(f"{len(data)} bytes: whole pages up to {MAX_FIRMWARE} bytes expected")
        end = len(data) - _AFTER_TABLE
        size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
        if UUID(bytes_le=guid) != FOOTER:
            raise _malformed(
                "no GUIDed table before its end. Give the whole image (OVMF.fd, or OVMF_CODE.fd), "
                "not the variables alone; clouds do not hand out theirs"
            )
        first = end - size
        if size < _ENTRY.size or first < 0:
            raise _malformed(f"a table of {size} bytes")
        table: dict[UUID, bytes] = {}
        at = end - _ENTRY.size
        while at > first:
            at = _entry(data, at, first, table)
        return cls(data, MappingProxyType(table))

    @property
    def gpa(self) -> int:
        """Where in guest memory it starts."""
        return (1 << 32) - len(self.data)

    def sev_sections(self) -> tuple[SevSection, ...]:
        """Return the sections of the SEV metadata, in order.

        Raises:
            MeasureError: `malformed`: there are none, or they are broken.
        """
        found = []
        for gpa, size, kind in self._sections(SEV_METADATA, b"ASEV", _SEV_SECTION):
            if kind not in _SEV_TYPES:
                raise _malformed(f"an SEV section of type {kind:#x}, which is not known here")
            _whole_pages(gpa, size)
            found.append(SevSection(gpa, size, SevSectionType(kind)))
        return tuple(found)

    def tdx_sections(self) -> tuple[TdxSection, ...]:
        """Return the sections of the TDVF descriptor, in order.

        Raises:
            MeasureError: `malformed`: there are none, or they are broken.
        """
        found = []
        for offset, raw, gpa, size, kind, attributes in self._sections(
            TDX_METADATA, b"TDVF", _TDX_SECTION
        ):
            _whole_pages(gpa, size)
            if attributes & ~0b11:
                raise _malformed(f"a TDVF section with attributes {attributes:#x}")
            if raw > size or offset + raw > len(self.data):
                raise _malformed(f"a TDVF section's data: {raw} bytes at {offset:#x}")
            extend, augmented = bool(attributes & 1), bool(attributes & 2)
            if extend and augmented:
                raise _malformed("a TDVF section that is measured and added later, at once")
            data = self.data[offset : offset + raw]
            found.append(TdxSection(data, gpa, size, kind, extend, augmented))
        return tuple(found)

    def number(self, guid: UUID) -> int:
        """Return the u32 that an entry starts with; 0 where there is no such entry."""
        entry = self.table.get(guid, b"")
        return int.from_bytes(entry[:4], "little")

    def _sections(
        self, guid: UUID, signature: bytes, layout: struct.Struct
    ) -> list[tuple[int, ...]]:
        name = signature.decode()
        back = self.number(guid)
        start = len(self.data) - back
        if back == 0:
            raise _malformed(f"no {name} metadata: this firmware was not built for it")
        if start < 0 or start + _DESCRIPTOR.size > len(self.data):
            raise _malformed(f"{name} metadata lie outside the file")
        seen, _, version, count = _DESCRIPTOR.unpack_from(self.data, start)
        at = start + _DESCRIPTOR.size
        if seen != signature or version != 1 or not 0 < count <= MAX_SECTIONS:
            raise _malformed(f"{name} metadata: signature {seen!r}, version {version}, {count}")
        if at + count * layout.size > len(self.data):
            raise _malformed(f"{name} metadata: {count} sections do not fit in the file")
        return [layout.unpack_from(self.data, at + i * layout.size) for i in range(count)]


def _entry(data: bytes, at: int, first: int, table: dict[UUID, bytes]) -> int:
    """Read the entry that ends at `at` and return where it starts."""
    if at - _ENTRY.size < first:
        raise _malformed("its table's entries do not fill it")
    size, guid = _ENTRY.unpack_from(data, at - _ENTRY.size)
    start: int = at - size
    key = UUID(bytes_le=guid)
    if size < _ENTRY.size or start < first or key in table:
        raise _malformed(f"table entry {key} of {size} bytes")
    table[key] = data[start : at - _ENTRY.size]
    return start


def _whole_pages(gpa: int, size: int) -> None:
    if gpa % PAGE or size % PAGE or not 0 < size <= MAX_SECTION_SIZE or gpa + size > 1 << 48:
        raise _malformed(f"a section of {size:#x} bytes at {gpa:#x}: whole pages expected")


def _malformed(message: str) -> MeasureError:
    return MeasureError("malformed", f"firmware: {message}")
