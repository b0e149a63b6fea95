"""What the commands share: files, progress bars, the tenant's client, and one way to fail.

Guarantees: a command that fails prints one line that says what to do next, and no traceback; its
exit status is 1 for a refusal, 2 for input that cannot be read, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from inference_runtime.errors import RuntimeFault
from ostiary.client import ClientError, Tenant, TenantClient, load_key
from verifier.errors import VerifierError
from verifier.wire.canonical import hexdecode

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it
Command: TypeAlias = Callable[[argparse.Namespace], int]

OK: Final = 0
REFUSED: Final = 1
UNREADABLE: Final = 2
INTERRUPTED: Final = 130
_INPUT: Final = frozenset({"file", "key_file"})
"""Codes of `ClientError` that are about a file of the caller's own."""

MAX_DOCUMENT: Final = 8 << 20
console: Final = Console(highlight=False, soft_wrap=True)


def fail(message: str, status: int) -> int:
    """Print one line on standard error and return the exit status."""
    print(f"ostiary: {' '.join(message.split())}", file=sys.stderr)
    return status


def read(path: Path, limit: int = MAX_DOCUMENT) -> bytes:
    """Return the bytes of a file.

    Raises:
        ClientError: `file`, naming it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ClientError("file", f"{path}: {error.strerror}") from error
    if len(raw) > limit:
        raise ClientError("file", f"{path}: more than {limit} bytes")
    return raw


def write(path: Path, raw: bytes) -> None:
    """Write a file that must not exist.

    Raises:
        ClientError: `file`, naming it.
    """
    try:
        with path.open("xb") as file:
            file.write(raw)
    except OSError as error:
        raise ClientError("file", f"{path}: {error.strerror}") from error


def guarded(command: Command) -> Command:
    """Wrap a command so that what it may raise becomes one line and an exit status."""

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except VerifierError as error:
            return fail(f"{error.reason.value}: {error}", UNREADABLE)
        except (ClientError, RuntimeFault) as error:
            return fail(f"{error.code}: {error}", UNREADABLE if error.code in _INPUT else REFUSED)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return fail(f"{where}{error.strerror or type(error).__name__}", UNREADABLE)
        except KeyboardInterrupt:
            return fail("interrupted", INTERRUPTED)

    return run


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a vendor names broker, tenant and key."""
    parser.add_argument("--broker", required=True, metavar="URL", help="the broker's address")
    add_tenant_options(parser)


def add_tenant_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a vendor names tenant and key."""
    parser.add_argument(
        "--genesis", type=Path, required=True, metavar="F", help="the tenant's signed genesis"
    )
    parser.add_argument(
        "--key", type=Path, required=True, metavar="F", help="an enrolled signer's key (PEM)"
    )


def tenant(args: argparse.Namespace) -> Tenant:
    """Return the tenant in `--genesis`."""
    return Tenant.read(read(args.genesis))


def client(args: argparse.Namespace) -> TenantClient:
    """Return a client for `--broker`, `--genesis` and `--key`."""
    return TenantClient(args.broker, tenant(args), load_key(args.key))


def digest(text: str) -> bytes:
    """Return 32 bytes of hexadecimal, for argparse.

    Raises:
        argparse.ArgumentTypeError: it is not that.
    """
    try:
        raw = hexdecode(text)
    except VerifierError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(raw) != 32:  # noqa: PLR2004 - SHA-256
        raise argparse.ArgumentTypeError("64 hexadecimal digits expected")
    return raw


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for `total` bytes and give a function that moves it."""
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)


@contextmanager
def fetching(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how many bytes have come, of how many, while some are missing."""
    bar = _bar()
    task = bar.add_task(what, total=None)

    def tell(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done < total:
            bar.start()
        else:
            bar.stop()

    try:
        yield tell
    finally:
        bar.stop()


def _bar() -> Progress:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    watched = console.is_terminal and not console.is_dumb_terminal
    # Where nobody watches, a bar would only leave an empty line behind.
    return Progress(*columns, console=console, transient=True, disable=not watched)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
