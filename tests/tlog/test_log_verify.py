from __future__ import annotations

import argparse
import base64
import json

import pytest

from ostiary.cli import log_verify
from tests.kit.tlog import ORIGIN, Log
from verifier.tlog import note, prove

LOG = Log().append(*(b"leaf %d" % number for number in range(11)))
OTHER_HISTORY = Log().append(*(b"lie %d" % number for number in range(11)))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "receipt").write_bytes(LOG.receipt(6))
    (tmp_path / "leaf").write_bytes(b"leaf 6")
    return tmp_path


def command(*words: object) -> int:
    parser = argparse.ArgumentParser(prog="ostiary")
    log_verify.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["verify", *map(str, words)])
    return args.run(args)


def verify(files, *more: object, **changed: str) -> int:
    named = {"receipt": files / "receipt", "leaf": files / "leaf"}
    named |= {"origin": ORIGIN, "vkey": str(LOG.vkey)} | changed
    words = [word for name, value in named.items() for word in (f"--{name}", value)]
    return command(*words, *more)


def consistency(files, old: int, new: int, log: Log = LOG):
    proof = prove.consistency_proof(old, new, log.tree)
    path = files / "consistency"
    path.write_bytes(b"".join(base64.b64encode(value) + b"\n" for value in proof))
    return path


def taken(files, log: Log, size: int):
    path = files / "checkpoint"
    path.write_bytes(log.signed(size))
    return path


def test_accepts_and_says_what_it_checked(files, capsys):
    """A good receipt exits 0 and lists signature, origin, inclusion and what was not judged."""
    assert verify(files) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == [
        "ok  signature",
        "ok  origin",
        "ok  inclusion",
        "--  witnesses",
        "accept",
    ]
    assert f"number 6 (counted from 0) of 11, root {LOG.checkpoint().root.hex()}" in out[2]


def test_json(files, capsys):
    """The JSON answer has verdict, reasons, checks and claims."""
    assert verify(files, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["reasons"]) == ("accept", [])
    assert [check["name"] for check in answer["checks"]] == ["signature", "origin", "inclusion"]
    assert answer["claims"] == {
        "origin": ORIGIN,
        "index": 6,
        "size": 11,
        "root": LOG.checkpoint().root.hex(),
        "extension_lines": 0,
    }
    assert answer["not_judged"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"origin": "another"}, "log_origin"),
        ({"vkey": str(Log(seed=8).vkey)}, "log_signature"),
    ],
)
def test_refuses_with_the_reason(files, capsys, changed, reason):
    """Another origin or key exits 1 and names the reason."""
    assert verify(files, **changed) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"reject ({reason})"


def test_refuses_another_leaf(files, capsys):
    """A leaf with a byte added is not the logged one."""
    (files / "leaf").write_bytes(b"leaf 6\n")
    assert verify(files, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["reasons"]) == ("reject", ["log_proof"])
    assert [check["ok"] for check in answer["checks"]] == [False]


def test_the_same_head_taken_elsewhere(files, capsys):
    """A checkpoint of the same size must have the same root; then no proof is needed."""
    assert verify(files, "--checkpoint", taken(files, LOG, 11)) == 0
    assert "ok  consistency" in capsys.readouterr().out
    assert verify(files, "--checkpoint", taken(files, OTHER_HISTORY, 11)) == 1
    assert "NO  log_proof" in capsys.readouterr().out


def test_an_empty_tree_needs_no_proof(files):
    """Every tree extends the empty one."""
    assert verify(files, "--checkpoint", taken(files, LOG, 0)) == 0


@pytest.mark.parametrize("size", [4, 9, 20])
def test_older_and_younger_heads_need_a_proof(files, capsys, size):
    """Between heads of other sizes the proof is asked for, and decides."""
    grown = Log().append(*LOG.leaves, *(b"later %d" % number for number in range(9)))
    path = taken(files, grown, size)
    assert verify(files, "--checkpoint", path) == 1
    assert "a consistency proof is needed" in capsys.readouterr().out
    proof = consistency(files, *sorted((size, 11)), log=grown)
    assert verify(files, "--checkpoint", path, "--consistency", proof) == 0
    assert f"begins with the one of {min(size, 11)}" in capsys.readouterr().out


def test_a_fork_is_refused(files, capsys):
    """A head of another history of the same log, signed by the same key, is refused."""
    proof = consistency(files, 9, 11)
    path = taken(files, OTHER_HISTORY, 9)
    assert verify(files, "--checkpoint", path, "--consistency", proof) == 1
    assert "reject (log_proof)" in capsys.readouterr().out


def test_a_checkpoint_of_another_key_is_refused(files):
    """The second checkpoint must be signed as well as the first."""
    stranger = Log(seed=8).append(*LOG.leaves)
    assert verify(files, "--checkpoint", taken(files, stranger, 11)) == 1


def test_unreadable(files, capsys):
    """Missing, oversized and malformed inputs exit 2, with the file named and no traceback."""
    assert verify(files, receipt=str(files / "absent")) == 2
    assert "absent" in capsys.readouterr().out
    assert verify(files, vkey="nonsense") == 2
    assert verify(files, leaf=str(files)) == 2
    assert verify(files, "--consistency", files / "leaf") == 2
    assert "--consistency needs --checkpoint" in capsys.readouterr().out
    path = taken(files, LOG, 9)
    for raw in (b"AAAA\n", b"no newline", b"\n", b"x" * 10_000):
        (files / "consistency").write_bytes(raw)
        proof = files / "consistency"
        assert verify(files, "--checkpoint", path, "--consistency", proof) == 2
    (files / "receipt").write_bytes(b"nonsense")
    capsys.readouterr()
    assert verify(files, "--json") == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["reasons"]) == ("unreadable", ["malformed"])
    (files / "leaf").write_bytes(bytes(log_verify.MAX_LEAF + 1))
    (files / "receipt").write_bytes(LOG.receipt(6))
    assert verify(files) == 2


def test_extension_lines_are_shown(files, capsys):
    """Signed lines that mean nothing to us are counted in the answer, and refuse nothing."""
    text = LOG.checkpoint().text() + b"an extension\n"
    signed = note.assemble(text, [note.sign(text, ORIGIN, LOG.key)])
    head = LOG.receipt(6).split(b"\n\n", 1)[0]
    (files / "receipt").write_bytes(head + b"\n\n" + signed)
    assert verify(files, "--json") == 0
    assert json.loads(capsys.readouterr().out)["claims"]["extension_lines"] == 1
