"""A process like a broker: it runs a worker and releases a key over and over, until told to stop.

`python -m tests.kit.hsm_broker HOME` reads one line of JSON from standard input (what a broker has
in its database), prints the worker's process id, then a number now and then, and ends at the end of
its input. Tests scan its memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from broker.hsm.spawn import spawn_same_user
from tests.kit.hsm import Book, Prepared
from verifier.tlog.merkle import leaf_hash
from verifier.wire import canonical, leaf


async def main(home: Path) -> None:
    """Release until standard input ends."""
    loop = asyncio.get_running_loop()
    known = json.loads(sys.stdin.readline())
    book = Book(Prepared(home, genesis=bytes.fromhex(known["genesis"])))
    book.blob = bytes.fromhex(known["blob"])
    book.epoch = known["epoch"]
    book.map = canonical.decode(bytes.fromhex(known["map"]), leaf.StateMap)
    for entry in known["leaves"]:
        book.leaves.append(bytes.fromhex(entry))
        book.tree.append(leaf_hash(book.leaves[-1]))
    recipient = bytes.fromhex(known["recipient"])
    process, client = spawn_same_user(home, simulated=True)
    print(process.pid, flush=True)  # noqa: T201 - its one way out
    stopped = loop.run_in_executor(None, sys.stdin.read)
    done = 0
    while not stopped.done():
        index = await book.push(client, book.release_leaf(recipient))
        await book.release(client, index, recipient)
        done += 1
        if done % 20 == 0:
            print(done, flush=True)  # noqa: T201 - same
    await client.close()
    process.wait(20)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
