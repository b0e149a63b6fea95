"""Canaries: DEK, PIN, vendor key and runtime claims turn up nowhere that they should not.

A broker runs as an operator runs it, with its worker; everything that it and its clients say, store
or log is then searched, for every usual spelling, and its memory while it works.
"""

from __future__ import annotations

import base64
import os
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from broker.errors import BrokerError
from tests.kit import memory
from tests.kit.broker import House, problem, running
from tests.kit.broker_home import MODEL, RELEASES, RENEWALS, TENANT, Prepared
from tests.kit.broker_outside import Outside
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64

CLAIMS = b'{"canary":"%s"}' % secrets.token_hex(16).encode()


def spellings(secret: bytes) -> dict[str, bytes]:
    """Return the forms in which bytes turn up in files and messages."""
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "repr": repr(secret).encode()[2:-1],
        "list": repr(list(secret)).encode()[1:-1],
    }
    for pad in range(3):  # the offset inside a longer run of base64
        first, end = -(-pad * 8 // 6), (pad + len(secret)) * 8 // 6
        text = base64.b64encode(bytes(pad) + secret)[first:end]
        found[f"base64 at {pad}"] = text
        found[f"base64url at {pad}"] = text.translate(bytes.maketrans(b"+/", b"-_"))
    return found


@dataclass
class Canaries:
    """What must not turn up."""

    secrets: dict[str, bytes]
    found: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, prepared: Prepared) -> Canaries:
        """Return those of a home: DEK, PIN, vendor's key, claims."""
        key = prepared.signers[TENANT].private_bytes(
            serialization.Encoding.Raw,
            serialization.PrivateFormat.Raw,
            serialization.NoEncryption(),
        )
        pin = (prepared.home / "hsm" / "pin").read_bytes().strip()
        return cls({"DEK": prepared.dek, "PIN": pin, "vendor key": key, "claims": CLAIMS})

    def search(self, where: str, raw: bytes) -> None:
        """Look for each in some bytes."""
        for name, secret in self.secrets.items():
            for how, form in spellings(secret).items():
                if form in raw:
                    self.found.append(f"{name} as {how} in {where}")

    def folder(self, root: Path) -> int:
        """Look in every file below a folder but the worker's own; return how many there were."""
        count = 0
        for path in sorted(root.rglob("*")):
            if path.is_file() and "hsm" not in path.relative_to(root).parts:
                self.search(str(path.relative_to(root)), path.read_bytes())
                count += 1
        return count


def test_the_scanner_finds(tmp_path: Path, prepared_broker: Prepared) -> None:
    """The positive control: every canary, in every spelling and place, is found where planted."""
    for name, secret in Canaries.of(prepared_broker).secrets.items():
        for how, form in spellings(secret).items():
            looked = Canaries.of(prepared_broker)
            (tmp_path / "planted").write_bytes(b"before " + form + b" behind")
            assert looked.folder(tmp_path) == 1
            assert any(line.startswith(f"{name} as ") for line in looked.found), (name, how)
    for pad in range(3):
        looked = Canaries.of(prepared_broker)
        looked.search("x", base64.b64encode(b"x" * pad + prepared_broker.dek + b"behind"))
        assert looked.found, pad
    with closing(sqlite3.connect(tmp_path / "planted.db")) as database, database:
        database.execute("CREATE TABLE t (b BLOB)")
        database.execute("INSERT INTO t VALUES (?)", (prepared_broker.dek,))
    looked = Canaries.of(prepared_broker)
    looked.folder(tmp_path)
    assert any(line.startswith("DEK as raw") for line in looked.found)


def test_nowhere(outside: Outside) -> None:
    """A run with success and failure leaves no canary in answers, logs, database or objects."""
    asked = outside.ask(claims=CLAIMS)
    answer = outside.send(RELEASES, asked.body())
    assert answer.status_code == 200, outside.log.decode()
    released = asked.open(answer.content)
    assert bytes(released.deks[MODEL].view()) == outside.prepared.dek
    renewing = outside.ask("renew", released.lease.id, claims=CLAIMS)
    assert outside.send(RENEWALS, renewing.renewal()).status_code == 200
    problem(outside.send(RELEASES, asked.body()), "challenge_spent")
    lying = outside.ask(claims=CLAIMS)
    problem(outside.send(RELEASES, lying.body(claims=B64(CLAIMS + b" "))), "evidence_refused")
    problem(outside.send(RELEASES, b"{" + CLAIMS), "malformed")
    headers = {"authorization": f"Bearer {CLAIMS.hex()}"}
    problem(outside.send(f"/v1/tenants/{TENANT}/keys", CLAIMS, **headers), "unauthenticated")
    path = outside.prepared.home / "ostiary.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON leaves BEGIN SELECT RAISE(ABORT, 'x'); END"
        )
    problem(outside.send(RELEASES, outside.ask(claims=CLAIMS).body()), "log_unavailable")
    assert b"log_unavailable" in outside.log

    looked = Canaries.of(outside.prepared)
    assert looked.folder(outside.prepared.home) > 10
    looked.search("log", outside.log)
    for raw in outside.said:
        looked.search("an answer", raw)
    process = Path(f"/proc/{outside.program.process.pid}")
    for name in ("cmdline", "environ"):
        looked.search(f"the broker's {name}", (process / name).read_bytes())
    assert looked.found == []


def test_exceptions(own: House, caplog: pytest.LogCaptureFixture) -> None:
    """No refusal, its cause or its traceback's text holds a canary, inside the broker either."""
    looked = Canaries.of(own.prepared)
    asked = own.ask(claims=CLAIMS)
    requests = [
        canonical.decode(raw, messages.ReleaseRequest)
        for raw in (
            asked.body(claims=B64(CLAIMS + b" ")),
            own.ask(claims=CLAIMS, keys=(MODEL,)).body(messages.Evidence(cpu=B64(CLAIMS))),
            asked.body(),
        )
    ]
    for request in requests:
        with pytest.raises(BrokerError) as refused:
            own.run(own.services.releases.release(request))
        error: BaseException | None = refused.value
        while error is not None:
            looked.search("an exception", f"{error} {error!r} {error.args}".encode())
            error = error.__cause__ or error.__context__
    looked.search("the log", caplog.text.encode())
    for row in own.sql("SELECT * FROM audit"):
        looked.search("the audit table", repr(row).encode())
    looked.search("the settings' repr", repr(own.services).encode())
    assert looked.found == []


def test_memory_of_the_broker(outside: Outside) -> None:
    """The DEK is never in the broker's memory while it releases it; its recipient has it."""
    pid = outside.program.process.pid
    if not memory.may_scan(pid):
        pytest.skip("this process may not read the broker's memory (ptrace_scope, no capability)")
    dek = outside.prepared.dek
    asked, answer = outside.ask(claims=CLAIMS), None
    for _ in range(8):
        asked = outside.ask(claims=CLAIMS)
        answer = outside.send(RELEASES, asked.body())
        assert answer.status_code == 200
        assert memory.count(pid, dek) == 0
    assert answer is not None
    # The scan sees what is there: a public key that was sent, and the key where it was opened.
    assert memory.count(pid, asked.identity.recipients[0].key[40:72]) > 0
    released = asked.open(answer.content)
    assert bytes(released.deks[MODEL].view()) == dek
    assert memory.count(os.getpid(), dek) > 0


def test_files_are_private(fresh: Prepared) -> None:
    """Database, PIN and token are for their owner alone."""
    with running(fresh) as house:
        house.released()
        for name in ("ostiary.db", "hsm/pin", "hsm/worker.db"):
            assert (fresh.home / name).stat().st_mode & 0o077 == 0, name
