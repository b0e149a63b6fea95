"""The broker's side of the worker's socket.

Guarantees: one asyncio loop may call it from any number of tasks; requests are pipelined and each
gets its own answer; every failure is an `HsmError`; a dead worker is `unavailable` at once, for all
who wait. With a socket path the next call connects again; a socket pair dies with its worker.
Holds no key and no PIN, and never loads PKCS#11.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final, Self, TypeVar, final

from broker.hsm import protocol
from broker.hsm.errors import HsmError, HsmReason

GREETING_SECONDS: Final = 60.0
"""How long a worker may take to start: login, and the self-test on every key."""

CALL_SECONDS: Final = 60.0
"""How long any call may take; the longest makes an RSA-4096 pair."""

_FRAME_SECONDS: Final = 30.0

T = TypeVar("T", bound=protocol.Result)


@final
class HsmClient:
    """Calls of the HSM worker. Make one with `at` or `over`; close it with `close`."""

    __slots__ = ("_connection", "_lock", "_path", "_peer")

    def __init__(self, path: Path | None, peer: socket.socket | None) -> None:
        self._path = path
        self._peer = peer
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the client of the worker that listens at `path`; connects on the first call."""
        return cls(path, None)

    @classmethod
    def over(cls, peer: socket.socket) -> Self:
        """Return the client over one end of a socket pair; takes it over."""
        return cls(None, peer)

    async def info(self) -> protocol.Info:
        """Return what the worker is and what its self-test saw."""
        return await self._call(protocol.GetInfo(), protocol.Info)

    async def begin_tenant(self, tenant: str) -> protocol.Begun:
        """Make a tenant's log key; the same answer until the tenant is enrolled.

        Raises:
            HsmError: `malformed`; `exists` once enrolled.
        """
        return await self._call(protocol.BeginTenant(tenant), protocol.Begun)

    async def enrol_tenant(self, genesis_envelope: bytes) -> None:
        """Enrol a tenant by its signed genesis; again with the same one changes nothing.

        Raises:
            HsmError: `malformed`, `refused`, `not_found` (never begun), `exists` (another genesis).
        """
        await self._call(protocol.EnrolTenant(genesis_envelope), protocol.Done)

    async def create_import_key(self, g: bytes) -> bytes:
        """Make an RSA-4096 import pair; return its SPKI (DER).

        Raises:
            HsmError: `not_found`.
        """
        return (await self._call(protocol.CreateImportKey(g), protocol.ImportKeyMade)).spki

    async def destroy_import_key(self, g: bytes, spki_sha256: bytes) -> None:
        """Destroy an import pair.

        Raises:
            HsmError: `not_found`.
        """
        await self._call(protocol.DestroyImportKey(g, spki_sha256), protocol.Done)

    async def import_key(
        self, g: bytes, statement_envelope: bytes, ciphertext: bytes
    ) -> protocol.Imported:
        """Take in a DEK of 32 bytes; return it under the tenant's KEK.

        Raises:
            HsmError: `malformed`, `refused`, `not_found` (tenant or import key).
        """
        call = protocol.ImportKey(g, statement_envelope, ciphertext)
        return await self._call(call, protocol.Imported)

    async def extend(self, g: bytes, start: int, leaves: tuple[bytes, ...]) -> bytes:
        """Append `leaves` at `start`; return the signed checkpoint of the new head.

        More than fits one message goes in several, each whole: after a failure in between, the
        next call gets `head_mismatch` with the size that was reached.

        Raises:
            HsmError: `head_mismatch`, `malformed`, `refused`, `not_found`.
        """
        checkpoint = b""
        for at, part in _portions(start, leaves):
            answer = await self._call(protocol.Extend(g, at, part), protocol.Extended)
            checkpoint = answer.checkpoint
        return checkpoint

    async def head(self, g: bytes) -> protocol.Head:
        """Return where the worker's copy of the log stands.

        Raises:
            HsmError: `not_found`.
        """
        return await self._call(protocol.GetHead(g), protocol.Head)

    async def release(  # noqa: PLR0917 - the parts of one permit, in its order
        self,
        g: bytes,
        leaf: bytes,
        receipt: bytes,
        state_map: bytes,
        blobs: tuple[bytes, ...],
        recipient: bytes,
    ) -> protocol.Released:
        """Spend the permit of a release leaf; return its keys, wrapped to the recipient.

        Args:
            g: the tenant.
            leaf: the leaf as it stands in the log.
            receipt: the tlog-proof for it (text).
            state_map: canonical JSON of the state map whose digest the head carries.
            blobs: one per key of the leaf, in its order.
            recipient: SPKI (DER) of the RSA-3072 key that the leaf names.

        Raises:
            HsmError: `malformed`, `refused`, `state_moved`, `permit_spent`, `not_found`.
        """
        call = protocol.Release(g, leaf, receipt, state_map, blobs, recipient)
        return await self._call(call, protocol.Released)

    async def sign_answer(self, payload: bytes) -> bytes:
        """Return the DSSE envelope of a release or renewal answer, signed by the broker's key.

        Raises:
            HsmError: `malformed`, `refused`, `not_found`.
        """
        return (await self._call(protocol.SignAnswer(payload), protocol.Signed)).envelope

    async def sign_result(self, call: protocol.SignResult) -> bytes:
        """Return the signed token (EAR) about a logged result.

        Raises:
            HsmError: `malformed`, `refused`, `not_found`; `unsupported` where the home has no key
                for it.
        """
        return (await self._call(call, protocol.ResultSigned)).token

    async def challenge_keys(self) -> protocol.ChallengeKeys:
        """Return the keys that authenticate challenges, newest first, and when they rotate."""
        return await self._call(protocol.GetChallengeKeys(), protocol.ChallengeKeys)

    async def close(self) -> None:
        """Close the connection. A worker over a socket pair then ends."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        if self._peer is not None:
            self._peer.close()

    async def _call(self, call: protocol.AnyCall, kind: type[T]) -> T:
        connection = await self._connected()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                result = await connection.ask(call)
        except TimeoutError as error:
            raise HsmError(HsmReason.UNAVAILABLE, "the worker did not answer in time") from error
        if isinstance(result, protocol.Failure):
            raise result.error()
        if not isinstance(result, kind):
            raise HsmError(HsmReason.UNAVAILABLE, "the worker answered something else")
        return result

    async def _connected(self) -> _Connection:
        async with self._lock:
            if self._connection is None or (self._path is not None and not self._connection.alive):
                await self._reconnect()
            connection = self._connection
            if connection is None:
                raise HsmError(HsmReason.UNAVAILABLE, "the client is closed")
            await connection.greeted.wait()
            return connection

    async def _reconnect(self) -> None:
        dead, self._connection = self._connection, None
        if dead is not None:
            await dead.close()
        self._connection = await _connect(self._path, self._peer)
        self._peer = None


@final
class _Connection:
    """One connection: a reader task hands each answer to the caller who waits for it."""

    __slots__ = ("_failure", "_next", "_reader", "_task", "_waiting", "_writer", "greeted")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 0
        self._waiting: dict[int, asyncio.Future[protocol.AnyResult]] = {}
        self._failure: HsmError | None = None
        # Nothing is sent before the worker spoke: a write to one that refused and left would lose
        # what it said.
        self.greeted = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        return self._failure is None

    async def ask(self, call: protocol.AnyCall) -> protocol.AnyResult:
        if self._failure is not None:
            raise _again(self._failure)
        self._next += 1
        number = self._next
        framed = protocol.frame(protocol.Request(number, call))
        future: asyncio.Future[protocol.AnyResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(framed)
            await self._writer.drain()
            return await future
        except OSError as error:
            raise HsmError(HsmReason.UNAVAILABLE, "the worker is gone") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail(HsmError(HsmReason.UNAVAILABLE, "the client is closed"))
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:  # it was gone before we were
            return

    async def _read(self) -> None:
        failure = HsmError(HsmReason.UNAVAILABLE, "the worker closed the connection")
        try:
            greeting = await _greeting(self._reader)
            if isinstance(greeting, protocol.Failure):
                failure = greeting.error()
                return
            self.greeted.set()
            while True:
                body = await protocol.read_frame(self._reader, finish_within=_FRAME_SECONDS)
                if body is None:
                    return
                response = protocol.decode(body, protocol.RESPONSES)
                future = self._waiting.get(response.id)
                if future is not None and not future.done():
                    future.set_result(response.result)
        except HsmError as error:
            failure = HsmError(HsmReason.UNAVAILABLE, error.detail)
        except OSError as error:
            failure = HsmError(HsmReason.UNAVAILABLE, f"the worker is gone: {error.strerror}")
        finally:
            self._fail(failure)

    def _fail(self, failure: HsmError) -> None:
        if self._failure is None:
            self._failure = failure
        self.greeted.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_again(self._failure))


async def _connect(path: Path | None, peer: socket.socket | None) -> _Connection:
    try:
        if peer is not None:
            return _Connection(*await asyncio.open_unix_connection(sock=peer))
        if path is not None:
            return _Connection(*await asyncio.open_unix_connection(path))
    except OSError as error:
        raise HsmError(
            HsmReason.UNAVAILABLE, f"no HSM worker at {path}: {error.strerror}"
        ) from error
    raise HsmError(HsmReason.UNAVAILABLE, "the client is closed")


async def _greeting(reader: asyncio.StreamReader) -> protocol.Hello | protocol.Failure:
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            body = await protocol.read_frame(reader, finish_within=_FRAME_SECONDS)
    except TimeoutError as error:
        raise HsmError(HsmReason.UNAVAILABLE, "the worker did not start in time") from error
    if body is None:
        raise HsmError(HsmReason.UNAVAILABLE, "the worker ended while it started")
    return protocol.decode(body, protocol.GREETINGS)


def _again(failure: HsmError) -> HsmError:
    """Return a fresh error like `failure`, so that no two callers share one traceback."""
    return HsmError(failure.reason, failure.detail, failure.size)


def _portions(start: int, leaves: tuple[bytes, ...]) -> list[tuple[int, tuple[bytes, ...]]]:
    """Cut `leaves` into messages; no leaves are one message too, which the worker refuses."""
    cuts: list[tuple[int, tuple[bytes, ...]]] = []
    part: list[bytes] = []
    size = 0
    for leaf in leaves:
        full = len(part) == protocol.MAX_LEAVES or size + len(leaf) > protocol.MAX_EXTEND
        if part and full:
            cuts.append((start, tuple(part)))
            start += len(part)
            part, size = [], 0
        part.append(leaf)
        size += len(leaf)
    cuts.append((start, tuple(part)))
    return cuts
