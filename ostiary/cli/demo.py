"""`ostiary demo`: the whole story on one machine, with simulated hardware."""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.cli import common
from ostiary.cli.common import REFUSED, Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser(
        "demo", help="one release from end to end, then everything that must be refused"
    )
    parser.add_argument(
        "--home", type=Path, default=Path(".ostiary/demo"), help="made anew at each run"
    )
    parser.add_argument(
        "--serve", action="store_true", help="stop after set-up and leave the broker running"
    )
    parser.add_argument(
        "--gpus",
        choices=("1", "2", "4", "8", "8+4"),
        default="2",
        help="each machine's GPUs, and NVSwitches with them (2)",
    )
    parser.set_defaults(run=common.guarded(_run))


def _run(args: argparse.Namespace) -> int:
    # Imported here: the demo needs the extra `llama`, and nothing else on this command line does.
    try:
        from ostiary.demo import tale  # noqa: PLC0415 - see above
        from ostiary.story import StoryError  # noqa: PLC0415 - same
    except ModuleNotFoundError as error:
        return common.fail(
            f"demo: {error.name} is not installed here; the demo needs the extra: "
            "pip install 'ostiary[demo]'",
            REFUSED,
        )

    try:
        return tale.tell(args.home.absolute(), serve=args.serve, gpus=args.gpus)
    except StoryError as error:
        return common.fail(f"demo: {error}", REFUSED)
