"""`ostiary simulator`: fake vendors and fake machines, for the demo and for tests.

Nothing here proves anything. A broker trusts it only by a setting with a frightening name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

from ostiary import clock
from ostiary.cli import common
from ostiary.cli.common import OK, REFUSED, Subparsers, console
from ostiary.simulator import device, machines
from ostiary.simulator.amd import FakeAmd
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.services import Vendors, serving
from ostiary.simulator.store import SimulatorError

ROOTS_FILE = "roots.json"
COLLATERAL_FILE = "simulated.json"


def add_parser(subparsers: Subparsers) -> None:
    """Add `simulator init`, `simulator machine` and `simulator serve`."""
    parser = subparsers.add_parser("simulator", help="SIMULATED hardware; proves nothing")
    verbs = parser.add_subparsers(required=True)
    init = verbs.add_parser("init", help="make a fake Intel and NVIDIA with roots of their own")
    init.add_argument("folder", type=Path)
    init.add_argument("--collateral", type=Path, metavar="DIR", help="a broker's collateral folder")
    init.set_defaults(run=common.guarded(_init))
    serve = verbs.add_parser("serve", help="serve the fake vendors' collateral over HTTP")
    serve.add_argument("folder", type=Path, help="as `init` made it")
    serve.add_argument("--port", type=int, default=8421)
    serve.add_argument(
        "--chip", type=Path, action="append", default=[], metavar="DIR", help="a saved AMD machine"
    )
    serve.set_defaults(run=common.guarded(_serve))
    machine = verbs.add_parser(
        "machine",
        help="run a fake machine's report device",
        add_help=False,
        prefix_chars="\0",  # every option belongs to the machine, which has a parser of its own
    )
    machine.add_argument("rest", nargs=argparse.REMAINDER)
    machine.set_defaults(run=lambda args: device.main(args.rest))


def _init(args: argparse.Namespace) -> int:
    try:
        make(args.folder, args.collateral)
    except SimulatorError as error:
        return common.fail(str(error), REFUSED)
    console.print(f"SIMULATED vendor in {args.folder}; its roots are in {args.folder}/{ROOTS_FILE}")
    return OK


def _serve(args: argparse.Namespace) -> int:
    try:
        vendors = Vendors(
            clock.now,
            FakeIntel.load(args.folder),
            FakeAmd.load(args.folder) if (args.folder / "amd.json").exists() else None,
            tuple(machines.load_chip(folder) for folder in args.chip),
            nvidia=NvidiaServices.published(FakeNvidia.load(args.folder), clock.now)
            if (args.folder / "nvidia.json").exists()
            else None,
        )
        with serving(vendors, args.port) as server:
            console.print(f"SIMULATED vendor services at {server.url}; stop with Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                server.ended.wait()
    except SimulatorError as error:
        return common.fail(str(error), REFUSED)
    except OSError as error:
        return common.fail(f"port {args.port}: {error.strerror}", REFUSED)
    return OK


def make(folder: Path, collateral: Path | None) -> FakeIntel:
    """Make a fake Intel and NVIDIA in `folder`, their roots file, and current collateral.

    Raises:
        SimulatorError: the folder holds a vendor already, or cannot be written.
    """
    now = clock.now()
    intel = FakeIntel.create(now)
    intel.save(folder)
    nvidia = FakeNvidia.create(now)
    nvidia.save(folder)
    roots = {
        "intel": [intel.root_pin.hex()],
        "amd": {},
        "nvidia_device": [nvidia.device_root_pin.hex()],
        "nvidia_rim": [nvidia.rim_root_pin.hex()],
    }
    (folder / ROOTS_FILE).write_text(json.dumps(roots))
    if collateral is not None:
        target = collateral / "tdx"
        target.mkdir(parents=True, exist_ok=True)
        (target / COLLATERAL_FILE).write_text(json.dumps(intel.collateral(now)))
    return intel
