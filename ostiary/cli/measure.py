"""`ostiary policy measure`: reference values computed from what a machine is started with.

Guarantees: prints a `[[reference]]` that goes into a policy as it stands, with the SHA-256 of every
file that went into it; a value that cannot be computed is refused by name, with what to do instead.
Asks no server and no clock. Does not say that a machine really holds these values: compare them
with reviewed evidence (`ostiary policy capture --expect`).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from ostiary.cli.common import OK, REFUSED, UNREADABLE, Subparsers, console, fail, write
from ostiary.cli.draft import Source
from ostiary.cli.inputs import UnreadableError
from ostiary.client import ClientError
from ostiary.measure import boot
from ostiary.measure.errors import MeasureError
from ostiary.measure.firmware import Firmware
from ostiary.measure.mrtd import mrtd
from ostiary.measure.pe import Image
from ostiary.measure.snp import SnpLaunch, launch_digest
from verifier import policy as policies
from verifier.errors import VerifierError
from verifier.wire.canonical import hexdecode, require_id

MAX_ARTEFACT: Final = 1 << 30
"""Most bytes read of a kernel, an initrd or a UKI."""
MAX_DISK: Final = 4 << 20
"""Bytes read of a disk: its partition table stands in the first few dozen kilobytes."""
_REGISTER: Final = 48


@final
@dataclass(slots=True)
class Snippet:
    """Collects what is written: sources, what was said, and the reference's lines."""

    kind: str
    name: str
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def read(self, what: str, path: Path, limit: int = MAX_ARTEFACT) -> bytes:
        """Return a file's bytes, and note its digest.

        Raises:
            UnreadableError: it cannot be read, or is too large.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(limit + 1)
        except (OSError, ValueError) as error:
            raise UnreadableError(f"--{what}: {error}") from error
        if len(raw) > limit:
            raise UnreadableError(f"--{what}: {path}: more than {limit} bytes")
        self.notes.append(f"{what}: {Source(path.name, hashlib.sha256(raw).hexdigest())}")
        return raw

    def add(self, name: str, value: bytes, said: str) -> None:
        """Add a value with its comment."""
        self.lines += [f"# {said}", f'{name} = "{value.hex()}"']

    def text(self) -> str:
        """Return the TOML."""
        head = ["# Computed by `ostiary policy measure`; compare it with evidence, then sign."]
        head += [f"# From {note}" for note in self.notes]
        head += ["", "[[reference]]", f'kind = "{self.kind}"', f"name = {json.dumps(self.name)}"]
        return "\n".join([*head, *self.lines]) + "\n"


def add_parser(verbs: Subparsers) -> None:
    """Add `measure` to the verbs of `policy`."""
    text = "compute reference values from firmware, kernel, UKI"
    kinds = verbs.add_parser("measure", help=text, description=text).add_subparsers(required=True)
    snp = _kind(kinds, "snp", _snp, "the launch digest of a SEV-SNP guest (extra `measure`)")
    _file(snp, "firmware", "OVMF, whole", required=True)
    _kernel(snp)
    snp.add_argument("--vcpus", type=int, required=True, metavar="N")
    snp.add_argument("--vcpu-type", metavar="T", help="QEMU's CPU model, e.g. EPYC-v4")
    snp.add_argument(
        "--guest-features",
        type=functools.partial(int, base=16),
        default=1,
        metavar="HEX",
        help="SEV_FEATURES as the host sets it; 1 unless it switches more on (DebugSwap: 21)",
    )
    snp.add_argument("--vmm", choices=("qemu", "ec2", "gce"), default="qemu")

    tdx = _kind(kinds, "tdx", _tdx, "MRTD and RTMR 1 and 2 of a TD under QEMU")
    _file(tdx, "firmware", "OVMF, whole", required=True)
    _boot(tdx)
    _file(tdx, "disk", "the disk that is booted from: its partition table is measured")
    tdx.add_argument(
        "--page-order",
        choices=("page", "section"),
        default="page",
        help="how the host measures memory: page by page (Linux 6.16 on), or section by section",
    )
    tdx.add_argument(
        "--separator-in-rtmr0",
        action="store_true",
        help="older OVMF: RTMR 1's separator goes into RTMR 0",
    )
    for register in ("rtmr0", "rtmr2"):
        tdx.add_argument(
            f"--{register}", type=_register, metavar="HEX", help="as reviewed evidence shows it"
        )
    tdx.add_argument(
        "--partial", action="store_true", help="print what can be computed, though it is no policy"
    )

    pcr = _kind(kinds, "pcr", _pcr, "PCR 4, 9, 11 and 12 from boot applications, kernel or UKI")
    _boot(pcr)
    pcr.add_argument("--pcrs", type=_pcrs, required=True, metavar="N,N", help="which PCRs")
    pcr.add_argument("--bank", choices=("sha256", "sha384", "sha512"), default="sha256")
    pcr.add_argument(
        "--phases",
        default=boot.PHASES,
        metavar="P:P",
        help=f"systemd's boot phases so far, for PCR 11; {boot.PHASES} unless given",
    )


def _kind(
    kinds: Subparsers, name: str, make: Callable[[argparse.Namespace, Snippet], None], text: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=text, description=text)
    parser.add_argument("--name", default="computed", help="the reference's name")
    parser.add_argument("--out", type=Path, metavar="F", help="write there, else print")
    parser.set_defaults(run=functools.partial(_run, name, make))
    return parser


def _file(parser: argparse.ArgumentParser, name: str, text: str, *, required: bool = False) -> None:
    parser.add_argument(f"--{name}", type=Path, required=required, metavar="F", help=text)


def _kernel(parser: argparse.ArgumentParser) -> None:
    _file(parser, "kernel", "QEMU's -kernel")
    _file(parser, "initrd", "QEMU's -initrd")
    parser.add_argument("--append", metavar="STR", help="QEMU's -append")


def _boot(parser: argparse.ArgumentParser) -> None:
    _kernel(parser)
    _file(parser, "uki", "a unified kernel image, booted from a disk")
    parser.add_argument(
        "--application",
        type=Path,
        nargs="+",
        default=(),
        metavar="F",
        help="boot applications before it, in order: shim, boot loader",
    )
    parser.add_argument(
        "--inner-kernel-unmeasured",
        action="store_true",
        help="the UKI's stub starts the kernel itself, so that the firmware does not measure it",
    )
    parser.add_argument(
        "--initrd-option",
        choices=("before", "after"),
        default="before",
        help="where OVMF writes initrd=initrd: before the command line (since 2025), or after it",
    )


def _register(text: str) -> bytes:
    try:
        raw = hexdecode(text)
    except VerifierError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(raw) != _REGISTER:
        raise argparse.ArgumentTypeError(f"{2 * _REGISTER} hexadecimal digits expected")
    return raw


def _pcrs(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not set(numbers) <= set(map(str, range(24))) or len(set(numbers)) != len(numbers):
        raise argparse.ArgumentTypeError("PCRs expected, such as 4,11")
    return tuple(sorted(map(int, numbers)))


def _run(
    name: str, make: Callable[[argparse.Namespace, Snippet], None], args: argparse.Namespace
) -> int:
    """Compute and write; return 0, 1 for what cannot be computed, 2 for unreadable files."""
    said = f"policy measure {name}"
    try:
        require_id(args.name, "--name")
        snippet = Snippet({"pcr": "tpm"}.get(name, name), args.name)
        make(args, snippet)
        text = snippet.text()
        if not getattr(args, "partial", False):
            policies.from_toml(text.encode())
        if args.out is not None:
            write(args.out, text.encode())
    except (UnreadableError, ClientError) as error:
        return fail(f"{said}: {error}", UNREADABLE)
    except VerifierError as error:
        return fail(f"{said}: {error.reason.value}: {error}", UNREADABLE)
    except MeasureError as error:
        status = UNREADABLE if error.code == "malformed" else REFUSED
        return fail(f"{said}: {error.code}: {error}", status)
    if args.out is None:
        print(text, end="")
    else:
        console.print(f"computed  {args.out}; compare it with reviewed evidence before you sign")
    return OK


def _snp(args: argparse.Namespace, snippet: Snippet) -> None:
    launch = SnpLaunch(
        firmware=snippet.read("firmware", args.firmware),
        vcpus=args.vcpus,
        kernel=None if args.kernel is None else snippet.read("kernel", args.kernel),
        initrd=None if args.initrd is None else snippet.read("initrd", args.initrd),
        append=args.append,
        vcpu_type=args.vcpu_type,
        guest_features=args.guest_features,
        vmm=args.vmm,
    )
    _note_append(args, snippet)
    machine = f"{args.vcpus} vCPUs, {args.vcpu_type or 'any type'}, {args.vmm}"
    snippet.notes.append(f"the machine: {machine}, SEV_FEATURES {args.guest_features:#x}")
    said = "MEASUREMENT: the launch digest; another count or type of vCPUs gives another."
    snippet.add("measurement", launch_digest(launch), said)


def _note_append(args: argparse.Namespace, snippet: Snippet) -> None:
    if args.append is not None:
        snippet.notes.append(f"append: {json.dumps(args.append)}")


@final
@dataclass(frozen=True, slots=True)
class _Artefacts:
    """What is booted: `digests` of all images, in order, by bank."""

    images: tuple[Image, ...]
    uki: Image | None
    options: bytes
    initrd: bytes | None
    direct: bool

    def digests(self, bank: boot.Bank, snippet: Snippet) -> tuple[bytes, ...]:
        """Return the images' digests, which are noted too: boot claims and CI name them."""
        found = tuple(image.authenticode(bank) for image in self.images)
        told = " ".join(digest.hex() for digest in found)
        snippet.lines.append(f"# Authenticode {bank} of what is booted, in order: {told}")
        return found


