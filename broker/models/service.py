"""The registry of sealed models: manifests by signature, files by size and digest.

Guarantees: a file is stored only if its bytes have the size and the BLAKE3 digest that a signed
manifest names for it; a manifest once registered never changes. Stores ciphertext only, and cannot
tell whether it opens.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple, final

from blake3 import blake3

from broker.clock import Clock
from broker.errors import BrokerError, Code
from broker.models import manifest
from broker.models.manifest import SignedManifest
from broker.store.database import Store, Unit
from broker.store.objects import Objects
from broker.store.rows import models
from broker.store.rows.models import FileRow, ModelRow
from broker.tenants import caller as callers
from broker.tenants.caller import Caller
from broker.tenants.record import Tenant


@final
class FileName(NamedTuple):
    """A file of a model version, by the path that the manifest gives it."""

    model: str
    version: int
    path: str


@final
@dataclass(frozen=True, slots=True)
class StoredFile:
    """A sealed file that can be read. `size` in bytes, `blake3` as the manifest names it."""

    path: str
    size: int
    blake3: bytes
    object: bytes


@final
@dataclass(frozen=True, slots=True)
class ModelService:
    """Registers manifests, and stores and gives sealed files."""

    store: Store
    objects: Objects
    clock: Clock

    async def register(
        self, caller: Caller, tenant: str, model: str, version: int, envelope: bytes
    ) -> SignedManifest:
        """Register a signed manifest; the same one again changes nothing.

        Raises:
            BrokerError: `forbidden`, `malformed`, `too_large`, `conflict` if this version has
                another manifest, `database_unavailable`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
        signed = manifest.read(found, envelope)
        named = (signed.manifest.model, signed.manifest.version)
        if named != (model, version):
            raise BrokerError(Code.MALFORMED, f"manifest is of {named[0]}/{named[1]}")
        row = ModelRow(found.g, model, version, signed.digest, envelope, self.clock())
        files = [
            FileRow(found.g, model, version, f.path, f.sealed_size, bytes(f.blake3), None)
            for f in signed.manifest.files
        ]
        # One transaction: a crash leaves the whole manifest or nothing of it.
        async with self.store.write() as unit:
            existing = await models.one(unit, found.g, model, version)
            if existing is None:
                await models.insert(unit, row, files)
            elif existing.digest != signed.digest:
                raise BrokerError(Code.CONFLICT, f"{model}/{version} has another manifest")
        return signed

    async def listed(self, caller: Caller, tenant: str) -> tuple[ModelRow, ...]:
        """Return all registered model versions.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
            return await models.of_tenant(unit, found.g)

    async def manifest(self, caller: Caller, tenant: str, model: str, version: int) -> bytes:
        """Return the signed manifest (DSSE envelope) as it came.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
            row = await models.one(unit, found.g, model, version)
        if row is None:
            raise BrokerError(Code.NOT_FOUND, f"no model {model[:63]!r}/{version}")
        return row.envelope

    async def missing(
        self, caller: Caller, tenant: str, model: str, version: int
    ) -> tuple[str, ...]:
        """Return the paths whose bytes have not come yet, so that an upload resumes.

        Raises:
            BrokerError: `forbidden`, `not_found`.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            rows = await models.files(unit, found.g, model, version)
        if not rows:
            raise BrokerError(Code.NOT_FOUND, f"no model {model[:63]!r}/{version}")
        return tuple(row.path for row in rows if row.object is None)

    async def put_file(
        self,
        caller: Caller,
        tenant: str,
        name: FileName,
        body: AsyncIterable[bytes],
        *,
        sha256: bytes | None = None,
    ) -> StoredFile:
        """Store a sealed file from a stream; again replaces nothing, the bytes are the same.

        Args:
            caller: one of the tenant's signers.
            tenant: the tenant's name.
            name: model, version and a path that the manifest names.
            body: the sealed bytes.
            sha256: what the caller signed for the body, if it did.

        Raises:
            BrokerError: `forbidden`, `not_found`, `too_large`, `malformed` if size or digest are
                not what the manifest (or the caller's token) says, `database_unavailable` if the
                disk is full. Nothing is kept then.
        """
        async with self.store.read() as unit:
            found = await callers.vendor(unit, caller, tenant)
            row = await _row(unit, found, name)
        hasher = blake3()
        async with self.objects.incoming(limit=row.sealed_size) as incoming:
            async for piece in body:
                await incoming.write(piece)
                hasher.update(piece)
            if incoming.size != row.sealed_size:
                raise BrokerError(
                    Code.MALFORMED,
                    f"{incoming.size} bytes came, the manifest says {row.sealed_size}",
                )
            if not hmac.compare_digest(hasher.digest(), row.blake3):
                raise BrokerError(
                    Code.MALFORMED,
                    f"BLAKE3 of what came is {hasher.hexdigest()}, the manifest says "
                    f"{row.blake3.hex()}",
                )
            if sha256 is not None and not hmac.compare_digest(incoming.digest(), sha256):
                raise BrokerError(Code.UNAUTHENTICATED, "token is for another body")
            digest = await self.objects.keep(incoming)
        # A crash before the commit leaves an object that no row names; the next upload finds it.
        async with self.store.write() as unit:
            await models.stored(unit, row, digest)
        return StoredFile(row.path, row.sealed_size, row.blake3, digest)

    async def file(self, caller: Caller, tenant: str, name: FileName) -> StoredFile:
        """Return a stored file; `read` gives its bytes.

        Raises:
            BrokerError: `forbidden`, `not_found` also while its bytes have not come.
        """
        async with self.store.read() as unit:
            found = await callers.member(unit, caller, tenant)
            row = await _row(unit, found, name)
        if row.object is None:
            raise BrokerError(Code.NOT_FOUND, f"{row.path!r} was not uploaded yet")
        if self.objects.size(row.object) != row.sealed_size:
            raise BrokerError(Code.INTERNAL, f"object {row.object.hex()} has another size")
        return StoredFile(row.path, row.sealed_size, row.blake3, row.object)

    def read(
        self, file: StoredFile, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give the bytes [start, end) of a file.

        Raises:
            BrokerError: `malformed` for a range that is not in it, `database_unavailable`.
        """
        stop = file.size if end is None else end
        if not 0 <= start <= stop <= file.size:
            raise BrokerError(Code.MALFORMED, f"no range {start}..{stop} in {file.size} bytes")
        return self.objects.read(file.object, start, stop)


async def _row(unit: Unit, tenant: Tenant, name: FileName) -> FileRow:
    row = await models.file(unit, tenant.g, *name)
    if row is None:
        raise BrokerError(Code.NOT_FOUND, f"no manifest names {name.path[:100]!r} for this model")
    return row
