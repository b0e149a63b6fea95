"""`ostiary log verify`: check a receipt at home, without the broker and without a network.

Guarantees: exit 0 only if the named log signed a tree in which exactly this leaf stands and, where
a second checkpoint is given, that both are heads of one growing tree. Does not judge witnesses:
without one, a log can show another tree to someone else, and the output says so every time.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from verifier.errors import Reason, VerifierError
from verifier.tlog import encoding, merkle, note
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.proof import MAX_RECEIPT, verify_receipt

ACCEPTED, REFUSED, UNREADABLE = 0, 1, 2
"""Exit codes: all checks passed; one did not; an input could not be read."""

MAX_LEAF = 1 << 20
"""Most bytes of a leaf, 1 MiB."""

_MAX_PROOF_TEXT = merkle.MAX_PROOF * 45
"""One line of base64 and its newline for each hash."""

_UNJUDGED = "witnesses: none were checked; a log without one can show another tree to someone else"
_UNREADABLE_REASONS = frozenset({Reason.MALFORMED, Reason.TOO_LARGE})


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, and what was seen."""

    name: str
    ok: bool
    detail: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `verify` to the commands under `ostiary log`; the parsed `run` attribute runs it."""
    parser = subparsers.add_parser(
        "verify",
        help="check a receipt offline",
        description="Check offline that a leaf stands in a log. Exit 0: yes. 1: no. 2: unreadable.",
    )
    parser.add_argument("--receipt", type=Path, required=True, help="the tlog-proof file")
    parser.add_argument("--leaf", type=Path, required=True, help="the leaf, byte for byte")
    parser.add_argument("--origin", required=True, help="the log that you expect, by its name")
    parser.add_argument("--vkey", required=True, help="the log's key: name+id+base64")
    parser.add_argument(
        "--checkpoint", type=Path, help="a checkpoint of the same log that you took at another time"
    )
    parser.add_argument(
        "--consistency",
        type=Path,
        help="proof between the two checkpoints, one base64 hash a line; needs --checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what the arguments name, print it, and return the exit code."""
    checks: list[Check] = []
    facts: dict[str, str | int] = {"origin": args.origin}
    try:
        _verify(args, checks, facts)
    except VerifierError as error:
        checks.append(Check(str(error.reason), ok=False, detail=str(error)))
        code = UNREADABLE if error.reason in _UNREADABLE_REASONS else REFUSED
        _show(args, code, checks, facts, [str(error.reason)])
        return code
    except OSError as error:
        detail = f"{str(error.filename)!r}: {error.strerror}"  # a name may not be printable
        checks.append(Check("read", ok=False, detail=detail))
        _show(args, UNREADABLE, checks, facts, ["unreadable"])
        return UNREADABLE
    _show(args, ACCEPTED, checks, facts, [])
    return ACCEPTED


def _verify(args: argparse.Namespace, checks: list[Check], facts: dict[str, str | int]) -> None:
    if args.consistency is not None and args.checkpoint is None:
        raise VerifierError(Reason.MALFORMED, "--consistency needs --checkpoint")
    vkey = note.VerifierKey.parse(args.vkey)
    receipt = _read(args.receipt, MAX_RECEIPT)
    leaf = _read(args.leaf, MAX_LEAF)
    # 1. The receipt against the leaf: signature, origin, inclusion.
    index, head = verify_receipt(receipt, leaf, args.origin, vkey)
    facts.update(index=index, size=head.size, root=head.root.hex())
    facts.update(extension_lines=len(head.extensions))  # signed, and without meaning to us
    checks.append(Check("signature", ok=True, detail=f"the checkpoint is signed by {vkey.name}"))
    checks.append(Check("origin", ok=True, detail=f"it is of the log {args.origin}"))
    inclusion = (
        f"the leaf is number {index} (counted from 0) of {head.size}, root {head.root.hex()}"
    )
    checks.append(Check("inclusion", ok=True, detail=inclusion))
    if args.checkpoint is None:
        return
    # 2. The other checkpoint by itself.
    other = open_checkpoint(_read(args.checkpoint, note.MAX_NOTE), args.origin, vkey)
    detail = f"of the same log, signed by the same key, {other.size} leaves"
    checks.append(Check("checkpoint", ok=True, detail=detail))
    # 3. Both are heads of one growing tree.
    old, new = sorted((other, head), key=lambda each: each.size)
    proof = _proof(args.consistency, old, new)
    merkle.verify_consistency(old.size, new.size, proof, old.root, new.root)
    detail = f"the tree of {new.size} leaves begins with the one of {old.size}"
    checks.append(Check("consistency", ok=True, detail=detail))


def _proof(path: Path | None, old: Checkpoint, new: Checkpoint) -> list[bytes]:
    """Read the consistency proof. None is needed for equal sizes or for an empty old tree."""
    if path is None:
        if old.size not in {0, new.size}:
            raise VerifierError(
                Reason.LOG_PROOF,
                f"the two checkpoints differ in size ({old.size} and {new.size} leaves): "
                "a consistency proof is needed (--consistency)",
            )
        return []
    text = _read(path, _MAX_PROOF_TEXT)
    if text and not text.endswith(b"\n"):
        raise VerifierError(Reason.MALFORMED, "consistency proof does not end in a newline")
    return [encoding.hash_line(line, "consistency proof") for line in text.split(b"\n")[:-1]]


def _read(path: Path, limit: int) -> bytes:
    """Return the bytes of a file, reading no more than one byte past `limit`."""
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{str(path)!r}: more than {limit} bytes")
    return raw


def _show(
    args: argparse.Namespace,
    code: int,
    checks: list[Check],
    facts: dict[str, str | int],
    reasons: list[str],
) -> None:
    verdict = {ACCEPTED: "accept", REFUSED: "reject", UNREADABLE: "unreadable"}[code]
    if args.json:
        document = {
            "verdict": verdict,
            "reasons": reasons,
            "checks": [asdict(check) for check in checks],
            "claims": facts,
            "not_judged": [_UNJUDGED],
        }
        print(json.dumps(document, indent=2))
        return
    for check in checks:
        print(f"{'ok ' if check.ok else 'NO '} {check.name}: {check.detail}")
    print(f"--  {_UNJUDGED}")
    print(f"{verdict}" + (f" ({', '.join(reasons)})" if reasons else ""))
