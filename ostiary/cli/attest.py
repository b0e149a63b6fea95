"""`ostiary runtime attest`: the machine's evidence alone, for a broker's challenge or for nobody.

Guarantees: what is written are the bytes that the devices gave, under the names by which `ostiary
verify` takes them. Asks for no key and spends no lease. Evidence for report data that was named on
the command line is worth nothing in a release: there it is bound to a challenge.
"""

from __future__ import annotations

import argparse
import base64
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from inference_runtime import exchange
from inference_runtime.attester import REPORT_DATA_SIZE, ReportDevice
from inference_runtime.client import BrokerClient
from ostiary import vendor
from ostiary.cli import common, inputs, machines
from ostiary.cli.common import OK, Subparsers, console
from ostiary.cli.inputs import UnreadableError
from ostiary.client import ClientError
from verifier.wire import binding, canonical
from verifier.wire.canonical import B64
from verifier.wire.messages import Evidence, Kind

_SWITCH: Final = 2
_GPU_NONCE: Final = 32


def add_parser(verbs: Subparsers) -> None:
    """Add `attest` to the verbs of `runtime`."""
    parser = verbs.add_parser(
        "attest",
        help="give this machine's evidence, for a broker's challenge or for data of yours",
        description="Give this machine's evidence. With --broker it is bound to a fresh challenge, "
        "as a release's is, and the machine's anchor is compared; with --report-data it carries "
        "what you say.",
    )
    parser.set_defaults(run=common.guarded(attest))
    parser.add_argument("--broker", metavar="URL", help="ask it for a challenge")
    parser.add_argument("--tenant", metavar="NAME", help="with --broker")
    parser.add_argument("--model", metavar="ID/VERSION", help="with --broker")
    parser.add_argument(
        "--report-data", metavar="HEX", help="64 bytes that the evidence carries; asks no broker"
    )
    parser.add_argument(
        "--gpu-nonce", metavar="HEX", help="with --report-data and --gpus: the GPUs' 32 bytes"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write files for `ostiary verify` there, else JSON"
    )
    machines.add_options(parser)


@final
@dataclass(frozen=True, slots=True)
class Attested:
    """Evidence, and what it is bound to."""

    kind: Kind
    report_data: bytes
    gpu_nonce: bytes
    evidence: Evidence
    missing: tuple[str, ...] = ()
    told: dict[str, Any] = field(default_factory=dict)


def attest(args: argparse.Namespace) -> int:
    """Give the evidence; what the machine does not offer is told on standard error."""
    device = machines.make_device(args)
    found = _for_nobody(args, device) if args.broker is None else _for_broker(args, device)
    for sentence in found.missing:
        print(f"note: {sentence}", file=sys.stderr)
    if args.out is not None:
        keep(found, args.out)
        return OK
    shown = {
        "kind": found.kind,
        **found.told,
        "report_data": found.report_data.hex(),
        "evidence": json.loads(canonical.encode(found.evidence)),
    }
    console.print_json(json.dumps(shown))
    return OK


def _for_broker(args: argparse.Namespace, device: ReportDevice) -> Attested:
    if args.report_data is not None or args.tenant is None or args.model is None:
        raise ClientError("machine", "--broker wants --tenant and --model, and no --report-data")
    model = vendor.parse_ref(args.model)
    identity = exchange.Identity.generate()
    with BrokerClient(args.broker) as client:
        answer = client.challenge(args.tenant, "release", device.kind, identity)
    launch = device.launch_config()
    anchor = exchange.read_anchor(
        answer.document,
        launch.value,
        simulated_allowed=args.simulated_device is not None,
        extended=launch.extended,
    )
    bound = exchange.attest(
        device,
        identity,
        anchor,
        challenge=answer.challenge,
        purpose="release",
        keys=(model,),
        lease="",
        claims=b"",
        gpus=machines.make_gpus(args),
    )
    nonce = binding.gpu_nonce(answer.challenge, identity.recipients)
    told = {"genesis": anchor.digest.hex()}
    return Attested(device.kind, bound.report_data, nonce, bound.evidence, bound.missing, told)


def _for_nobody(args: argparse.Namespace, device: ReportDevice) -> Attested:
    report_data = _hex("--report-data", args.report_data, REPORT_DATA_SIZE)
    gpus = machines.make_gpus(args)
    nonce = b"" if gpus is None else _hex("--gpu-nonce", args.gpu_nonce, _GPU_NONCE)
    shown = () if gpus is None else gpus.collect(nonce)
    ak = device.ak
    seen = device.report(report_data)
    evidence = Evidence(
        cpu=B64(seen.cpu),
        event_log=B64(seen.event_log),
        endorsements=B64(seen.aux),
        ak=B64(ak),
        gpus=shown,
        vtpm=seen.vtpm,
    )
    return Attested(device.kind, report_data, nonce, evidence, seen.missing)