def _artefacts(args: argparse.Namespace, snippet: Snippet) -> _Artefacts:
    """Read what is booted.

    Raises:
        MeasureError: `malformed`: it cannot be booted together.
    """
    if args.kernel is not None and (args.uki is not None or args.application):
        raise MeasureError("malformed", "a kernel of QEMU's is booted by no loader: give one")
    if args.kernel is None and (args.initrd is not None or args.append is not None):
        raise MeasureError("malformed", "an initrd or a command line needs --kernel")
    if args.kernel is None and args.uki is None and not args.application:
        raise MeasureError("malformed", "nothing is booted: give --kernel, --uki or --application")
    images = [Image.parse(snippet.read("application", path)) for path in args.application]
    uki, initrd, options = None, None, b""
    if args.uki is not None:
        uki = Image.parse(snippet.read("uki", args.uki))
        images.append(uki)
        if not args.inner_kernel_unmeasured:
            images.append(boot.inner_kernel(uki))
    if args.kernel is not None:
        images.append(Image.parse(snippet.read("kernel", args.kernel)))
        if args.initrd is not None:
            initrd = snippet.read("initrd", args.initrd)
        _note_append(args, snippet)
        where: boot.InitrdOption = args.initrd_option if initrd else "none"
        options = boot.load_options(args.append or "", initrd=where)
    return _Artefacts(tuple(images), uki, options, initrd, args.kernel is not None)


