"""`ostiary broker`: set up a broker in a home folder, enrol tenants, run it, look at it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from broker import settings as broker_settings
from broker.app import make_app
from broker.audit import NEWEST, explanation
from broker.errors import BrokerError, Code
from broker.hsm import ceremony
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import HsmHome
from broker.services import Services, database_url, open_services
from broker.settings import Settings
from broker.store.database import open_store
from broker.store.migrate import migrate
from broker.store.rows import audit as audit_rows
from broker.store.rows import keys as key_rows
from broker.store.rows.audit import AuditRow
from broker.tenants import record
from ostiary import clock, vendor
from ostiary.cli import common
from ostiary.cli.common import OK, REFUSED, Subparsers, console
from ostiary.client import ClientError, load_key
from verifier import dsse
from verifier.explain import text
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import Genesis

_SETTINGS = """\
# Settings of this broker; every one is explained in docs/operations.md.
mode = "{mode}"
port = {port}
"""
_SIMULATED = """\
# SIMULATED HARDWARE: evidence of this broker proves nothing. Never use this file elsewhere.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the broker's verbs."""
    parser = subparsers.add_parser("broker", help="set up and run a broker")
    parser.add_argument(
        "--home", type=Path, default=None, help="the broker's folder (OSTIARY_HOME, or .ostiary)"
    )
    verbs = parser.add_subparsers(required=True)
    init = _add(verbs, "init", _init, "make token, keys and database; again changes nothing")
    init.add_argument("--mode", choices=("demo", "production"), default="demo")
    init.add_argument("--port", type=int, default=8420)
    init.add_argument("--hsm-socket", default="", help="production: the HSM worker's socket")
    init.add_argument(
        "--simulated-roots", default="", metavar="F", help="trust a SIMULATOR; for demo and tests"
    )
    init.add_argument("--tenant", help="also enrol this tenant, with --vendor-key at hand (demo)")
    init.add_argument("--vendor-key", type=Path, metavar="F", help="the tenant's signer (PEM)")
    tenant = _add(verbs, "tenant", _draft, "draw up a genesis for a tenant to sign")
    tenant.add_argument("name")
    tenant.add_argument("--signer", type=Path, action="append", required=True, metavar="F.pub")
    tenant.add_argument("--threshold", type=int, default=1)
    tenant.add_argument("--out", type=Path, required=True, metavar="F")
    _add(verbs, "upgrade", _upgrade, "bring the database to this program's schema")
    enrol = _add(verbs, "enrol", _enrol, "enrol a tenant by its signed genesis")
    enrol.add_argument("genesis", type=Path)
    _add(verbs, "show", _show, "broker id, tenants, import keys and their digests, self-test")
    _add(verbs, "import-keys", _import_keys, "digests of import keys, to read out to vendors")
    audit = _add(verbs, "audit", _audit, "list refusals, or say what one means and what to do")
    audit.add_argument("entry", type=int, nargs="?", metavar="ID", help="the refusal to explain")
    audit.add_argument("--limit", type=int, default=20, metavar="N", help="how many to list")
    _add(verbs, "serve", _serve, "run the broker")


def _add(
    subparsers: Subparsers, name: str, command: common.Command, help_text: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=common.guarded(partial(_in_our_words, command)))
    return parser


def _in_our_words(command: common.Command, args: argparse.Namespace) -> int:
    args.home = (args.home or broker_settings.home()).absolute()
    try:
        return command(args)
    except BrokerError as error:
        return common.fail(str(error), REFUSED)
    except HsmError as error:
        return common.fail(f"{error.reason.value}: {error.detail}", REFUSED)


def _init(args: argparse.Namespace) -> int:
    if (args.tenant is None) != (args.vendor_key is None):
        raise ClientError("arguments", "--tenant and --vendor-key go together")
    home: Path = args.home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = _write_settings(home, args)
    _make_token(home, settings)
    asyncio.run(migrate(database_url(settings, home)))
    asyncio.run(_with_services(home, settings, partial(_report, args)))
    return OK


