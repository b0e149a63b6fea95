"""The worker's socket: who may speak, and what happens to those who do it badly."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.hsm import protocol, server
from broker.hsm.client import HsmClient
from broker.hsm.errors import HsmError, HsmReason
from tests.kit.hsm import OAEP, Prepared, ready, run, spki_of

pytestmark = pytest.mark.softhsm

ROOT = Path(__file__).resolve().parents[2]


@contextlib.asynccontextmanager
async def listening(
    home: Path, path: Path, *options: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a production worker on `home` that listens at `path`."""
    command = [sys.executable, "-m", "broker.hsm.worker", "--home", str(home), "--simulated"]
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once, and is not waited for
        [*command, "--socket", str(path), *options],
        cwd=ROOT,
    )
    try:
        while not _connects(path) and process.poll() is None:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def test_a_client_of_an_allowed_user_is_served_and_comes_back_after_a_restart(
    enrolled_home: Callable[[], Prepared], tmp_path: Path
) -> None:
    """A dead worker is `unavailable` at once, and the next call connects anew."""
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"
    own = ("--allow-uid", str(os.geteuid()))

    async def life() -> None:
        client = HsmClient.at(path)
        with pytest.raises(HsmError) as caught:
            await client.info()
        assert caught.value.reason is HsmReason.UNAVAILABLE
        async with listening(prepared.home, path, *own) as process:
            assert (await client.info()).mode == "same-user"
            assert path.stat().st_mode & 0o777 == 0o600
            process.kill()
            process.wait(20)
            with pytest.raises(HsmError) as caught:
                await client.info()
            assert caught.value.reason is HsmReason.UNAVAILABLE
        async with listening(prepared.home, path, *own):
            assert (await client.head(prepared.g)).size == 0
        assert not path.exists()
        await client.close()
        with pytest.raises(HsmError):
            await HsmClient.at(path).info()

    run(life())


def test_a_user_who_is_not_named_is_turned_away(
    enrolled_home: Callable[[], Prepared], tmp_path: Path
) -> None:
    """The peer's user id comes from the kernel; without one that is allowed, nobody is served."""
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"

    async def attempt() -> None:
        async with listening(prepared.home, path, "--allow-uid", str(os.geteuid() + 1)):
            client = HsmClient.at(path)
            with pytest.raises(HsmError) as caught:
                await client.info()
            assert caught.value.reason is HsmReason.UNAVAILABLE
            await client.close()

    run(attempt())


def test_a_worker_of_another_user_says_so(
    enrolled_home: Callable[[], Prepared], tmp_path: Path
) -> None:
    """Where only other users may connect, `info.mode` is separate-user; shown to one of them."""
    if os.geteuid() != 0:
        pytest.skip("only root can speak as another user")
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"
    other = 65534
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from broker.hsm.client import HsmClient\n"
        "async def main():\n"
        "    client = HsmClient.at(Path(sys.argv[1]))\n"
        "    print((await client.info()).mode)\n"
        "    await client.close()\n"
        "asyncio.run(main())\n"
    )
    speak = (
        "import os, sys; code = sys.argv.pop(1); import broker.hsm.client; "
        f"os.setresgid({other}, {other}, {other}); os.setresuid({other}, {other}, {other}); "
        "exec(code)"
    )
    options = ("--allow-uid", str(other), "--socket-group", str(other))

    async def attempt() -> bytes:
        async with listening(prepared.home, path, *options):
            for folder in (path.parent, *path.parent.parents):
                if folder.stat().st_mode & 0o001 == 0:
                    folder.chmod(folder.stat().st_mode | 0o001)
            done = await asyncio.create_subprocess_exec(
                sys.executable, "-c", speak, code, str(path), cwd=ROOT, stdout=subprocess.PIPE
            )
            said, _ = await done.communicate()
            return said

    assert run(attempt()) == b"separate-user\n"


