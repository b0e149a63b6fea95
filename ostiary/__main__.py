"""The command `ostiary`: what each noun does stands in `ostiary/cli/`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ostiary.cli.common import fail

# One module per noun; only the one that is asked for is loaded, so that `ostiary verify` starts
# without a web framework and `ostiary runtime` without the broker.
_NOUNS = {
    "demo": ("ostiary.cli.demo", "one release from end to end, then everything that is refused"),
    "verify": ("ostiary.cli.verify", "appraise evidence from files, offline"),
    "explain": ("ostiary.cli.explain", "say what a result means, and what to do about it"),
    "broker": ("ostiary.cli.broker", "set up and run a broker"),
    "runtime": ("ostiary.cli.runtime", "what runs inside the confidential VM"),
    "vendor": ("ostiary.cli.vendor", "a vendor's own key, and its genesis"),
    "model": ("ostiary.cli.vendor", "seal a model and hand it in"),
    "key": ("ostiary.cli.vendor", "keys and their states"),
    "policy": ("ostiary.cli.vendor", "write, check, sign and push release policies"),
    "collateral": ("ostiary.cli.collateral", "fetch, carry and look at vendors' endorsements"),
    "log": ("ostiary.cli.log", "take receipts home and check them offline"),
    "result": ("ostiary.cli.result", "fetch results as tokens (EAR), and check them offline"),
    "simulator": ("ostiary.cli.simulator", "SIMULATED hardware for demo and tests; proves nothing"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in {"-h", "--help"}:
        _usage()
        return 0 if given else 2
    noun = given[0]
    if noun not in _NOUNS:
        return fail(f"no such command: {noun}; see ostiary --help", 2)
    parser = argparse.ArgumentParser(prog="ostiary")
    subparsers = parser.add_subparsers(dest="noun", required=True)
    try:
        module = importlib.import_module(_NOUNS[noun][0])
    except ModuleNotFoundError as error:
        return fail(f"{error.name} is not installed here; ostiary {noun} needs it", 2)
    module.add_parser(subparsers)
    try:
        args = parser.parse_args(given)
    except SystemExit as stop:  # argparse's way to say that it has said everything
        return stop.code if isinstance(stop.code, int) else 2
    status: int = args.run(args)
    return status


def _usage() -> None:
    print("usage: ostiary NOUN …   (ostiary NOUN --help says more)\n")
    for noun, (_, text) in _NOUNS.items():
        print(f"  {noun:<11}{text}")


if __name__ == "__main__":
    sys.exit(main())
