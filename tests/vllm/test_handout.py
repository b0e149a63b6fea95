"""The hand-out, with real processes as ranks: what it gives, to whom, how often, how long."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm import peers, wire
from inference_runtime.engine.vllm.handout import ALIVE, Handout
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.manifest import SealedFile
from inference_runtime.sealed.memory import MemoryFile
from inference_runtime.sealed.open import OpenedModel
from inference_runtime.sealed.stream_model import StreamedModel
from tests.kit import vllm as kit

ROOT = Path(__file__).resolve().parents[2]
# What a rank sees: names, digests, and whether what it is given can be written to.
RANK = """
import hashlib, json, mmap, os, sys
from inference_runtime.engine.vllm.receive import HandoutError, received
seen = []
try:
    for name, fd in received(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
            digest = hashlib.sha256(mapped).hexdigest()
        try:
            os.pwrite(fd, b"x", 0)
            seen.append([name, "written"])
        except PermissionError:
            seen.append([name, digest])
    print(json.dumps([seen, len(os.listdir("/proc/self/fd"))]))
except HandoutError as error:
    print(json.dumps([seen, str(error)]))
"""


class Counting:
    """A model that counts what is open."""

    def __init__(self, model: StreamedModel) -> None:
        self.model = model
        self.opened: list[str] = []
        self.files_out: list[MemoryFile] = []
        self.most = 0

    @property
    def files(self) -> Sequence[SealedFile]:
        return self.model.files

    def open(self, path: str) -> MemoryFile:
        file = self.model.open(path)
        self.opened.append(path)
        self.files_out.append(file)
        self.most = max(self.most, self.alive)
        return file

    @property
    def alive(self) -> int:
        return sum(file.fileno() >= 0 for file in self.files_out)

    def open_all(self) -> OpenedModel:
        return self.model.open_all()

    def head(self, path: str, length: int) -> bytes:
        return self.model.head(path, length)

    def close(self) -> None:
        self.model.close()


async def rank(path: Path, number: int, ranks: int) -> tuple[list[list[str]], object]:
    """Run a rank as a process and return what it saw."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RANK, str(path), str(number), str(ranks)),
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    out, _ = await process.communicate()
    seen, rest = json.loads(out)
    return seen, rest


def weights(sealed: kit.Sealed) -> list[str]:
    return sorted(path.name for path in sealed.plain.glob("*.safetensors"))


def expected(sealed: kit.Sealed) -> list[list[str]]:
    return [
        [name, hashlib.sha256((sealed.plain / name).read_bytes()).hexdigest()]
        for name in weights(sealed)
    ]


@contextlib.asynccontextmanager
async def handing(
    sealed: kit.Sealed,
    where: Path,
    *,
    ranks: int = 1,
    model: Counting | StreamedModel | None = None,
    ancestor: int | None = None,
) -> AsyncIterator[Handout]:
    """Hand a model out to children of this process."""
    handout = Handout(
        where / "handout.sock",
        model or sealed.model(),
        weights(sealed),
        ranks,
        ancestor or os.getpid(),
    )
    async with asyncio.timeout(60), handout:
        yield handout


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_file_is_opened_once_and_at_most_two_are_alive(
    sealed: kit.Sealed, tmp_path: Path, ranks: int
) -> None:
    """Every rank sees every file, read-only; each was decrypted once; the key is gone after."""
    counting = Counting(sealed.model())

    async def play() -> list[tuple[list[list[str]], object]]:
        async with handing(sealed, tmp_path, ranks=ranks, model=counting) as handout:
            going = [
                asyncio.create_task(rank(tmp_path / "handout.sock", n, ranks)) for n in range(ranks)
            ]
            await handout.came()
            await handout.wait()
            assert sorted(handout.peers) == list(range(ranks))
            assert counting.alive == 0
            assert counting.model._dek.wiped
            return await asyncio.gather(*going)

    seen = asyncio.run(play())

    assert [found for found, _ in seen] == [expected(sealed)] * ranks
    assert {left for _, left in seen} == {4}, "a rank keeps a descriptor"
    assert counting.opened == weights(sealed)
    assert 1 < counting.most <= ALIVE
    assert not (tmp_path / "handout.sock").exists()


def test_a_slow_rank_holds_the_others_back(sealed: kit.Sealed, tmp_path: Path) -> None:
    """No third file is opened while one rank still has the first."""
    counting = Counting(sealed.model())

    async def play() -> None:
        async with handing(sealed, tmp_path, ranks=2, model=counting) as handout:
            fast = asyncio.create_task(rank(tmp_path / "handout.sock", 0, 2))
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as slow:
                slow.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(slow, str(tmp_path / "handout.sock"))
                slow.send(wire.encode(wire.Hello(1, 2)))
                slow.send(wire.encode(wire.Next()))
                await handout.came()
                async with asyncio.timeout(20):
                    while len(counting.opened) < ALIVE:  # noqa: ASYNC110 - opened in a thread
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
                assert counting.opened == weights(sealed)[:ALIVE]
                assert not fast.done()
            with pytest.raises(EngineError, match="rank 1 left the load"):
                await handout.wait()
            seen, said = await fast
            assert seen == expected(sealed)[:ALIVE]
            assert "the supervisor" in str(said)

    asyncio.run(play())
    assert counting.alive == 0


def test_a_stranger_of_the_same_user_gets_nothing(sealed: kit.Sealed, tmp_path: Path) -> None:
    """A process that does not descend from the engine is turned away, and told nothing."""

    async def play() -> tuple[object, list[str]]:
        engine = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            async with handing(sealed, tmp_path, ancestor=engine.pid) as handout:
                seen, said = await rank(tmp_path / "handout.sock", 0, 1)
                assert seen == []
                assert handout.peers == {}
                return said, handout.refused
        finally:
            engine.kill()
            await engine.wait()

    said, refused = asyncio.run(play())

    assert "the supervisor" in str(said)
    assert "does not descend" in refused[0]


@pytest.mark.parametrize(("number", "ranks"), [(0, 2), (1, 1), (-1, 1), (0, 0)])
def test_a_rank_that_is_none_is_turned_away(
    sealed: kit.Sealed, tmp_path: Path, number: int, ranks: int
) -> None:
    """A rank out of range, or of another number of ranks, gets nothing; the right one does."""

    async def play() -> None:
        async with handing(sealed, tmp_path) as handout:
            assert (await rank(tmp_path / "handout.sock", number, ranks))[0] == []
            assert len(handout.refused) == 1
            assert (await rank(tmp_path / "handout.sock", 0, 1))[0] == expected(sealed)
            await handout.wait()

    asyncio.run(play())


def test_a_rank_is_served_once(sealed: kit.Sealed, tmp_path: Path) -> None:
    """The same rank a second time gets nothing, though the load is over or not."""

    async def play() -> None:
        async with handing(sealed, tmp_path) as handout:
            assert (await rank(tmp_path / "handout.sock", 0, 1))[0] == expected(sealed)
            assert (await rank(tmp_path / "handout.sock", 0, 1))[0] == []
            assert "was here before" in handout.refused[0]
            await handout.wait()

    asyncio.run(play())


@pytest.mark.parametrize("packet", [b"", b"{}", b'{"is":"file","name":"x","size":1}', b"\xff"])
def test_another_first_word_is_refused(sealed: kit.Sealed, tmp_path: Path, packet: bytes) -> None:
    """Who does not begin with a greeting is turned away."""

    async def play() -> list[str]:
        async with handing(sealed, tmp_path) as handout:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as odd:
                odd.setblocking(False)
                await loop.sock_connect(odd, str(tmp_path / "handout.sock"))
                if packet:
                    odd.send(packet)
                else:
                    odd.shutdown(socket.SHUT_WR)
                assert isinstance(wire.decode(await loop.sock_recv(odd, 1000)), wire.Failed)
            return handout.refused

    assert len(asyncio.run(play())) == 1


@pytest.mark.parametrize("which", [0, 3])
def test_a_wrong_file_ends_the_load_with_its_name(
    sealed: kit.Sealed, tmp_path: Path, which: int
) -> None:
    """The supervisor's error names the file; the ranks hear only that there are no weights."""
    name = weights(sealed)[which]
    raw = bytearray(sealed.source.files[f"files/{name}"])
    raw[len(raw) // 2] ^= 1
    model = sealed.model(sealed.changed({f"files/{name}": bytes(raw)}))

    async def play() -> None:
        async with handing(sealed, tmp_path, ranks=2, model=model) as handout:
            going = [asyncio.create_task(rank(tmp_path / "handout.sock", n, 2)) for n in range(2)]
            with pytest.raises(RuntimeFault, match=name) as refused:
                await handout.wait()
            assert refused.value.code is Fault.SEALED_SEGMENT
            for seen, said in await asyncio.gather(*going):
                assert seen == expected(sealed)[:which]
                assert "the supervisor" in str(said)
        assert model._dek.wiped

    asyncio.run(play())


def test_a_header_that_changed_meanwhile_ends_the_load(sealed: kit.Sealed, tmp_path: Path) -> None:
    """What the engine was shown of a file has to be what the whole file has."""
    name = weights(sealed)[0]

    async def play() -> None:
        async with handing(sealed, tmp_path) as handout:
            handout.heads = {name: b"another header"}
            going = asyncio.create_task(rank(tmp_path / "handout.sock", 0, 1))
            with pytest.raises(EngineError, match=name) as refused:
                await handout.wait()
            assert refused.value.fault is EngineFault.BAD_MODEL
            await going

    asyncio.run(play())


def test_a_load_that_is_called_off_wipes_the_key(sealed: kit.Sealed, tmp_path: Path) -> None:
    """Leaving the hand-out before any rank came closes everything."""
    counting = Counting(sealed.model())

    async def play() -> None:
        async with handing(sealed, tmp_path, model=counting):
            pass

    asyncio.run(play())

    assert counting.alive == 0
    assert counting.model._dek.wiped
    with pytest.raises(RuntimeFault) as refused:
        counting.open(weights(sealed)[0])
    assert refused.value.code is Fault.KEY_WIPED


def test_a_process_that_ended_is_not_identified() -> None:
    """A connection whose other end has died names nobody any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        peer = peers.identify(ours, os.getpid())
        assert (peer.pid, peers.has_ended(peer.pidfd)) == (os.getpid(), False)
        peer.close()
        peer.close()
        with pytest.raises(peers.PeerRefusedError, match="does not descend"):
            peers.identify(ours, 2)
    assert peers.descends(os.getpid(), 1)
    assert not peers.descends(1, os.getpid())
    assert not peers.descends(2**22, os.getpid())
