"""What a tenant's signers do: keys, orders, policies, leases, state and audit."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Response, delete, get, post, put

from broker.audit import explanation
from broker.http import body
from broker.http.auth import check_body
from broker.http.bodies import WIRE, takes
from broker.http.context import Count, Entry, Flag, Name, Req, caller, services
from broker.store.rows.audit import AuditRow
from verifier.explain import text
from verifier.wire import canonical
from verifier.wire.messages import MAX_PROVENANCE, KeyImport

ROOT: Final = "/v1/tenants/{tenant:str}"
"""Everything of one tenant."""
PROVENANCE: Final = f"{ROOT}/policies/{{policy:str}}/provenance"
"""What goes with one policy version, which its digest names."""


def answer(value: Any, status: int = 200) -> Response[bytes]:  # noqa: ANN401 - JSON
    """Return a JSON answer."""
    return Response(msgspec.json.encode(value), media_type=body.JSON, status_code=status)


@get(ROOT, operation_id="tenant", tags=["vendor"])
async def show(request: Req, tenant: Name) -> Response[bytes]:
    """Return the tenant's signed genesis (DSSE)."""
    who = await caller(request)
    await services(request).keys.state(who, tenant)
    found = await services(request).tenants.find(tenant)
    return Response(found.envelope, media_type=body.JSON)


@post(f"{ROOT}/import-keys", status_code=201, operation_id="create_import_key", tags=["vendor"])
async def create_import_key(request: Req, tenant: Name) -> Response[bytes]:
    """Make an import key in the HSM. Confirm its digest out of band before you use it."""
    who = await caller(request)
    check_body(who, await body.whole(request))
    spki = await services(request).keys.create_import_key(who, tenant)
    return answer({"spki": canonical.b64encode(spki)}, 201)


@get(f"{ROOT}/import-keys", operation_id="import_keys", tags=["vendor"])
async def import_keys(request: Req, tenant: Name) -> Response[bytes]:
    """List the import keys that live."""
    who = await caller(request)
    rows = await services(request).keys.import_keys(who, tenant)
    return answer([{"spki": canonical.b64encode(row.spki)} for row in rows])


@post(
    f"{ROOT}/keys",
    status_code=201,
    operation_id="push_key",
    tags=["vendor"],
    operation_class=takes(
        "KeyImport: v, statement (DSSE of an import statement), ciphertext", f"{WIRE}, section 6"
    ),
)
async def push_key(request: Req, tenant: Name) -> Response[bytes]:
    """Take in a DEK wrapped to the import key, with its signed statement."""
    who = await caller(request)
    raw = await body.raw(request)
    check_body(who, raw)
    message = body.decode(raw, KeyImport)
    done = await services(request).keys.push(
        who, tenant, bytes(message.statement), bytes(message.ciphertext)
    )
    return answer({"leaf": done.index}, 201)


@post(
    f"{ROOT}/key-orders",
    status_code=200,
    operation_id="order_key",
    tags=["vendor"],
    operation_class=takes("DSSE envelope of a key order", f"{WIRE}, section 6"),
)
async def order_key(request: Req, tenant: Name) -> Response[bytes]:
    """Move a key to another state, as a signed order says."""
    who = await caller(request)
    raw = await body.raw(request)
    check_body(who, raw)
    done = await services(request).keys.order(who, tenant, raw)
    return answer({"leaf": done.index})


@put(
    f"{ROOT}/policies",
    operation_id="push_policy",
    tags=["vendor"],
    operation_class=takes("DSSE envelope of a release policy", f"{WIRE}, section 6"),
)
async def push_policy(request: Req, tenant: Name) -> Response[bytes]:
    """Put a signed policy version in force; numbers only rise."""
    who = await caller(request)
    raw = await body.raw(request)
    check_body(who, raw)
    done = await services(request).policies.push(who, tenant, raw)
    return answer({"leaf": done.index})


@put(
    PROVENANCE,
    operation_id="push_provenance",
    tags=["vendor"],
    request_max_body_size=MAX_PROVENANCE,
    operation_class=takes("ProvenanceSet: v, trusted_root, bundles", f"{WIRE}, section 5"),
)
async def push_provenance(request: Req, tenant: Name, policy: Name) -> Response[bytes]:
    """Hand in who built what a policy version admits: Sigstore bundles and their trusted root."""
    who = await caller(request)
    raw = await body.raw(request)
    check_body(who, raw)
    name = await services(request).provenance.push(who, tenant, policy, raw)
    return answer({"object": name.hex()})


