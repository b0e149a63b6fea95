"""Policies: signed, numbered, and never an older one again."""

from __future__ import annotations

from pathlib import Path

from broker.errors import Code
from tests.kit.services import KEY, MANIFEST, Services, services
from tests.kit.store import TestCaller, Vendor, in_loop, refusal
from verifier.wire import leaf as leaves
from verifier.wire.canonical import Hex
from verifier.wire.messages import KeyRef

SECOND = KeyRef("llama", 2)


async def governed(made: Services) -> dict[KeyRef, tuple[bytes, int]]:
    """Return policy digest and version by key."""
    state = await made.state()
    return {e.ref(): (bytes(e.policy), e.policy_version) for e in state.map.keys}


@in_loop
async def test_policy_takes_effect_as_a_leaf(tmp_path: Path) -> None:
    """A pushed policy stands in the log whole, and governs its keys."""
    async with services(tmp_path) as made:
        await made.push_key()
        envelope, digest = made.policy()
        appended = await made.policies.push(made.house.caller, "acme", envelope)

        leaf = leaves.decode(appended.leaf)
        assert isinstance(leaf, leaves.PolicyLeaf)
        assert (leaf.policy, leaf.version, leaf.document) == (digest, 1, envelope)
        assert await governed(made) == {KEY: (digest, 1)}
        rows = await made.policies.listed(made.house.caller, "acme")
        assert [row.envelope for row in rows] == [envelope]


@in_loop
async def test_older_policy_is_refused(tmp_path: Path) -> None:
    """The same version again and every older one are `policy_rolled_back`."""
    async with services(tmp_path) as made:
        await made.push_key()
        first, digest = made.policy()
        second, _ = made.policy(2, digest, max_leases=5)
        await made.push_policy(first)
        await made.push_policy(second)

        for old in (first, second):
            assert (await refusal(made.push_policy(old))).code is Code.POLICY_ROLLED_BACK


@in_loop
async def test_older_policy_stays_refused_without_its_rows(tmp_path: Path) -> None:
    """Deleting policy rows does not let an older version in: the log says which is in force."""
    async with services(tmp_path) as made:
        await made.push_key()
        first, digest = made.policy()
        await made.push_policy(first)
        await made.push_policy(made.policy(2, digest, max_leases=5)[0])

        made.house.sql("DELETE FROM policies WHERE version = 2")
        without_second = await refusal(made.push_policy(first))
        made.house.sql("DELETE FROM policies")
        without_any = await refusal(made.push_policy(first))

        assert {without_second.code, without_any.code} == {Code.STATE_MISMATCH}


@in_loop
async def test_row_with_another_document_is_found(tmp_path: Path) -> None:
    """A policy row whose envelope was exchanged is not what the log names."""
    async with services(tmp_path) as made:
        await made.push_key()
        first, digest = made.policy()
        await made.push_policy(first)
        weak, _ = made.policy(max_leases=1000)
        made.house.sql("UPDATE policies SET envelope = ?", weak)

        error = await refusal(made.push_policy(made.policy(2, digest)[0]))

        assert error.code is Code.STATE_MISMATCH


@in_loop
async def test_version_follows_its_predecessor(tmp_path: Path) -> None:
    """A gap in the numbers, or another predecessor, is refused."""
    async with services(tmp_path) as made:
        await made.push_key()
        first, digest = made.policy()
        await made.push_policy(first)

        for version, predecessor in ((3, digest), (2, bytes(31) + b"x")):
            envelope, _ = made.policy(version, predecessor)
            assert (await refusal(made.push_policy(envelope))).code is Code.POLICY_INVALID
        skipped, _ = made.policy(2, digest, name="other")
        assert (await refusal(made.push_policy(skipped))).code is Code.POLICY_INVALID


@in_loop
async def test_all_reasons_are_listed_at_once(tmp_path: Path) -> None:
    """A policy that does not fit is refused with everything that is wrong with it."""
    async with services(tmp_path) as made:
        await made.push_key()
        other = Hex(b"\x01" * 32)
        envelope, _ = made.policy(keys=(KEY, SECOND), manifests=(other,))

        error = await refusal(made.push_policy(envelope))

        assert error.code is Code.POLICY_INVALID
        assert error.reasons == (
            f"key llama/1 opens manifest {MANIFEST.hex()}, which is not named",
            "key llama/2 does not exist",
        )


@in_loop
async def test_key_that_is_no_longer_named_has_no_policy(tmp_path: Path) -> None:
    """A version that drops a key leaves it under none, not under the older version."""
    async with services(tmp_path) as made:
        await made.push_key()
        await made.push_key(SECOND)
        first, digest = made.policy(keys=(KEY, SECOND))
        await made.push_policy(first)
        second, newer = made.policy(2, digest, keys=(SECOND,))
        await made.push_policy(second)

        assert await governed(made) == {KEY: (bytes(32), 0), SECOND: (newer, 2)}
        assert (await refusal(made.push_policy(first))).code is Code.POLICY_ROLLED_BACK


@in_loop
async def test_key_stands_under_one_policy(tmp_path: Path) -> None:
    """Another policy cannot take a key over, only after the first one let it go."""
    async with services(tmp_path) as made:
        await made.push_key()
        await made.push_policy(made.policy()[0])
        other, _ = made.policy(name="other")

        error = await refusal(made.push_policy(other))

        assert error.code is Code.POLICY_INVALID
        assert error.reasons == ("key llama/1 stands under policy prod",)


@in_loop
async def test_policy_is_the_tenants(tmp_path: Path) -> None:
    """Wrong signer, other tenant, garbage, or a runtime as caller: refused."""
    async with services(tmp_path) as made:
        await made.push_key()
        good, _ = made.policy()
        foreign, _ = made.policy(genesis=b"\x07" * 32)
        made.house.vendor, own = Vendor(made.house.hsm.broker_key), made.house.vendor
        forged, _ = made.policy()
        made.house.vendor = own

        assert (await refusal(made.push_policy(forged))).code is Code.FORBIDDEN
        assert (await refusal(made.push_policy(foreign))).code is Code.POLICY_INVALID
        assert (await refusal(made.push_policy(good[:-1]))).code is Code.MALFORMED
        runtime = TestCaller("acme", "lease:x")
        error = await refusal(made.policies.push(runtime, "acme", good))
        assert error.code is Code.FORBIDDEN
