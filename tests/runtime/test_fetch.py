"""Fetching sealed files from a bucket: ranges, dropped connections, servers that misbehave."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_runtime.bucket import Bucket
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.origin import Origin, origin, place
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.open import ModelOpener
from inference_runtime.sealed.paths import FILES
from inference_runtime.sealed.secret import SecretKey
from tests.kit.runtime import MODEL, SoftBroker
from tests.kit.webserver import Answer, Web, web

RAW = bytes(range(256)) * 4096


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Web]:
    """Give a bucket with one file of a MiB."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    (folder / "a b").write_bytes(RAW)
    with web(folder) as found:
        yield found


def test_a_read_goes_on_where_the_line_died(bucket: Web) -> None:
    """Nothing that has come is asked for again."""
    bucket.drop = [1000, 1, 500_000]
    with Bucket(bucket.url) as source:
        assert source.size("a b") == len(RAW)
        assert source.read("a b", 0, len(RAW)) == RAW

    spans = [span for method, _, span in bucket.asked if method == "GET"]
    last = len(RAW) - 1
    assert spans == [f"bytes={start}-{last}" for start in (0, 1000, 1001, 501_001)]


def test_the_end_of_a_file(bucket: Web) -> None:
    """A read beyond the end gives what there is."""
    with Bucket(bucket.url) as source:
        assert source.read("a b", len(RAW) - 5, 10) == RAW[-5:]
        assert source.read("a b", len(RAW), 10) == b""


def test_an_address_with_a_query(bucket: Web) -> None:
    """A cloud's signature is sent with every request, and shown in no error."""
    with Bucket(f"{bucket.url}/?sig=SECRET") as source:
        assert source.read("a b", 0, 5) == RAW[:5]
        with pytest.raises(RuntimeFault) as refused:
            source.size("absent")

    assert refused.value.code is Fault.SEALED_MISSING
    assert "absent" in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert all(target.endswith("?sig=SECRET") for _, target, _ in bucket.asked)


def always(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> object:
    """Return what answers everything alike."""

    def answer(_method: str, _target: str, _span: str) -> Answer:
        return status, headers or {}, body

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (always(403), "403"),
        (always(302, {"location": "http://127.0.0.1:1/"}), "302"),
        (always(200, {}, RAW), "does not answer ranges"),
        (always(206, {"content-range": "bytes 1-9/10"}, b"123456789"), "another range"),
        (always(206, {}, b"12345"), "with another"),
        (always(206, {"content-range": "bytes 0-4/5"}, b"1234567890"), "more than asked"),
    ],
)
def test_a_server_that_misbehaves(
    bucket: Web, answer: Callable[[str, str, str], Answer | None], words: str
) -> None:
    """What is no answer to a range ends the read at once, with the file's name."""
    bucket.answer = answer
    with Bucket(bucket.url) as source, pytest.raises(RuntimeFault, match="a b: ") as refused:
        source.read("a b", 0, 5)
    assert refused.value.code is Fault.SOURCE_UNAVAILABLE
    assert words in str(refused.value)
    assert len(bucket.asked) == 1


def test_a_server_without_sizes(bucket: Web) -> None:
    """A size that cannot be read is refused."""
    bucket.answer = always(200, {"content-length": "-1"})  # type: ignore[assignment]  # as above
    with Bucket(bucket.url, patience=0.2) as source, pytest.raises(RuntimeFault) as refused:
        source.size("a b")
    assert refused.value.code is Fault.SOURCE_UNAVAILABLE


def test_a_server_that_is_busy_for_a_while(bucket: Web) -> None:
    """503 and 429 are waited out."""
    busy = [503, 429, 500]
    bucket.answer = lambda _method, _target, _span: (busy.pop(), {}, b"") if busy else None
    with Bucket(bucket.url) as source:
        assert source.read("a b", 0, 5) == RAW[:5]


def test_patience_ends(bucket: Web) -> None:
    """A server that gives nothing is given up, and the file is named."""
    bucket.answer = always(503)  # type: ignore[assignment]  # as above
    with (
        Bucket(bucket.url, patience=0.3) as source,
        pytest.raises(RuntimeFault, match=r"a b: .*gave nothing") as refused,
    ):
        source.read("a b", 0, 5)
    assert refused.value.code is Fault.SOURCE_UNAVAILABLE


