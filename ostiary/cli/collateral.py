"""`ostiary collateral`: fetch endorsements, carry them across an air gap, and see what ends first.

The store is the broker's (`collateral/store` in its home) unless `--store` names another; a running
broker sees at once what is put into it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from broker import settings as broker_settings
from broker.errors import BrokerError
from broker.roots import read_roots
from ostiary import clock
from ostiary.cli import common, gpu_evidence
from ostiary.cli.common import OK, REFUSED, UNREADABLE, Subparsers, console
from ostiary.client import load_key
from verifier import x509
from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.collateral import amd, azure, bundle, gpus, intel, maa, nvidia, parts, platform
from verifier.collateral.parts import Part
from verifier.collateral.platform import AmdPlatform, IntelPlatform
from verifier.collateral.sources import Services, Stored
from verifier.collateral.store import Dates, Store, dates_of
from verifier.collateral.web import Budget, Web
from verifier.errors import Reason, VerifierError
from verifier.maa.keys import key_ids
from verifier.nvgpu import needs, rim
from verifier.nvgpu.needs import Needs
from verifier.snp.report import SnpReport
from verifier.tdx import quote
from verifier.wire import canonical

_EVIDENCE: Final = 1 << 20
_SOON: Final = 7 * 86_400


def add_parser(subparsers: Subparsers) -> None:
    """Add the verbs."""
    parser = subparsers.add_parser("collateral", help="fetch, carry and look at endorsements")
    verbs = parser.add_subparsers(required=True)
    _add_fetch(verbs)
    export = _add(verbs, "export", _export, "write all current parts into one signed file")
    export.add_argument("out", type=Path)
    export.add_argument("--key", type=Path, required=True, metavar="F", help="signing key (PEM)")
    export.add_argument("--only", action="append", default=[], metavar="PREFIX", help="of names")
    taken = _add(verbs, "import", _import, "check a signed file and put its parts into the store")
    taken.add_argument("bundle", type=Path)
    _add_signers(taken, required=True)
    taken.add_argument(
        "--allow-older", action="store_true", help="step back to older parts (a rollback)"
    )
    show = _add(verbs, "show", _show, "the dates of every part, and which one ends first")
    show.add_argument("--bundle", type=Path, metavar="F", help="of this file, not of the store")
    _add_signers(show, required=False)


def _add(
    subparsers: Subparsers, name: str, command: common.Command, help_text: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--store", type=Path, metavar="DIR", help="default: the broker's")
    parser.add_argument(
        "--dangerously-trust-simulated-roots",
        type=Path,
        metavar="F",
        help="roots of a SIMULATOR; what chains to them proves nothing",
    )

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except BrokerError as error:
            return common.fail(str(error), REFUSED)
        except VerifierError as error:
            return common.fail(f"{error.reason.value}: {error}", REFUSED)

    parser.set_defaults(run=common.guarded(run))
    return parser


def _add_signers(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--signer", type=Path, action="append", default=[], required=required, metavar="F.pub"
    )
    parser.add_argument("--threshold", type=int, default=1, help="how many of them must have")


def _add_fetch(verbs: Subparsers) -> None:
    fetch = _add(verbs, "fetch", _fetch, "ask the vendors for a platform's parts")
    what = fetch.add_mutually_exclusive_group(required=True)
    what.add_argument("--quote", type=Path, metavar="F", help="for the platform of this TDX quote")
    what.add_argument("--sgx-quote", type=Path, metavar="F", help="for that of this SGX quote")
    what.add_argument("--report", type=Path, metavar="F", help="for the chip of this SNP report")
    what.add_argument("--fmspc", metavar="HEX", help="for an Intel family, with --ca and --tee")
    what.add_argument("--product", choices=("Milan", "Genoa", "Turin"), help="for an AMD product")
    what.add_argument(
        "--gpu-evidence", type=Path, nargs="+", metavar="F", help="for these GPUs and switches"
    )
    what.add_argument("--rim", nargs="+", metavar="ID", help="NVIDIA's RIMs of these ids")
    what.add_argument("--maa", metavar="URL", help="keys of Azure Attestation's instance, to --out")
    fetch.add_argument("--out", type=Path, metavar="F", help="with --maa: where to write them")
    fetch.add_argument("--ca", choices=("platform", "processor"), default="platform")
    fetch.add_argument("--tee", choices=("tdx", "sgx"), default="tdx")
    fetch.add_argument("--vlek", action="store_true", help="with --product: a cloud's keys")
    fetch.add_argument("--certificates", type=Path, metavar="F", help="the report's host table")
    fetch.add_argument("--update", choices=("standard", "early"), default="standard")
    fetch.add_argument("--pcs", default=intel.PCS, metavar="URL", help="PCS or PCCS")
    fetch.add_argument("--root-crl", default="", metavar="URL")
    fetch.add_argument("--kds", default=amd.KDS, metavar="URL")
    fetch.add_argument("--azure-cache", nargs="?", const=azure.CACHE, default="", metavar="URL")
    fetch.add_argument("--azure-imds", nargs="?", const=azure.GUEST, default="", metavar="URL")
    fetch.add_argument("--nvidia-rim", default=nvidia.RIM, metavar="URL", help="RIM service")
    fetch.add_argument("--nvidia-ocsp", default=nvidia.OCSP, metavar="URL")
    fetch.add_argument("--nvidia-crl", default=nvidia.CRL, metavar="URL")
    fetch.add_argument("--nvidia-key", type=Path, metavar="F", help="file with a service key")
    fetch.add_argument("--force", action="store_true", help="also what is current and here")


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One part as it is shown."""

    name: str
    number: int
    issued: int
    fetched: int
    dates: tuple[Dates, ...]

    @property
    def first(self) -> Dates:
        """What of it ends first."""
        return min(self.dates, key=lambda dates: dates.end)

    def state(self, now: int) -> str:
        """Return a word for how it stands."""
        if now > self.first.end:
            return "ENDED"
        if now < max(dates.start for dates in self.dates):
            return "NOT YET"
        return "ends soon" if self.first.end - now < _SOON else "current"


