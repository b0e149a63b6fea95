"""The registry of sealed models: manifests and ciphertext in, ciphertext out, by ranges."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Response, get, head, put
from litestar.response import Stream

from broker.errors import BrokerError, Code
from broker.http import body
from broker.http.auth import check_body
from broker.http.bodies import SEALED, takes
from broker.http.context import Name, Req, Version, caller, services
from broker.http.tenants import ROOT, answer
from broker.models.service import FileName

MODEL: Final = f"{ROOT}/models/{{model:str}}/{{version:int}}"
FILE: Final = f"{MODEL}/files/{{path:path}}"
OCTETS: Final = "application/octet-stream"
MAX_MANIFEST: Final = 24 << 20
"""Most bytes of a manifest: ten thousand long paths reach several MiB."""
_RANGE: Final = re.compile(r"bytes=(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


@put(
    f"{MODEL}/manifest",
    operation_id="push_manifest",
    tags=["vendor"],
    request_max_body_size=MAX_MANIFEST,
    operation_class=takes("DSSE envelope of a manifest", SEALED),
)
async def push_manifest(
    request: Req, tenant: Name, model: Name, version: Version
) -> Response[bytes]:
    """Register the signed manifest of a sealed model."""
    who = await caller(request)
    raw = await body.raw(request)
    check_body(who, raw)
    signed = await services(request).models.register(who, tenant, model, version, raw)
    return answer({"manifest": signed.digest.hex()})


@get(f"{MODEL}/manifest", operation_id="manifest", tags=["registry"])
async def manifest(request: Req, tenant: Name, model: Name, version: Version) -> Response[bytes]:
    """Return the signed manifest (DSSE) as it came."""
    who = await caller(request)
    envelope = await services(request).models.manifest(who, tenant, model, version)
    return Response(envelope, media_type=body.JSON)


@put(
    FILE,
    operation_id="push_file",
    tags=["vendor"],
    request_max_body_size=None,
    operation_class=takes("sealed file", SEALED, OCTETS),
)
async def push_file(
    request: Req, tenant: Name, model: Name, version: Version, path: Name
) -> Response[bytes]:
    """Store one sealed file; size and BLAKE3 must be the manifest's."""
    who = await caller(request)
    if request.headers.get("content-type", "") != OCTETS:
        raise BrokerError(Code.MALFORMED, f"content-type must be {OCTETS}")
    stored = await services(request).models.put_file(
        who, tenant, _name(model, version, path), body.pieces(request), sha256=who.body_sha256
    )
    return answer({"size": stored.size})


@get(FILE, operation_id="file", tags=["registry"])
async def file(
    request: Req, tenant: Name, model: Name, version: Version, path: Name
) -> Response[Any] | Stream:
    """Return a sealed file, or one range of it (`bytes=first-last`)."""
    who = await caller(request)
    models = services(request).models
    found = await models.file(who, tenant, _name(model, version, path))
    start, end = _span(request.headers.get("range"), found.size)
    partial = (start, end) != (0, found.size)
    headers = {"content-length": str(end - start), "accept-ranges": "bytes"}
    if partial:
        headers["content-range"] = f"bytes {start}-{end - 1}/{found.size}"
    return Stream(
        models.read(found, start, end),
        status_code=206 if partial else 200,
        media_type=OCTETS,
        headers=headers,
    )


@head(FILE, operation_id="file_size", tags=["registry"])
async def file_size(
    request: Req, tenant: Name, model: Name, version: Version, path: Name
) -> Response[None]:
    """Return the size of a sealed file as its content-length."""
    who = await caller(request)
    found = await services(request).models.file(who, tenant, _name(model, version, path))
    return Response(
        None,
        headers={"content-length": str(found.size), "accept-ranges": "bytes"},
    )


def _name(model: str, version: int, path: str) -> FileName:
    return FileName(model, version, path.removeprefix("/"))


def _span(header: str | None, size: int) -> tuple[int, int]:
    """Return the range [start, end) that was asked for; the whole file without a header."""
    if header is None:
        return 0, size
    match = _RANGE.fullmatch(header)
    if match is None:
        raise BrokerError(Code.MALFORMED, "one range of the form bytes=first-last")
    first, last = int(match[1]), int(match[2])
    if first > last or first >= size:
        raise BrokerError(Code.MALFORMED, f"no such range in {size} bytes")
    return first, min(last + 1, size)


ROUTES: Final = (push_manifest, manifest, push_file, file, file_size)
