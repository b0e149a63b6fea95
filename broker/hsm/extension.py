"""What may be appended to a tenant's log.

Guarantees: `extended` returns the next head only if every leaf is one of ours in its one encoding,
of this tenant and mode, not older than the leaf before, and moves epoch and state digest as its
type must; a policy in a leaf is signed by the tenant. Does not see the state map itself, only its
digest, nor judge whether a change was right: whoever reads the log does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.protocol import MAX_LEAVES
from broker.hsm.state import HeadRow
from broker.hsm.tenant import Tenant, refused
from verifier.errors import VerifierError
from verifier.policy import ReleasePolicy
from verifier.tlog.merkle import leaf_hash
from verifier.wire import canonical, leaf
from verifier.wire.documents import GENESIS_TYPE, POLICY_TYPE
from verifier.wire.messages import DIGEST

_MAX_TIME: Final = 1 << 40


def extended(tenant: Tenant, head: HeadRow, leaves: Sequence[bytes]) -> HeadRow:
    """Return the head after `leaves`; its checkpoint is still to be signed (empty).

    Raises:
        HsmError: `malformed` or `refused`, naming the leaf's index.
    """
    if not 1 <= len(leaves) <= MAX_LEAVES:
        raise HsmError(HsmReason.MALFORMED, f"{len(leaves)} leaves, 1 to {MAX_LEAVES} allowed")
    for raw in leaves:
        try:
            head = _append(tenant, head, raw)
        except VerifierError as error:
            failure = refused(error)
            raise _at(head, failure) from error
        except HsmError as error:
            raise _at(head, error) from error
    return head


def _append(tenant: Tenant, head: HeadRow, raw: bytes) -> HeadRow:
    entry = leaf.decode(raw)
    # 1. It belongs here, and now.
    _require(entry.genesis == tenant.g, "it is of another tenant")
    _require(head.time <= entry.time < _MAX_TIME, "its time is before the leaf before")
    _require(isinstance(entry, leaf.GenesisLeaf) == (head.size == 0), "genesis is leaf 0 alone")
    # 2. Epoch and state move exactly as its type says.
    if isinstance(entry, leaf.GenesisLeaf):
        _require(entry.epoch == 0, "the first epoch is 0")
        _require(entry.state == tenant.empty_map().digest(), "the first state map holds no key")
    elif isinstance(entry, leaf.CHANGES):
        _require(entry.epoch == head.epoch + 1, "a change raises the epoch by one")
        _require(len(entry.state) == DIGEST, "a state digest has 32 bytes")
    else:
        _require(entry.epoch == head.epoch, "its epoch is not the current one")
        _require(entry.state == head.state, "its state is not the current one")
    # 3. What it carries is what it must be.
    _check_content(tenant, entry)
    return HeadRow(
        frontier=head.frontier.append(leaf_hash(raw)),
        epoch=entry.epoch,
        state=bytes(entry.state),
        time=entry.time,
        checkpoint=b"",
    )


def _check_content(tenant: Tenant, entry: leaf.AnyLeaf) -> None:
    match entry:
        case leaf.GenesisLeaf():
            payload = tenant.signed(entry.document, GENESIS_TYPE)
            _require(hashlib.sha256(payload).digest() == tenant.g, "it is another genesis")
        case leaf.PolicyLeaf():
            payload = tenant.signed(entry.document, POLICY_TYPE)
            policy = canonical.decode(payload, ReleasePolicy)
            _require(hashlib.sha256(payload).digest() == entry.policy, "policy digest differs")
            _require(policy.genesis == tenant.g, "the policy is of another tenant")
            _require(policy.version == entry.version, "policy version differs")
        case leaf.ReleaseLeaf() | leaf.RenewalLeaf():
            _require(
                entry.simulated == tenant.genesis.simulated, "simulated differs from the genesis"
            )
        case leaf.ImportKeyLeaf() | leaf.KeyLeaf() | leaf.LeaseEndLeaf():
            pass  # their fields are digests and names; the state digest above covers them


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition, named by the text
    if not condition:
        raise HsmError(HsmReason.REFUSED, otherwise)


def _at(head: HeadRow, error: HsmError) -> HsmError:
    return HsmError(error.reason, f"leaf {head.size}: {error.detail}")
