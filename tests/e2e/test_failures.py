"""Disk, database, worker and process break: nothing is released unlogged, and heads survive."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from broker.errors import BrokerError, Code
from tests.kit.broker import House, problem, running
from tests.kit.broker_home import MODEL, RELEASES, SECOND, Prepared
from tests.kit.hsm import copy_home
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.note import VerifierKey
from verifier.wire.leaf import KeyState

ABORT = "CREATE TRIGGER broken BEFORE {} BEGIN SELECT RAISE(ABORT, 'this cannot be written'); END"


def head(house: House) -> Checkpoint:
    """Return the newest checkpoint, verified."""
    raw = house.vendor("GET", "/log/checkpoint").content
    vkey = VerifierKey(house.tenant.origin, bytes(house.tenant.genesis.log_key))
    return open_checkpoint(raw, house.tenant.origin, vkey)


def refuse_start(prepared: Prepared) -> BrokerError:
    """Return why the broker of this home does not start."""
    with pytest.raises(BrokerError) as refused, running(prepared):
        pass
    return refused.value


# The database.


def test_leaf_cannot_be_written(own: House) -> None:
    """When any row of a release cannot be written there is no leaf, no lease and no key."""
    for what in (
        "INSERT ON leaves",
        "INSERT ON nodes",
        "INSERT ON leases",
        "UPDATE OF size ON trees",
    ):
        own.sql(ABORT.format(what))
        own.refused(own.ask().body(), "log_unavailable")
        assert own.sql("SELECT count(*) FROM leases") == [(0,)]
        own.sql("DROP TRIGGER broken")

    own.released()


def test_checkpoint_cannot_be_stored(own: House) -> None:
    """When the checkpoint cannot be stored no key moves; the leaf stands, and is signed later."""
    own.released()
    before = head(own)
    own.sql(ABORT.format("UPDATE OF checkpoint ON trees"))
    own.refused(own.ask().body(), "log_unavailable", leaves=1)
    own.refused(own.ask().body(), "log_unavailable")

    own.sql("DROP TRIGGER broken")
    own.released()
    assert head(own).size == before.size + 2


def test_challenge_cannot_be_spent(own: House) -> None:
    """When a challenge cannot be spent durably it opens nothing, now or later."""
    asked = own.ask()
    own.sql(ABORT.format("INSERT ON challenges_spent"))
    own.refused(asked.body(), "database_unavailable")


def test_refusal_cannot_be_recorded(own: House) -> None:
    """When a refusal cannot be recorded the caller is still refused."""
    own.sql(ABORT.format("INSERT ON audit"))
    own.order(MODEL, KeyState.SUSPENDED)
    problem(own.send("POST", RELEASES, own.ask().body()), "database_unavailable", 503)


def test_objects_cannot_be_written(own: House) -> None:
    """When evidence cannot be stored for replay nothing is logged or released."""
    folder = own.prepared.home / "objects" / "tmp"
    folder.rmdir()
    folder.write_text("a file")
    own.refused(own.ask().body(), "database_unavailable")


def test_database_is_held(own: House) -> None:
    """While another process holds the write lock for a moment, a release waits for it."""
    asked = own.ask()
    with closing(sqlite3.connect(own.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sent = own.start(own.sending("POST", RELEASES, asked.body()))
        time.sleep(0.3)
        assert not sent.done()
        other.execute("ROLLBACK")

    assert sent.result(20).status_code == 200


def test_database_is_gone(fresh: Prepared) -> None:
    """Without its database a broker does not start, and makes no new one."""
    (fresh.home / "ostiary.db").unlink()

    assert refuse_start(fresh).code is Code.DATABASE_UNAVAILABLE
    assert not (fresh.home / "ostiary.db").exists()


def test_database_is_removed(own: House) -> None:
    """A database file removed under a running broker is never a fresh empty one."""
    own.released()
    asked = own.ask()
    for name in ("ostiary.db", "ostiary.db-wal", "ostiary.db-shm"):
        (own.prepared.home / name).unlink(missing_ok=True)
    answer = own.send("POST", RELEASES, asked.body())

    # POSIX: open files live on. Either way there is a log entry or no key, and no new file.
    if answer.status_code != 200:
        problem(answer, answer.json()["code"])
        assert answer.status_code == 503
    assert not (own.prepared.home / "ostiary.db").exists()


def test_database_is_garbage(fresh: Prepared) -> None:
    """A database that is none is refused at start."""
    (fresh.home / "ostiary.db").write_bytes(b"not a database" * 1000)

    assert refuse_start(fresh).code is Code.DATABASE_UNAVAILABLE


def backup(source: Path, target: Path) -> None:
    """Copy a live database as an operator's backup does."""
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def restore(prepared: Prepared, copy: Path) -> None:
    """Put an older copy in place of the database."""
    for name in ("ostiary.db-wal", "ostiary.db-shm"):
        (prepared.home / name).unlink(missing_ok=True)
    shutil.copyfile(copy, prepared.home / "ostiary.db")


def test_database_put_back(fresh: Prepared, tmp_path: Path) -> None:
    """A database put back to before a revocation agrees with itself, not with the worker."""
    with running(fresh) as house:
        house.released()
        backup(house.database, tmp_path / "copy.db")
        house.order(MODEL, KeyState.COMPROMISED)
    restore(fresh, tmp_path / "copy.db")

    refused = refuse_start(fresh)
    assert refused.code is Code.LOG_ROLLED_BACK
    assert "older database" in refused.detail


