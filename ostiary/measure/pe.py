"""PE images as firmware measures them: the Authenticode digest, and a UKI's sections.

Guarantees: headers, sections and certificates lie inside the file and do not overlap where that
would make the digest ambiguous; anything else is refused. Does not verify Authenticode signatures.

Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", "Calculating the PE
Image Hash"; PE Format; UAPI Unified Kernel Image.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from ostiary.measure.errors import MeasureError

_DOS: Final = 64
_COFF: Final = struct.Struct("<4sHHIIIHH")
_SECTION: Final = struct.Struct("<8sIIII16x")
_PE32: Final = 0x10B
_PE32_PLUS: Final = 0x20B
_CHECKSUM: Final = 64
_SECURITY: Final = 4
"""Index of the certificate table in the data directories."""
_MAX_SECTIONS: Final = 256


@final
@dataclass(frozen=True, slots=True)
class Section:
    """A section: `content` is as long as in memory, zeros after what the file has."""

    name: str
    offset: int
    raw_size: int
    content: bytes


@final
@dataclass(frozen=True, slots=True)
class Image:
    """A PE image. `skipped` are the ranges of its headers that no digest covers."""

    data: bytes
    headers: int
    skipped: tuple[tuple[int, int], ...]
    certificates: int
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, data: bytes) -> Image:
        """Read an image.

        Raises:
            MeasureError: `malformed`.
        """
        try:
            return _parse(data)
        except struct.error as error:
            raise _malformed("its headers are cut") from error

    def authenticode(self, algorithm: str) -> bytes:
        """Return the Authenticode digest: headers, sections in file order, what follows.

        The checksum, the certificate table and its place in the directories are left out.
        """
        digest = hashlib.new(algorithm)
        at = 0
        for start, end in (*self.skipped, (self.headers, self.headers)):
            digest.update(self.data[at:start])
            at = end
        hashed = self.headers
        for section in sorted(self.sections, key=lambda each: each.offset):
            if section.raw_size:
                digest.update(self.data[section.offset : section.offset + section.raw_size])
                hashed += section.raw_size
        digest.update(self.data[hashed : len(self.data) - self.certificates])
        return digest.digest()

    def section(self, name: str) -> bytes | None:
        """Return the content of the one section of this name, None where there is none.

        Raises:
            MeasureError: `malformed`: there are several.
        """
        found = [each.content for each in self.sections if each.name == name]
        if len(found) > 1:
            raise _malformed(f"{len(found)} sections {name}")
        return found[0] if found else None

    def contents(self) -> Mapping[str, bytes]:
        """Return every section by name, as `section` does."""
        return {each.name: self.section(each.name) or b"" for each in self.sections}


def _parse(data: bytes) -> Image:
    if len(data) < _DOS or data[:2] != b"MZ":
        raise _malformed("no MZ header")
    (start,) = struct.unpack_from("<I", data, 0x3C)
    signature, _, count, _, _, _, optional_size, _ = _COFF.unpack_from(data, start)
    if signature != b"PE\0\0" or count > _MAX_SECTIONS:
        raise _malformed(f"signature {signature!r}, {count} sections")
    optional = start + _COFF.size
    (magic,) = struct.unpack_from("<H", data, optional)
    if magic not in (_PE32, _PE32_PLUS):
        raise _malformed(f"an optional header of type {magic:#x}")
    (headers,) = struct.unpack_from("<I", data, optional + 60)
    directories = optional + (112 if magic == _PE32_PLUS else 96)
    (number,) = struct.unpack_from("<I", data, directories - 4)
    table = optional + optional_size
    if not table + count * _SECTION.size <= headers <= len(data):
        raise _malformed(f"headers of {headers} bytes")
    checksum = optional + _CHECKSUM
    skipped = [(checksum, checksum + 4)]
    size = 0
    if number > _SECURITY:
        entry = directories + 8 * _SECURITY
        if entry + 8 > table:
            raise _malformed("directories beyond the optional header")
        where, size = struct.unpack_from("<II", data, entry)
        skipped.append((entry, entry + 8))
        if size and (where + size != len(data) or where < headers):
            raise _malformed(f"certificates of {size} bytes at {where:#x}, not at the end")
    sections = tuple(
        _section(data, table + i * _SECTION.size, headers, len(data) - size) for i in range(count)
    )
    if headers + sum(each.raw_size for each in sections) > len(data) - size:
        raise _malformed("sections overlap")
    return Image(data, headers, tuple(skipped), size, sections)


def _section(data: bytes, at: int, headers: int, end: int) -> Section:
    name, virtual, _, raw, offset = _SECTION.unpack_from(data, at)
    if raw and not headers <= offset <= offset + raw <= end:
        raise _malformed(f"section {name!r}: {raw} bytes at {offset:#x}")
    if virtual > len(data) + (64 << 20):
        raise _malformed(f"section {name!r}: {virtual} bytes in memory")
    content = data[offset : offset + min(raw, virtual)].ljust(virtual, b"\0")
    return Section(name.rstrip(b"\0").decode("ascii", "replace"), offset, raw, content)


def _malformed(message: str) -> MeasureError:
    return MeasureError("malformed", f"PE image: {message}")
