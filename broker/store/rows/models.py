"""Rows of `models` and `model_files`: signed manifests, and where the sealed files lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import sqlalchemy as sa

from broker.store import schema
from broker.store.database import Unit

_M: Final = schema.models
_F: Final = schema.model_files
_version: Final = (
    _F.c.g == sa.bindparam("g"),
    _F.c.model == sa.bindparam("model"),
    _F.c.version == sa.bindparam("version"),
)
_ONE: Final = sa.select(_M).where(
    _M.c.g == sa.bindparam("g"),
    _M.c.model == sa.bindparam("model"),
    _M.c.version == sa.bindparam("version"),
)
_ALL: Final = sa.select(_M).where(_M.c.g == sa.bindparam("g")).order_by(_M.c.model, _M.c.version)
_FILES: Final = sa.select(_F).where(*_version).order_by(_F.c.path)
_FILE: Final = sa.select(_F).where(*_version, _F.c.path == sa.bindparam("path"))
_STORED: Final = (
    sa.update(_F)
    .where(_F.c.g == sa.bindparam("at"), _F.c.model == sa.bindparam("at_model"))
    .where(_F.c.version == sa.bindparam("at_version"), _F.c.path == sa.bindparam("at_path"))
    .values(object=sa.bindparam("object"))
)


@final
@dataclass(frozen=True, slots=True)
class ModelRow:
    """A registered model version; `digest` is the SHA-256 of the manifest's payload."""

    g: bytes
    model: str
    version: int
    digest: bytes
    envelope: bytes
    created: int


@final
@dataclass(frozen=True, slots=True)
class FileRow:
    """A sealed file that the manifest names. `object` is None until its bytes were uploaded."""

    g: bytes
    model: str
    version: int
    path: str
    sealed_size: int
    blake3: bytes
    object: bytes | None


async def one(unit: Unit, g: bytes, model: str, version: int) -> ModelRow | None:
    """Return a model version."""
    row = await unit.first(_ONE, {"g": g, "model": model, "version": version})
    return None if row is None else ModelRow(*row)


async def of_tenant(unit: Unit, g: bytes) -> tuple[ModelRow, ...]:
    """Return all model versions of a tenant."""
    return tuple(ModelRow(*row) for row in await unit.all(_ALL, {"g": g}))


async def insert(unit: Unit, row: ModelRow, files: Sequence[FileRow]) -> None:
    """Add a model version and the files that it consists of."""
    await unit.run(sa.insert(_M), {name: getattr(row, name) for name in row.__slots__})
    await unit.run(sa.insert(_F), [{name: getattr(f, name) for name in f.__slots__} for f in files])


async def files(unit: Unit, g: bytes, model: str, version: int) -> tuple[FileRow, ...]:
    """Return the files of a model version, by path."""
    found = await unit.all(_FILES, {"g": g, "model": model, "version": version})
    return tuple(FileRow(*row) for row in found)


async def file(unit: Unit, g: bytes, model: str, version: int, path: str) -> FileRow | None:
    """Return one file of a model version."""
    row = await unit.first(_FILE, {"g": g, "model": model, "version": version, "path": path})
    return None if row is None else FileRow(*row)


async def stored(unit: Unit, row: FileRow, digest: bytes) -> None:
    """Record that the bytes of a file lie in the object folder under this SHA-256."""
    await unit.run(
        _STORED,
        {
            "at": row.g,
            "at_model": row.model,
            "at_version": row.version,
            "at_path": row.path,
            "object": digest,
        },
    )
