"""MRTD: what a TD's first memory was, from the firmware that the host put there.

Guarantees: computed from the firmware's own TDVF descriptor, page by page, as the TDX module does
(TDH.MEM.PAGE.ADD, TDH.MR.EXTEND). Assumes that the host adds what the descriptor says and in its
order; the order of adding and measuring inside one section is the host's, and `order` names it:
`page` measures each page after adding it (Linux from 6.16 on), `section` adds all pages of a
section before it measures them (hosts with earlier patches). Google's firmware is not published for
every machine: take Google's signed endorsement, or capture from reviewed evidence.

Source: Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; Intel TDX Virtual Firmware Design
Guide, "TDVF descriptor".
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, TypeAlias

from ostiary.measure.errors import MeasureError
from ostiary.measure.firmware import PAGE, Firmware, TdxSection

Order: TypeAlias = Literal["page", "section"]
_CHUNK: Final = 256
_ADD: Final = b"MEM.PAGE.ADD"
_EXTEND: Final = b"MR.EXTEND"


def mrtd(firmware: Firmware, *, order: Order = "page") -> bytes:
    """Return the 48 bytes of MRTD.

    Raises:
        MeasureError: `malformed` for a broken descriptor, `not_computable` where none of the
            firmware would be measured.
    """
    sections = firmware.tdx_sections()
    if not any(section.extend for section in sections):
        raise MeasureError("not_computable", "firmware: its descriptor has nothing measured")
    digest = hashlib.sha384()
    for section in sections:
        pages = range(0, section.size, PAGE)
        if section.augmented:
            continue  # added by the guest itself, after the launch
        if order == "section":
            digest.update(b"".join(_record(_ADD, section.gpa + page) for page in pages))
        for page in pages:
            if order == "page":
                digest.update(_record(_ADD, section.gpa + page))
            if section.extend:
                digest.update(_measured(section, page))
    return digest.digest()


def _measured(section: TdxSection, page: int) -> bytes:
    """Return what measuring one page hashes: a record before each chunk of 256 bytes."""
    content = section.data[page : page + PAGE].ljust(PAGE, b"\0")
    return b"".join(
        _record(_EXTEND, section.gpa + page + at) + content[at : at + _CHUNK]
        for at in range(0, PAGE, _CHUNK)
    )


def _record(operation: bytes, gpa: int) -> bytes:
    """Return the 128 bytes that stand for an operation: its name, and the address at byte 16."""
    return operation.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104)
