"""`ostiary runtime`: attest, or attest and serve, from inside a confidential VM."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path

from inference_runtime import exchange
from inference_runtime.attester import ReportDevice
from inference_runtime.attester.configfs import ConfigfsDevice
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.engine.llama import LlamaEngine
from inference_runtime.engine.protocol import EngineError
from inference_runtime.hardening import HardeningError, harden_process
from inference_runtime.supervisor import Config, Stage, Supervisor
from ostiary import vendor
from ostiary.cli import common
from ostiary.cli.common import OK, REFUSED, Subparsers, console
from ostiary.client import ClientError
from verifier.wire import canonical
from verifier.wire.messages import KeyRef


def add_parser(subparsers: Subparsers) -> None:
    """Add `runtime serve` and `runtime attest`."""
    parser = subparsers.add_parser("runtime", help="what runs inside the confidential VM")
    verbs = parser.add_subparsers(required=True)
    serve = verbs.add_parser("serve", help="attest, open the model in memory and serve it")
    attest = verbs.add_parser("attest", help="fetch a challenge and print evidence bound to it")
    for verb, command in ((serve, _serve), (attest, _attest)):
        verb.set_defaults(run=common.guarded(command))
        verb.add_argument("--broker", required=True, metavar="URL")
        verb.add_argument("--tenant", required=True, metavar="NAME")
        verb.add_argument("--model", required=True, metavar="ID/VERSION")
        verb.add_argument("--kind", choices=("tdx", "snp"), default="tdx", help="of the hardware")
        verb.add_argument(
            "--simulated-device",
            type=Path,
            metavar="SOCKET",
            help="the simulator's report device instead of the hardware's; proves nothing",
        )
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8421)
    serve.add_argument("--sealed", type=Path, metavar="DIR", help="sealed files in a local folder")
    serve.add_argument("--receipt-out", type=Path, metavar="DIR", help="keep leaf and receipt here")


def _device(args: argparse.Namespace) -> ReportDevice:
    if args.simulated_device is not None:
        return SocketDevice(args.simulated_device)
    return ConfigfsDevice(args.kind)


def _attest(args: argparse.Namespace) -> int:
    device, model = _device(args), vendor.parse_ref(args.model)
    identity = exchange.Identity.generate()
    with BrokerClient(args.broker) as client:
        answer = client.challenge(args.tenant, "release", device.kind, identity)
    anchor = exchange.read_anchor(
        answer.document,
        device.launch_config().value,
        simulated_allowed=args.simulated_device is not None,
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
    )
    shown = {
        "kind": device.kind,
        "genesis": anchor.digest.hex(),
        "report_data": bound.report_data.hex(),
        "evidence": json.loads(canonical.encode(bound.evidence)),
    }
    console.print_json(json.dumps(shown))
    return OK


def _serve(args: argparse.Namespace) -> int:
    _harden()
    model = vendor.parse_ref(args.model)
    config = Config(
        tenant=args.tenant,
        model=model,
        host=args.host,
        port=args.port,
        sealed=args.sealed,
        simulated_allowed=args.simulated_device is not None,
    )
    with BrokerClient(args.broker) as client:
        supervisor = Supervisor(config, _device(args), client, LlamaEngine(), _show)
        try:
            return asyncio.run(_until_signal(supervisor, args.receipt_out, model))
        except EngineError as error:
            return common.fail(f"{error.fault}: {error}", REFUSED)


def _harden() -> None:
    try:
        harden_process()
    except HardeningError as error:
        raise ClientError(
            "hardening", f"{error}; a runtime that others may read holds no key"
        ) from error


async def _until_signal(supervisor: Supervisor, receipts: Path | None, model: KeyRef) -> int:
    def keep(released: exchange.Released) -> None:
        if receipts is not None:
            receipts.mkdir(parents=True, exist_ok=True)
            (receipts / "leaf.json").write_bytes(released.answer.leaf)
            (receipts / "receipt.txt").write_text(released.answer.receipt)
            (receipts / "result.json").write_bytes(released.answer.result)

    running = asyncio.create_task(supervisor.run(keep))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        reason = await running
        return common.fail(f"{model.id}/{model.version} stopped: {reason.value}", REFUSED)
    return OK


def _show(stage: Stage) -> None:
    console.print(f"{stage.name:<16} {stage.seconds:7.2f} s  {stage.detail}")
