"""`ostiary log`: fetch the tenant's checkpoint and receipts, and check them at home."""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.cli import common, log_verify
from ostiary.cli.common import OK, Subparsers, console
from verifier.tlog.note import VerifierKey
from verifier.wire import leaf


def add_parser(subparsers: Subparsers) -> None:
    """Add `log fetch`, `log show` and `log verify`."""
    parser = subparsers.add_parser("log", help="the tenant's log")
    verbs = parser.add_subparsers(required=True)
    log_verify.add_parser(verbs)
    fetch = verbs.add_parser("fetch", help="take a leaf, its receipt and the checkpoint home")
    fetch.add_argument("index", type=int)
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    show = verbs.add_parser("show", help="what happened, leaf by leaf")
    for verb, command in ((fetch, _fetch), (show, _show)):
        common.add_broker_options(verb)
        verb.set_defaults(run=common.guarded(command))


def _fetch(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        (entry,) = client.leaves(args.index, 1)
        receipt, checkpoint = client.receipt(args.index), client.checkpoint()
        tenant = client.tenant
    args.out.mkdir(parents=True, exist_ok=True)
    for name, raw in (("leaf.json", entry), ("receipt.txt", receipt), ("checkpoint", checkpoint)):
        common.write(args.out / name, raw)
    vkey = VerifierKey(tenant.origin, bytes(tenant.genesis.log_key))
    console.print(f"taken home to {args.out}; check it offline, anywhere:")
    console.print(
        f"  ostiary log verify --receipt {args.out}/receipt.txt --leaf {args.out}/leaf.json "
        f"--checkpoint {args.out}/checkpoint --origin {tenant.origin} --vkey '{vkey}'"
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
