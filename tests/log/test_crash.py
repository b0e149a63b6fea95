"""A broker killed at any moment: the log whole afterwards, nobody answered who is not in it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from broker.log.sequencer import Sequencer
from broker.store.database import open_store
from tests.kit.store import Ended, house, in_loop, url
from verifier.tlog.merkle import root_of
from verifier.wire import leaf as leaves

ROOT = Path(__file__).resolve().parents[2]

APPENDER = """
import asyncio, sys
from pathlib import Path
from broker.log.sequencer import Sequencer
from broker.store.database import open_store
from tests.kit.store import Ended, url

class Lost:
    '''A worker that can be asked for its head, and never signs.'''
    async def head(self, g):
        return HEAD
    async def extend(self, g, start, leaves):
        print('committed', flush=True)
        await asyncio.sleep(60)

async def main(path, g, size, root, state, time, checkpoint):
    global HEAD
    from broker.hsm.protocol import Head
    HEAD = Head(size, root, 0, state, time, checkpoint)
    async with await open_store(url(Path(path))) as store:
        await Sequencer(store, Lost()).append(g, Ended('crashed'))

args = sys.argv[1:]
asyncio.run(main(args[0], bytes.fromhex(args[1]), int(args[2]), bytes.fromhex(args[3]),
                 bytes.fromhex(args[4]), int(args[5]), bytes.fromhex(args[6])))
"""


@in_loop
async def test_kill_between_commit_and_signature(tmp_path: Path) -> None:
    """Killed after the commit, the leaf is there unsigned; the next start signs it."""
    async with house(tmp_path) as built:
        head = await built.hsm.head(built.g)
        command = [sys.executable, "-c", APPENDER, str(built.path), built.g.hex(), str(head.size)]
        command += [head.root.hex(), head.state.hex(), str(head.time), head.checkpoint.hex()]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - the test waits for it anyway
        assert child.stdout is not None
        assert child.stdout.readline() == "committed\n"
        child.send_signal(signal.SIGKILL)
        child.communicate()
        between = built.sql("SELECT size, signed_size FROM trees")

        await Sequencer(built.store, built.hsm).recover()

        after = built.sql("SELECT size, signed_size FROM trees")
        raw = [row[0] for row in built.sql("SELECT leaf FROM leaves ORDER BY idx")]
        assert (between, after) == ([(2, 1)], [(2, 2)])
        assert (await built.hsm.head(built.g)).root == root_of(raw)
        assert b"crashed" in raw[1]


SPENDER = """
import asyncio, hashlib, sys
from pathlib import Path
from broker.store.database import open_store
from tests.kit.store import url

async def main(path):
    async with await open_store(url(Path(path))) as store:
        for number in range(100_000):
            digest = hashlib.sha256(str(number).encode()).digest()
            await store.spend_challenge(digest, 2_000_000_000)
            print(digest.hex(), flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("wait", [0.05, 0.15])
@in_loop
async def test_challenges_stay_spent_over_a_kill(tmp_path: Path, wait: float) -> None:
    """Every challenge that `spend_challenge` returned for is spent after the process was killed."""
    async with house(tmp_path) as built:
        path = built.path
    child = subprocess.Popen(  # noqa: ASYNC220 - the test waits for it anyway
        [sys.executable, "-c", SPENDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(wait)  # noqa: ASYNC251 - nothing else runs here
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    # The last line may be cut off; then it was not said.
    said = [bytes.fromhex(line) for line in (first + rest).splitlines() if len(line) == 64]
    with closing(sqlite3.connect(path)) as connection:
        spent = {row[0] for row in connection.execute("SELECT digest FROM challenges_spent")}

    assert said
    assert set(said) <= spent
    async with await open_store(url(path)) as store:
        assert await store.spend(said[-1], 2_000_000_000) is False


@in_loop
async def test_drafts_names_survive_in_order(tmp_path: Path) -> None:
    """Leaves come back from the database in the order in which they were acknowledged."""
    async with house(tmp_path) as built:
        for number in range(5):
            await built.append(Ended(f"l-{number}"))
        raw = [row[0] for row in built.sql("SELECT leaf FROM leaves WHERE idx > 0 ORDER BY idx")]

    found = [leaves.decode(leaf) for leaf in raw]
    assert [leaf.lease for leaf in found if isinstance(leaf, leaves.LeaseEndLeaf)] == [
        f"l-{number}" for number in range(5)
    ]
