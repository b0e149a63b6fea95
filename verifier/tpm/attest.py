"""TPMS_ATTEST as a TPM signs it for a quote, and TPMT_SIGNATURE around the signature.

Guarantees: exact layouts, known hash algorithms, at most 16 selections of at most 4 octets, nothing
after the end; `encode(parse(raw))` is `raw` again. Does not check a signature: nothing that is read
here may be believed yet.

Source: TCG TPM 2.0 Library part 2: TPMS_ATTEST, TPML_PCR_SELECTION, TPMT_SIGNATURE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

from verifier.errors import Reason, VerifierError
from verifier.tpm.cursor import Cursor

MAX_ATTEST: Final = 4096
MAX_SIGNATURE: Final = 1024

TPM_GENERATED: Final = 0xFF544347
ATTEST_QUOTE: Final = 0x8018
HASHES: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
HASH_IDS: Final = {name: number for number, name in HASHES.items()}
RSASSA: Final = 0x0014
ECDSA: Final = 0x0018

_MAX_SELECTIONS = 16
_MAX_SELECT = 4
_MAX_NAME = 66  # TPM2B_NAME: 2 bytes of algorithm and the longest digest
_MAX_DATA = 66  # TPM2B_DATA: as long as a TPMT_HA
_MAX_DIGEST = 64
_MAX_RSA = 512
_MAX_COORDINATE = 66


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """PCRs of one bank: the hash's name and the bitmap as the TPM wrote it."""

    bank: str
    bitmap: bytes

    @property
    def pcrs(self) -> tuple[int, ...]:
        """The indices that are set, ascending."""
        bits = int.from_bytes(self.bitmap, "little")
        return tuple(index for index in range(8 * len(self.bitmap)) if bits >> index & 1)


@final
@dataclass(frozen=True, slots=True)
class Attest:
    """A quote's TPMS_ATTEST. `clock` is milliseconds that the TPM was powered; `safe` is raw."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: int
    firmware_version: int
    selections: tuple[Selection, ...]
    pcr_digest: bytes

    def claims(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {
            "magic": f"{TPM_GENERATED:#x}",
            "type": f"{ATTEST_QUOTE:#x}",
            "qualified_signer": self.qualified_signer.hex(),
            "extra_data": self.extra_data.hex(),
            "clock": self.clock,
            "reset": self.reset_count,
            "restart": self.restart_count,
            "safe": self.safe,
            "firmware": f"{self.firmware_version:#x}",
            "select": [[f"{HASH_IDS[s.bank]:#x}", list(s.pcrs)] for s in self.selections],
            "pcr_digest": self.pcr_digest.hex(),
            "rest": 0,
        }


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE. `parts` is one number for RSASSA, r and s for ECDSA, big endian."""

    scheme: int
    hash: str
    parts: tuple[bytes, ...]


def hash_name(cursor: Cursor) -> str:
    """Return the name of the next TPMI_ALG_HASH.

    Raises:
        VerifierError: `malformed`, or `unsupported` for a hash that is not of the SHA families.
    """
    number = cursor.number(2)
    if number not in HASHES:
        raise cursor.error(f"hash algorithm {number:#06x} is not known", Reason.UNSUPPORTED)
    return HASHES[number]


def parse(raw: bytes) -> Attest:
    """Return the quote in `raw`, which must be a whole TPMS_ATTEST of type quote.

    Raises:
        VerifierError: `malformed`, `too_large`, `trailing_data`, or `unsupported` for a bank whose
            hash is not known.
    """
    if len(raw) > MAX_ATTEST:
        raise VerifierError(Reason.TOO_LARGE, f"attest of {len(raw)} bytes, limit {MAX_ATTEST}")
    cursor = Cursor(raw, "attest")
    magic, kind = cursor.number(4), cursor.number(2)
    if magic != TPM_GENERATED or kind != ATTEST_QUOTE:
        raise cursor.error(
            f"magic {TPM_GENERATED:#x} and type {ATTEST_QUOTE:#x} expected, "
            f"{magic:#x} and {kind:#x} seen"
        )
    signer = cursor.sized(_MAX_NAME)
    extra = cursor.sized(_MAX_DATA)
    clock, reset, restart = cursor.number(8), cursor.number(4), cursor.number(4)
    safe = cursor.number(1)
    if safe > 1:
        raise cursor.error(f"safe is 0 or 1, {safe} seen")
    firmware = cursor.number(8)
    count = cursor.number(4)
    if count > _MAX_SELECTIONS:
        raise cursor.error(f"at most {_MAX_SELECTIONS} PCR selections expected, {count} declared")
    selections = tuple(_selection(cursor) for _ in range(count))
    if len({selection.bank for selection in selections}) != count:
        raise cursor.error("each bank is selected once")
    digest = cursor.sized(_MAX_DIGEST)
    cursor.end()
    return Attest(signer, extra, clock, reset, restart, safe, firmware, selections, digest)


def _selection(cursor: Cursor) -> Selection:
    bank = hash_name(cursor)
    size = cursor.number(1)
    if size > _MAX_SELECT:
        raise cursor.error(f"at most {_MAX_SELECT} octets of PCR selection expected, {size} seen")
    return Selection(bank, cursor.take(size))


def encode(attest: Attest) -> bytes:
    """Return the TPMS_ATTEST that `parse` reads as `attest`."""
    head = TPM_GENERATED.to_bytes(4, "big") + ATTEST_QUOTE.to_bytes(2, "big")
    counts = (
        attest.clock.to_bytes(8, "big")
        + attest.reset_count.to_bytes(4, "big")
        + attest.restart_count.to_bytes(4, "big")
        + attest.safe.to_bytes(1, "big")
        + attest.firmware_version.to_bytes(8, "big")
    )
    selections = len(attest.selections).to_bytes(4, "big") + b"".join(
        HASH_IDS[each.bank].to_bytes(2, "big") + len(each.bitmap).to_bytes(1, "big") + each.bitmap
        for each in attest.selections
    )
    return (
        head
        + _sized(attest.qualified_signer)
        + _sized(attest.extra_data)
        + counts
        + selections
        + _sized(attest.pcr_digest)
    )


def parse_signature(raw: bytes) -> Signature:
    """Return the TPMT_SIGNATURE in `raw`: RSASSA or ECDSA.

    Raises:
        VerifierError: `malformed`, `too_large`, `trailing_data`, or `unsupported` for other
            schemes and hashes.
    """
    if len(raw) > MAX_SIGNATURE:
        raise VerifierError(
            Reason.TOO_LARGE, f"signature of {len(raw)} bytes, limit {MAX_SIGNATURE}"
        )
    cursor = Cursor(raw, "signature")
    scheme = cursor.number(2)
    if scheme not in (RSASSA, ECDSA):
        raise cursor.error(
            f"RSASSA or ECDSA expected, scheme {scheme:#06x} seen", Reason.UNSUPPORTED
        )
    name = hash_name(cursor)
    if scheme == RSASSA:
        parts: tuple[bytes, ...] = (cursor.sized(_MAX_RSA),)
    else:
        parts = (cursor.sized(_MAX_COORDINATE), cursor.sized(_MAX_COORDINATE))
    cursor.end()
    return Signature(scheme, name, parts)


def encode_signature(signature: Signature) -> bytes:
    """Return the TPMT_SIGNATURE that `parse_signature` reads as `signature`."""
    head = signature.scheme.to_bytes(2, "big") + HASH_IDS[signature.hash].to_bytes(2, "big")
    return head + b"".join(_sized(part) for part in signature.parts)


def _sized(buffer: bytes) -> bytes:
    return len(buffer).to_bytes(2, "big") + buffer
