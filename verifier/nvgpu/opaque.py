"""The opaque data of a report: fields by type, in the old layout and in that of "NVDAOD".

Guarantees: every byte belongs to a field and no type stands twice; what a typed question returns
has the very form that NVIDIA's devices give it, and anything else is an error. Absent is None,
never a value. Unknown types are kept for `unknown`: whoever judges must not pass them over.

Source: reports of Hopper, LS10, Blackwell and Rubin, and NVIDIA's own verifiers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, final

from verifier.errors import Reason, VerifierError
from verifier.policy import DRIVER_VERSION, VBIOS_VERSION

PDI_SIZE: Final = 8
"""Bytes of a device's id (PDI), as it stands in its BROM certificate's serial number."""
GPU_LINKS: Final = 18
"""NVLinks of a Hopper GPU."""
SWITCH_GPUS: Final = 8
"""GPUs that an LS10 switch can name."""

_MAGIC: Final = b"NVDAOD"
_HEADER: Final = 12
_SWITCH_PORTS: Final = 64
_WORD: Final = 4
_NAME: Final = re.compile(rb"([0-9A-Z_]{0,16})\0+")


@final
class FieldType(IntEnum):
    """Types of opaque fields that are known; what else stands in a report is refused."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_IDENTIFIER = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    MSRSCNT = 12
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDIS = 22
    DISABLED_PORTS = 23
    POSITION_ID = 24
    LOCK_STATUS = 25
    SWITCH_GPU_PDIS = 26
    SWITCH_PORTS = 27
    GPU_LINK_CONN = 32
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36
    MIN_SVN = 37


_KNOWN: Final = frozenset(FieldType)


@final
@dataclass(frozen=True, slots=True)
class Field:
    """One field; `value_type` stands in the layout of NVDAOD only."""

    data: bytes
    value_type: int | None = None


def _error(message: str) -> VerifierError:
    return VerifierError(Reason.MALFORMED, f"opaque data: {message}")


