"""A database, a tenant and a software stand-in for the HSM worker's log half.

`SoftSigner` keeps heads and signs extensions as the worker does, with an Ed25519 key in this
process; it is for tests of store and log, which need no token. `tests/kit/hsm.py` has the real one.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from broker.errors import BrokerError
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.protocol import Begun, Head, Imported
from broker.log.draft import Appended, Draft, Prepared, TreeHead
from broker.log.sequencer import Sequencer
from broker.log.signer import Hsm
from broker.store.database import Store, Unit, open_store
from broker.store.migrate import migrate
from broker.tenants.record import Tenant
from broker.tenants.service import TenantService
from verifier import dsse
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.merkle import Frontier, leaf_hash
from verifier.tlog.proof import verify_receipt
from verifier.wire import canonical
from verifier.wire import leaf as leaves
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import GENESIS_TYPE, Genesis, ImportStatement
from verifier.wire.leaf import LeaseEndLeaf

NOW = 1_790_000_000


P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an asynchronous test in a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def refusal(work: Coroutine[Any, Any, object]) -> BrokerError:
    """Return the error that `work` must end in."""
    try:
        await work
    except BrokerError as error:
        return error
    raise AssertionError("it was not refused")


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: a full disk, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def url(path: Path) -> str:
    """Return the database URL of a file."""
    return f"sqlite+aiosqlite:///{path.absolute()}"


def raw_key(key: ed25519.Ed25519PrivateKey) -> bytes:
    """Return the 32 raw bytes of a public key."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


@dataclass
class _Tree:
    """One tenant as the signer knows it."""

    begun: Begun
    key: ed25519.Ed25519PrivateKey
    envelope: bytes = b""
    origin: str = ""
    frontier: Frontier = field(default_factory=Frontier)
    epoch: int = -1
    state: bytes = bytes(32)
    time: int = 0
    checkpoint: bytes = b""


class SoftSigner:
    """Implements `broker.log.signer.Hsm` without a token. `down` makes it unavailable."""

    def __init__(self) -> None:
        self.broker_key = ed25519.Ed25519PrivateKey.generate()
        self.kek = bytes(range(32))
        self.down = False
        self.extended: list[tuple[int, int]] = []
        self._by_name: dict[str, _Tree] = {}
        self._by_g: dict[bytes, _Tree] = {}
        self._import_keys: set[bytes] = set()

    async def begin_tenant(self, tenant: str) -> Begun:
        self._up()
        if tenant not in self._by_name:
            key = ed25519.Ed25519PrivateKey.generate()
            tree = hashlib.sha256(tenant.encode()).digest()[:16]
            self._by_name[tenant] = _Tree(Begun(tree, raw_key(key)), key)
        return self._by_name[tenant].begun

    async def enrol_tenant(self, genesis_envelope: bytes) -> None:
        self._up()
        payload = dsse.payload_unverified(genesis_envelope)
        genesis = canonical.decode(payload, Genesis)
        tree = self._by_name.get(genesis.tenant)
        if tree is None or tree.begun.log_key != genesis.log_key:
            raise HsmError(HsmReason.REFUSED, "genesis names another log key")
        if tree.envelope not in (b"", genesis_envelope):
            raise HsmError(HsmReason.EXISTS, "enrolled with another genesis")
        g = hashlib.sha256(payload).digest()
        tree.envelope, tree.origin = genesis_envelope, genesis.origin(g)
        self._by_g[g] = tree

    async def head(self, g: bytes) -> Head:
        tree = self._tree(g)
        frontier = tree.frontier
        return Head(
            frontier.size, frontier.root(), tree.epoch, tree.state, tree.time, tree.checkpoint
        )

    async def extend(self, g: bytes, start: int, leaves_: tuple[bytes, ...]) -> bytes:
        tree = self._tree(g)
        if start != tree.frontier.size:
            raise HsmError(HsmReason.HEAD_MISMATCH, "another head", tree.frontier.size)
        frontier = tree.frontier
        epoch, state, time = tree.epoch, tree.state, tree.time
        for raw in leaves_:
            leaf = leaves.decode(raw)
            change = isinstance(leaf, leaves.CHANGES)
            good = leaf.genesis == g and leaf.time >= time and leaf.epoch == epoch + change
            if not good or (not change and leaf.state != state):
                raise HsmError(HsmReason.REFUSED, "leaf does not follow")
            epoch, state, time = leaf.epoch, bytes(leaf.state), leaf.time
            frontier = frontier.append(leaf_hash(raw))
        text = Checkpoint(tree.origin, frontier.size, frontier.root()).text()
        tree.frontier, tree.epoch, tree.state, tree.time = frontier, epoch, state, time
        tree.checkpoint = note.assemble(text, [note.sign(text, tree.origin, tree.key)])
        self.extended.append((start, len(leaves_)))
        return tree.checkpoint

    async def create_import_key(self, g: bytes) -> bytes:
        self._tree(g)
        spki = dsse.spki(ed25519.Ed25519PrivateKey.generate().public_key())
        self._import_keys.add(hashlib.sha256(spki).digest())
        return spki

    async def destroy_import_key(self, g: bytes, spki_sha256: bytes) -> None:
        self._tree(g)
        if spki_sha256 not in self._import_keys:
            raise HsmError(HsmReason.NOT_FOUND, "no such import key")
        self._import_keys.remove(spki_sha256)

    async def import_key(self, g: bytes, statement_envelope: bytes, ciphertext: bytes) -> Imported:
        self._tree(g)
        payload = dsse.payload_unverified(statement_envelope)
        if canonical.decode(payload, ImportStatement).import_key not in self._import_keys:
            raise HsmError(HsmReason.NOT_FOUND, "no such import key")
        return Imported(aes_key_wrap(self.kek, hashlib.sha256(ciphertext).digest()), 1)

    def _up(self) -> None:
        if self.down:
            raise HsmError(HsmReason.UNAVAILABLE, "the worker is down")

    def _tree(self, g: bytes) -> _Tree:
        self._up()
        tree = self._by_g.get(g)
        if tree is None:
            raise HsmError(HsmReason.NOT_FOUND, "no such tenant")
        return tree