def _row(part: Part) -> Row:
    return Row(part.name.text, part.number, part.issued, part.fetched, dates_of(part))


def _anchors(args: argparse.Namespace) -> Anchors:
    path = args.dangerously_trust_simulated_roots
    return PINNED if path is None else read_roots(path)


def _store(args: argparse.Namespace) -> Store:
    folder = args.store or broker_settings.home() / "collateral" / "store"
    return Store(folder, _anchors(args))


def _signers(paths: Sequence[Path]) -> list[bytes]:
    return [
        canonical.b64decode(common.read(path).decode("ascii", "replace").strip()) for path in paths
    ]


def _fetch(args: argparse.Namespace) -> int:
    if args.maa is not None or args.out is not None:
        return _fetch_maa(args)
    store = _store(args)
    anchors = _anchors(args)
    machine = _gpu_needs(args, anchors) or _machine(args, anchors)
    asyncio.run(_ask(args, store, machine))
    console.print(f"store     {store.root}")
    return OK


def _fetch_maa(args: argparse.Namespace) -> int:
    """Write a key set to a file: nobody signs it, so it is no part of the store."""
    if args.maa is None or args.out is None:
        return common.fail("collateral fetch: --maa and --out go together", UNREADABLE)

    async def ask() -> bytes:
        web = Web()
        try:
            return await maa.fetch(web, args.maa)
        finally:
            await web.aclose()

    raw = asyncio.run(ask())
    common.write(args.out, raw)
    console.print(f"wrote     {args.out}, {len(key_ids(raw))} keys of {args.maa}")
    return OK


def _gpu_needs(args: argparse.Namespace, anchors: Anchors) -> Needs | None:
    if args.gpu_evidence is not None:
        devices = [
            device
            for path in args.gpu_evidence
            for device in gpu_evidence.read(common.read(path, gpu_evidence.MAX_FILE), path.name)
        ]
        return needs.read(devices, now=clock.now(), anchors=anchors)
    if args.rim is not None:
        return Needs(tuple(map(rim.check_id, args.rim)), ())
    return None


def _machine(args: argparse.Namespace, anchors: Anchors) -> IntelPlatform | AmdPlatform:
    if args.quote is not None:
        read = quote.parse(common.read(args.quote, _EVIDENCE))
        return platform.of_quote(read, "tdx", anchors, Cache())
    if args.sgx_quote is not None:
        enclave = quote.parse_sgx(common.read(args.sgx_quote, _EVIDENCE))
        return platform.of_quote(enclave, "sgx", anchors, Cache())
    if args.report is not None:
        table = b"" if args.certificates is None else common.read(args.certificates, _EVIDENCE)
        return platform.of_report(SnpReport.parse(common.read(args.report, _EVIDENCE)), table)
    if args.fmspc is not None:
        return IntelPlatform(args.tee, canonical.hexdecode(args.fmspc.lower()), args.ca)
    return AmdPlatform(args.product, "vlek" if args.vlek else "vcek", b"", b"")


async def _ask(
    args: argparse.Namespace, store: Store, machine: IntelPlatform | AmdPlatform | Needs
) -> None:
    web = Web()
    try:
        services = Services(
            intel=intel.IntelService(web, args.pcs, args.root_crl),
            amd=amd.AmdService(web, args.kds, Budget(amd.BURST, amd.PER_MINUTE)),
            thim=(
                *((azure.ThimGuest(web, args.azure_imds),) if args.azure_imds else ()),
                *((azure.ThimCache(web, args.azure_cache),) if args.azure_cache else ()),
            ),
            nvidia=nvidia.NvidiaService(
                web,
                args.nvidia_rim,
                args.nvidia_ocsp,
                args.nvidia_crl,
                key="" if args.nvidia_key is None else _key(args.nvidia_key),
            ),
        )
        source = Stored(
            store, services, _anchors(args), clock.now, update=args.update, force=args.force
        )
        fetched: list[Part]
        if isinstance(machine, Needs):
            fetched = await _gpu_parts(source, machine)
        elif isinstance(machine, IntelPlatform):
            fetched = [*await source.intel_parts(machine)]
        else:
            fetched = [*await source.amd_parts(machine)]
            if machine.tcb and not machine.vek:
                fetched.append(await source.vek(machine, fetched[0]))
        for part in fetched:
            end = x509.rfc3339(part.windows.end)
            console.print(f"have      {part.name.text}  until {end}")
        await source.aclose()
    finally:
        await web.aclose()


