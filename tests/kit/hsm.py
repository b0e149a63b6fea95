"""Real SoftHSM homes for tests, ready in milliseconds, and a vendor with a log to drive a worker.

A token is made once for a session, by the real ceremony, and copied for each test. In a suite's
conftest: `from tests.kit.hsm import *`-style imports of `hsm_home`, `enrolled_home` and
`prepared_hsm` give it the fixtures.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, final

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)

from broker.hsm.ceremony import init_token
from broker.hsm.client import HsmClient
from broker.hsm.home import FOLDER, HsmHome
from broker.hsm.protocol import Begun, Imported, Released
from broker.hsm.softhsm import render_conf
from broker.hsm.spawn import spawn_same_user
from verifier import dsse
from verifier.policy import AppraisalPolicy, ReleasePolicy
from verifier.tlog.merkle import leaf_hash
from verifier.tlog.proof import Receipt
from verifier.tlog.prove import MemoryTree, inclusion_proof
from verifier.wire import canonical, leaf
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import (
    GENESIS_TYPE,
    POLICY_TYPE,
    STATEMENT_TYPE,
    Genesis,
    ImportStatement,
    Release,
)
from verifier.wire.messages import KeyRef

TENANT = "acme"
KEY = KeyRef("model", 1)
MANIFEST = Hex(hashlib.sha256(b"a manifest").digest())
OAEP = {
    "rsa-oaep-sha1": padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None),  # noqa: S303 - SoftHSM has no other
    "rsa-oaep-sha256": padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
}

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine in a loop of its own."""
    return asyncio.run(work)


def spki_of(key: RSAPrivateKey | Ed25519PrivateKey | RSAPublicKey) -> bytes:
    """Return a key's SPKI (DER)."""
    public = key if isinstance(key, RSAPublicKey) else key.public_key()
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def digest(raw: bytes) -> Hex:
    """Return a SHA-256 as it stands in messages."""
    return Hex(hashlib.sha256(raw).digest())


@asynccontextmanager
async def worker(home: Path, *, simulated: bool = True) -> AsyncIterator[HsmClient]:
    """Run a same-user worker on `home` while the block lasts."""
    process, client = spawn_same_user(home, simulated=simulated)
    try:
        yield client
    finally:
        await client.close()
        if process.poll() is None:
            process.wait(20)


@final
@dataclass(frozen=True)
class Vendor:
    """A tenant's signers, and what they sign."""

    signers: tuple[Ed25519PrivateKey, ...] = field(
        default_factory=lambda: (Ed25519PrivateKey.generate(),)
    )
    threshold: int = 1

    def genesis(self, broker_key: bytes, begun: Begun, /, **changes: Any) -> bytes:
        """Return the signed genesis envelope of `TENANT`."""
        fields: dict[str, Any] = {
            "v": 1,
            "tenant": TENANT,
            "created": 1_700_000_000,
            "signers": tuple(sorted(B64(spki_of(key)) for key in self.signers)),
            "threshold": self.threshold,
            "broker": digest(broker_key),
            "broker_key": B64(broker_key),
            "log_key": B64(begun.log_key),
            "tree": Hex(begun.tree),
            "simulated": True,
        }
        return self.sign(GENESIS_TYPE, Genesis(**fields | changes))

    def sign(self, payload_type: str, document: Any) -> bytes:
        """Return the envelope of a document, signed by as many as must."""
        payload = canonical.encode(document)
        return dsse.sign(payload_type, payload, *self.signers[: self.threshold])


@final
@dataclass(frozen=True)
class Prepared:
    """A home, who signs for its tenant, and what was made in it (empty where nothing was)."""

    home: Path
    vendor: Vendor = field(default_factory=Vendor)
    genesis: bytes = b""
    import_spki: bytes = b""

    @property
    def payload(self) -> bytes:
        """The genesis document."""
        return dsse.payload_unverified(self.genesis)

    @property
    def g(self) -> bytes:
        """The genesis digest."""
        return hashlib.sha256(self.payload).digest()

    def copied(self, target: Path) -> Prepared:
        """Return this with a copy of the home below `target`."""
        target.mkdir(parents=True, exist_ok=True)
        copy_home(self.home, target)
        return replace(self, home=target)


def copy_home(source: Path, target: Path) -> None:
    """Copy HOME/hsm; SoftHSM's configuration alone names where it lies."""
    shutil.copytree(source / FOLDER, target / FOLDER)
    place = HsmHome(target)
    place.conf.write_text(render_conf(place.tokens))