@get(PROVENANCE, operation_id="provenance", tags=["vendor"])
async def provenance(request: Req, tenant: Name, policy: Name) -> Response[bytes]:
    """Return the bundles and the trusted root of a policy version as they came."""
    who = await caller(request)
    found = await services(request).provenance.show(who, tenant, policy)
    return Response(found, media_type=body.JSON)


@get(f"{ROOT}/state", operation_id="state", tags=["vendor"])
async def state(request: Req, tenant: Name) -> Response[bytes]:
    """Return epoch, state digest and keys, as log and rows agree on them."""
    who = await caller(request)
    found = await services(request).keys.state(who, tenant)
    return answer(
        {
            "epoch": found.head.epoch,
            "state": found.head.state.hex(),
            "size": found.head.size,
            "keys": [
                {
                    "id": entry.id,
                    "version": entry.version,
                    "state": entry.state.value,
                    "manifest": entry.manifest.hex(),
                    "policy": entry.policy.hex(),
                    "policy_version": entry.policy_version,
                }
                for entry in found.map.keys
            ],
        }
    )


@get(f"{ROOT}/leases", operation_id="leases", tags=["vendor"])
async def leases(request: Req, tenant: Name, live: Flag = False) -> Response[bytes]:  # noqa: FBT002 - a query parameter
    """List leases, newest first: who runs the model where, until when."""
    who = await caller(request)
    rows = await services(request).leases.listed(who, tenant, live=live)
    return answer(
        [
            {
                "id": row.id,
                "keys": [f"{ref.id}/{ref.version}" for ref in row.keys],
                "kind": row.kind,
                "platform": row.platform.hex(),
                "devices": [device.hex() for device in row.devices],
                "created": row.created,
                "not_after": row.not_after,
                "state": row.state,
                "cause": row.cause,
                "leaf": row.leaf,
            }
            for row in rows
        ]
    )


@get(f"{ROOT}/leases/{{lease:str}}", operation_id="lease", tags=["runtime"])
async def lease_standing(request: Req, tenant: Name, lease: Name) -> Response[bytes]:
    """Return how a lease stands, and the tenant's state epoch: when it moves, renew."""
    who = await caller(request)
    row, epoch = await services(request).leases.standing(who, tenant, lease)
    told = {"id": row.id, "state": row.state, "not_after": row.not_after, "epoch": epoch}
    return answer(told)


@delete(f"{ROOT}/leases/{{lease:str}}", status_code=200, operation_id="end_lease", tags=["vendor"])
async def end_lease(request: Req, tenant: Name, lease: Name) -> Response[bytes]:
    """End a lease: revoked by a signer, or returned by the runtime that holds it."""
    who = await caller(request)
    done = await services(request).leases.end(who, tenant, lease)
    return answer({"leaf": done.index})


@get(f"{ROOT}/audit", operation_id="audit", tags=["vendor"])
async def audit(request: Req, tenant: Name, limit: Count = 100) -> Response[bytes]:
    """List refusals with all their reasons, newest first."""
    who = await caller(request)
    rows = await services(request).audit.listed(who, tenant, limit=limit)
    return answer([_refusal(row) for row in rows])


@get(f"{ROOT}/audit/{{entry:int}}", operation_id="explain", tags=["vendor"])
async def explain(request: Req, tenant: Name, entry: Entry) -> Response[bytes]:
    """Return a refusal with what it means and what to do about it, as `ostiary explain` says it."""
    who = await caller(request)
    row = await services(request).audit.find(who, tenant, entry)
    told = explanation(row)
    problems = [
        {
            "reason": problem.reason.value,
            "advice": problem.advice,
            "misses": [
                {
                    "name": miss.name,
                    "expected": miss.expected,
                    "seen": miss.seen,
                    "differs_at": miss.differs_at,
                }
                for miss in problem.misses
            ],
        }
        for problem in told.problems
    ]
    return answer(_refusal(row) | {"problems": problems, "explanation": text(told)})


def _refusal(row: AuditRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time,
        "kind": row.kind,
        "code": row.code,
        "actor": row.actor,
        "subject": row.subject,
        "reasons": list(row.reasons),
    }


ROUTES: Final = (
    show,
    create_import_key,
    import_keys,
    push_key,
    order_key,
    push_policy,
    push_provenance,
    provenance,
    state,
    leases,
    lease_standing,
    end_lease,
    audit,
    explain,
)
