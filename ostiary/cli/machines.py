"""Which machine the runtime is in: the options that tell it, and the readers that they choose.

Guarantees: the kind of machine is what was told, never what was found; an option that a kind has no
use for is refused by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from inference_runtime.attester import ReportDevice
from inference_runtime.attester.gpus import DriverGpus, Gpus
from inference_runtime.attester.machine import Options, real_device
from inference_runtime.attester.nvattest import NvattestSwitches
from inference_runtime.attester.nvml import PyNvml
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.attester.socket_gpus import socket_gpus
from ostiary.cli import inputs
from ostiary.cli.inputs import UnreadableError
from ostiary.client import ClientError
from verifier.wire.messages import Kind

_REAL_ONLY: Final[Mapping[str, object]] = {
    "privlevel": None,
    "tpm": None,
    "ak_issuers": [],
    "azure_fresh_report": False,
}
"""Options of real machines, and what each is where nothing was said."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what tells the machine."""
    group = parser.add_argument_group("machine")
    group.add_argument("--kind", choices=get_args(Kind), default="tdx", help="of the hardware")
    group.add_argument(
        "--simulated-device",
        type=Path,
        metavar="SOCKET",
        help="the simulator's report device instead of the hardware's; proves nothing",
    )
    group.add_argument(
        "--gpus",
        action="store_true",
        help="show all GPUs and switches of this machine too; an engine on GPUs always does",
    )
    group.add_argument(
        "--privlevel", type=int, metavar="VMPL", help="snp: ask for a report of this level"
    )
    group.add_argument(
        "--tpm",
        metavar="DEVICE",
        help="the vTPM; in Azure /dev/tpmrm0 by default, at Google none is read unless named",
    )
    group.add_argument(
        "--ak-issuers",
        type=Path,
        nargs="+",
        default=[],
        metavar="F",
        help="certificates above the vTPM key's own, the root last; without them none is sent",
    )
    group.add_argument(
        "--azure-fresh-report",
        action="store_true",
        help="azure: write the report data into the vTPM's user data, so that the hardware signs "
        "anew; replaces user data that a policy may pin",
    )


def make_device(args: argparse.Namespace) -> ReportDevice:
    """Return the machine's report device.

    Raises:
        ClientError: an option that this kind has no use for, or a file that cannot be read.
        AttesterError: the machine lacks what its kind has.
    """
    if args.simulated_device is not None:
        # By identity for false: 0 is a privilege level.
        used = [
            name
            for name, unsaid in _REAL_ONLY.items()
            if (seen := getattr(args, name)) is not unsaid and seen != []
        ]
        if used:
            option = f"--{used[0].replace('_', '-')}"
            raise ClientError("machine", f"{option} is for real machines, not simulated ones")
        return SocketDevice(args.simulated_device)
    try:
        issuers = [inputs.certificate("--ak-issuers", path) for path in args.ak_issuers]
        options = Options(args.privlevel, args.tpm, issuers, fresh_report=args.azure_fresh_report)
        return real_device(args.kind, options)
    except UnreadableError as error:
        raise ClientError("file", str(error)) from error
    except ValueError as error:
        raise ClientError("machine", f"--kind {args.kind}: {error}") from error


def make_gpus(args: argparse.Namespace, wanted: int = 0) -> Gpus | None:
    """Return the machine's GPUs, if they are to be shown; `wanted` of them will hold the model."""
    if not (args.gpus or wanted):
        return None
    if args.simulated_device is not None:
        return socket_gpus(args.simulated_device, simulated_allowed=True)
    return DriverGpus(PyNvml(), NvattestSwitches())
