"""The store: whole or old, never older, never what somebody changed."""

from __future__ import annotations

import fcntl
import json
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import vendors
from tests.kit.collateral import DAY, crl_part, tcb_part
from tests.kit.vendors import NOW
from verifier.anchors import PINNED
from verifier.collateral.parts import Part
from verifier.collateral.store import Store
from verifier.errors import Reason, VerifierError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give an empty store."""
    return Store(tmp_path / "store", vendors.anchors())


def again(store: Store) -> Store:
    """Return the store as another process would open it."""
    return Store(store.root, vendors.anchors())


def refused(store: Store, part: Part, *reasons: Reason) -> None:
    """Check that a fresh look at the part is refused so."""
    with pytest.raises(VerifierError) as caught:
        again(store).get(part.name)

    assert caught.value.reason in reasons, caught.value


def files(store: Store, kind: str) -> list[Path]:
    """Return the store's files of a kind."""
    return [path for path in (store.root / kind).rglob("*") if path.is_file()]


def test_what_is_put_is_got(store: Store) -> None:
    """By this process and by another, byte for byte."""
    part = tcb_part()
    assert store.get(part.name) is None
    store.put(part)

    for each in (store, again(store)):
        assert each.get(part.name) == part
        assert each.names() == [part.name]


def test_the_index_tells_all_dates(store: Store) -> None:
    """An operator can read what ends when."""
    part = tcb_part()
    store.put(part)
    (path,) = files(store, "parts")
    told = json.loads(path.read_text())

    assert path.relative_to(store.root / "parts").as_posix() == f"{part.name.text}.json"
    assert told["fetched"] == NOW
    assert {d["end"] for d in told["dates"]} == {w.end for w in part.windows.each}
    assert len(told["dates"]) == 3


def test_another_process_s_part_is_seen(store: Store) -> None:
    """What is known is forgotten with the file that it came from."""
    store.put(tcb_part())
    other = again(store)
    assert other.get(tcb_part().name) is not None
    newer = tcb_part(19, NOW)
    store.put(newer)

    assert other.get(newer.name) == newer


@pytest.mark.parametrize("kind", ["objects", "parts"])
def test_a_flipped_bit_on_disk_is_found(store: Store, kind: str) -> None:
    """Whatever byte changes, the part is not returned."""
    part = tcb_part()
    store.put(part)
    for path in files(store, kind):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
            try:
                seen = again(store).get(part.name)
            except VerifierError:
                continue
            # When it was fetched is this machine's own word; all else is signed.
            assert seen is not None
            assert seen.fetched != part.fetched
            assert (seen.digest, seen.windows) == (part.digest, part.windows)
        path.write_bytes(whole)

    assert again(store).get(part.name) == part


def test_an_index_that_promises_longer_dates(store: Store) -> None:
    """Dates come from what was signed."""
    part = tcb_part()
    store.put(part)
    (path,) = files(store, "parts")
    path.write_text(path.read_text().replace(str(part.windows.end), str(part.windows.end + DAY)))

    refused(store, part, Reason.COLLATERAL_MALFORMED)


def test_an_object_that_is_gone(store: Store) -> None:
    """Nothing missing is skipped."""
    part = tcb_part()
    store.put(part)
    for path in files(store, "objects"):
        path.unlink()

    refused(store, part, Reason.COLLATERAL_MALFORMED)


def test_an_object_that_cannot_be_read(store: Store) -> None:
    """A folder in the place of a file is an error of ours."""
    part = tcb_part()
    store.put(part)
    for path in files(store, "objects"):
        path.unlink()
        path.mkdir()

    refused(store, part, Reason.COLLATERAL_UNAVAILABLE)


def test_files_that_are_too_large(store: Store) -> None:
    """Sizes are bounded before anything is read whole."""
    part = tcb_part()
    store.put(part)
    (index,) = files(store, "parts")
    index.write_bytes(b" " * 70_000)

    refused(store, part, Reason.TOO_LARGE)


def test_a_file_that_is_no_part(store: Store) -> None:
    """A stray file is named, not passed over."""
    store.put(tcb_part())
    (store.root / "parts" / "x.json").write_text("{}")
    with pytest.raises(VerifierError) as caught:
        store.names()

    assert caught.value.reason is Reason.MALFORMED


def test_other_roots_than_it_was_filled_under(store: Store) -> None:
    """A simulator's store is worth nothing to a process that does not trust the simulator."""
    part = tcb_part()
    store.put(part)
    with pytest.raises(VerifierError) as caught:
        Store(store.root, PINNED).get(part.name)

    assert caught.value.reason is Reason.ROOT_UNKNOWN


@pytest.mark.parametrize(
    ("held", "offered"),
    [
        (tcb_part(18), tcb_part(17)),
        (tcb_part(18), tcb_part(18, NOW - 2 * DAY)),
        (crl_part(), crl_part(NOW - 2 * DAY)),
    ],
)
def test_no_step_back(store: Store, held: Part, offered: Part) -> None:
    """Neither number nor date may fall, unless somebody says so."""
    store.put(held)
    with pytest.raises(VerifierError) as caught:
        store.put(offered)
    assert caught.value.reason is Reason.COLLATERAL_TOO_OLD
    assert again(store).get(held.name) == held
    store.put(offered, allow_older=True)

    assert again(store).get(held.name) == offered


def test_early_and_standard_do_not_meet(store: Store) -> None:
    """Both sets are kept; the early one's higher number does not shut the standard one out."""
    store.put(tcb_part(20, update="early"))
    store.put(tcb_part(18))

    assert len(store.names()) == 2


def test_putting_again_heals(store: Store) -> None:
    """A damaged part holds nothing back and is written anew."""
    part = tcb_part()
    store.put(part)
    for path in (*files(store, "objects"), *files(store, "parts")):
        path.write_bytes(b"rot")
    store.put(part)

    assert again(store).get(part.name) == part


@contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """Make the kernel refuse to let any file of this process grow past `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(store: Store) -> None:
    """What cannot be written is an error; what was there stays, and no debris is left."""
    part, newer = tcb_part(), tcb_part(19, NOW)
    store.put(part)
    before = sorted(files(store, "objects") + files(store, "parts"))
    with disk_of(100), pytest.raises(VerifierError) as caught:
        store.put(newer)

    assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE
    assert sorted(files(store, "objects") + files(store, "parts")) == before
    assert again(store).get(part.name) == part


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """A store that cannot be made is an error of ours."""
    (tmp_path / "store").write_text("")
    store = Store(tmp_path / "store", vendors.anchors())
    for act in (lambda: store.put(tcb_part()), lambda: store.get(tcb_part().name)):
        with pytest.raises(VerifierError) as caught:
            act()
        assert caught.value.reason is Reason.COLLATERAL_UNAVAILABLE


def test_writers_wait_for_each_other(store: Store) -> None:
    """Comparing and replacing are one step: another process's write comes before or after it."""
    part = tcb_part()
    store.put(part)
    newer = tcb_part(19, NOW)
    writer = threading.Thread(target=again(store).put, args=(newer,))
    with (store.root / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.1)
        assert writer.is_alive()
        assert len(files(store, "objects")) == 2
    writer.join()

    assert again(store).get(part.name) == newer
