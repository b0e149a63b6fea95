"""The HSM worker's process: `python -m broker.hsm.worker --home DIR --socket PATH --allow-uid N`.

Guarantees: it hardens itself before it reads the PIN, holds the home's lock for its life, serves
only after the self-test, and ends with one line on standard error if it cannot. In production it
runs as a user of its own; over a socket pair (`--fd`, the demo) it shares the broker's user, says
so in `info`, and ends when the broker closes its end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.hsm import protocol
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.harden import harden
from broker.hsm.home import HsmHome
from broker.hsm.pkcs11 import find_module
from broker.hsm.server import Server
from broker.hsm.service import Mode, Service
from broker.hsm.state import WorkerState
from broker.hsm.token import Token

FAILED: Final = 1
"""Exit status when it refused to serve."""


def open_service(
    home: HsmHome, *, simulated: bool, module: str, mode: Mode, hardening: Sequence[str]
) -> Service:
    """Open token and state of a home that the caller has locked.

    Raises:
        HsmError: `token_missing`, `state_missing`, `wrong_mode`, `unsupported`, `self_test`, …
    """
    marker = home.read_marker()
    if marker.simulated != simulated:
        raise HsmError(
            HsmReason.WRONG_MODE,
            f"the token in {home.folder} was made for "
            f"{_hardware(simulated=marker.simulated)} at its ceremony, and this worker was "
            f"started for {_hardware(simulated=simulated)}; neither opens the other's",
        )
    with contextlib.ExitStack() as undo:
        state = WorkerState.open(home.database, marker.database)
        undo.callback(state.close)
        token = Token(home, find_module(module), marker.label)
        undo.callback(token.close)
        service = Service(
            marker, token, state, mode=mode, hardening=hardening, uptime=time.monotonic
        )
        undo.pop_all()
    return service


def _hardware(*, simulated: bool) -> str:
    return "simulated hardware" if simulated else "real hardware"


async def serve_pair(service: Service, pair: socket.socket) -> None:
    """Serve the one peer of a socket pair until it closes."""
    server = Server(service, frozenset({os.geteuid()}))
    running = asyncio.create_task(server.run())
    try:
        reader, writer = await asyncio.open_unix_connection(sock=pair)
        connection = asyncio.create_task(server.connected(reader, writer))
        await asyncio.wait((connection, running), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(running)


async def serve_path(service: Service, path: Path, uids: frozenset[int], group: int | None) -> None:
    """Listen at `path` for peers of `uids` until SIGTERM or SIGINT."""
    server = Server(service, uids)
    running = asyncio.create_task(server.run())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = await asyncio.start_unix_server(server.connected, path)
    try:
        _admit(path, group)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        listener.close()
        _remove(path)
        await server.hang_up()
        await _end(running)


async def _end(running: asyncio.Task[None]) -> None:
    """Cancel the server; where it had ended by itself, that was our mistake: raise it."""
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _admit(path: Path, group: int | None) -> None:
    """Let this user open the socket, and `group`; whom we then talk to, peer credentials say."""
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(0o600 if group is None else 0o660)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; return the exit status."""
    options = _parser().parse_args(arguments)
    home = HsmHome(options.home.resolve())
    pair = None if options.fd is None else socket.socket(fileno=options.fd)
    uids = frozenset(options.allow_uid)
    own = pair is not None or os.geteuid() in uids
    try:
        hardening = harden()
        with home.locked():
            service = open_service(
                home,
                simulated=options.simulated,
                module=options.module,
                mode="same-user" if own else "separate-user",
                hardening=hardening,
            )
            try:
                if pair is not None:
                    asyncio.run(serve_pair(service, pair))
                else:
                    asyncio.run(serve_path(service, options.socket, uids, options.socket_group))
            finally:
                service.close()
    except HsmError as error:
        print(f"ostiary HSM worker: {error}", file=sys.stderr)  # noqa: T201 - the only way out
        if pair is not None:
            with contextlib.suppress(OSError):
                pair.sendall(protocol.frame(protocol.Failure.of(error)))
                pair.close()
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker.hsm.worker")
    parser.add_argument("--home", type=Path, required=True, help="the home that holds hsm/")
    parser.add_argument("--module", default="", help="PKCS#11 module; SoftHSM where not given")
    parser.add_argument(
        "--simulated",
        action="store_true",
        help="serve a token that was made for simulated hardware",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--socket", type=Path, help="where to listen")
    way.add_argument("--fd", type=int, help="an inherited socket pair (same user: the demo)")
    parser.add_argument(
        "--allow-uid",
        type=int,
        action="append",
        default=[],
        help="user id that may connect; none may where not given",
    )
    parser.add_argument("--socket-group", type=int, help="group id that may open the socket")
    return parser


if __name__ == "__main__":
    sys.exit(main())