def _write_settings(home: Path, args: argparse.Namespace) -> Settings:
    path = home / broker_settings.FILE
    if not path.exists():
        roots = str(Path(args.simulated_roots).absolute()) if args.simulated_roots else ""
        trust = broker_settings.CONFIRMATION if roots else ""
        # Refused before it is written: a file that cannot be loaded would have to be removed.
        Settings(
            mode=args.mode,
            port=args.port,
            hsm_socket=args.hsm_socket,
            dangerously_trust_simulated_hardware=trust,
            simulated_roots=roots,
        ).check()
        if roots:
            common.read(Path(roots))
        text = _SETTINGS.format(mode=args.mode, port=args.port)
        # A JSON string is a TOML string.
        if args.hsm_socket:
            text += f"hsm_socket = {json.dumps(args.hsm_socket)}\n"
        if roots:
            text += _SIMULATED
            text += f"dangerously_trust_simulated_hardware = {json.dumps(trust)}\n"
            text += f"simulated_roots = {json.dumps(roots)}\n"
        path.write_text(text)
    return broker_settings.load(home)


def _make_token(home: Path, settings: Settings) -> None:
    """Hold the ceremony, unless it was held. A database with rows and no token is a hard error."""
    if settings.hsm_socket:
        return  # another user's worker holds the token, and held the ceremony
    database = home / "ostiary.db"
    if database.exists() and not HsmHome(home).exists():
        raise HsmError(
            HsmReason.TOKEN_MISSING,
            f"{database} exists and {HsmHome(home).folder} does not: restore the token from its "
            "backup; a new token could never open these keys, so none is made",
        )
    try:
        ceremony.init_token(home, simulated=settings.simulated, module=settings.hsm_module)
    except HsmError as error:
        if error.reason is not HsmReason.EXISTS:
            raise


async def _with_services(
    home: Path, settings: Settings, use: Callable[[Services], Awaitable[None]]
) -> None:
    async with open_services(home, settings) as opened:
        await use(opened)


async def _report(args: argparse.Namespace, opened: Services) -> None:
    if args.tenant is not None and args.vendor_key is not None:
        key = load_key(args.vendor_key)
        spki = dsse.spki(key.public_key())
        enrolled = [tenant.name for tenant in await opened.tenants.everyone()]
        if args.tenant not in enrolled:
            genesis = await _genesis(opened, args.tenant, (spki,), 1)
            await opened.tenants.enrol(vendor.sign_genesis(genesis, key), now=clock.now())
    await _print(opened, args.home)


async def _genesis(
    opened: Services, name: str, signers: tuple[bytes, ...], threshold: int
) -> Genesis:
    begun = await opened.tenants.begin(name)
    return Genesis(
        v=1,
        tenant=name,
        created=clock.now(),
        signers=tuple(B64(spki) for spki in sorted(set(signers))),
        threshold=threshold,
        broker=Hex(opened.broker),
        broker_key=B64(opened.info.broker_key),
        log_key=B64(begun.log_key),
        tree=Hex(begun.tree),
        simulated=opened.info.simulated,
    )


async def _print(opened: Services, home: Path) -> None:
    info = opened.info
    if info.simulated:
        console.print("SIMULATED HARDWARE is trusted here: nothing that this broker says is proof.")
    console.print(f"broker   {opened.broker.hex()}")
    console.print(f"token    {info.label}, worker {info.mode}, OAEP {info.oaep}")
    for check in info.checks:
        console.print(f"         {check}")
    for tenant in await opened.tenants.everyone():
        console.print(f"tenant   {tenant.name}  genesis {tenant.g.hex()}")
        path = home / "tenants" / f"{tenant.name}.genesis.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tenant.envelope)
        async with opened.store.read() as unit:
            rows = await key_rows.import_keys(unit, tenant.g)
        for row in rows:
            console.print(f"         import key {row.spki_sha256.hex()}  {row.state}")
    console.print("next: ostiary broker serve")


