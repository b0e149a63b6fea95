"""A strict reader for DER: certificates, revocation lists, and what stands in their extensions.

Guarantees: definite, shortest lengths; shortest INTEGERs; nothing left over where `end` is called;
anything else is `VerifierError`. Does not know any type of certificate or extension: the caller
says which tag comes next (ITU-T X.690 §8 and §10).
"""

from __future__ import annotations

import re
from typing import Final, final

from verifier.errors import Reason, VerifierError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_OID: Final = re.compile(rb"(?:(?:[\x81-\xff][\x80-\xff]*+)?[\0-\x7f])++")
"""Numbers of one or more bytes; all but the last byte are marked, and none begins with a zero."""
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 3


@final
class Der:
    """A cursor over the elements that DER bytes consist of; `what` names them in errors.

    The first question takes the bytes apart, all of them.
    """

    __slots__ = ("_data", "_next", "_parts", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._parts: list[tuple[int, int, int, int]] | None = None
        self._next = 0

    def _error(self, message: str, at: int) -> VerifierError:
        return VerifierError(
            Reason.MALFORMED, f"{self._what}: {message} at byte {at} of {len(self._data)}"
        )

    def _split(self) -> list[tuple[int, int, int, int]]:
        """Return tag, start, contents' start and end of each element; they fill the bytes."""
        if self._parts is not None:
            return self._parts
        data, at, size = self._data, 0, len(self._data)
        parts = []
        while at < size:
            start = at + 2
            if start > size:
                raise self._error("2 bytes expected, 1 left", at)
            length = data[at + 1]
            if length >= _LONG_FORM:
                count = length - _LONG_FORM
                if not 1 <= count <= _MAX_LENGTH_BYTES:
                    raise self._error("a definite length of at most 3 bytes expected", at)
                raw = data[start : start + count]
                start += count
                length = int.from_bytes(raw)
                if len(raw) < count or length < _LONG_FORM or raw[0] == 0:
                    raise self._error("the shortest length expected", at)
            end = start + length
            if end > size:
                raise self._error(f"{length} bytes expected, {size - start} left", at)
            parts.append((data[at], at, start, end))
            at = end
        self._parts = parts
        return parts

    def _take(self, tag: int | None) -> tuple[int, int, int]:
        """Return start, contents' start and end of the next element; the cursor goes behind it."""
        parts = self._parts if self._parts is not None else self._split()
        if self._next == len(parts):
            raise self._error("one more element expected", len(self._data))
        seen, at, start, end = parts[self._next]
        if tag is not None and seen != tag:
            raise self._error(f"DER tag {tag:#04x} expected, {seen:#04x} seen", at)
        self._next += 1
        return at, start, end

    def done(self) -> bool:
        """Tell whether everything was read.

        Raises:
            VerifierError: `malformed`, as everything here, if the bytes are no DER.
        """
        return self._next == len(self._split())

    def end(self) -> None:
        """Refuse anything that was not read.

        Raises:
            VerifierError: `malformed`.
        """
        if not self.done():
            raise self._refusal("nothing more expected")

    def _refusal(self, message: str) -> VerifierError:
        parts = self._split()
        at = parts[self._next][1] if self._next < len(parts) else len(self._data)
        return self._error(message, at)

    def next_is(self, tag: int) -> bool:
        """Tell whether there is a next element and it has this tag.

        Raises:
            VerifierError: `malformed`.
        """
        parts = self._split()
        return self._next < len(parts) and parts[self._next][0] == tag

    def value(self, tag: int) -> bytes:
        """Return the contents of the next element, which must have this tag.

        Raises:
            VerifierError: `malformed`.
        """
        _, start, end = self._take(tag)
        return self._data[start:end]

    def any(self) -> bytes:
        """Return the contents of the next element, whatever its tag.

        Raises:
            VerifierError: `malformed`.
        """
        _, start, end = self._take(None)
        return self._data[start:end]

    def element(self, tag: int) -> bytes:
        """Return the next element whole, tag and length included; it must have this tag.

        Raises:
            VerifierError: `malformed`.
        """
        at, _, end = self._take(tag)
        return self._data[at:end]

    def inside(self, tag: int) -> Der:
        """Return a cursor over the contents of the next element, which must have this tag.

        Raises:
            VerifierError: `malformed`.
        """
        return Der(self.value(tag), self._what)

    def sequence(self) -> Der:
        """Return a cursor over the next element, a SEQUENCE.

        Raises:
            VerifierError: `malformed`.
        """
        return self.inside(SEQUENCE)

    def integer(self, *, tag: int = INTEGER, below: int) -> int:
        """Return the next INTEGER (or ENUMERATED, by `tag`), 0 <= it < `below`.

        Raises:
            VerifierError: `malformed`, also for a negative number and for one in too many bytes.
        """
        raw = self.value(tag)
        number = int.from_bytes(raw, "big", signed=True)
        padded = len(raw) > 1 and raw[0] == 0 and raw[1] < 0x80  # noqa: PLR2004 - the sign bit
        if not raw or padded or not 0 <= number < below:
            raise self._refusal(f"an INTEGER from 0 to {below - 1} expected, {raw.hex()} seen")
        return number

    def boolean(self) -> bool:
        """Return the next BOOLEAN; true is 0xFF (X.690 §11.1).

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(BOOLEAN)
        if raw not in (b"\x00", b"\xff"):
            raise self._refusal(f"a BOOLEAN expected, {raw.hex()} seen")
        return raw == b"\xff"

    def whole_bits(self) -> bytes:
        """Return the next BIT STRING, of whole bytes: none of its bits is unused (X.690 §8.6).

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(BIT_STRING)
        if raw[:1] != b"\0":
            raise self._refusal("a BIT STRING of whole bytes expected")
        return raw[1:]

    def octets(self, length: int) -> bytes:
        """Return the next OCTET STRING, of exactly `length` bytes.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(OCTET_STRING)
        if len(raw) != length:
            raise self._refusal(f"{length} octets expected, {len(raw)} seen")
        return raw

    def oid_bytes(self) -> bytes:
        """Return the contents of the next OBJECT IDENTIFIER (X.690 §8.19).

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(OBJECT_IDENTIFIER)
        if _OID.fullmatch(raw) is None:
            raise self._refusal("an OBJECT IDENTIFIER in its shortest form expected")
        return raw

    def oid(self) -> str:
        """Return the next OBJECT IDENTIFIER in dotted form.

        Raises:
            VerifierError: `malformed`.
        """
        arcs: list[int] = []
        arc = 0
        for byte in self.oid_bytes():
            arc = arc << 7 | byte & 0x7F
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                arcs.append(arc)
                arc = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(str(part) for part in (first, arcs[0] - 40 * first, *arcs[1:]))