def test_calling_off(bucket: Web) -> None:
    """A read that waits for a server ends when the load is called off; no other one begins."""
    reading = threading.Event()

    def answer(_method: str, _target: str, _span: str) -> Answer:
        reading.set()
        return 503, {}, b""

    bucket.answer = answer
    source = origin(bucket.url, lambda: pytest.fail("no registry"))
    ended: list[RuntimeFault] = []

    def read() -> None:
        with pytest.raises(RuntimeFault) as refused:
            source.read("a b", 0, 5)
        ended.append(refused.value)

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(10)
    source.call_off()
    thread.join(20)
    assert [fault.code for fault in ended] == [Fault.SOURCE_UNAVAILABLE]
    with pytest.raises(RuntimeFault, match="called off"):
        source.size("a b")
    source.close()


@pytest.mark.parametrize("text", ["ftp://x/y", "http://", "https://%zz/", "file:///x"])
def test_no_address(text: str) -> None:
    """Only http and https are addresses; what is none is a folder."""
    with pytest.raises(RuntimeFault) as refused:
        Bucket(text)
    assert refused.value.code is Fault.SOURCE_UNAVAILABLE
    assert place(text) == Path(text)
    assert place("https://x/y") == "https://x/y"


@pytest.fixture
def sealed(broker: SoftBroker, model_folder: Path, tmp_path: Path) -> Path:
    """Give the sealed demo model."""
    broker.seal(model_folder, tmp_path / "sealed")
    return tmp_path / "sealed"


def opened(broker: SoftBroker, source: Origin) -> dict[str, bytes]:
    """Return every file of the model, opened from there."""
    trusted = manifests.verify(
        source.manifest(),
        broker.genesis.signers,
        1,
        expected_digest=broker.manifests[MODEL],
        expected_genesis=broker.digest,
    )
    with (
        SecretKey(bytearray(broker.deks[MODEL])) as dek,
        ModelOpener(trusted, source, dek, threads=1) as opener,
        opener.open_all() as model,
    ):
        return {name: os.pread(file.fileno(), file.size, 0) for name, file in model.files.items()}


def test_a_server_that_is_killed_in_the_middle(
    broker: SoftBroker, sealed: Path, model_folder: Path
) -> None:
    """It dies with half the model sent, comes back, and the load ends as if nothing had been."""
    told: list[int] = []
    half = threading.Event()
    total = sum(path.stat().st_size for path in (sealed / "files").rglob("*") if path.is_file())
    result: dict[str, bytes] = {}

    def tell(count: int) -> None:
        told.append(count)
        if sum(told) > total // 2:
            half.set()

    with web(sealed) as found:
        port = found.port
        blocked = threading.Event()

        def answer(method: str, _target: str, _span: str) -> Answer | None:
            # The second half is not answered by the first server: it is killed before.
            if method == "GET" and half.is_set():
                blocked.wait(20)
            return None

        found.answer = answer
        source = origin(found.url, lambda: pytest.fail("no registry"))
        source.tell = tell
        thread = threading.Thread(target=lambda: result.update(opened(broker, source)))
        thread.start()
        assert half.wait(30)
        before = sum(told)
        found.drop = [100] * 4
        blocked.set()
    found.answer = lambda _method, _target, _span: None
    with web(sealed, port, found):
        thread.join(60)
        assert not thread.is_alive()
    source.close()

    assert total // 2 < before < total
    plain = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    assert result == plain


@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "absent", "renamed"])
def test_damage_is_named(broker: SoftBroker, sealed: Path, damage: str) -> None:
    """Whatever a bucket gives instead of a file ends the load, with the file's name."""
    path = max((sealed / "files").iterdir(), key=lambda entry: entry.stat().st_size)
    raw = path.read_bytes()
    other = next(entry for entry in (sealed / "files").iterdir() if entry != path)
    codes = {
        "cut": Fault.SEALED_TRUNCATED,
        "longer": Fault.SEALED_EXTRA,
        "flipped": Fault.SEALED_SEGMENT,
        "absent": Fault.SEALED_MISSING,
        "renamed": Fault.SEALED_TRUNCATED,
    }
    if damage == "cut":
        path.write_bytes(raw[:-1])
    elif damage == "longer":
        path.write_bytes(raw + b"x")
    elif damage == "flipped":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "absent":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())
    with web(sealed) as found:
        source = origin(found.url, lambda: pytest.fail("no registry"))
        with pytest.raises(RuntimeFault, match=FILES + path.name) as refused:
            opened(broker, source)
        source.close()
    assert refused.value.code is codes[damage]