async def _raw(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    hello = await protocol.read_frame(reader, finish_within=5)
    assert hello == msgspec.msgpack.encode({"result": "hello", "v": 1})
    return reader, writer


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_a_bad_or_slow_peer_holds_up_nobody(
    enrolled_home: Callable[[], Prepared], tmp_path: Path
) -> None:
    """Unknown calls, wrong types and huge frames end their connection; half a frame, or a peer
    that reads no answers, costs the others nothing."""
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"
    pack = msgspec.msgpack.encode
    bad = [
        _framed(b"\xc1"),
        _framed(b""),
        _framed(pack({"id": 1, "call": {"call": "sign", "key": b"brk", "data": b"x"}})),
        _framed(pack({"id": 1, "call": {"call": "info", "extra": 1}})),
        _framed(pack({"id": 1, "call": {"call": "head"}})),
        _framed(pack({"id": 1, "call": {"call": "head", "g": "text"}})),
        _framed(pack({"id": "1", "call": {"call": "info"}})),
        struct.pack(">I", protocol.MAX_FRAME + 1),
    ]

    async def attempts() -> None:
        async with listening(prepared.home, path, "--allow-uid", str(os.geteuid())):
            client = HsmClient.at(path)
            writers = []
            for raw in bad:
                reader, writer = await _raw(path)
                writer.write(raw)
                assert await reader.read() == b""
                writers.append(writer)
            _, half = await _raw(path)
            half.write(b"\0\0")
            _, deaf = await _raw(path)
            deaf.transport.pause_reading()  # type: ignore[attr-defined]
            ask = _framed(pack({"id": 1, "call": {"call": "info"}}))
            for _ in range(2000):
                deaf.write(ask)
            for _ in range(20):
                await asyncio.wait_for(client.info(), 5)
            for writer in (*writers, half, deaf):
                writer.transport.abort()
            await client.close()

    run(attempts())


def test_half_a_frame_is_cut_off_in_time() -> None:
    """The rest of a frame has a deadline, from its first byte on."""

    async def attempt() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        theirs.send(b"\0\0\0")
        with pytest.raises(HsmError, match="too slow") as caught:
            await protocol.read_frame(reader, finish_within=0.05)
        assert caught.value.reason is HsmReason.MALFORMED
        theirs.close()
        writer.close()
        await writer.wait_closed()

    run(attempt())
    assert server.FRAME_SECONDS <= 30


def test_many_callers_share_one_client(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey, tmp_path: Path
) -> None:
    """Hundreds of calls at once, over two connections, each get their own answer; an import key
    that is being made holds up none of them."""
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"
    spki = spki_of(guest)

    async def work() -> None:
        async with listening(prepared.home, path, "--allow-uid", str(os.geteuid())):
            one, two = HsmClient.at(path), HsmClient.at(path)
            book = await ready(one, prepared)
            first = await book.push(one, *(book.release_leaf(spki) for _ in range(200)))
            making = asyncio.create_task(two.create_import_key(prepared.g))
            await asyncio.sleep(0)
            answers = await asyncio.gather(
                *(
                    book.release((one, two)[offset % 2], first + offset, spki)
                    for offset in range(200)
                ),
                *(one.head(prepared.g) for _ in range(50)),
            )
            for answer in answers[:200:40]:
                assert isinstance(answer, protocol.Released)
                assert guest.decrypt(answer.wrapped[0], OAEP[answer.alg]) == book.dek
            assert all(getattr(head, "size", 0) == 203 for head in answers[200:])
            spent = await asyncio.gather(
                *(book.release(two, first + 1, spki) for _ in range(20)), return_exceptions=True
            )
            assert {getattr(error, "reason", None) for error in spent} == {HsmReason.PERMIT_SPENT}
            assert len(await making) > 500
            await one.close()
            await two.close()

    run(work())


def test_one_permit_among_many_at_once_is_released_once(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey, tmp_path: Path
) -> None:
    """The same permit, sent twenty times together, moves its key exactly once."""
    prepared = enrolled_home()
    path = tmp_path / "hsm.sock"
    spki = spki_of(guest)

    async def work() -> None:
        async with listening(prepared.home, path, "--allow-uid", str(os.geteuid())):
            client = HsmClient.at(path)
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
            results = await asyncio.gather(
                *(book.release(client, index, spki) for _ in range(20)), return_exceptions=True
            )
            assert sum(isinstance(result, protocol.Released) for result in results) == 1
            await client.close()

    run(work())


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoders_raise_anything_else(raw: bytes) -> None:
    """Any frame body is a message or `malformed`."""
    reasons = set()
    for decode in (
        partial(protocol.decode, raw, protocol.REQUESTS),
        partial(protocol.decode, raw, protocol.RESPONSES),
        partial(protocol.decode, raw, protocol.GREETINGS),
    ):
        try:
            decode()
        except HsmError as error:
            reasons.add(error.reason)
    assert reasons <= {HsmReason.MALFORMED}


_BYTES = st.binary(max_size=40)
_CALLS = st.one_of(
    st.just(protocol.GetInfo()),
    st.builds(protocol.BeginTenant, st.text(max_size=10)),
    st.builds(protocol.ImportKey, _BYTES, _BYTES, _BYTES),
    st.builds(
        protocol.Extend, _BYTES, st.integers(0, 1 << 63), st.lists(_BYTES, max_size=3).map(tuple)
    ),
    st.builds(
        protocol.Release,
        _BYTES,
        _BYTES,
        _BYTES,
        _BYTES,
        st.lists(_BYTES, max_size=3).map(tuple),
        _BYTES,
    ),
    st.builds(protocol.SignAnswer, _BYTES),
)


@given(st.integers(0, 1 << 62), _CALLS)
def test_a_call_that_is_sent_is_the_call_that_arrives(number: int, call: protocol.AnyCall) -> None:
    """Framing and decoding give back what was framed."""
    request = protocol.Request(number, call)
    raw = protocol.frame(request)

    assert raw[:4] == struct.pack(">I", len(raw) - 4)
    assert protocol.decode(raw[4:], protocol.REQUESTS) == request