def test_database_put_back_and_grown(fresh: Prepared, tmp_path: Path) -> None:
    """A database put back and grown to the same size by another history is refused too."""
    copied = fresh.copied(tmp_path / "other")
    with running(fresh) as house:
        house.order(MODEL, KeyState.COMPROMISED)
    with running(copied) as house:
        house.order(SECOND, KeyState.COMPROMISED)
    restore(fresh, copied.home / "ostiary.db")

    assert refuse_start(fresh).code is Code.LOG_ROLLED_BACK


def test_database_put_back_under_a_running_broker(own: House, tmp_path: Path) -> None:
    """A database put back while the broker runs signs and releases nothing any more."""
    backup(own.database, tmp_path / "copy.db")
    own.order(MODEL, KeyState.SUSPENDED)
    with (
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
        closing(sqlite3.connect(own.database)) as live,
    ):
        copy.backup(live)

    answer = own.send("POST", RELEASES, own.ask().body())
    assert answer.status_code >= 400
    assert answer.json()["code"] in {"log_rolled_back", "state_moved", "log_unavailable"}


# Processes.


def kill(pid: int) -> None:
    """Kill a worker and wait until it is gone, or a zombie."""
    os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.01)


def test_worker_killed(fresh: Prepared) -> None:
    """With its worker dead a broker releases nothing; a restart signs what is unsigned."""
    with running(fresh) as house:
        house.released()
        before, asked, again = head(house), house.ask(), house.ask()
        kill(house.worker())
        # This release had been decided: its leaf may stand, without checkpoint and without key.
        answer = house.release(asked.body())
        problem(answer, answer.json()["code"])
        assert answer.json()["code"] in {"log_unavailable", "hsm_unavailable"}
        problem(house.release(again.body()), "log_unavailable", 503)
        assert head(house) == before
        size = house.size()
    with running(fresh) as house:
        after = head(house)
        assert (after.size, house.size()) == (size, size)
        assert size - before.size <= 1
        house.released()
        assert head(house).size == size + 1


def test_worker_killed_before_a_challenge(own: House) -> None:
    """With its worker dead from the start a broker gives no challenge: it has no key for one."""
    kill(own.worker())
    request = b'{"v":1,"tenant":"acme","purpose":"release","kind":"tdx","caller":"%s"}'
    answer = own.send("POST", "/v1/challenges", request % (b"ab" * 32))

    problem(answer, "hsm_unavailable", 503)


def test_worker_killed_is_no_health(own: House) -> None:
    """A broker whose worker died does not say that it serves."""
    assert own.send("GET", "/health").status_code == 200
    kill(own.worker())
    problem(own.send("GET", "/health"), "hsm_unavailable", 503)


def test_worker_killed_in_a_crowd(fresh: Prepared) -> None:
    """A worker that dies under load leaves answers that open, or refusals; and a log that holds."""
    with running(fresh) as house:
        asked = [house.ask() for _ in range(24)]
        bodies = [one.body() for one in asked]
        pid = house.worker()

        async def die() -> None:
            await asyncio.sleep(0.04)
            os.kill(pid, signal.SIGKILL)

        async def crowd() -> list[httpx.Response]:
            sent = (house.sending("POST", RELEASES, body) for body in bodies)
            dying = asyncio.create_task(die())
            answers = await asyncio.gather(*sent)
            await dying
            return list(answers)

        answers = house.run(crowd())
        good = 0
        for one, answer in zip(asked, answers, strict=True):
            if answer.status_code == 200:
                assert bytes(one.open(answer.content).deks[MODEL].view()) == fresh.dek
                good += 1
        leases = int(house.sql("SELECT count(*) FROM leases")[0][0])
        assert good <= leases
        size = house.size()
    with running(fresh) as house:
        assert head(house).size == size
        house.released()


def test_crash_between_leaf_and_checkpoint(fresh: Prepared) -> None:
    """A leaf that was committed and not signed for is signed at the next start, and gave no key."""
    with running(fresh) as house:
        house.released()
        before = head(house)
        house.sql(ABORT.format("UPDATE OF checkpoint ON trees"))
        house.refused(house.ask().body(), "log_unavailable", leaves=1)
        assert head(house) == before
    with closing(sqlite3.connect(fresh.home / "ostiary.db")) as database, database:
        database.execute("DROP TRIGGER broken")
    with running(fresh) as house:
        assert head(house).size == before.size + 1
        house.released()


def test_worker_state_is_gone(fresh: Prepared) -> None:
    """A worker that lost its heads and burnt permits does not start as a new one."""
    (fresh.home / "hsm" / "worker.db").unlink()

    assert refuse_start(fresh).code is Code.HSM_UNAVAILABLE


def test_token_is_gone(fresh: Prepared) -> None:
    """A token that is gone is no first start."""
    shutil.rmtree(fresh.home / "hsm" / "tokens")

    assert refuse_start(fresh).code is Code.HSM_UNAVAILABLE
    assert not (fresh.home / "hsm" / "tokens").exists()


def test_worker_put_back(fresh: Prepared, tmp_path: Path) -> None:
    """A worker's folder put back to before a revocation is brought forward by the database."""
    aside = fresh.copied(tmp_path / "aside")
    with running(fresh) as house:
        house.order(MODEL, KeyState.COMPROMISED)
    shutil.rmtree(fresh.home / "hsm")
    copy_home(aside.home, fresh.home)

    with running(fresh) as house:  # whoever can do this has the PIN, and so every key
        house.refused(house.ask().body(), "key_not_active")


def test_two_brokers_on_one_home(own: House) -> None:
    """A second broker on the same home does not start: its worker finds the home locked."""
    assert refuse_start(own.prepared).code is Code.HSM_UNAVAILABLE
    own.released()