def _tdx(args: argparse.Namespace, snippet: Snippet) -> None:
    firmware = Firmware.parse(snippet.read("firmware", args.firmware))
    booted = _artefacts(args, snippet)
    table = None
    if args.disk is not None:
        table = boot.gpt_event(_beginning(snippet, args.disk))
    measured = boot.Boot(
        booted.digests("sha384", snippet),
        direct=booted.direct,
        partition_table=table,
        separator=not args.separator_in_rtmr0,
    )
    snippet.add(
        "mr_td",
        mrtd(firmware, order=args.page_order),
        f"MRTD: the firmware, measured {args.page_order} by {args.page_order}.",
    )
    _given(args, snippet, "rtmr0", "the host's TD HOB, ACPI tables and boot variables")
    snippet.add("rtmr1", boot.rtmr1(measured), "RTMR 1: boot applications.")
    if booted.direct:
        digests = boot.stub_digests("sha384", booted.options, booted.initrd)
        said = "RTMR 2: command line and initrd, as Linux measures them from 6.9 on."
        snippet.add("rtmr2", boot.extend("sha384", digests), said)
    else:
        _given(args, snippet, "rtmr2", "what boot loader and systemd-stub hand to the kernel")


def _beginning(snippet: Snippet, path: Path) -> bytes:
    """Return a disk's beginning; the digest that is noted is of the partition table's bytes."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DISK)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"--disk: {error}") from error
    digest = hashlib.sha256(boot.gpt_event(raw)).hexdigest()
    snippet.notes.append(f"the partition table of {Source(path.name, digest)}")
    return raw


def _given(args: argparse.Namespace, snippet: Snippet, name: str, why: str) -> None:
    """Add a register that reviewed evidence showed, or refuse it by name."""
    value = getattr(args, name)
    register = f"RTMR {name[-1]}"
    if value is not None:
        snippet.add(name, value, f"{register}: given, not computed: {why}.")
    elif args.partial:
        snippet.lines.append(f"# {name} is NOT COMPUTED: {why}. Take it from reviewed evidence.")
    else:
        raise MeasureError(
            "not_computable",
            f"{register} holds {why}: take it from reviewed evidence (`ostiary policy capture`) "
            f"and give --{name}, or have the rest with --partial",
        )


def _pcr(args: argparse.Namespace, snippet: Snippet) -> None:
    booted = _artefacts(args, snippet)
    values: dict[int, tuple[bytes, str]] = {}
    measured = boot.Boot(booted.digests(args.bank, snippet), direct=booted.direct)
    values[4] = boot.pcr4(measured, args.bank), "boot applications"
    if booted.direct:
        digests = boot.stub_digests(args.bank, booted.options, booted.initrd)
        values[9] = boot.extend(args.bank, digests), "command line and initrd"
    if booted.uki is not None:
        values[12] = boot.extend(args.bank, ()), "nothing: no command line but the UKI's, no add-on"
    boot.refuse_registers(args.pcrs, {*values, *([11] if booted.uki is not None else [])})
    if booted.uki is not None and 11 in args.pcrs:  # noqa: PLR2004 - the UKI's PCR
        said = f"the UKI's sections, then {args.phases or 'no phase'}"
        values[11] = boot.pcr11(booted.uki, args.bank, phases=args.phases), said
    snippet.lines += _table(args.bank, args.pcrs, values)


def _table(bank: str, asked: Sequence[int], values: dict[int, tuple[bytes, str]]) -> list[str]:
    """Return the PCRs as a table of their own, each with its comment."""
    lines = [f'# For `tpm.bank = "{bank}"`, with `tpm.pcrs` naming at least these.', "pcrs = {"]
    pairs = [f'{each} = "{values[each][0].hex()}"' for each in asked]
    lines[-1] += " " + ", ".join(pairs) + " }"
    comments = [f"# PCR {each}: {json.dumps(values[each][1])[1:-1]}." for each in asked]
    return [*comments, *lines]
