"""No DEK in the broker's memory, shown by looking, with controls that find it where it may be."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from broker.hsm.spawn import spawn_same_user
from tests.kit.hsm import OAEP, Prepared, ready, run, spki_of, worker
from tests.kit.memory import count, may_scan
from verifier.wire import canonical

pytestmark = pytest.mark.softhsm

ROOT = Path(__file__).resolve().parents[2]

RECIPIENT = """
import sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.kit.hsm import OAEP
alg, wrapped, pem = (bytes.fromhex(part) for part in sys.stdin.readline().split())
dek = load_pem_private_key(pem, None).decrypt(wrapped, OAEP[alg.decode()])
print(len(dek), flush=True)
sys.stdin.read()
"""


def _child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _say(child: subprocess.Popen[str], line: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()
    return child.stdout.readline()


def test_the_broker_never_holds_the_dek(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """Scans of a broker while it releases find no DEK and no PIN; the same scan finds the blob
    there, and the DEK in the recipient that unwraps it."""
    prepared = enrolled_home()
    spki = spki_of(guest)
    pin = (prepared.home / "hsm" / "pin").read_bytes()

    async def before() -> tuple[dict[str, object], bytes, bytes, str]:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
            released = await book.release(client, index, spki)
            known: dict[str, object] = {
                "genesis": prepared.genesis.hex(),
                "blob": book.blob.hex(),
                "epoch": book.epoch,
                "map": canonical.encode(book.map).hex(),
                "leaves": [entry.hex() for entry in book.leaves],
                "recipient": spki.hex(),
            }
            return known, book.dek, released.wrapped[0], released.alg

    known, dek, wrapped, alg = run(before())
    with _child("-m", "tests.kit.hsm_broker", str(prepared.home)) as broker:
        worker_pid = int(_say(broker, json.dumps(known)))
        assert broker.stdout is not None
        done = int(broker.stdout.readline())
        in_broker = [count(broker.pid, dek) + count(broker.pid, pin) for _ in range(12)]
        in_worker = count(worker_pid, pin) if may_scan(worker_pid) else 0
        alive = count(broker.pid, bytes.fromhex(str(known["blob"])))
        released = int(broker.stdout.readline())
        assert broker.stdin is not None
        broker.stdin.close()
        for line in broker.stdout:
            released = int(line)

    assert broker.returncode == 0
    assert released > done
    assert alive > 0, "the scan does not even find the blob, which the broker does hold"
    assert not any(in_broker)
    assert in_worker == 0, "the worker wipes the PIN after login"

    pem = guest.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with _child("-c", RECIPIENT) as recipient:
        parts = (alg.encode().hex(), wrapped.hex(), pem.hex())
        assert _say(recipient, " ".join(parts)) == "32\n"
        assert count(recipient.pid, dek) > 0, "positive control: the recipient must hold the DEK"
        assert guest.decrypt(wrapped, OAEP[alg]) == dek


PEERS = """
import asyncio, subprocess, sys
from pathlib import Path
from broker.hsm.spawn import spawn_same_user
from tests.kit.memory import may_scan

async def main():
    process, client = spawn_same_user(Path(sys.argv[1]), simulated=True)
    await client.info()
    with subprocess.Popen(["sleep", "60"]) as other:
        print(int(may_scan(process.pid)), int(may_scan(other.pid)), flush=True)
        other.kill()
    await client.close()
    process.wait(20)

asyncio.run(main())
"""


def test_the_worker_keeps_other_processes_of_its_user_out(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """A process of the same user, without CAP_SYS_PTRACE, cannot read the worker's memory."""
    prepared = enrolled_home()
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    command = [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", PEERS]
    done = subprocess.run(
        [*command, str(prepared.home)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    of_worker, of_other = done.stdout.split()[:2]

    if of_other == "0":
        pytest.skip("this system lets no process read another: nothing to tell apart")
    assert of_worker == "0"


def test_no_secret_stands_where_others_look(enrolled_home: Callable[[], Prepared]) -> None:
    """The worker's arguments and environment have no PIN, and it can leave no core."""
    prepared = enrolled_home()
    pin = (prepared.home / "hsm" / "pin").read_bytes()

    async def look() -> None:
        process, client = spawn_same_user(prepared.home, simulated=True)
        place = Path(f"/proc/{process.pid}")
        try:
            await client.info()
            assert pin not in (place / "cmdline").read_bytes()
            assert "NoNewPrivs:\t1" in (place / "status").read_text()
            if may_scan(process.pid):
                assert pin not in (place / "environ").read_bytes()
                limits = (place / "limits").read_text().splitlines()
                core = next(line for line in limits if "core file" in line)
                assert core.split()[4:6] == ["0", "0"]
        finally:
            await client.close()
            process.wait(20)

    run(look())