@pytest.fixture(scope="session")
def prepared_hsm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Prepared]:
    """Give a function of `simulated` that holds the ceremony once a session."""
    made: dict[bool, Prepared] = {}

    def prepare(simulated: bool) -> Prepared:
        if simulated not in made:
            home = tmp_path_factory.mktemp("prepared-hsm")
            init_token(home, simulated=simulated)
            made[simulated] = Prepared(home)
        return made[simulated]

    return prepare


@pytest.fixture
def hsm_home(prepared_hsm: Callable[[bool], Prepared], tmp_path: Path) -> Callable[..., Path]:
    """Give a function that makes a fresh home with a token and a broker key, no tenant."""

    def make(*, simulated: bool = True) -> Path:
        target = tmp_path / f"home-{secrets.token_hex(4)}"
        return prepared_hsm(simulated).copied(target).home

    return make


@pytest.fixture(scope="session")
def prepared_tenant(
    prepared_hsm: Callable[[bool], Prepared], tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """Enrol a tenant and make an import key, once a session."""
    fresh = prepared_hsm(True).copied(tmp_path_factory.mktemp("prepared-tenant"))

    async def enrol() -> Prepared:
        async with worker(fresh.home) as client:
            info = await client.info()
            genesis = fresh.vendor.genesis(info.broker_key, await client.begin_tenant(TENANT))
            await client.enrol_tenant(genesis)
            made = replace(fresh, genesis=genesis)
            return replace(made, import_spki=await client.create_import_key(made.g))

    return run(enrol())


@pytest.fixture
def enrolled_home(prepared_tenant: Prepared, tmp_path: Path) -> Callable[[], Prepared]:
    """Give a function that makes a fresh home with a tenant enrolled and an import key."""
    return lambda: prepared_tenant.copied(tmp_path / f"home-{secrets.token_hex(4)}")


@final
@dataclass
class Book:
    """A tenant's log as a broker would keep it: leaves, tree, state map, checkpoint."""

    prepared: Prepared
    tree: MemoryTree = field(default_factory=MemoryTree)
    leaves: list[bytes] = field(default_factory=list)
    checkpoint: bytes = b""
    time: int = 1_700_000_000
    epoch: int = 0
    dek: bytes = b""
    blob: bytes = b""

    def __post_init__(self) -> None:
        genesis = canonical.decode(self.prepared.payload, Genesis)
        self.map = leaf.StateMap(
            v=1, genesis=Hex(self.g), signers=Hex(genesis.signers_digest()), keys=()
        )

    @property
    def g(self) -> bytes:
        """The genesis digest."""
        return self.prepared.g

    def common(self) -> dict[str, Any]:
        """Return what every leaf says now."""
        return {
            "v": 1,
            "genesis": Hex(self.g),
            "time": self.time,
            "epoch": self.epoch,
            "state": Hex(self.map.digest()),
        }

    def change(self, *entries: leaf.KeyEntry) -> dict[str, Any]:
        """Move to the next epoch, with these entries in the map; return `common` after it."""
        self.epoch += 1
        self.map = self.map.replace(*entries)
        return self.common()

    async def push(self, client: HsmClient, *entries: leaf.AnyLeaf) -> int:
        """Append leaves here and at the worker; return the first one's index."""
        first = len(self.leaves)
        raw = tuple(canonical.encode(entry) for entry in entries)
        self.checkpoint = await client.extend(self.g, first, raw)
        for entry in raw:
            self.leaves.append(entry)
            self.tree.append(leaf_hash(entry))
        return first

    def receipt(self, index: int) -> bytes:
        """Return the receipt of a leaf under the newest checkpoint."""
        proof = inclusion_proof(index, len(self.leaves), self.tree)
        return Receipt(index, proof, self.checkpoint).encode()

    def genesis_leaf(self) -> leaf.GenesisLeaf:
        """Return leaf 0."""
        return leaf.GenesisLeaf(**self.common(), document=B64(self.prepared.genesis))

    def entry(self, **changes: Any) -> leaf.KeyEntry:
        """Return the state map's entry for `KEY`, active and under no policy."""
        fields: dict[str, Any] = {
            "id": KEY.id,
            "version": KEY.version,
            "state": leaf.KeyState.ACTIVE,
            "blob": digest(self.blob),
            "manifest": MANIFEST,
            "kek": 1,
            "policy": leaf.NO_POLICY,
            "policy_version": 0,
        }
        return leaf.KeyEntry(**fields | changes)

    def key_leaf(self, entry: leaf.KeyEntry) -> leaf.KeyLeaf:
        """Return the leaf that brings `entry` into the map."""
        return leaf.KeyLeaf(
            **self.change(entry),
            key=entry.ref(),
            state_to=entry.state,
            blob=entry.blob,
            statement=digest(b"a statement"),
        )

    def policy(self, version: int = 1) -> tuple[bytes, Hex]:
        """Return a signed policy for `KEY`, and its digest."""
        document = ReleasePolicy(
            v=1,
            genesis=Hex(self.g),
            name="policy",
            version=version,
            predecessor=Hex(bytes(32)),
            keys=(KEY,),
            manifests=(MANIFEST,),
            release=Release(),
            appraisal=AppraisalPolicy(),
        )
        return self.prepared.vendor.sign(POLICY_TYPE, document), digest(canonical.encode(document))

    def policy_leaf(self) -> leaf.PolicyLeaf:
        """Return the leaf that puts `KEY` under its policy."""
        envelope, policy = self.policy()
        entry = self.entry(policy=policy, policy_version=1)
        return leaf.PolicyLeaf(
            **self.change(entry), policy=policy, version=1, document=B64(envelope)
        )

    def release_leaf(self, recipient: bytes, **changes: Any) -> leaf.ReleaseLeaf:
        """Return a release of `KEY` to the SPKI `recipient`."""
        found = self.map.find(KEY)
        keys: tuple[leaf.ReleasedKey, ...] = ()
        if found is not None:
            keys = (
                leaf.ReleasedKey(
                    found.id, found.version, found.blob, found.kek, found.manifest, found.policy
                ),
            )
        fields: dict[str, Any] = self.common() | {
            "challenge": digest(os.urandom(8)),
            "recipients": digest(b"recipients"),
            "recipient": digest(recipient),
            "keys": keys,
            "kind": "tdx",
            "evidence": digest(b"evidence"),
            "collateral": digest(b"collateral"),
            "result": digest(b"result"),
            "lease": "lease-1",
            "not_after": self.time + 3600,
            "simulated": True,
        }
        return leaf.ReleaseLeaf(**fields | changes)

    async def release(
        self, client: HsmClient, index: int, recipient: bytes, /, **changes: Any
    ) -> Released:
        """Spend the permit of the release leaf at `index`; `changes` spoil parts of it."""
        parts: dict[str, Any] = {
            "g": self.g,
            "leaf": self.leaves[index],
            "receipt": self.receipt(index),
            "state_map": canonical.encode(self.map),
            "blobs": (self.blob,),
            "recipient": recipient,
        }
        return await client.release(**parts | changes)


def seal_dek(dek: bytes, import_spki: bytes, alg: str = "rsa-oaep-sha1") -> bytes:
    """Wrap a DEK to an import key, as a vendor does."""
    public = serialization.load_der_public_key(import_spki)
    assert isinstance(public, RSAPublicKey)
    return public.encrypt(dek, OAEP[alg])


async def import_dek(client: HsmClient, prepared: Prepared, dek: bytes, **changes: Any) -> Imported:
    """Import a DEK with a signed statement; `changes` spoil fields of the statement."""
    ciphertext = changes.pop("sent", None) or seal_dek(dek, prepared.import_spki)
    fields: dict[str, Any] = {
        "v": 1,
        "genesis": Hex(prepared.g),
        "key": KEY,
        "ciphertext": digest(ciphertext),
        "import_key": digest(prepared.import_spki),
        "manifest": MANIFEST,
    }
    statement = prepared.vendor.sign(STATEMENT_TYPE, ImportStatement(**fields | changes))
    return await client.import_key(prepared.g, statement, ciphertext)


async def ready(client: HsmClient, prepared: Prepared) -> Book:
    """Bring a tenant to where its key is active and under a policy: leaves 0 to 2."""
    book = Book(prepared)
    book.dek = os.urandom(32)
    book.blob = (await import_dek(client, prepared, book.dek)).blob
    genesis = book.genesis_leaf()
    await book.push(client, genesis, book.key_leaf(book.entry()), book.policy_leaf())
    return book


@pytest.fixture(scope="session")
def guest() -> RSAPrivateKey:
    """Give the key pair of a guest."""
    return generate_private_key(65537, 3072)
