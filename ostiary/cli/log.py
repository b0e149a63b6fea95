"""`ostiary log`: fetch the tenant's checkpoint and receipts, and check them at home."""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.cli import common, log_verify
from ostiary.cli.common import OK, Subparsers, console
from ostiary.client import ClientError
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.note import VerifierKey
from verifier.tlog.proof import verify_receipt
from verifier.wire import leaf


def add_parser(subparsers: Subparsers) -> None:
    """Add `log fetch`, `log show` and `log verify`."""
    parser = subparsers.add_parser("log", help="the tenant's log")
    verbs = parser.add_subparsers(required=True)
    log_verify.add_parser(verbs)
    fetch = verbs.add_parser("fetch", help="take a leaf, its receipt and the checkpoint home")
    fetch.add_argument("index", type=_index, help="of the leaf, counted from 0; see log show")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    show = verbs.add_parser("show", help="what happened, leaf by leaf")
    for verb, command in ((fetch, _fetch), (show, _show)):
        common.add_broker_options(verb)
        verb.set_defaults(run=common.guarded(command))


def _index(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):  # noqa: PLR2004 - below 2^53
        raise argparse.ArgumentTypeError("a leaf's number, counted from 0, expected")
    return int(text)


def _fetch(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        tenant = client.tenant
        vkey = VerifierKey(tenant.origin, bytes(tenant.genesis.log_key))
        entries = client.leaves(args.index, 1)
        if not entries:
            raise ClientError("no_such_leaf", f"the log has no leaf {args.index} yet")
        files = {"leaf.json": entries[0], "receipt.txt": client.receipt(args.index)}
        files["checkpoint"] = client.checkpoint()
        _, head = verify_receipt(files["receipt.txt"], entries[0], tenant.origin, vkey)
        newest = open_checkpoint(files["checkpoint"], tenant.origin, vkey)
        if newest.size != head.size:  # the log grew meanwhile: show that it only grew
            files["consistency.txt"] = client.consistency(*sorted((head.size, newest.size)))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        common.write(args.out / name, raw)
    console.print(f"taken home to {args.out}; check it offline, anywhere:")
    consistency = f"--consistency {args.out}/consistency.txt " if len(files) > 3 else ""  # noqa: PLR2004 - there is a fourth
    console.print(
        f"  ostiary log verify --receipt {args.out}/receipt.txt --leaf {args.out}/leaf.json "
        f"--checkpoint {args.out}/checkpoint {consistency}--origin {tenant.origin} --vkey '{vkey}'"
    )
    return OK


def _show(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        start = 0
        while page := client.leaves(start):
            for index, raw in enumerate(page, start):
                entry = leaf.decode(raw)
                kind = type(entry).__name__.removesuffix("Leaf")
                console.print(f"{index:>6}  {entry.time}  epoch {entry.epoch:<4} {kind}")
            start += len(page)
    return OK
