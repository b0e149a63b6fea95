"""The worker's socket: reads calls from connections, runs them in one thread, answers.

Guarantees: only peers of the allowed users get past the first byte; a call that does not decode
ends its connection; a peer that sends or reads too slowly holds up nobody but itself, and is cut
off; what waits for one peer is bounded. Releases that arrive together are burnt together.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from broker.hsm import protocol
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.service import Service

FRAME_SECONDS: Final = 10.0
"""How long a peer may take over the rest of a frame, and over reading an answer."""

MAX_CONNECTIONS: Final = 64
PER_CONNECTION: Final = 64
"""Calls of one connection that are taken in before the first is answered."""

_TOGETHER: Final = 32
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@final
@dataclass(frozen=True, slots=True)
class _Job:
    peer: _Peer
    request: protocol.Request


@final
class Server:
    """Serves one `Service` to any number of connections of one loop."""

    __slots__ = ("_jobs", "_peers", "_service", "_slow", "_uids")

    def __init__(self, service: Service, uids: frozenset[int]) -> None:
        self._service = service
        self._uids = uids
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._peers: dict[_Peer, asyncio.Task[None] | None] = {}
        self._slow: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run calls until cancelled."""
        while True:
            batch = [await self._jobs.get()]
            while len(batch) < _TOGETHER and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            self._run(batch)
            await asyncio.sleep(0)  # let what has arrived be read, so that it goes together

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its peer closes it or breaks a rule."""
        if len(self._peers) >= MAX_CONNECTIONS or not self._allowed(writer):
            writer.close()
            return
        peer = _Peer(reader, writer)
        self._peers[peer] = asyncio.current_task()
        try:
            await peer.serve(self._jobs)
        finally:
            del self._peers[peer]

    async def hang_up(self) -> None:
        """Close every connection, and wait until they are."""
        tasks = [task for task in self._peers.values() if task is not None]
        for peer in self._peers:
            peer.hang_up()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _allowed(self, writer: asyncio.StreamWriter) -> bool:
        peer = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(raw)
        return uid in self._uids

    def _run(self, batch: Sequence[_Job]) -> None:
        releases: list[tuple[_Job, protocol.Release]] = []
        for job in batch:
            call = job.request.call
            if isinstance(call, protocol.Release):
                releases.append((job, call))
            else:  # keep the order in which calls came
                self._release(releases)
                releases = []
                self._one(job)
        self._release(releases)

    def _release(self, jobs: Sequence[tuple[_Job, protocol.Release]]) -> None:
        if jobs:
            results = self._service.release([call for _, call in jobs])
            for (job, _), result in zip(jobs, results, strict=True):
                job.peer.answer(job.request.id, result)

    def _one(self, job: _Job) -> None:
        try:
            if isinstance(job.request.call, protocol.CreateImportKey):
                task = asyncio.create_task(self._make_import_key(job, job.request.call))
                self._slow.add(task)
                task.add_done_callback(self._slow.discard)
                return
            result = self._dispatch(job.request.call)
        except HsmError as error:
            result = protocol.Failure.of(error)
        job.peer.answer(job.request.id, result)

    def _dispatch(  # noqa: C901, PLR0911 - one line for each call
        self, call: protocol.AnyCall
    ) -> protocol.AnyResult:
        service = self._service
        match call:
            case protocol.GetInfo():
                return service.info()
            case protocol.BeginTenant():
                return service.begin_tenant(call)
            case protocol.EnrolTenant():
                return service.enrol_tenant(call)
            case protocol.DestroyImportKey():
                return service.destroy_import_key(call)
            case protocol.ImportKey():
                return service.import_key(call)
            case protocol.Extend():
                return service.extend(call)
            case protocol.GetHead():
                return service.head(call)
            case protocol.SignAnswer():
                return service.sign_answer(call)
            case protocol.SignResult():
                return service.sign_result(call)
            case protocol.GetChallengeKeys():
                return service.challenge_keys()
            case protocol.Release() | protocol.CreateImportKey():
                raise HsmError(HsmReason.REFUSED, "this call has its own way")

    async def _make_import_key(self, job: _Job, call: protocol.CreateImportKey) -> None:
        """Make RSA-4096 primes in a thread, while releases go on."""
        result: protocol.AnyResult
        try:
            cka_id, make = self._service.begin_import_key(call)
            try:
                spki = await asyncio.to_thread(make)
            except HsmError:
                self._service.drop_import_key(cka_id)
                raise
            result = self._service.finish_import_key(cka_id, spki)
        except HsmError as error:
            result = protocol.Failure.of(error)
        job.peer.answer(job.request.id, result)


@final
class _Peer:
    """One connection: a reader that stops while too much is under way, and a writer of its own."""

    __slots__ = ("_answers", "_reader", "_slots", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._slots = asyncio.Semaphore(PER_CONNECTION)
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(self, jobs: asyncio.Queue[_Job]) -> None:
        self._answers.put_nowait(protocol.frame(protocol.Hello(v=1)))
        await self._slots.acquire()
        writing = asyncio.create_task(self._write())
        reading = asyncio.create_task(self._read(jobs))
        try:
            await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)
            self.hang_up()

    def hang_up(self) -> None:
        self._writer.transport.abort()

    def answer(self, number: int, result: protocol.AnyResult) -> None:
        self._answers.put_nowait(protocol.frame(protocol.Response(number, result)))

    async def _read(self, jobs: asyncio.Queue[_Job]) -> None:
        with contextlib.suppress(HsmError, OSError):  # unknown or broken: the connection ends
            while True:
                await self._slots.acquire()
                body = await protocol.read_frame(self._reader, finish_within=FRAME_SECONDS)
                if body is None:
                    return
                jobs.put_nowait(_Job(self, protocol.decode(body, protocol.REQUESTS)))

    async def _write(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while True:
                self._writer.write(await self._answers.get())
                async with asyncio.timeout(FRAME_SECONDS):
                    await self._writer.drain()
                self._slots.release()
