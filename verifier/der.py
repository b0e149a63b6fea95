"""A strict reader for the little DER that the certificate library leaves to us.

Guarantees: definite, shortest lengths; shortest INTEGERs; nothing left over where `end` is called;
anything else is `VerifierError`. Does not know any type of certificate or extension: the caller
says which tag comes next (ITU-T X.690 §8 and §10).
"""

from __future__ import annotations

from typing import Final, final

from verifier.errors import Reason, VerifierError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 3


@final
class Der:
    """A cursor over DER bytes; `what` names them in errors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def _error(self, message: str) -> VerifierError:
        return VerifierError(
            Reason.MALFORMED, f"{self._what}: {message} at byte {self._at} of {len(self._data)}"
        )

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise self._error(f"{count} bytes expected, {len(part)} left")
        self._at += count
        return part

    def done(self) -> bool:
        """Tell whether everything was read."""
        return self._at == len(self._data)

    def end(self) -> None:
        """Refuse anything that was not read.

        Raises:
            VerifierError: `malformed`.
        """
        if not self.done():
            raise self._error("nothing more expected")

    def value(self, tag: int) -> bytes:
        """Return the contents of the next element, which must have this tag.

        Raises:
            VerifierError: `malformed`.
        """
        seen = self._take(1)[0]
        if seen != tag:
            raise self._error(f"DER tag {tag:#04x} expected, {seen:#04x} seen")
        length = self._take(1)[0]
        if length >= _LONG_FORM:
            count = length - _LONG_FORM
            if not 1 <= count <= _MAX_LENGTH_BYTES:
                raise self._error("a definite length of at most 3 bytes expected")
            raw = self._take(count)
            length = int.from_bytes(raw, "big")
            if length < _LONG_FORM or raw[0] == 0:
                raise self._error("the shortest length expected")
        return self._take(length)

    def sequence(self) -> Der:
        """Return a cursor over the next element, a SEQUENCE.

        Raises:
            VerifierError: `malformed`.
        """
        return Der(self.value(SEQUENCE), self._what)

    def integer(self, *, tag: int = INTEGER, below: int) -> int:
        """Return the next INTEGER (or ENUMERATED, by `tag`), 0 <= it < `below`.

        Raises:
            VerifierError: `malformed`, also for a negative number and for one in too many bytes.
        """
        raw = self.value(tag)
        number = int.from_bytes(raw, "big", signed=True)
        padded = len(raw) > 1 and raw[0] == 0 and raw[1] < 0x80  # noqa: PLR2004 - the sign bit
        if not raw or padded or not 0 <= number < below:
            raise self._error(f"an INTEGER from 0 to {below - 1} expected, {raw.hex()} seen")
        return number

    def octets(self, length: int) -> bytes:
        """Return the next OCTET STRING, of exactly `length` bytes.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(OCTET_STRING)
        if len(raw) != length:
            raise self._error(f"{length} octets expected, {len(raw)} seen")
        return raw

    def oid(self) -> str:
        """Return the next OBJECT IDENTIFIER in dotted form.

        Raises:
            VerifierError: `malformed`.
        """
        raw = self.value(OBJECT_IDENTIFIER)
        if not raw or raw[-1] & 0x80:
            raise self._error("an OBJECT IDENTIFIER expected")
        arcs: list[int] = []
        arc = 0
        fresh = True
        for byte in raw:
            if fresh and byte == 0x80:  # noqa: PLR2004 - a leading zero digit
                raise self._error("the shortest OBJECT IDENTIFIER expected")
            arc = arc << 7 | byte & 0x7F
            fresh = byte < 0x80  # noqa: PLR2004 - the continuation bit
            if fresh:
                arcs.append(arc)
                arc = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(str(part) for part in (first, arcs[0] - 40 * first, *arcs[1:]))
