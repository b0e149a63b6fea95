"""What an auditor takes home: checkpoint, leaves, receipts, consistency proofs."""

from __future__ import annotations

import base64
from typing import Final

from litestar import Response, get

from broker.http.context import Count, Name, Req, caller, services
from broker.http.tenants import ROOT, answer
from verifier.wire import canonical

TEXT: Final = "text/plain; charset=utf-8"


@get(f"{ROOT}/log/checkpoint", operation_id="checkpoint", tags=["auditor"])
async def checkpoint(request: Req, tenant: Name) -> Response[bytes]:
    """Return the newest signed checkpoint (C2SP signed note)."""
    who = await caller(request)
    return Response(await services(request).log.checkpoint(who, tenant), media_type=TEXT)


@get(f"{ROOT}/log/leaves", operation_id="leaves", tags=["auditor"])
async def leaves(
    request: Req, tenant: Name, start: Count = 0, limit: Count = 256
) -> Response[bytes]:
    """Return leaves, byte for byte, as a list of unpadded base64url; at most 256."""
    who = await caller(request)
    found = await services(request).log.leaves(who, tenant, start=start, limit=limit)
    return answer([canonical.b64encode(raw) for raw in found])


@get(f"{ROOT}/log/proof", operation_id="receipt", tags=["auditor"])
async def receipt(request: Req, tenant: Name, index: Count) -> Response[bytes]:
    """Return a receipt (C2SP tlog-proof) for one leaf."""
    who = await caller(request)
    return Response(await services(request).log.receipt(who, tenant, index), media_type=TEXT)


@get(f"{ROOT}/log/consistency", operation_id="consistency", tags=["auditor"])
async def consistency(request: Req, tenant: Name, old: Count, new: Count) -> Response[bytes]:
    """Return a consistency proof (RFC 6962 §2.1.2), one base64 hash a line."""
    who = await caller(request)
    proof = await services(request).log.consistency(who, tenant, old=old, new=new)
    text = b"".join(base64.b64encode(digest) + b"\n" for digest in proof)
    return Response(text, media_type=TEXT)


ROUTES: Final = (checkpoint, leaves, receipt, consistency)
