"""Keys: in by signed statement, moved by signed order, compared with the log before use."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from broker.errors import BrokerError, Code
from broker.keys import transitions
from broker.keys.drafts import MAX_IMPORT_KEYS
from tests.kit.services import KEY, MANIFEST, services
from tests.kit.store import TestCaller, Vendor, in_loop, refusal
from verifier.wire import leaf as leaves
from verifier.wire.canonical import Hex
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef


@in_loop
async def test_import_key_is_a_leaf(tmp_path: Path) -> None:
    """Making an import key raises the epoch, names its SPKI and leaves the state map as it is."""
    async with services(tmp_path) as made:
        before = await made.state()
        spki = await made.keys.create_import_key(made.house.caller, "acme")
        after = await made.state()
        (raw,) = await made.reader.leaves(made.house.caller, "acme", start=1, limit=9)

        leaf = leaves.decode(raw)
        assert isinstance(leaf, leaves.ImportKeyLeaf)
        assert (leaf.spki, leaf.action) == (hashlib.sha256(spki).digest(), "created")
        assert (after.head.epoch, after.map) == (before.head.epoch + 1, before.map)
        assert [row.spki for row in await made.keys.import_keys(made.house.caller, "acme")] == [
            spki
        ]


@in_loop
async def test_destroyed_import_key_imports_nothing(tmp_path: Path) -> None:
    """Destroying is a leaf too, done once, and the key is gone from list and HSM."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        spki = await made.keys.create_import_key(caller, "acme")
        statement, ciphertext = made.statement(spki)
        digest = hashlib.sha256(spki).digest()
        await made.keys.destroy_import_key(caller, "acme", digest)

        again = await refusal(made.keys.destroy_import_key(caller, "acme", digest))
        push = await refusal(made.keys.push(caller, "acme", statement, ciphertext))

        assert (again.code, push.code) == (Code.NOT_FOUND, Code.NOT_FOUND)
        assert await made.keys.import_keys(caller, "acme") == ()


@in_loop
async def test_destruction_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    """A key that the token lost before its leaf was written can still be recorded as destroyed."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        spki = await made.keys.create_import_key(caller, "acme")
        digest = hashlib.sha256(spki).digest()
        await made.house.hsm.destroy_import_key(made.g, digest)

        await made.keys.destroy_import_key(caller, "acme", digest)

        assert await made.keys.import_keys(caller, "acme") == ()


@in_loop
async def test_import_keys_are_few(tmp_path: Path) -> None:
    """A tenant cannot fill the token with import keys."""
    async with services(tmp_path) as made:
        for _ in range(MAX_IMPORT_KEYS):
            await made.keys.create_import_key(made.house.caller, "acme")

        error = await refusal(made.keys.create_import_key(made.house.caller, "acme"))

        assert error.code is Code.CONFLICT


@in_loop
async def test_pushed_key_waits_for_its_order(tmp_path: Path) -> None:
    """A DEK comes in in pre-activation, under no policy, with blob digest and statement logged."""
    async with services(tmp_path) as made:
        await made.push_key()
        state = await made.state()
        raw = (await made.reader.leaves(made.house.caller, "acme", start=2, limit=1))[0]

        entry, row, leaf = state.map.find(KEY), state.rows[KEY], leaves.decode(raw)
        assert entry is not None
        assert isinstance(leaf, leaves.KeyLeaf)
        assert (entry.state, entry.policy_version) == (KeyState.PRE_ACTIVATION, 0)
        assert leaf.blob == entry.blob == hashlib.sha256(row.blob).digest()
        assert await made.objects.get(bytes(leaf.statement), limit=9999) == row.statement


@in_loop
async def test_statement_must_be_the_tenants_and_about_these_bytes(tmp_path: Path) -> None:
    """Wrong signer, wrong ciphertext, wrong tenant or length: refused before the HSM is asked."""
    async with services(tmp_path) as made:
        caller = made.house.caller
        spki = await made.keys.create_import_key(caller, "acme")
        statement, ciphertext = made.statement(spki)
        stranger = Vendor(made.house.hsm.broker_key)
        outcomes = []
        made.house.vendor, own = stranger, made.house.vendor
        forged, sent = made.statement(spki)
        made.house.vendor = own
        for envelope, body in (
            (forged, sent),
            (statement, bytes(512)),
            (statement, ciphertext[:-1]),
            (b"{}", ciphertext),
        ):
            error = await refusal(made.keys.push(caller, "acme", envelope, body))
            outcomes.append(error.code)

        assert outcomes == [Code.FORBIDDEN, Code.MALFORMED, Code.MALFORMED, Code.MALFORMED]
        assert (await made.state()).map.keys == ()


@in_loop
async def test_key_version_comes_in_once(tmp_path: Path) -> None:
    """The same key version again is a conflict, whatever the statement says."""
    async with services(tmp_path) as made:
        await made.push_key()

        assert (await refusal(made.push_key())).code is Code.CONFLICT


@in_loop
async def test_order_is_for_the_epoch_that_it_saw(tmp_path: Path) -> None:
    """An order signed before another change is refused, so it cannot be replayed later."""
    async with services(tmp_path) as made:
        await made.push_key()
        epoch = (await made.state()).head.epoch
        await made.order(KeyState.ACTIVE, epoch=epoch)

        error = await refusal(made.order(KeyState.SUSPENDED, epoch=epoch))

        assert error.code is Code.STATE_MOVED


@in_loop
async def test_order_moves_the_key(tmp_path: Path) -> None:
    """Orders move a key through its states, each a leaf with the order's digest."""
    async with services(tmp_path) as made:
        await made.push_key()
        seen = []
        for state in (KeyState.ACTIVE, KeyState.SUSPENDED, KeyState.ACTIVE, KeyState.COMPROMISED):
            await made.order(state)
            entry = (await made.state()).map.find(KEY)
            assert entry is not None
            seen.append(entry.state)
        back = await refusal(made.order(KeyState.ACTIVE))

        assert seen[-1] is KeyState.COMPROMISED
        assert back.code is Code.CONFLICT


