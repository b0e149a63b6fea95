"""The registry: files by signed manifest only, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from blake3 import blake3

from broker.errors import Code
from broker.models import manifest
from broker.models.service import FileName
from tests.kit.services import Services, services
from tests.kit.store import TestCaller, Vendor, in_loop, refusal
from verifier.wire import canonical
from verifier.wire.canonical import Hex

BODY = bytes(range(256)) * 40
PATH = "weights/model-00001.safetensors"
NAME = FileName("llama", 1, PATH)


def document(made: Services, *, model: str = "llama", **changes: object) -> manifest.Manifest:
    """Return a manifest of one file, `BODY`."""
    entry = {
        "path": PATH,
        "size": len(BODY) - 1,
        "sealed_size": len(BODY),
        "blake3": Hex(blake3(BODY).digest()),
    } | changes
    return manifest.Manifest(
        v=1,
        model=model,
        version=1,
        genesis=Hex(made.g),
        model_version_id=Hex(bytes(32)),
        key_id="llama",
        key_version=1,
        files=(manifest.SealedFile(**entry),),  # type: ignore[arg-type]  # mixed fields
    )


def signed(made: Services, value: manifest.Manifest) -> bytes:
    return made.vendor.sign(manifest.MANIFEST_TYPE, canonical.encode(value))


async def register(made: Services, value: manifest.Manifest | None = None) -> bytes:
    envelope = signed(made, value or document(made))
    await made.models.register(made.house.caller, "acme", "llama", 1, envelope)
    return envelope


async def pieces(body: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def left_over(folder: Path) -> list[Path]:
    return [p for p in (folder / "objects").rglob("*") if p.is_file()]


@in_loop
async def test_file_goes_in_and_comes_out(tmp_path: Path) -> None:
    """A file that fits its manifest is stored, and read back whole and by ranges."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        envelope = await register(made)
        missing = await made.models.missing(caller, "acme", "llama", 1)
        await made.models.put_file(caller, "acme", NAME, pieces(BODY))
        runtime = TestCaller("acme", "lease:abc")
        found = await made.models.file(runtime, "acme", NAME)

        assert missing == (PATH,)
        assert await made.models.missing(caller, "acme", "llama", 1) == ()
        assert await made.models.manifest(runtime, "acme", "llama", 1) == envelope
        assert b"".join([p async for p in made.models.read(found)]) == BODY
        assert b"".join([p async for p in made.models.read(found, 300, 999)]) == BODY[300:999]
        assert [row.model for row in await made.models.listed(runtime, "acme")] == ["llama"]


@in_loop
async def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    """Too few, too many, other bytes, or others than the token names: refused, nothing stays."""
    async with services(tmp_path) as made:
        await register(made)
        flipped = bytes([BODY[0] ^ 1]) + BODY[1:]
        codes = [
            (await refusal(made.models.put_file(made.house.caller, "acme", NAME, pieces(b)))).code
            for b in (BODY[:-1], BODY + b"x", flipped, b"")
        ]
        token = await refusal(
            made.models.put_file(
                made.house.caller, "acme", NAME, pieces(BODY), sha256=hashlib.sha256(b"").digest()
            )
        )

        malformed = Code.MALFORMED
        assert codes == [malformed, Code.TOO_LARGE, malformed, malformed]
        assert token.code is Code.UNAUTHENTICATED
        assert left_over(tmp_path) == []
        absent = await refusal(made.models.file(made.house.caller, "acme", NAME))
        assert absent.code is Code.NOT_FOUND


@in_loop
async def test_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """A stream that fails half way leaves no temporary file."""

    async def broken() -> AsyncIterator[bytes]:
        yield BODY[:100]
        raise ConnectionResetError

    async with services(tmp_path) as made:
        await register(made)
        try:
            await made.models.put_file(made.house.caller, "acme", NAME, broken())
        except ConnectionResetError:
            assert left_over(tmp_path) == []
        else:
            raise AssertionError("it was stored")


@in_loop
async def test_same_file_again_is_the_same_object(tmp_path: Path) -> None:
    """Uploading twice keeps one object."""
    async with services(tmp_path) as made:
        await register(made)
        for _ in range(2):
            await made.models.put_file(made.house.caller, "acme", NAME, pieces(BODY))

        assert len(left_over(tmp_path)) == 1


@in_loop
async def test_manifest_never_changes(tmp_path: Path) -> None:
    """The same manifest again is fine, another one for the version is a conflict."""
    async with services(tmp_path) as made:
        await register(made)
        await register(made)

        error = await refusal(register(made, document(made, size=7)))

        assert error.code is Code.CONFLICT


@in_loop
async def test_manifest_is_the_tenants_and_in_bounds(tmp_path: Path) -> None:
    """Other signers, another tenant or model, and paths that are no file names are refused."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        good = document(made)
        foreign = canonical.encode(good).replace(made.g.hex().encode(), b"00" * 32)
        stranger = Vendor(made.house.hsm.broker_key)
        cases = {
            stranger.sign(manifest.MANIFEST_TYPE, canonical.encode(good)): Code.FORBIDDEN,
            made.vendor.sign(manifest.MANIFEST_TYPE, foreign): Code.FORBIDDEN,
            made.vendor.sign("application/x", canonical.encode(good)): Code.FORBIDDEN,
            signed(made, document(made, model="other")): Code.MALFORMED,
            made.vendor.sign(manifest.MANIFEST_TYPE, b"{}"): Code.MALFORMED,
        }
        paths = ("../x", "/x", "a//b", "", "a/./b", "x" * 513, "a\nb")
        cases |= {signed(made, document(made, path=path)): Code.MALFORMED for path in paths}
        cases[signed(made, document(made, sealed_size=-1))] = Code.MALFORMED
        cases[signed(made, document(made, blake3=Hex(b"x")))] = Code.MALFORMED
        for envelope, expected in cases.items():
            error = await refusal(made.models.register(caller, "acme", "llama", 1, envelope))
            assert error.code is expected


@in_loop
async def test_only_members_read_and_only_signers_write(tmp_path: Path) -> None:
    """A runtime may read its tenant's files, not write; a stranger may neither."""
    async with services(tmp_path) as made:
        await register(made)
        runtime, stranger = TestCaller("acme", "lease:x"), TestCaller("other", "other")
        for work in (
            made.models.put_file(runtime, "acme", NAME, pieces(BODY)),
            made.models.register(runtime, "acme", "llama", 1, b""),
            made.models.put_file(stranger, "acme", NAME, pieces(BODY)),
            made.models.file(stranger, "acme", NAME),
            made.models.manifest(stranger, "acme", "llama", 1),
            made.models.listed(stranger, "acme"),
        ):
            assert (await refusal(work)).code is Code.FORBIDDEN


@in_loop
async def test_unknown_files_and_ranges_are_refused(tmp_path: Path) -> None:
    """What no manifest names is not found, and a range must lie in the file."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        await register(made)
        await made.models.put_file(caller, "acme", NAME, pieces(BODY))
        found = await made.models.file(caller, "acme", NAME)
        other = FileName("llama", 1, "other")

        for work in (
            made.models.file(caller, "acme", other),
            made.models.put_file(caller, "acme", other, pieces(b"")),
            made.models.manifest(caller, "acme", "llama", 2),
            made.models.missing(caller, "acme", "none", 1),
        ):
            assert (await refusal(work)).code is Code.NOT_FOUND

        async def read(start: int, end: int) -> None:
            async for _ in made.models.read(found, start, end):
                pass

        for start, end in ((-1, 5), (5, 4), (0, len(BODY) + 1)):
            assert (await refusal(read(start, end))).code is Code.MALFORMED
