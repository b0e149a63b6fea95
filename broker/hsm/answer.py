"""What the broker's key may sign: answers to release and renewal, and nothing else.

Guarantees: `check` returns only for an answer of this broker that repeats a leaf of the tenant's
own log, with a receipt for it. Does not compare the wrapped keys with what was released: the
recipient finds out by opening them, and by the manifest digest.
"""

from __future__ import annotations

from typing import TypeAlias

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.tenant import Tenant, refused
from verifier.errors import VerifierError
from verifier.wire import canonical, leaf
from verifier.wire.messages import KeyRef, ReleaseAnswer, RenewalAnswer

Answer: TypeAlias = ReleaseAnswer | RenewalAnswer


def read(payload: bytes) -> Answer:
    """Return the answer in `payload`.

    Raises:
        HsmError: `malformed`.
    """
    try:
        return canonical.decode(payload, Answer)  # type: ignore[arg-type]  # a union
    except VerifierError as error:
        raise refused(error) from error


def check(tenant: Tenant, broker: bytes, answer: Answer) -> None:
    """Check an answer against the log.

    Args:
        tenant: the one that the answer names.
        broker: our own id.
        answer: what is to be signed.

    Raises:
        HsmError: `malformed` or `refused`.
    """
    if answer.broker != broker or answer.genesis != tenant.g:
        raise HsmError(HsmReason.REFUSED, "the answer is of another broker or tenant")
    try:
        tenant.verify_receipt(answer.receipt.encode(), answer.leaf)
        entry = leaf.decode(answer.leaf)
    except (VerifierError, UnicodeEncodeError) as error:
        if isinstance(error, VerifierError):
            raise refused(error) from error
        raise HsmError(HsmReason.MALFORMED, "the receipt is not text") from error
    kind = leaf.ReleaseLeaf if isinstance(answer, ReleaseAnswer) else leaf.RenewalLeaf
    if not isinstance(entry, kind) or not isinstance(entry, leaf.ReleaseLeaf | leaf.RenewalLeaf):
        raise HsmError(HsmReason.REFUSED, "the leaf is of another kind than the answer")
    same = (
        entry.challenge == answer.challenge
        and entry.recipients == answer.recipients
        and entry.lease == answer.lease.id
        and entry.not_after == answer.lease.not_after
    )
    if not same:
        raise HsmError(HsmReason.REFUSED, "the answer differs from its leaf")
    if isinstance(answer, ReleaseAnswer):
        logged = [KeyRef(key.id, key.version) for key in entry.keys]
        if [KeyRef(key.id, key.version) for key in answer.keys] != logged:
            raise HsmError(HsmReason.REFUSED, "the answer has other keys than its leaf")
