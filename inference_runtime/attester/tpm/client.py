"""The TPM commands that evidence is made of, as methods.

Guarantees: what comes out is what the TPM said, whole; each failure is an `AttesterError` that says
what was tried and what to do. Uses empty passwords only, as the keys and indices that clouds
provision have. Judges nothing.

Source: TCG TPM 2.0 Library part 3 (commands), part 2 (structures).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, final

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.tpm import wire
from inference_runtime.attester.tpm.channel import Channel, open_channel
from inference_runtime.attester.tpm.wire import Command, Reader, TpmFailure, WireError, sized
from inference_runtime.attester.tpm.wire import u16 as _u16
from inference_runtime.attester.tpm.wire import u32 as _u32

DEVICE: Final = "/dev/tpmrm0"
"""The kernel's resource manager for the first TPM."""
SHA256: Final = 0x000B
PCRS: Final = 24
"""PCRs of a PC client TPM."""
OWNER: Final = 0x40000001
ENDORSEMENT: Final = 0x4000000B
_NULL: Final = 0x0010
_CHUNK: Final = 512
"""Bytes of NV at a time: every PC client TPM takes as many (TPM_PT_NV_BUFFER_MAX)."""
_DIGEST: Final = 32
_MAX_INDEX: Final = 8192
_TRIES: Final = 5

# TPMA_NV (part 2, table 204).
_OWNER_WRITE: Final = 1 << 1
_AUTH_WRITE: Final = 1 << 2
_OWNER_READ: Final = 1 << 17
_AUTH_READ: Final = 1 << 18
_WRITTEN: Final = 1 << 29

# TPM_RC (part 2, ch. 6.6).
_FORMAT_ONE: Final = 0x080
_ERROR_ONE: Final = 0x0BF
_HANDLE: Final = 0x08B
_REFUSED: Final = frozenset({0x08E, 0x0A2, 0x09D, 0x0AF, 0x149, 0x12F, 0x12E, 0x921, 0x121})
"""AUTH_FAIL, BAD_AUTH, POLICY_FAIL, AUTH_UNAVAILABLE and the like: not by an empty password."""
_AGAIN: Final = frozenset({0x908, 0x90A, 0x922})
"""YIELDED, TESTING, RETRY: the same command may do."""
_REFERENCE_H0: Final = 0x910
_REFERENCES: Final = 7
"""TPM_RC_REFERENCE_H0 to H6: no object of this handle."""
_NV_DEFINED: Final = 0x14C


@final
@dataclass(frozen=True, slots=True)
class NvPublic:
    """An NV index: TPMA_NV and size in bytes."""

    attributes: int
    size: int

    @property
    def written(self) -> bool:
        """Whether there is something to read."""
        return bool(self.attributes & _WRITTEN)

    def authority(self, index: int, *, write: bool = False) -> int:
        """Return whose empty password opens it: its own, or the owner's."""
        by_auth, by_owner = (_AUTH_WRITE, _OWNER_WRITE) if write else (_AUTH_READ, _OWNER_READ)
        return OWNER if self.attributes & by_owner and not self.attributes & by_auth else index