@dataclass(frozen=True)
class Vendor:
    """A tenant's side: its signer and what it signs."""

    key: ed25519.Ed25519PrivateKey

    @property
    def spki(self) -> bytes:
        return dsse.spki(self.key.public_key())

    def genesis(
        self, name: str, begun: Begun, broker_key: bytes, *, simulated: bool = True
    ) -> bytes:
        document = Genesis(
            v=1,
            tenant=name,
            created=NOW,
            signers=(B64(self.spki),),
            threshold=1,
            broker=Hex(hashlib.sha256(broker_key).digest()),
            broker_key=B64(broker_key),
            log_key=B64(begun.log_key),
            tree=Hex(begun.tree),
            simulated=simulated,
        )
        return self.sign(GENESIS_TYPE, canonical.encode(document))

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        return dsse.sign(payload_type, payload, self.key)


@dataclass(frozen=True)
class TestCaller:
    """A caller whose key was proved, as far as a service can tell."""

    __test__ = False

    tenant: str
    issuer: str = ""
    key_id: str = "00" * 32

    @property
    def is_vendor(self) -> bool:
        return not self.issuer.startswith("lease:")


@dataclass(frozen=True)
class Ended:
    """A draft that changes no state: the smallest leaf there is. `write` may write rows with it."""

    lease: str
    time: int = NOW
    write: Callable[[Unit], Awaitable[None]] | None = None

    async def prepare(self, unit: Unit, head: TreeHead) -> Prepared:
        if self.write is not None:
            await self.write(unit)
        return Prepared(
            LeaseEndLeaf(
                v=1,
                genesis=Hex(head.g),
                time=head.not_before(self.time),
                epoch=head.epoch,
                state=Hex(head.state),
                lease=self.lease,
                cause="returned",
            )
        )


HsmT = TypeVar("HsmT", bound=Hsm)


@dataclass
class House(Generic[HsmT]):
    """A broker's store, log and one enrolled tenant."""

    path: Path
    store: Store
    sequencer: Sequencer
    hsm: HsmT
    vendor: Vendor
    tenant: Tenant

    @property
    def g(self) -> bytes:
        return self.tenant.g

    @property
    def caller(self) -> TestCaller:
        return TestCaller(self.tenant.name, self.tenant.name)

    def append(self, draft: Draft) -> Coroutine[Any, Any, Appended]:
        """Append to this tenant's tree."""
        return self.sequencer.append(self.g, draft)

    def check(self, appended: Appended) -> int:
        """Verify a receipt as a stranger does, and return the size of the tree that it shows."""
        found = verify_receipt(
            appended.receipt, appended.leaf, self.tenant.origin, self.tenant.vkey
        )
        assert found.leaf_index == appended.index
        return found.checkpoint.size

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Do what whoever holds the database file can do, on a connection of one's own."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()


@asynccontextmanager
async def house_over(
    folder: Path, *, name: str = "acme", hsm: HsmT, broker_key: bytes
) -> AsyncIterator[House[HsmT]]:
    """Give a fresh database in `folder` with one enrolled tenant, and close it afterwards."""
    path = folder / "broker.db"
    await migrate(url(path))
    vendor = Vendor(ed25519.Ed25519PrivateKey.generate())
    async with await open_store(url(path)) as store:
        sequencer = Sequencer(store, hsm)
        service = TenantService(store, sequencer, hsm)
        begun = await service.begin(name)
        tenant = await service.enrol(vendor.genesis(name, begun, broker_key), now=NOW)
        yield House(path, store, sequencer, hsm, vendor, tenant)
        await sequencer.aclose()


@asynccontextmanager
async def house(folder: Path, *, name: str = "acme") -> AsyncIterator[House[SoftSigner]]:
    """Give a house over a `SoftSigner`."""
    hsm = SoftSigner()
    key = dsse.spki(hsm.broker_key.public_key())
    async with house_over(folder, name=name, hsm=hsm, broker_key=key) as built:
        yield built
