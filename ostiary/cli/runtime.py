"""`ostiary runtime`: attest, or attest and serve, from inside a confidential VM."""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress
from pathlib import Path

from inference_runtime import exchange
from inference_runtime.client import BrokerClient
from inference_runtime.engine.protocol import EngineError
from inference_runtime.hardening import HardeningError, harden_process
from inference_runtime.origin import place
from inference_runtime.supervisor import Config, Stage, Supervisor
from ostiary import vendor
from ostiary.cli import attest, common, engines, machines
from ostiary.cli.common import OK, REFUSED, Subparsers, console
from ostiary.client import ClientError
from verifier.wire.messages import KeyRef


def add_parser(subparsers: Subparsers) -> None:
    """Add `runtime serve` and `runtime attest`."""
    parser = subparsers.add_parser("runtime", help="what runs inside the confidential VM")
    verbs = parser.add_subparsers(required=True)
    serve = verbs.add_parser("serve", help="attest, open the model in memory and serve it")
    serve.set_defaults(run=common.guarded(_serve))
    serve.add_argument("--broker", required=True, metavar="URL")
    serve.add_argument("--tenant", required=True, metavar="NAME")
    serve.add_argument("--model", required=True, metavar="ID/VERSION")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8421)
    serve.add_argument(
        "--sealed",
        type=place,
        metavar="DIR|URL",
        help="sealed files in a local folder or below an http(s) address that answers ranges; "
        "else in the broker's registry",
    )
    engines.add_options(serve)
    machines.add_options(serve)
    serve.add_argument("--receipt-out", type=Path, metavar="DIR", help="keep leaf and receipt here")
    attest.add_parser(verbs)


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
    engine = engines.make_engine(args)
    with BrokerClient(args.broker) as client, common.fetching("sealed files") as fetching:
        device, gpus = machines.make_device(args), machines.make_gpus(args, engine.gpus)
        supervisor = Supervisor(config, device, client, engine, _show, gpus=gpus, fetching=fetching)
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
