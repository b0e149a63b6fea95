"""Rows of `keys` and `import_keys`. What they say counts only once `log/state.py` agrees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit
from verifier.wire.messages import KeyRef

_K: Final = schema.keys
_I: Final = schema.import_keys
_g: Final[sa.BindParameter[bytes]] = sa.bindparam("g")

_ALL: Final = sa.select(_K).where(_K.c.g == _g)
_UPDATE: Final = (
    sa.update(_K)
    .where(_K.c.g == sa.bindparam("at"), _K.c.id == sa.bindparam("at_id"))
    .where(_K.c.version == sa.bindparam("at_version"))
)
_SET_STATE: Final = _UPDATE.values(state=sa.bindparam("state"))
_SET_POLICY: Final = _UPDATE.values(
    policy=sa.bindparam("policy"), policy_version=sa.bindparam("policy_version")
)
_IMPORT_KEYS: Final = sa.select(_I).where(_I.c.g == _g).order_by(_I.c.created, _I.c.spki_sha256)
_SET_IMPORT_STATE: Final = (
    sa.update(_I)
    .where(_I.c.g == sa.bindparam("at"), _I.c.spki_sha256 == sa.bindparam("at_spki"))
    .values(state=sa.bindparam("state"))
)


@final
@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key version. `blob` is the DEK wrapped under KEK version `kek`: ciphertext, 40 bytes."""

    g: bytes
    id: str
    version: int
    state: str
    blob: bytes
    kek: int
    manifest: bytes
    policy: bytes
    policy_version: int
    statement: bytes


@final
@dataclass(frozen=True, slots=True)
class ImportKeyRow:
    """A public key of the HSM that DEKs are wrapped to; `state` is `created` or `destroyed`."""

    g: bytes
    spki_sha256: bytes
    spki: bytes
    state: str
    created: int


async def of_tenant(unit: Unit, g: bytes) -> tuple[KeyRow, ...]:
    """Return all key versions of a tenant, in no order."""
    return tuple(KeyRow(*row) for row in await unit.all(_ALL, {"g": g}))


async def insert(unit: Unit, row: KeyRow) -> None:
    """Add a key version."""
    await unit.run(sa.insert(_K), {name: getattr(row, name) for name in row.__slots__})


async def set_state(unit: Unit, g: bytes, ref: KeyRef, state: str) -> None:
    """Move a key version to another state."""
    await unit.run(
        _SET_STATE, {"at": g, "at_id": ref.id, "at_version": ref.version, "state": state}
    )


async def set_policy(
    unit: Unit, g: bytes, refs: Iterable[KeyRef], policy: bytes, policy_version: int
) -> None:
    """Put key versions under a policy: the digest of its payload, and its version."""
    values = [
        {
            "at": g,
            "at_id": ref.id,
            "at_version": ref.version,
            "policy": policy,
            "policy_version": policy_version,
        }
        for ref in refs
    ]
    if values:
        await unit.run(_SET_POLICY, values)


async def import_keys(unit: Unit, g: bytes) -> tuple[ImportKeyRow, ...]:
    """Return all import keys of a tenant, oldest first, destroyed ones too."""
    return tuple(ImportKeyRow(*row) for row in await unit.all(_IMPORT_KEYS, {"g": g}))


async def insert_import_key(unit: Unit, row: ImportKeyRow) -> None:
    """Add an import key."""
    await unit.run(sa.insert(_I), {name: getattr(row, name) for name in row.__slots__})


async def set_import_key_state(unit: Unit, g: bytes, spki_sha256: bytes, state: str) -> None:
    """Mark an import key."""
    await unit.run(_SET_IMPORT_STATE, {"at": g, "at_spki": spki_sha256, "state": state})