def _hex(option: str, text: str | None, size: int) -> bytes:
    if text is None:
        raise ClientError("machine", f"{option} with {size} bytes in hexadecimal, or --broker")
    try:
        raw = inputs.hexadecimal(option, text)
    except UnreadableError as error:
        raise ClientError("file", str(error)) from error
    if len(raw) != size:
        raise ClientError("file", f"{option}: {size} bytes expected, {len(raw)} given")
    return raw


def keep(found: Attested, folder: Path) -> None:
    """Write the evidence into a folder that is new or empty, and print how to judge it.

    Raises:
        ClientError: `file`, naming what cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError("file", f"{folder}: {error.strerror}") from error
    common.write(folder / "evidence.json", canonical.encode(found.evidence))
    common.write(folder / "report-data.hex", found.report_data.hex().encode() + b"\n")
    words = ["ostiary", "verify", found.kind]
    for option, name, raw in _files(found):
        if not raw:
            continue
        common.write(folder / name, raw)
        if option:
            words += [*option.split(), str(folder / name)]
    words += _chain(found, folder)
    if found.evidence.vtpm is not None:
        words += ["--nonce", binding.tpm_qualifying_data(found.report_data).hex()]
    if not found.kind.startswith("azure-"):
        words += ["--report-data", found.report_data.hex()]
    lines = [shlex.join(words)]
    if found.evidence.gpus:
        common.write(folder / "gpus.json", _gpus(found))
        gpus = ["ostiary", "verify", "nvidia", "--evidence", str(folder / "gpus.json")]
        lines.append(shlex.join([*gpus, "--nonce", found.gpu_nonce.hex()]))
    console.print(f"evidence  {folder}")
    for line in lines:
        console.print(f"judge it  {line} --at TIME ...", markup=False)


def _files(found: Attested) -> list[tuple[str, str, bytes]]:
    """Return option, name and content of every file; an option may be empty."""
    evidence, kind = found.evidence, found.kind
    azure, tdx = kind.startswith("azure-"), kind.endswith("tdx")
    cpu = ("--report", "report.bin")
    if tdx:
        cpu = ("--td-quote", "td-quote.bin") if azure else ("--quote", "quote.bin")
    files = [
        (*cpu, bytes(evidence.cpu)),
        ("--event-log", "event-log.bin", bytes(evidence.event_log)),
        # A certificate table of the host's: VEK, ASK and ARK are asked of AMD instead.
        ("", "endorsements.bin", bytes(evidence.endorsements)),
    ]
    vtpm = evidence.vtpm
    if vtpm is None:
        return files
    pcrs: dict[str, dict[str, str]] = {}
    for pcr in vtpm.pcrs:
        pcrs.setdefault(pcr.bank, {})[str(pcr.index)] = pcr.value.hex()
    return [
        *files,
        ("--hcl-report", "hcl-report.bin", bytes(vtpm.hcl_report)),
        ("--tpm-message", "tpm-message.bin", bytes(vtpm.message)),
        ("--tpm-signature", "tpm-signature.bin", bytes(vtpm.signature)),
        ("--pcrs", "pcrs.json", json.dumps(pcrs, indent=1).encode()),
        ("--event-log" if azure else "--tpm-log", "tpm-log.bin", bytes(vtpm.event_log)),
        ("" if azure else "--ak", "ak.der", bytes(evidence.ak)),
    ]


def _chain(found: Attested, folder: Path) -> list[str]:
    certificates = () if found.evidence.vtpm is None else found.evidence.vtpm.certificates
    names = []
    for place, certificate in enumerate(certificates):
        path = folder / f"ak-chain-{place}.der"
        common.write(path, certificate)
        names.append(str(path))
    return ["--ak-chain", *names] if names else []


def _gpus(found: Attested) -> bytes:
    """Return the devices as `nvattest` writes them; `arch` only tells a switch from a GPU."""
    return json.dumps(
        [
            {
                "arch": "LS10" if device.kind == _SWITCH else "GPU",
                "nonce": found.gpu_nonce.hex(),
                "evidence": base64.b64encode(device.report).decode(),
                "certificate": base64.b64encode(device.chain).decode(),
            }
            for device in found.evidence.gpus
        ],
        indent=1,
    ).encode()
