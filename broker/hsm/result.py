"""What the result key may sign: tokens that the worker writes about results that the log names.

Guarantees: `write` returns a token's content only for a release or renewal leaf of the tenant's own
log, with the very result whose digest stands there; policy, evidence, collateral, time and the end
of the lease come from the leaf, issuer and token id from the worker. The caller chooses dialect,
audience, nonce and the time of issue, which is never before the leaf's. Does not judge the evidence
again, nor know whether the lease was ended since: the broker looks.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from broker.hsm import protocol
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.tenant import Tenant, refused
from verifier.ear import result as results
from verifier.ear.claims import MAX_AUDIENCE, NONCE, Basis, Ear
from verifier.ear.result import Asked
from verifier.errors import VerifierError
from verifier.result import Verdict
from verifier.tlog.merkle import leaf_hash
from verifier.wire import leaf as leaves
from verifier.wire.canonical import Hex

_TOKEN_ID: Final = 16


def write(tenant: Tenant, broker: bytes, call: protocol.SignResult) -> Ear:
    """Return the content of the token that a call asks for.

    Args:
        tenant: the one that the call names.
        broker: our own id.
        call: leaf, receipt, result, and what the relying party asked for.

    Raises:
        HsmError: `malformed` or `refused`.
    """
    # 1. What is asked for can be written.
    printable = call.audience.isascii() and call.audience.isprintable()
    if not 1 <= len(call.audience) <= MAX_AUDIENCE or not printable:
        raise HsmError(HsmReason.MALFORMED, "the audience is 1 to 256 printable ASCII characters")
    if len(call.nonce) not in NONCE:
        raise HsmError(HsmReason.MALFORMED, "the nonce has 9 to 64 bytes")
    try:
        # 2. The leaf stands in the tenant's log, and is one of a result.
        tenant.verify_receipt(call.receipt, call.leaf)
        entry = leaves.decode(call.leaf)
        if not isinstance(entry, leaves.ReleaseLeaf | leaves.RenewalLeaf):
            raise HsmError(HsmReason.REFUSED, "the leaf is of no release and no renewal")
        # 3. This is the result that the leaf names, and it says what was decided on.
        if hashlib.sha256(call.result).digest() != entry.result:
            raise HsmError(HsmReason.REFUSED, "the result is not the one that the leaf names")
        found = results.read(call.result)
        fits = (found.kind, found.simulated) == (entry.kind, entry.simulated)
        if found.verdict is not Verdict.ACCEPT or not fits:
            raise HsmError(HsmReason.REFUSED, "leaf and result contradict one another")
        if call.now < entry.time:
            raise HsmError(HsmReason.REFUSED, "a token cannot be older than its leaf")
        # 4. The token, in our own words.
        return results.make(
            found,
            Basis(
                kind=entry.kind,
                genesis=entry.genesis,
                leaf=Hex(leaf_hash(call.leaf)),
                policy=_policy(entry),
                evidence=entry.evidence,
                collateral=entry.collateral,
                result=entry.result,
                evaluated=entry.time,
                simulated=entry.simulated,
            ),
            Asked(call.dialect, call.audience, call.nonce),
            issuer=broker.hex(),
            token=secrets.token_hex(_TOKEN_ID),
            now=call.now,
            not_after=entry.not_after,
        )
    except VerifierError as error:
        raise refused(error) from error


def _policy(entry: leaves.ReleaseLeaf | leaves.RenewalLeaf) -> Hex:
    """Return the one policy under which it was decided."""
    if isinstance(entry, leaves.RenewalLeaf):
        return entry.policy
    policies = {key.policy for key in entry.keys}
    if len(policies) != 1:
        raise HsmError(HsmReason.REFUSED, "the leaf names several policies")
    return policies.pop()