@in_loop
async def test_order_for_an_unknown_key_is_not_found(tmp_path: Path) -> None:
    """There is no ordering what never came in."""
    async with services(tmp_path) as made:
        error = await refusal(made.order(KeyState.ACTIVE, ref=KeyRef("none", 1)))

        assert error.code is Code.NOT_FOUND


@pytest.mark.parametrize(("before", "after"), list(product(KeyState, KeyState)))
def test_no_way_back_from_the_end(before: KeyState, after: KeyState) -> None:
    """Only listed steps pass; nothing leaves compromised or destroyed, nothing is destroyed yet."""
    ended = {KeyState.COMPROMISED, KeyState.DESTROYED}
    never = before in ended or after in {KeyState.DESTROYED, KeyState.PRE_ACTIVATION}
    never = never or before is after or (before, after) == (KeyState.DEACTIVATED, KeyState.ACTIVE)
    try:
        transitions.require(before, after)
    except BrokerError as error:
        assert error.code is Code.CONFLICT  # noqa: PT017 - both outcomes are looked at
        assert after not in transitions.ALLOWED[before]
    else:
        assert not never


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("UPDATE keys SET state = 'active'", "the row says active"),
        ("UPDATE keys SET state = 'nonsense'", "cannot be read"),
        ("UPDATE keys SET blob = zeroblob(40)", "blob"),
        ("UPDATE keys SET kek = 2", "llama/1"),
        ("UPDATE keys SET manifest = zeroblob(32)", "llama/1"),
        ("UPDATE keys SET policy_version = 7", "policy v7"),
        ("DELETE FROM keys", "the row says nothing"),
        ("UPDATE keys SET blob = 'text'", "another type"),
    ],
)
@in_loop
async def test_row_that_was_put_back_is_found_before_use(
    tmp_path: Path, attack: str, named: str
) -> None:
    """A key row that differs from the log stops reading, ordering and pushing, and is named."""
    async with services(tmp_path) as made:
        await made.push_key()
        await made.order(KeyState.ACTIVE)
        await made.order(KeyState.COMPROMISED)
        made.house.sql(attack)
        leaves_before = made.house.sql("SELECT size FROM trees")

        reading = await refusal(made.state())
        pushing = await refusal(made.push_key(KeyRef("other", 1)))
        ordering = await refusal(made.order(KeyState.SUSPENDED, epoch=4))

        codes = {reading.code, pushing.code, ordering.code}
        assert codes == {Code.STATE_MISMATCH}
        assert named in str(reading)
        assert made.house.sql("SELECT size FROM trees") == leaves_before


@in_loop
async def test_row_and_head_put_back_together_are_found(tmp_path: Path) -> None:
    """Row, head and map of an earlier epoch agree with each other, but not with the last leaf."""
    async with services(tmp_path) as made:
        await made.push_key()
        await made.order(KeyState.ACTIVE)
        head = made.house.sql("SELECT epoch, state, state_map FROM trees")[0]
        await made.order(KeyState.COMPROMISED)
        made.house.sql("UPDATE trees SET epoch = ?, state = ?, state_map = ?", *head)
        made.house.sql("UPDATE keys SET state = 'active'")

        assert (await refusal(made.state())).code is Code.STATE_MISMATCH


@in_loop
async def test_only_the_tenants_signers_may(tmp_path: Path) -> None:
    """Another tenant's caller and a runtime get nowhere."""
    async with services(tmp_path) as made:
        runtime = TestCaller("acme", "lease:abc")
        stranger = TestCaller("other", "other")
        for caller in (runtime, stranger):
            for work in (
                made.keys.create_import_key(caller, "acme"),
                made.keys.import_keys(caller, "acme"),
                made.keys.state(caller, "acme"),
                made.keys.push(caller, "acme", b"", b""),
                made.keys.order(caller, "acme", b""),
                made.keys.destroy_import_key(caller, "acme", bytes(32)),
            ):
                assert (await refusal(work)).code is Code.FORBIDDEN


@in_loop
async def test_swapped_genesis_row_is_found(tmp_path: Path) -> None:
    """A tenant row with another signer's genesis is refused before a signer is believed."""
    async with services(tmp_path) as made:
        begun = await made.house.hsm.begin_tenant("acme")
        other = Vendor(made.house.hsm.broker_key)
        forged = other.genesis("acme", begun, other.spki)
        made.house.sql("UPDATE tenants SET genesis = ?", forged)

        assert (await refusal(made.push_key())).code is Code.STATE_MISMATCH


@in_loop
async def test_manifest_of_a_key_is_the_statements(tmp_path: Path) -> None:
    """The key version carries the manifest digest that the vendor signed."""
    async with services(tmp_path) as made:
        other = Hex(hashlib.sha256(b"other").digest())
        await made.push_key(manifest=other)
        entry = (await made.state()).map.find(KEY)

        assert entry is not None
        assert entry.manifest == other != MANIFEST
        assert replace(made.house).g == made.g
