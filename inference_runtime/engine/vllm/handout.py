"""The supervisor's end of the hand-out: opens each weight file once and gives it to every rank.

Guarantees: at most `ALIVE` weight files are open at once; each is decrypted once, whatever the
number of ranks; a descriptor goes only to a process that descends from the engine that we started,
to each rank once, and to no more than `ranks` of them; ours is closed when the last rank has let
go. The model is closed, and so its key wiped, as soon as the last file is open.
Does not know what the ranks do with what they map.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import msgspec

from inference_runtime.engine.protocol import EngineError, EngineFault, Model
from inference_runtime.engine.vllm import peers, wire
from inference_runtime.sealed.memory import MemoryFile

ALIVE: Final = 2
"""Weight files open at once: the one that is read, and the one that is decrypted meanwhile."""
_BACKLOG: Final = 16


@final
class Handout:
    """One load of one model by `ranks` ranks. Use it as an asynchronous context manager."""

    def __init__(
        self, path: Path, model: Model, weights: Sequence[str], ranks: int, ancestor: int
    ) -> None:
        """Prepare to serve at `path`, which must lie in a folder that only this user can enter.

        Args:
            path: of the socket.
            model: what is opened.
            weights: its weight files, in the order in which the ranks get them.
            ranks: how many ranks there are.
            ancestor: the process that they descend from.
        """
        self.refused: list[str] = []
        """What was turned away, in words."""
        self.heads: Mapping[str, bytes] = {}
        """First bytes that the files must have, where the engine was shown them beforehand."""
        self.peers: dict[int, peers.Peer] = {}
        """The ranks that came, by number; their pidfds are closed with the hand-out."""
        self._path = path
        self._model = model
        self._weights = tuple(weights)
        self._ranks = ranks
        self._ancestor = ancestor
        self._shelf = _Shelf(len(self._weights), ranks)
        self._known: set[int] = set()
        self._served: set[int] = set()
        self._failure: BaseException | None = None
        self._over = asyncio.Event()
        self._all_here = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)

    async def __aenter__(self) -> Handout:
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(_BACKLOG)
        self._begin(self._accept())
        self._begin(self._fill())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        # A file that is being opened is given up within a segment once the model is closed.
        await asyncio.to_thread(self._model.close)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._shelf.clear()
        for peer in self.peers.values():
            peer.close()

    async def came(self) -> None:
        """Return when every rank is here, or the load has failed: `wait` tells."""
        await self._all_here.wait()

    def take_peers(self) -> dict[int, peers.Peer]:
        """Hand over the ranks' processes, to be watched; the caller closes them."""
        taken, self.peers = self.peers, {}
        return taken

    async def wait(self) -> None:
        """Return when every rank has had every file.

        Raises:
            RuntimeFault: a file of the model is not what it should be.
            EngineError: a rank went away, or broke the rules, before it had them all.
        """
        await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self._shelf.fail()
        self._all_here.set()
        self._over.set()

    async def _fill(self) -> None:
        """Open one file after the other, each as soon as there is room for it."""
        for index, name in enumerate(self._weights):
            await self._shelf.room()
            self._shelf.put(index, await asyncio.to_thread(self._open, name))
        # The key is not needed for as long as ranks still copy.
        await asyncio.to_thread(self._model.close)

    def _open(self, name: str) -> MemoryFile:
        file = self._model.open(name)
        head = self.heads.get(name, b"")
        if os.pread(file.fileno(), len(head), 0) != head:
            file.close()
            raise EngineError(EngineFault.BAD_MODEL, f"{name}: its header has changed meanwhile")
        return file

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self._begin(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            try:
                rank, peer = await self._greet(connection)
            except (peers.PeerRefusedError, msgspec.DecodeError, OSError) as error:
                self.refused.append(str(error))
                _send(connection, wire.Failed())
                return
            self.peers[rank] = peer
            if len(self.peers) == self._ranks:
                self._all_here.set()
            try:
                await self._hand(connection)
            except (_GoneError, msgspec.DecodeError, OSError) as error:
                _send(connection, wire.Failed())
                self._fail(
                    EngineError(EngineFault.LOAD_FAILED, f"rank {rank} left the load: {error}")
                )
                return
            self._served.add(rank)
            if len(self._served) == self._ranks:
                self._over.set()

    async def _greet(self, connection: socket.socket) -> tuple[int, peers.Peer]:
        """Return the rank that has come, if it may have the weights."""
        peer = peers.identify(connection, self._ancestor)
        try:
            rank = self._rank(await _receive(connection))
        except BaseException:
            peer.close()
            raise
        self._known.add(rank)
        return rank, peer

    def _rank(self, message: wire.Message | None) -> int:
        if not isinstance(message, wire.Hello) or message.ranks != self._ranks:
            raise peers.PeerRefusedError("it does not say which rank of how many it is")
        if not 0 <= message.rank < self._ranks or message.rank in self._known:
            raise peers.PeerRefusedError(f"rank {message.rank} is none, or was here before")
        return message.rank

    async def _hand(self, connection: socket.socket) -> None:
        """Give every file in turn; a `Next` says that the one before is let go."""
        for index, name in enumerate(self._weights):
            await _expect_next(connection)
            if index:
                self._shelf.let_go(index - 1)
            file = await self._shelf.take(index)
            packet = wire.encode(wire.File(name, file.size))
            socket.send_fds(connection, [packet], [file.fileno()])
        await _expect_next(connection)
        self._shelf.let_go(len(self._weights) - 1)
        connection.send(wire.encode(wire.End()))


class _GoneError(Exception):
    """A rank that is gone, or a load that failed for all of them."""


@final
class _Shelf:
    """The weight files that are open now, and who still needs them. One event loop only."""

    def __init__(self, count: int, ranks: int) -> None:
        self._room = asyncio.Semaphore(ALIVE)
        self._files: dict[int, MemoryFile] = {}
        self._left = [ranks] * count
        self._failed = False
        self._put = [asyncio.Event() for _ in range(count)]

    async def room(self) -> None:
        """Wait until another file may be opened."""
        await self._room.acquire()

    def put(self, index: int, file: MemoryFile) -> None:
        """Take over a file that is open."""
        self._files[index] = file
        self._put[index].set()

    async def take(self, index: int) -> MemoryFile:
        """Return file `index` once it is open; it stays the shelf's."""
        await self._put[index].wait()
        if self._failed:
            raise _GoneError("the load has failed")
        return self._files[index]

    def let_go(self, index: int) -> None:
        """Note that one rank more has done with file `index`; the last one closes it."""
        self._left[index] -= 1
        if self._left[index] == 0 and index in self._files:
            self._files.pop(index).close()
            self._room.release()

    def fail(self) -> None:
        """Wake everybody who waits for a file."""
        self._failed = True
        for event in self._put:
            event.set()

    def clear(self) -> None:
        """Close what is open."""
        while self._files:
            self._files.popitem()[1].close()


async def _receive(connection: socket.socket) -> wire.Message | None:
    """Return the next message, None when the peer has hung up."""
    packet = await asyncio.get_running_loop().sock_recv(connection, wire.MAX_MESSAGE)
    return wire.decode(packet) if packet else None


async def _expect_next(connection: socket.socket) -> None:
    message = await _receive(connection)
    if not isinstance(message, wire.Next):
        raise _GoneError("it hung up" if message is None else "it spoke out of turn")


def _send(connection: socket.socket, message: wire.Message) -> None:
    with suppress(OSError):  # it may be gone; then it needs no answer
        connection.send(wire.encode(message))
