"""What the worker signs for a tenant's log, and what it does not."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.protocol import MAX_LEAVES
from tests.kit.hsm import Book, Prepared, Vendor, digest, ready, run, spki_of, worker
from verifier.tlog.merkle import EMPTY_ROOT
from verifier.wire import canonical, leaf
from verifier.wire.canonical import B64, Hex

pytestmark = pytest.mark.softhsm

Spoil = Callable[[Book], bytes]


def _fields(entry: leaf.AnyLeaf, **changes: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__} | changes


def _end(book: Book, **changes: Any) -> bytes:
    fields = book.common() | {"lease": "lease-1", "cause": "returned"} | changes
    return canonical.encode(leaf.LeaseEndLeaf(**fields))


def _change(book: Book, **changes: Any) -> bytes:
    fields = book.common() | {"spki": digest(b"spki"), "action": "created"}
    fields["epoch"] += 1
    return canonical.encode(leaf.ImportKeyLeaf(**fields | changes))


def _policy_of_a_stranger(book: Book) -> bytes:
    stranger = Prepared(book.prepared.home, Vendor(), book.prepared.genesis)
    envelope, policy = Book(stranger).policy()
    fields = book.common() | {"policy": policy, "version": 1, "document": B64(envelope)}
    fields["epoch"] += 1
    return canonical.encode(leaf.PolicyLeaf(**fields))


def _policy_with(book: Book, **changes: Any) -> bytes:
    envelope, policy = book.policy()
    fields = book.common() | {"policy": policy, "version": 1, "document": B64(envelope)}
    fields["epoch"] += 1
    return canonical.encode(leaf.PolicyLeaf(**fields | changes))


def _genesis_again(book: Book) -> bytes:
    return canonical.encode(book.genesis_leaf())


WRONG: dict[str, Spoil] = {
    "not_json": lambda _: b"\xff",
    "empty": lambda _: b"",
    "not_canonical": lambda book: _end(book) + b" ",
    "unknown_type": lambda book: _end(book).replace(b'"lease-end"', b'"lease-off"'),
    "other_tenant": lambda book: _end(book, genesis=digest(b"other")),
    "older_than_the_last": lambda book: _end(book, time=book.time - 1),
    "far_future": lambda book: _end(book, time=1 << 41),
    "epoch_of_before": lambda book: _end(book, epoch=book.epoch - 1),
    "epoch_ahead": lambda book: _end(book, epoch=book.epoch + 1),
    "another_state": lambda book: _end(book, state=digest(b"state")),
    "change_without_epoch": lambda book: _change(book, epoch=book.epoch),
    "change_of_two_epochs": lambda book: _change(book, epoch=book.epoch + 2),
    "short_state": lambda book: _change(book, state=Hex(b"short")),
    "genesis_again": _genesis_again,
    "policy_of_a_stranger": _policy_of_a_stranger,
    "policy_digest": lambda book: _policy_with(book, policy=digest(b"policy")),
    "policy_version": lambda book: _policy_with(book, version=2),
    "not_simulated": lambda book: canonical.encode(book.release_leaf(b"", simulated=False)),
}


def test_a_leaf_that_may_not_follow_is_not_signed(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """Each rule refuses its leaf, alone or after a good one, and the head stays where it was."""
    prepared = enrolled_home()

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            before = await client.head(book.g)
            for name, spoil in WRONG.items():
                wrong = spoil(book)
                for batch in ((wrong,), (_end(book), wrong)):
                    with pytest.raises(HsmError) as caught:
                        await client.extend(book.g, 3, batch)
                    reasons = {HsmReason.MALFORMED, HsmReason.REFUSED}
                    assert caught.value.reason in reasons, name
            assert await client.head(book.g) == before
            await client.extend(book.g, 3, (_end(book),))

    run(attempts())


def test_a_caller_with_another_head_gets_the_size_and_no_signature(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """A rolled-back or forked database is told where the log is, nothing else."""
    prepared = enrolled_home()

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            for start in (0, 2, 4, 1 << 62, -1):
                with pytest.raises(HsmError) as caught:
                    await client.extend(book.g, start, (_end(book),))
                assert (caught.value.reason, caught.value.size) == (HsmReason.HEAD_MISMATCH, 3)
            with pytest.raises(HsmError) as caught:
                await client.extend(book.g, 1 << 70, (_end(book),))
            assert caught.value.reason is HsmReason.MALFORMED

    run(attempts())


def test_the_first_leaf_is_the_enrolled_genesis(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """Leaf 0 is the tenant's own genesis with the empty state map; the empty log has a head."""
    prepared = enrolled_home()

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            head = await client.head(prepared.g)
            assert (head.size, head.root, head.checkpoint) == (0, EMPTY_ROOT, b"")
            book = Book(prepared)
            good = book.genesis_leaf()
            other = Vendor().genesis(
                (await client.info()).broker_key, await client.begin_tenant("zeta")
            )
            for wrong in (
                _end(book),
                canonical.encode(leaf.GenesisLeaf(**_fields(good, epoch=1))),
                canonical.encode(leaf.GenesisLeaf(**_fields(good, state=digest(b"")))),
                canonical.encode(leaf.GenesisLeaf(**_fields(good, document=B64(other)))),
            ):
                with pytest.raises(HsmError) as caught:
                    await client.extend(book.g, 0, (wrong,))
                assert caught.value.reason is HsmReason.REFUSED
            await book.push(client, good)

            assert (await client.head(book.g)).root == book.tree.frontier.root()

    run(attempts())


def test_a_large_batch_goes_in_parts(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """More leaves than one message holds are appended whole, with one checkpoint at the end."""
    prepared = enrolled_home()

    async def attempt() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            entries = [book.release_leaf(spki_of(guest)) for _ in range(MAX_LEAVES + 10)]
            await book.push(client, *entries)

            head = await client.head(book.g)
            assert (head.size, head.root) == (MAX_LEAVES + 13, book.tree.frontier.root())
            with pytest.raises(HsmError) as caught:
                await client.extend(book.g, head.size, ())
            assert caught.value.reason is HsmReason.MALFORMED

    run(attempt())


def test_signers_of_another_key_sign_nothing(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """A threshold of two needs two of the genesis' own signers, on policy and statement alike."""
    keys = (Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())
    prepared = enrolled_home()

    async def attempt() -> None:
        async with worker(prepared.home) as client:
            vendor = Vendor(keys, threshold=2)
            begun = await client.begin_tenant("duo")
            key = (await client.info()).broker_key
            genesis = vendor.genesis(key, begun, tenant="duo")
            await client.enrol_tenant(genesis)
            book = Book(Prepared(prepared.home, vendor, genesis))
            await book.push(client, book.genesis_leaf())
            alone = Book(Prepared(prepared.home, Vendor(keys[:1]), genesis))
            with pytest.raises(HsmError) as caught:
                await client.extend(book.g, 1, (_policy_with(alone),))
            assert caught.value.reason is HsmReason.REFUSED
            await client.extend(book.g, 1, (_policy_with(book),))

    run(attempt())
