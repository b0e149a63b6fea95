"""The tables. `migrations/` makes them; a test holds that both agree.

Guarantees nothing by itself: rows are a cache of the log, except `challenges_spent`, `audit` and
the state of leases between leaves, which stand here alone. Digests are raw bytes, times unix
seconds, documents the exact bytes that were signed.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from broker.errors import BrokerError, Code
from broker.store.dialect import AutoId

METADATA: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class _Exact(sa.types.TypeDecorator[Any]):
    """A column whose values have one Python type; SQLite keeps any type in any column."""

    cache_ok = True
    impl: Any = sa.LargeBinary
    exact: type = bytes

    def process_result_value(self, value: object, dialect: Dialect) -> object:  # noqa: ARG002 - theirs
        if value is not None and type(value) is not self.exact:
            raise BrokerError(Code.STATE_MISMATCH, "a row holds a value of another type")
        return value


class _Bytes(_Exact):
    cache_ok = True


class _Text(_Exact):
    cache_ok = True
    impl = sa.Text
    exact = str


class _Int(_Exact):
    cache_ok = True
    impl = sa.BigInteger
    exact = int


def _digest(name: str, *rest: sa.ForeignKey, key: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, _Bytes(32), *rest, nullable=False, primary_key=key)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, _Bytes, nullable=False)


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _Text, nullable=False, primary_key=key)


def _int(name: str, *, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, _Int, nullable=False, primary_key=key, autoincrement=False)


def _tree(*, key: bool = True) -> sa.Column[bytes]:
    return _digest("g", sa.ForeignKey("trees.g"), key=key)


tenants: Final = sa.Table(
    "tenants",
    METADATA,
    _text("name", key=True),
    sa.Column("g", _Bytes(32), nullable=False, unique=True),
    _bytes("genesis"),
    _int("created"),
)
"""`g` is the SHA-256 of the payload of `genesis`, the signed DSSE envelope."""

trees: Final = sa.Table(
    "trees",
    METADATA,
    _digest("g", sa.ForeignKey("tenants.g"), key=True),
    _int("size"),
    _bytes("frontier"),
    _int("epoch"),
    _digest("state"),
    _bytes("state_map"),
    _int("last_time"),
    _int("signed_size"),
    _bytes("checkpoint"),
)
"""Head of each log. `signed_size` leaves are under `checkpoint`, the newest signed note."""

leaves: Final = sa.Table(
    "leaves",
    METADATA,
    _tree(),
    _int("idx", key=True),
    _digest("hash"),
    _text("type"),
    _int("time"),
    _bytes("leaf"),
    sa.Index(None, "g", "hash"),
)

nodes: Final = sa.Table(
    "nodes",
    METADATA,
    _tree(),
    _int("level", key=True),
    _int("idx", key=True),
    _digest("hash"),
)
"""Hashes of complete subtrees (`verifier.tlog.merkle.Node`); level 0 are leaf hashes."""

keys: Final = sa.Table(
    "keys",
    METADATA,
    _tree(),
    _text("id", key=True),
    _int("version", key=True),
    _text("state"),
    _bytes("blob"),
    _int("kek"),
    _digest("manifest"),
    _digest("policy"),
    _int("policy_version"),
    _bytes("statement"),
)
"""`blob` is the DEK wrapped under KEK version `kek`; `statement` the vendor's signed envelope."""

import_keys: Final = sa.Table(
    "import_keys",
    METADATA,
    _tree(),
    _digest("spki_sha256", key=True),
    _bytes("spki"),
    _text("state"),
    _int("created"),
)

policies: Final = sa.Table(
    "policies",
    METADATA,
    _tree(),
    _text("name", key=True),
    _int("version", key=True),
    _digest("digest"),
    _bytes("envelope"),
    _int("created"),
    sa.Index(None, "g", "digest"),
)

provenance: Final = sa.Table(
    "provenance",
    METADATA,
    _tree(),
    _digest("policy", key=True),
    _digest("object"),
    _int("created"),
)
"""Under which SHA-256 the `ProvenanceSet` of a policy version lies in the object folder.

It may come before the policy. It decides nothing: the policy pins the root, bundles are signed.
"""

leases: Final = sa.Table(
    "leases",
    METADATA,
    _text("id", key=True),
    _tree(key=False),
    _bytes("instance"),
    _digest("recipients"),
    _bytes("platform"),
    _text("kind"),
    _digest("policy"),
    _int("created"),
    _int("not_after"),
    _text("state"),
    _text("cause"),
    _int("leaf"),
    sa.Index(None, "g", "not_after"),
)
"""`instance` is the SPKI that signs renewals, `leaf` the index of the newest leaf about it."""

lease_keys: Final = sa.Table(
    "lease_keys",
    METADATA,
    sa.Column("lease", _Text, sa.ForeignKey("leases.id"), nullable=False, primary_key=True),
    _digest("g"),
    _text("key_id", key=True),
    _int("key_version", key=True),
    sa.Index(None, "g", "key_id", "key_version"),
)

lease_devices: Final = sa.Table(
    "lease_devices",
    METADATA,
    sa.Column("lease", _Text, sa.ForeignKey("leases.id"), nullable=False, primary_key=True),
    sa.Column("device", _Bytes(9), nullable=False, primary_key=True, index=True),
)
"""GPUs and switches that a lease holds, by the id in their certificates."""

devices: Final = sa.Table(
    "devices",
    METADATA,
    sa.Column("device", _Bytes(9), nullable=False, primary_key=True),
    _int("seen"),
)
"""Every GPU and switch that was ever in a lease, and when last (unix seconds).

Whoever decides about a device's leases writes its row first, and so waits for all others who do.
"""

challenges_spent: Final = sa.Table(
    "challenges_spent",
    METADATA,
    _digest("digest", key=True),
    sa.Column("expires", sa.BigInteger, nullable=False, index=True),
)

audit: Final = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", AutoId, primary_key=True, autoincrement=True),
    _int("time"),
    _bytes("tenant"),
    _text("kind"),
    _text("code"),
    _text("actor"),
    _text("subject"),
    _text("reasons"),
    sa.Index(None, "tenant", "id"),
)
"""Denials and their reasons (a JSON list of texts). No payloads, no secrets.

`tenant` is the genesis digest, empty where the caller never got so far.
"""

models: Final = sa.Table(
    "models",
    METADATA,
    _tree(),
    _text("model", key=True),
    _int("version", key=True),
    _digest("digest"),
    _bytes("envelope"),
    _int("created"),
)

model_files: Final = sa.Table(
    "model_files",
    METADATA,
    _tree(),
    _text("model", key=True),
    _int("version", key=True),
    _text("path", key=True),
    _int("sealed_size"),
    _digest("blake3"),
    sa.Column("object", _Bytes(32), nullable=True),
    sa.ForeignKeyConstraint(
        ["g", "model", "version"], ["models.g", "models.model", "models.version"]
    ),
)
"""`object` is the SHA-256 under which the sealed file lies in the object folder; NULL before."""