@final
class Tpm:
    """One open TPM. Use it as a context manager; not for several threads at once."""

    __slots__ = ("_channel", "_path")

    def __init__(
        self, path: str = DEVICE, *, opener: Callable[[str], Channel] = open_channel
    ) -> None:
        """Open the TPM at `path`.

        Raises:
            AttesterError: there is none, or this user may not use it.
        """
        self._path = path
        try:
            self._channel = opener(path)
        except OSError as error:
            raise _open_fault(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._channel.close()

    def read_pcrs(self, indices: Sequence[int] = range(PCRS)) -> dict[int, bytes]:
        """Return SHA-256 PCRs by index (TPM2_PCR_Read, as often as it takes).

        Raises:
            AttesterError: the TPM has no such bank, or does not answer.
        """
        values: dict[int, bytes] = {}
        wanted = sorted(set(indices))
        with self._doing("reading PCRs"):
            while wanted:
                answer = self._call(Command.PCR_READ, parameters=_selection(wanted))
                answer.number(4)  # pcrUpdateCounter: the quote's digest tells what changed
                given = _selected(answer)
                digests = [answer.sized() for _ in range(answer.number(4))]
                answer.end()
                if not digests or len(given) != len(digests) or not set(given) <= set(wanted):
                    raise AttesterError(
                        DeviceFault.NOT_PROVISIONED,
                        f"the TPM at {self._path} has no SHA-256 bank of PCRs: switch it on in the "
                        "firmware",
                    )
                if any(len(digest) != _DIGEST for digest in digests):
                    raise WireError("a PCR that is no SHA-256")
                values |= zip(given, digests, strict=True)
                wanted = [index for index in wanted if index not in values]
        return values

    def nv_public(self, index: int) -> NvPublic | None:
        """Return what an NV index is (TPM2_NV_ReadPublic), or None if there is none.

        Raises:
            AttesterError: the TPM does not answer.
        """
        with self._doing(f"reading about NV index {index:#010x}"):
            try:
                answer = self._call(Command.NV_READ_PUBLIC, (index,))
            except TpmFailure as failure:
                if _no_handle(failure.code):
                    return None
                raise
            public = Reader(answer.sized())
            answer.sized()  # its Name
            answer.end()
            seen = public.number(4)
            public.number(2)  # nameAlg
            attributes = public.number(4)
            public.sized()  # authPolicy
            size = public.number(2)
            public.end()
            if seen != index or size > _MAX_INDEX:
                raise WireError(f"an NV index {seen:#010x} of {size} bytes")
            return NvPublic(attributes, size)

    def read_nv(self, index: int, what: str) -> bytes:
        """Return all of an NV index (TPM2_NV_Read), padding included.

        Args:
            index: its handle.
            what: its content, for whoever reads an error.

        Raises:
            AttesterError: there is no such index, or it may not be read.
        """
        public = self.nv_public(index)
        if public is None or not public.written:
            raise AttesterError(
                DeviceFault.NOT_PROVISIONED,
                f"the TPM at {self._path} has nothing at NV index {index:#010x} ({what}): is this "
                "machine of the kind that was asked for?",
            )
        data = bytearray()
        handles = (public.authority(index), index)
        with self._doing(f"reading NV index {index:#010x} ({what})"):
            while len(data) < public.size:
                size = min(_CHUNK, public.size - len(data))
                answer = self._call(
                    Command.NV_READ, handles, _u16(size) + _u16(len(data)), sessions=1
                )
                piece = answer.sized()
                answer.end()
                if len(piece) != size:
                    raise WireError(f"{len(piece)} bytes of NV, {size} expected")
                data += piece
        return bytes(data)

    def write_nv(self, index: int, data: bytes, what: str) -> None:
        """Write all of an NV index (TPM2_NV_Write), which is defined first if there is none.

        Raises:
            AttesterError: it has another size, or may not be written.
        """
        public = self.nv_public(index)
        with self._doing(f"writing NV index {index:#010x} ({what})"):
            if public is None:
                public = NvPublic(_OWNER_WRITE | _AUTH_WRITE | _OWNER_READ | _AUTH_READ, len(data))
                self._define(index, public)
            if public.size != len(data):
                raise AttesterError(
                    DeviceFault.FAILED,
                    f"NV index {index:#010x} ({what}) has {public.size} bytes, {len(data)} wanted: "
                    f"undefine it (`tpm2_nvundefine {index:#x}`), and find out who defined it",
                )
            parameters = sized(data) + _u16(0)
            handles = (public.authority(index, write=True), index)
            self._call(Command.NV_WRITE, handles, parameters, sessions=1).end()

    def public(self, handle: int, what: str) -> bytes:
        """Return the TPMT_PUBLIC of a persistent key (TPM2_ReadPublic).

        Raises:
            AttesterError: there is no such key.
        """
        with self._doing(f"reading the key {handle:#010x} ({what})"):
            try:
                answer = self._call(Command.READ_PUBLIC, (handle,))
            except TpmFailure as failure:
                if _no_handle(failure.code):
                    raise AttesterError(
                        DeviceFault.NOT_PROVISIONED,
                        f"the TPM at {self._path} has no key {handle:#010x} ({what}): is this "
                        "machine of the kind that was asked for?",
                    ) from failure
                raise
            public = answer.sized()
            answer.sized()  # its Name
            answer.sized()  # its qualified Name
            answer.end()
            return public

    @contextlib.contextmanager
    def primary(self, template: bytes, what: str) -> Iterator[tuple[int, bytes]]:
        """Make the endorsement hierarchy's key of a template; give handle and TPMT_PUBLIC.

        The template is a TPMT_PUBLIC, with or without its size before it.
        The same template gives the same key, for as long as the hierarchy's seed is the same.

        Raises:
            AttesterError: the TPM does not make it.
        """
        if int.from_bytes(template[:2], "big") == len(template) - 2:
            template = template[2:]
        sensitive = sized(sized(b"") + sized(b""))
        outside = sized(b"") + _u32(0)  # outsideInfo, and no creation PCRs
        with self._doing(f"making the key of {what}"):
            handles, answer = wire.answer(
                self._transmit(
                    wire.command(
                        Command.CREATE_PRIMARY,
                        (ENDORSEMENT,),
                        sensitive + sized(template) + outside,
                        sessions=1,
                    )
                ),
                sessions=True,
                handles=1,
            )
            public = answer.sized()
        try:
            yield handles[0], public
        finally:
            # Behind the resource manager it goes with the channel anyway.
            with contextlib.suppress(OSError, TpmFailure, WireError):
                self._call(Command.FLUSH_CONTEXT, parameters=_u32(handles[0]))

    def quote(
        self, key: int, qualifying: bytes, indices: Sequence[int] = range(PCRS)
    ) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE (TPM2_Quote), by the key's own scheme.

        Raises:
            AttesterError: the key does not quote.
        """
        with self._doing(f"quoting with the key {key:#010x}"):
            parameters = sized(qualifying) + _u16(_NULL) + _selection(indices)
            answer = self._call(Command.QUOTE, (key,), parameters, sessions=1)
            return answer.sized(), answer.rest()

    def _define(self, index: int, public: NvPublic) -> None:
        body = _u32(index) + _u16(SHA256) + _u32(public.attributes) + sized(b"")
        parameters = sized(b"") + sized(body + _u16(public.size))
        try:
            self._call(Command.NV_DEFINE_SPACE, (OWNER,), parameters, sessions=1).end()
        except TpmFailure as failure:
            if failure.code != _NV_DEFINED:  # somebody was faster; the write tells the rest
                raise

    def _call(
        self,
        code: Command,
        handles: tuple[int, ...] = (),
        parameters: bytes = b"",
        *,
        sessions: int = 0,
    ) -> Reader:
        raw = self._transmit(wire.command(code, handles, parameters, sessions=sessions))
        return wire.answer(raw, sessions=sessions > 0)[1]

    def _transmit(self, command: bytes) -> bytes:
        raw = self._channel.transmit(command)
        for _ in range(_TRIES):
            if int.from_bytes(raw[6:10], "big") not in _AGAIN:
                break
            raw = self._channel.transmit(command)
        return raw

    @contextlib.contextmanager
    def _doing(self, doing: str) -> Iterator[None]:
        """Turn what may go wrong into an error that says what was tried."""
        where = f"{doing} of the TPM at {self._path}"
        try:
            yield
        except TpmFailure as failure:
            raise _explained(failure, where) from failure
        except WireError as error:
            raise AttesterError(DeviceFault.ANSWER_INVALID, f"{where}: {error}") from error
        except OSError as error:
            raise AttesterError(
                DeviceFault.FAILED, f"{where}: {_said(error)}; see the kernel log, then try again"
            ) from error


def _selection(indices: Sequence[int]) -> bytes:
    """Return a TPML_PCR_SELECTION of SHA-256 PCRs."""
    bits = sum(1 << index for index in set(indices))
    return _u32(1) + _u16(SHA256) + b"\x03" + bits.to_bytes(3, "little")


def _selected(answer: Reader) -> list[int]:
    """Return the SHA-256 PCRs of the next TPML_PCR_SELECTION, ascending."""
    found: list[int] = []
    for _ in range(answer.number(4)):
        bank, bitmap = answer.number(2), answer.take(answer.number(1))
        if bank == SHA256:
            bits = int.from_bytes(bitmap, "little")
            found += [index for index in range(8 * len(bitmap)) if bits >> index & 1]
    return found


def _no_handle(code: int) -> bool:
    return (code & _FORMAT_ONE and code & _ERROR_ONE == _HANDLE) or (
        0 <= code - _REFERENCE_H0 < _REFERENCES
    )


def _explained(failure: TpmFailure, where: str) -> AttesterError:
    code = failure.code
    short = code & _ERROR_ONE if code & _FORMAT_ONE else code
    if short in _REFUSED:
        return AttesterError(
            DeviceFault.DENIED,
            f"{where}: {failure}: it wants another authorisation than an empty password: has "
            "somebody taken ownership of this TPM (`tpm2_getcap properties-variable`)?",
        )
    if code in _AGAIN:
        return AttesterError(DeviceFault.FAILED, f"{where}: the TPM is busy: try again")
    return AttesterError(
        DeviceFault.FAILED, f"{where}: {failure} (`tpm2_rc_decode {code:#x}` says what it means)"
    )


def _open_fault(error: OSError, path: str) -> AttesterError:
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR, errno.ECONNREFUSED}:
        return AttesterError(
            DeviceFault.ABSENT,
            f"there is no TPM at {path}: has this machine a vTPM, and the kernel its driver (try "
            "`modprobe tpm_crb` or `modprobe tpm_tis`)?",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return AttesterError(
            DeviceFault.DENIED,
            f"this user may not use {path}: put it into the device's group (`tss` on most systems)",
        )
    return AttesterError(DeviceFault.FAILED, f"{path}: {_said(error)}")


def _said(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
