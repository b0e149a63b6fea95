"""Other encrypted checkpoints: `tensorizer` and `cryptotensors`, each in a process of its own.

Guarantees: the peer's time is from its own encrypted files, just written and so in the page cache,
to tensors in memory, taken inside its process; its imports are not counted. A peer that is not
installed is named on standard error and has no row. They are in the dependency group
`bench-peers`; they need torch, so OSTIARY_BENCH_PEERS may name another environment's Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.common import Sample

NAMES: Final = ("tensorizer", "cryptotensors")
_PYTHON: Final = os.environ.get("OSTIARY_BENCH_PEERS", sys.executable)
_READY: Final = "ready"
_GROUP: Final = "its dependency group is bench-peers"

_LOOP: Final = """
import json, os, sys, time
from pathlib import Path
plain, work, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
import torch
torch.set_num_threads(count)
from concurrent.futures import ThreadPoolExecutor
from safetensors.torch import load_file as load_plain
files = sorted(plain.glob("*.safetensors"))
def serve(load):
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        kept = load()
        print(json.dumps(time.perf_counter() - begun), flush=True)
        del kept
"""

_SCRIPTS: Final = {
    "tensorizer": _LOOP
    + """
from tensorizer import DecryptionParams, EncryptionParams, TensorDeserializer, TensorSerializer
key = os.urandom(32)
for file in files:
    target = work / (file.name + ".tensors")
    writer = TensorSerializer(str(target), encryption=EncryptionParams(key=key))
    writer.write_state_dict(load_plain(file))
    writer.close()
def load():
    kept = []
    for file in files:
        reader = TensorDeserializer(
            str(work / (file.name + ".tensors")), device="cpu", num_readers=count,
            encryption=DecryptionParams.from_key(key),
        )
        kept.append({name: reader[name] for name in reader.keys()})
        reader.close()
    return kept
serve(load)
""",
    "cryptotensors": _LOOP
    + """
import base64
import cryptotensors
from cryptotensors.torch import load_file, save_file
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
def text(raw):
    return base64.b64encode(raw).decode()
signer = Ed25519PrivateKey.generate()
public = text(signer.public_key().public_bytes_raw())
keys = [
    {"kty": "oct", "alg": "aes256gcm", "kid": "e", "k": text(os.urandom(32))},
    {
        "kty": "okp", "alg": "ed25519", "kid": "s", "x": public,
        "d": text(signer.private_bytes_raw()),
    },
]
cryptotensors.register_direct_key_provider(keys=keys)
for file in files:
    save_file(load_plain(file), work / file.name, config={"enc_key": keys[0], "sign_key": keys[1]})
def load():
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(load_file, [work / file.name for file in files]))
serve(load)
""",
}


@contextmanager
def peer(name: str, plain: Path, work: Path, processors: int) -> Iterator[Sample | None]:
    """Encrypt the checkpoint in `plain` as `name` does, and give what takes one load's seconds.

    Gives None, having said why on standard error, where the peer cannot run.
    """
    work.mkdir(parents=True)
    command = [_PYTHON, "-c", _SCRIPTS[name], str(plain), str(work), str(processors)]
    words = work / "words"
    with (
        words.open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("pipes were asked for")
        if process.stdout.readline().strip() != _READY:
            process.wait()
            why = words.read_text(errors="replace").strip().splitlines()[-1:]
            print(f"SKIPPED: {name}, encrypted: {' '.join(why)} ({_GROUP})", file=sys.stderr)
            yield None
            return
        ask, answer = process.stdin, process.stdout

        def sample() -> float:
            ask.write("\n")
            ask.flush()
            return float(json.loads(answer.readline()))

        try:
            yield sample
        finally:
            ask.close()
