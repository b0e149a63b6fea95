"""TPM 2.0 commands and responses, byte for byte.

Guarantees: `command` gives one whole command; `answer` returns what a response holds only if its
lengths agree with one another and with its bytes, and raises `TpmFailure` with the TPM's own code
otherwise; a `Reader` never reads past its end.

Source: TCG TPM 2.0 Library part 1 ch. 18 (command and response structure), part 2 ch. 6.6 (TPM_RC).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, final

NO_SESSIONS: Final = 0x8001
SESSIONS: Final = 0x8002
HEADER: Final = 10
"""tag u16, size u32, command or response code u32."""
MAX_RESPONSE: Final = 4096
"""Largest response in bytes (TPM2_MAX_RESPONSE_SIZE of the PC client profile)."""
_PASSWORD: Final = bytes.fromhex("40000009 0000 00 0000")
"""TPMS_AUTH_COMMAND: TPM_RS_PW, no nonce, no attributes, an empty password."""


@final
class Command(IntEnum):
    """TPM_CC (part 2, table 12)."""

    NV_DEFINE_SPACE = 0x12A
    CREATE_PRIMARY = 0x131
    NV_WRITE = 0x137
    NV_READ = 0x14E
    QUOTE = 0x158
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    PCR_READ = 0x17E


@final
class TpmFailure(Exception):  # noqa: N818 - TpmError is a name that libraries use
    """The TPM answered with something else than success. `code` is its TPM_RC."""

    def __init__(self, code: int) -> None:
        super().__init__(f"TPM_RC {code:#x}")
        self.code = code


@final
class WireError(Exception):
    """Bytes that are no response of a TPM."""


def u16(number: int) -> bytes:
    """Return a UINT16, big endian."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Return a UINT32, big endian."""
    return number.to_bytes(4, "big")


def sized(raw: bytes) -> bytes:
    """Return a TPM2B: its bytes after their u16 length."""
    return u16(len(raw)) + raw


def command(
    code: Command, handles: tuple[int, ...] = (), parameters: bytes = b"", *, sessions: int = 0
) -> bytes:
    """Return a whole command; `sessions` is how many of its handles want an authorisation."""
    area = _PASSWORD * sessions
    body = b"".join(u32(handle) for handle in handles)
    body += (u32(len(area)) + area if sessions else b"") + parameters
    tag = SESSIONS if sessions else NO_SESSIONS
    return u16(tag) + u32(HEADER + len(body)) + u32(code) + body


def answer(raw: bytes, *, sessions: bool, handles: int = 0) -> tuple[tuple[int, ...], Reader]:
    """Return handles and parameters of a response.

    Args:
        raw: what the TPM sent.
        sessions: whether the command had sessions.
        handles: how many handles a good response has.

    Raises:
        TpmFailure: the TPM's own refusal.
        WireError: it is no response.
    """
    whole = Reader(raw)
    tag, size, code = whole.number(2), whole.number(4), whole.number(4)
    if size != len(raw):
        raise WireError(f"a response of {len(raw)} bytes says that it has {size}")
    if code != 0:
        raise TpmFailure(code)
    if tag != (SESSIONS if sessions else NO_SESSIONS):
        raise WireError(f"a response with tag {tag:#06x}")
    made = tuple(whole.number(4) for _ in range(handles))
    if not sessions:
        return made, whole
    parameters = Reader(whole.take(whole.number(4)))
    whole.rest()  # the TPM's answer to our password: nothing in it
    return made, parameters


@final
class Reader:
    """Reads big-endian fields one after the other."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            WireError: there are fewer.
        """
        end = self._at + size
        if end > len(self._raw):
            raise WireError(f"{size} bytes expected at {self._at} of {len(self._raw)}")
        found = self._raw[self._at : end]
        self._at = end
        return found

    def number(self, size: int) -> int:
        """Return the next number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """Return the bytes of the next TPM2B."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Return what is left, which may be nothing."""
        return self.take(len(self._raw) - self._at)

    def end(self) -> None:
        """Require that nothing is left.

        Raises:
            WireError: there is more.
        """
        left = len(self._raw) - self._at
        if left:
            raise WireError(f"{left} bytes after the end")