def _draft(args: argparse.Namespace) -> int:
    signers = tuple(
        canonical.b64decode(common.read(path).decode("ascii", "replace").strip())
        for path in args.signer
    )

    async def draw(opened: Services) -> None:
        genesis = await _genesis(opened, args.name, signers, args.threshold)
        common.write(args.out, canonical.encode(genesis))

    asyncio.run(_with_services(args.home, broker_settings.load(args.home), draw))
    console.print(f"drawn up: {args.out}")
    console.print(f"next: ostiary vendor sign-genesis {args.out} …  (on the vendor's machine)")
    return OK


def _upgrade(args: argparse.Namespace) -> int:
    settings = broker_settings.load(args.home)
    revision = asyncio.run(migrate(database_url(settings, args.home)))
    console.print(f"the database is at revision {revision}")
    return OK


def _enrol(args: argparse.Namespace) -> int:
    envelope = common.read(args.genesis)

    async def enrol(opened: Services) -> None:
        tenant = await opened.tenants.enrol(envelope, now=clock.now())
        console.print(f"enrolled {tenant.name}, genesis {tenant.g.hex()}")

    asyncio.run(_with_services(args.home, broker_settings.load(args.home), enrol))
    return OK


def _show(args: argparse.Namespace) -> int:
    settings = broker_settings.load(args.home)
    asyncio.run(_with_services(args.home, settings, partial(_print, home=args.home)))
    return OK


def _import_keys(args: argparse.Namespace) -> int:
    """Print one line a key: tenant, digest, state. Reads the database only."""
    settings = broker_settings.load(args.home)

    async def read() -> None:
        url = database_url(settings, args.home)
        async with await open_store(url) as store, store.read() as unit:
            for tenant in await record.everyone(unit):
                for row in await key_rows.import_keys(unit, tenant.g):
                    console.print(f"{tenant.name} {row.spki_sha256.hex()} {row.state}")

    asyncio.run(read())
    return OK


def _audit(args: argparse.Namespace) -> int:
    """List refusals of all tenants, newest first, or explain one. Reads the database only."""
    settings = broker_settings.load(args.home)

    async def read() -> tuple[AuditRow, ...]:
        url = database_url(settings, args.home)
        before, limit = (NEWEST, args.limit) if args.entry is None else (args.entry + 1, 1)
        async with await open_store(url) as store, store.read() as unit:
            return await audit_rows.everyone(unit, before=before, limit=max(0, limit))

    rows = asyncio.run(read())
    if args.entry is None:
        for row in rows:
            console.print(f"{row.id} {row.time} {row.kind} {row.code}", markup=False)
        return OK
    if [row.id for row in rows] != [args.entry]:
        raise BrokerError(Code.NOT_FOUND, f"no refusal {args.entry}")
    console.print(text(explanation(rows[0])), markup=False)
    return OK


def _serve(args: argparse.Namespace) -> int:
    settings = broker_settings.load(args.home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if settings.simulated:
        console.print("SIMULATED HARDWARE is trusted here: nothing that this broker says is proof.")
    try:
        listener = socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise BrokerError(
            Code.SETTINGS_INVALID,
            f"{settings.host}:{settings.port} cannot be bound ({reason}): stop what serves "
            f"there, or set host and port in {args.home / broker_settings.FILE}",
        ) from error
    # uvloop also switches Nagle's algorithm off, which costs 40 ms an answer (measured).
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(args.home, settings, listener))


class _Server(uvicorn.Server):
    """Ends on a signal without raising it again: the services are closed after the server."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGINT or SIGTERM; a second SIGINT stops at once."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def _until_stopped(home: Path, settings: Settings, listener: socket.socket) -> int:
    # Opened here, not by the application: what is missing is said in one line, not by a framework.
    async with open_services(home, settings) as opened:
        config = uvicorn.Config(
            make_app(lambda: nullcontext(opened)),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
        )
        port = listener.getsockname()[1]
        console.print(
            f"http://{settings.host}:{port}/schema  is the OpenAPI page; stop with Ctrl-C"
        )
        server = _Server(config)
        await server.serve(sockets=[listener])
    return OK if server.started else REFUSED