def _key(path: Path) -> str:
    return common.read(path).decode("ascii", "replace").strip()


async def _gpu_parts(source: Stored, wanted: Needs) -> list[Part]:
    """Return all parts of a set; a person who names a RIM wants to hear that it is not there."""
    found = [*(await gpus.gather(source, wanted)).parts]
    names = {part.name.text for part in found}
    for name in map(parts.nv_rim, wanted.rim_ids):
        if name.text not in names:
            raise VerifierError(Reason.COLLATERAL_MISSING, f"{name.text}: NVIDIA does not have it")
    return found


def _export(args: argparse.Namespace) -> int:
    store, now = _store(args), clock.now()
    wanted = [
        name
        for name in store.names()
        if not args.only or any(name.text.startswith(prefix) for prefix in args.only)
    ]
    parts = [part for part in map(store.get, wanted) if part is not None]
    # What has ended is of no use on the other side; say so rather than carry it.
    for part in parts:
        if not part.may_serve(now):
            console.print(f"left out  {part.name.text}: not current")
        elif not part.is_current(now):
            console.print(f"ENDED     {part.name.text}: only a policy that names it admits it")
    current = [part for part in parts if part.may_serve(now)]
    common.write(args.out, bundle.write(current, load_key(args.key), made=now))
    first = min((_row(part).first for part in current), key=lambda dates: dates.end)
    console.print(f"wrote     {args.out}, {len(current)} parts")
    console.print(f"first to end: {first.what}, {x509.rfc3339(first.end)}")
    return OK


def _import(args: argparse.Namespace) -> int:
    raw = common.read(args.bundle, bundle.MAX_BUNDLE)
    store = _store(args)
    carried = bundle.opened(raw, _signers(args.signer), threshold=args.threshold)
    parts = bundle.parts_of(carried, _anchors(args), now=clock.now())
    bundle.take_in(store, parts, allow_older=args.allow_older)
    console.print(f"took in   {len(parts)} parts, bundle made {x509.rfc3339(carried.made)}")
    console.print(f"store     {store.root}")
    return OK


def _show(args: argparse.Namespace) -> int:
    damaged: list[str] = []
    if args.bundle is not None:
        if not args.signer:
            raise VerifierError(Reason.DOCUMENT_SIGNATURE, "name the bundle's --signer")
        raw = common.read(args.bundle, bundle.MAX_BUNDLE)
        carried = bundle.opened(raw, _signers(args.signer), threshold=args.threshold)
        rows = [Row(p.name, p.number, p.issued, p.fetched, p.dates) for p in carried.parts]
    else:
        rows = _rows(_store(args), damaged)
    now = clock.now()
    _print(rows, now)
    for line in damaged:
        console.print(f"DAMAGED   {line}")
    usable = all(row.state(now) in {"current", "ends soon"} for row in rows)
    return OK if usable and rows and not damaged else REFUSED


def _rows(store: Store, damaged: list[str]) -> list[Row]:
    rows = []
    for name in store.names():
        try:
            part = store.get(name)
        except VerifierError as error:
            damaged.append(f"{name.text}: {error.reason.value}: {error}")
            continue
        if part is not None:
            rows.append(_row(part))
    return rows


def _print(rows: Iterable[Row], now: int) -> None:
    ordered = sorted(rows, key=lambda row: row.first.end)
    if not ordered:
        console.print("no parts")
        return
    lines = [("part", "what", "number", "from", "until", "state")]
    for row in ordered:
        for place, dates in enumerate(sorted(row.dates, key=lambda dates: dates.end)):
            what = dates.what.removeprefix(row.name).removeprefix(": ") or "itself"
            number = str(row.number) if row.number else ""
            name, number, state = (
                (_short(row.name), number, row.state(now)) if place == 0 else ("", "", "")
            )
            window = (x509.rfc3339(dates.start), x509.rfc3339(dates.end))
            lines.append((name, what, number, *window, state))
    # Not a rich table: that cuts names to the terminal's width, and they are there to be copied.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.print("  ".join(cells).rstrip(), markup=False)
    first = ordered[0]
    console.print(
        f"first to end: {_short(first.name)}, {x509.rfc3339(first.first.end)} "
        f"(fetched {x509.rfc3339(first.fetched)})"
    )


def _short(text: str) -> str:
    """Return text with a chip's id cut short: 128 digits fill a line."""
    return "/".join(f"{p[:12]}…" if len(p) > 64 else p for p in text.split("/"))  # noqa: PLR2004 - longer than any digest