@final
@dataclass(frozen=True, slots=True)
class Opaque:
    """The fields of a report, in its order. `header` is NVDAOD's, b"" in the old layout."""

    header: bytes
    fields: Mapping[int, Field]

    @property
    def layout(self) -> str:
        """The layout, for people and claims: "legacy", or "NVDAOD 2.0"."""
        return f"NVDAOD {self.header[8]}.{self.header[9]}" if self.header else "legacy"

    @property
    def unknown(self) -> tuple[int, ...]:
        """Types that nothing is known about, in order."""
        return tuple(kind for kind in self.fields if kind not in _KNOWN)

    def get(self, kind: FieldType, *sizes: int) -> bytes | None:
        """Return a field's bytes, None if it is absent; of one of these sizes, where given.

        Raises:
            VerifierError: `malformed`.
        """
        field = self.fields.get(kind)
        if field is None:
            return None
        if sizes and len(field.data) not in sizes:
            raise _error(f"{kind.name}: {sizes} bytes expected, {len(field.data)} seen")
        return field.data

    def driver_version(self) -> str | None:
        """Return DRIVER_VERSION, such as "550.90.07".

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(FieldType.DRIVER_VERSION)
        if raw is None:
            return None
        text = raw.removesuffix(b"\0").decode("latin-1")
        if not raw.endswith(b"\0") or DRIVER_VERSION.fullmatch(text) is None:
            raise _error(f"DRIVER_VERSION: {raw[:32].hex()}")
        return text

    def vbios_version(self) -> str | None:
        """Return VBIOS_VERSION, such as "96.00.9F.00.01": a GPU's in numbers, a switch's as text.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(FieldType.VBIOS_VERSION)
        if raw is None:
            return None
        if len(raw) == 8:  # noqa: PLR2004 - two words, the first of them the lower half, little endian
            if any(raw[5:]):
                raise _error(f"VBIOS_VERSION: {raw.hex()}")
            digits = (raw[3::-1] + raw[4:5]).hex(".").upper()
        else:
            digits = raw.decode("latin-1")
        if VBIOS_VERSION.fullmatch(digits) is None:
            raise _error(f"VBIOS_VERSION: {raw[:32].hex()}")
        return digits

    def name(self, kind: FieldType) -> str | None:
        """Return a short text, such as PROJECT "1010"; filled up with NUL.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(kind)
        if raw is None:
            return None
        found = _NAME.fullmatch(raw)
        if found is None:
            raise _error(f"{kind.name}: {raw[:32].hex()}")
        return found[1].decode()

    def number(self, kind: FieldType, size: int) -> int | None:
        """Return a field of `size` bytes, little endian, as a number.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(kind, size)
        return None if raw is None else int.from_bytes(raw, "little")

    def counters(self) -> tuple[int, ...]:
        """Return MSRSCNT: how often each measurement changed. Nobody says what they should be.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(FieldType.MSRSCNT) or b""
        if len(raw) % _WORD:
            raise _error(f"MSRSCNT: whole words expected, {len(raw)} bytes seen")
        return tuple(
            int.from_bytes(raw[at : at + _WORD], "little") for at in range(0, len(raw), _WORD)
        )

    def link_pdis(self) -> tuple[bytes, ...] | None:
        """Return a GPU's PDIS: for each NVLink, the PDI of the switch at its other end.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(FieldType.PDIS, GPU_LINKS * PDI_SIZE)
        return None if raw is None else tuple(pdi[::-1] for pdi in _pdis(raw))

    def own_pdi(self) -> bytes | None:
        """Return a switch's PDIS: its own.

        Raises:
            VerifierError: `malformed`.
        """
        return self.get(FieldType.PDIS, PDI_SIZE)

    def gpu_pdis(self) -> tuple[bytes, ...] | None:
        """Return a switch's SWITCH_GPU_PDIS: the GPUs that it is wired to; ports are left out.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.get(FieldType.SWITCH_GPU_PDIS, SWITCH_GPUS * PDI_SIZE + _SWITCH_PORTS)
        return None if raw is None else _pdis(raw[: SWITCH_GPUS * PDI_SIZE])


def _pdis(raw: bytes) -> tuple[bytes, ...]:
    return tuple(raw[at : at + PDI_SIZE] for at in range(0, len(raw), PDI_SIZE))


def parse(raw: bytes) -> Opaque:
    """Return the fields in `raw`, in whichever layout it is.

    Raises:
        VerifierError: `malformed`.
    """
    header = raw[:_HEADER] if raw.startswith(_MAGIC) else b""
    if header and (len(header) != _HEADER or any(header[6:8]) or any(header[10:])):
        raise _error(f"header {header.hex()}: profile 0, a version and zeros expected")
    head = 6 if header else 4
    fields: dict[int, Field] = {}
    at = len(header)
    while at < len(raw):
        lead = raw[at : at + head]
        kind = int.from_bytes(lead[:2], "little")
        size = int.from_bytes(lead[head - 2 :], "little")
        start, at = at + head, at + head + size
        if len(lead) != head or at > len(raw):
            raise _error(f"field {kind}: {head + size} bytes expected, fewer left")
        if kind in fields:
            raise _error(f"field {kind} stands there twice")
        value_type = int.from_bytes(lead[2:4], "little") if header else None
        fields[kind] = Field(raw[start:at], value_type)
    return Opaque(header, MappingProxyType(fields))


def encode(opaque: Opaque) -> bytes:
    """Return the bytes of opaque data, from its fields."""
    return opaque.header + b"".join(
        kind.to_bytes(2, "little")
        + (b"" if field.value_type is None else field.value_type.to_bytes(2, "little"))
        + len(field.data).to_bytes(2, "little")
        + field.data
        for kind, field in opaque.fields.items()
    )


def claims(opaque: Opaque) -> dict[str, Any]:
    """Return every field as a result tells it, by its name in lower case."""
    return {
        (FieldType(kind).name.lower() if kind in _KNOWN else f"field_{kind}"): field.data.hex()
        for kind, field in opaque.fields.items()
    }
