"""The limit of a release: what no broker of this design can spare, back to back in one process.

Two P-256 verifications (QE report, quote), one durable commit of the leaf and one checkpoint signed
in the token, both shared by a group of releases, the DEK rewrapped inside the token to RSA-3072,
and the answer signed there. No HTTP, no policy, no second process, nothing else made durable.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from benchmarks.common import BenchmarkError
from broker.hsm import ceremony
from broker.hsm.home import HsmHome
from broker.hsm.pkcs11 import find_module
from broker.hsm.token import DEK_BYTES, Token

_QE_REPORT: Final = 384
_SIGNED_QUOTE: Final = 632
_LEAF: Final = 1400
_CHECKPOINT: Final = 200
_ANSWER: Final = 6500
_KEK, _IMPORT, _LOG, _BROKER = b"kek", b"import", b"log", b"broker"
_ALGORITHM: Final = ec.ECDSA(SHA256())

PARTS: Final = ("verify", "commit", "checkpoint", "rewrap", "sign")


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """The parts, ready to run; each takes the number of releases that share it."""

    verify: Callable[[], object]
    commit: Callable[[int], object]
    checkpoint: Callable[[], object]
    rewrap: Callable[[], object]
    sign: Callable[[], object]

    def group(self, size: int) -> dict[str, float]:
        """Run one group of releases; return the seconds that each part took of one release."""
        spent = dict.fromkeys(PARTS, 0.0)
        clock = time.perf_counter

        def part(name: str, work: Callable[[], object]) -> None:
            began = clock()
            work()
            spent[name] += clock() - began

        for _ in range(size):
            part("verify", self.verify)
        part("commit", lambda: self.commit(size))
        part("checkpoint", self.checkpoint)
        for _ in range(size):
            part("rewrap", self.rewrap)
            part("sign", self.sign)
        return {name: seconds / size for name, seconds in spent.items()}

    def measure(self, size: int, releases: int) -> dict[str, float]:
        """Return the seconds that each part takes of one release, over at least `releases`."""
        groups = [self.group(size) for _ in range(max(1, releases // size))]
        return {name: sum(g[name] for g in groups) / len(groups) for name in PARTS}


@contextmanager
def parts(folder: Path) -> Iterator[Limit]:
    """Give the limit's parts on a token and a database of their own, in `folder`."""
    ceremony.init_token(folder, simulated=True)
    home = HsmHome(folder)
    with home.locked(), closing(Token(home, find_module(""), home.read_marker().label)) as token:
        spki = token.make_import_pair(_IMPORT, "import")
        token.make_kek(_KEK, "kek")
        token.make_signing_pair(_LOG, "log")
        token.make_signing_pair(_BROKER, "broker")
        blob = token.import_dek(_IMPORT, _KEK, _encrypted(spki))
        recipient = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        modulus = recipient.public_key().public_numbers().n.to_bytes(3072 // 8)
        text, answer = secrets.token_bytes(_CHECKPOINT), secrets.token_bytes(_ANSWER)
        with closing(sqlite3.connect(folder / "leaves.db", isolation_level=None)) as database:
            yield Limit(
                verify=_verify(),
                commit=_commit(database),
                checkpoint=lambda: token.sign(_LOG, text),
                rewrap=lambda: token.release([(_KEK, blob)], modulus),
                sign=lambda: token.sign(_BROKER, answer),
            )


def _encrypted(spki: bytes) -> bytes:
    key = load_der_public_key(spki)
    if not isinstance(key, rsa.RSAPublicKey):
        raise BenchmarkError("the import key is RSA")
    sha1 = SHA1()  # noqa: S303 - SoftHSM 2.6.1 has no other OAEP
    scheme = padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None)
    return key.encrypt(secrets.token_bytes(DEK_BYTES), scheme)


def _verify() -> Callable[[], None]:
    checks = []
    for size in (_QE_REPORT, _SIGNED_QUOTE):
        key, data = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(size)
        checks.append((key.public_key(), key.sign(data, _ALGORITHM), data))

    def verify() -> None:
        for public, signature, data in checks:
            public.verify(signature, data, _ALGORITHM)

    return verify


def _commit(database: sqlite3.Connection) -> Callable[[int], None]:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE leaves (idx INTEGER PRIMARY KEY, leaf BLOB NOT NULL)")
    leaf = secrets.token_bytes(_LEAF)

    def commit(size: int) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO leaves (leaf) VALUES (?)", [(leaf,)] * size)
        database.execute("COMMIT")

    return commit
