"""`--provenance` and `--trusted-root` of `ostiary verify`: Sigstore bundles from files.

Guarantees: files are read up to a bound, and both options go together; what they prove is judged in
`verifier.provenance`, offline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.cli.inputs import UnreadableError, read
from verifier.provenance.signed import Provenance


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a kind of evidence."""
    parser.add_argument(
        "--provenance",
        type=Path,
        nargs="+",
        default=(),
        metavar="F",
        help="Sigstore bundles, JSON, about what was measured",
    )
    parser.add_argument(
        "--trusted-root",
        type=Path,
        metavar="F",
        help="Sigstore's trusted root, JSON; the policy pins its SHA-256",
    )


def given(args: argparse.Namespace) -> Provenance | None:
    """Return what the options name, or None where they name nothing.

    Raises:
        UnreadableError: a file cannot be read, or one option stands without the other.
    """
    if not args.provenance and args.trusted_root is None:
        return None
    if not args.provenance or args.trusted_root is None:
        raise UnreadableError("--provenance and --trusted-root go together")
    return Provenance(
        tuple(read("--provenance", path) for path in args.provenance),
        read("--trusted-root", args.trusted_root),
    )
