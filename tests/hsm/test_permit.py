"""What the worker refuses to release on, each with its reason and nothing moved."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from broker.hsm.client import HsmClient
from broker.hsm.errors import HsmError, HsmReason
from tests.kit.hsm import (
    KEY,
    OAEP,
    Book,
    Prepared,
    Vendor,
    digest,
    import_dek,
    ready,
    run,
    spki_of,
    worker,
)
from verifier.tlog import note
from verifier.tlog.proof import Receipt
from verifier.tlog.prove import inclusion_proof
from verifier.wire import canonical, leaf
from verifier.wire.canonical import Hex
from verifier.wire.messages import KeyRef

pytestmark = pytest.mark.softhsm


async def _leaf_of_no_tree(_client: HsmClient, book: Book, _i: int, spki: bytes) -> dict[str, Any]:
    return {"leaf": canonical.encode(book.release_leaf(spki))}


async def _receipt_of_another_leaf(
    _client: HsmClient, book: Book, _i: int, _spki: bytes
) -> dict[str, Any]:
    return {"receipt": book.receipt(1)}


async def _not_a_release(_client: HsmClient, book: Book, _i: int, _spki: bytes) -> dict[str, Any]:
    return {"leaf": book.leaves[1], "receipt": book.receipt(1)}


async def _forged_checkpoint(
    _client: HsmClient, book: Book, index: int, _spki: bytes
) -> dict[str, Any]:
    found = note.parse(book.checkpoint)
    line = found.signatures[0]
    wrong = replace(line, raw=bytes([line.raw[0] ^ 1]) + line.raw[1:])
    proof = inclusion_proof(index, len(book.leaves), book.tree)
    return {"receipt": Receipt(index, proof, note.assemble(found.text, [wrong])).encode()}


async def _other_state_map(_client: HsmClient, book: Book, _i: int, _spki: bytes) -> dict[str, Any]:
    other = book.map.replace(book.entry(policy=digest(b"another policy"), policy_version=2))
    return {"state_map": canonical.encode(other)}


async def _swapped_blob(client: HsmClient, book: Book, _i: int, _spki: bytes) -> dict[str, Any]:
    other = await import_dek(client, book.prepared, os.urandom(32))
    return {"blobs": (other.blob,)}


async def _no_blob(_client: HsmClient, _book: Book, _i: int, _spki: bytes) -> dict[str, Any]:
    return {"blobs": ()}


async def _other_recipient(
    _client: HsmClient, _book: Book, _i: int, _spki: bytes
) -> dict[str, Any]:
    return {"recipient": spki_of(generate_private_key(65537, 3072))}


def test_a_spoilt_permit_is_refused_and_not_spent(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """Whatever part is not the log's own, nothing moves, and the true permit still works."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
            for spoil in (
                _leaf_of_no_tree,
                _receipt_of_another_leaf,
                _not_a_release,
                _forged_checkpoint,
                _other_state_map,
                _swapped_blob,
                _no_blob,
                _other_recipient,
            ):
                spoilt = await spoil(client, book, index, spki)
                with pytest.raises(HsmError) as caught:
                    await book.release(client, index, spki, **spoilt)
                assert caught.value.reason is HsmReason.REFUSED, spoil.__name__
            released = await book.release(client, index, spki)

            assert guest.decrypt(released.wrapped[0], OAEP[released.alg]) == book.dek

    run(attempts())


def test_a_key_must_be_active_and_as_the_leaf_names_it(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """A leaf that names a key which the state map has otherwise releases nothing."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            held = book.map.find(KEY)
            assert held is not None
            named = book.release_leaf(spki).keys
            for changes, said in (
                ({"state": leaf.KeyState.SUSPENDED}, "not active"),
                ({"state": leaf.KeyState.COMPROMISED}, "not active"),
                ({"kek": 2}, "kek"),
                ({"manifest": digest(b"other")}, "manifest"),
                ({"policy": digest(b"other")}, "policy"),
                ({"blob": digest(b"other")}, "blob"),
                ({"policy": leaf.NO_POLICY, "policy_version": 0}, "no policy"),
            ):
                fields = {"policy": held.policy, "policy_version": 1} | changes
                await book.push(client, book.key_leaf(book.entry(**fields)))
                entry = book.release_leaf(spki, keys=named)
                if said == "no policy":
                    entry = book.release_leaf(spki)
                index = await book.push(client, entry)
                with pytest.raises(HsmError, match=said) as caught:
                    await book.release(client, index, spki)
                assert caught.value.reason is HsmReason.REFUSED

    run(attempts())


def test_a_release_leaf_before_a_change_is_void(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """Leaf order decides the race with a revocation, with old and new state map alike."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def race() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            old = canonical.encode(book.map)
            index = await book.push(client, book.release_leaf(spki))
            await book.push(client, book.key_leaf(book.entry(state=leaf.KeyState.COMPROMISED)))

            for state_map in (old, canonical.encode(book.map)):
                with pytest.raises(HsmError) as caught:
                    await book.release(client, index, spki, state_map=state_map)
                assert caught.value.reason is HsmReason.STATE_MOVED

    run(race())


def test_another_tenant_s_log_opens_nothing(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """A leaf, receipt or tenant of another tree is refused, though one worker signs both."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def cross() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            info = await client.info()
            stranger = Vendor()
            begun = await client.begin_tenant("zeta")
            genesis = stranger.genesis(info.broker_key, begun, tenant="zeta")
            await client.enrol_tenant(genesis)
            other = Book(Prepared(prepared.home, stranger, genesis))
            await other.push(client, other.genesis_leaf())
            index = await book.push(client, book.release_leaf(spki))

            for changes, reason in (
                ({"receipt": other.receipt(0)}, HsmReason.REFUSED),
                ({"g": other.g}, HsmReason.REFUSED),
                ({"g": bytes(32)}, HsmReason.NOT_FOUND),
                ({"g": b""}, HsmReason.NOT_FOUND),
            ):
                with pytest.raises(HsmError) as caught:
                    await book.release(client, index, spki, **changes)
                assert caught.value.reason is reason

    run(cross())


def test_a_leaf_names_its_keys_in_order_and_once(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """A logged release leaf with no key, a key twice, out of order or too many opens nothing."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            one = book.release_leaf(spki).keys[0]
            many = tuple(f"model-{number:02}" for number in range(17))
            for names in ((), ("model", "model"), ("zzz", "model"), many):
                keys = tuple(
                    leaf.ReleasedKey(name, 1, one.blob, one.kek, one.manifest, one.policy)
                    for name in names
                )
                index = await book.push(client, book.release_leaf(spki, keys=keys))
                with pytest.raises(HsmError, match="1 to 16") as caught:
                    await book.release(client, index, spki, blobs=(book.blob,) * len(keys))
                assert caught.value.reason is HsmReason.REFUSED

    run(attempts())


def test_a_blob_that_the_log_names_but_the_kek_does_not_open_burns_its_permit(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """The permit burns before anything is unwrapped: failures over-report, never under-report."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def attempt() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            held = book.map.find(KEY)
            assert held is not None
            book.blob = os.urandom(40)
            entry = book.entry(policy=held.policy, policy_version=1)
            await book.push(client, book.key_leaf(entry))
            index = await book.push(client, book.release_leaf(spki))

            for reason in (HsmReason.MALFORMED, HsmReason.PERMIT_SPENT):
                with pytest.raises(HsmError) as caught:
                    await book.release(client, index, spki)
                assert caught.value.reason is reason

    run(attempt())


def test_two_keys_are_released_in_the_order_of_the_leaf(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """One leaf may name several keys; each is wrapped on its own."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def both() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            second = os.urandom(32)
            blob = (await import_dek(client, prepared, second, key=KeyRef("model", 2))).blob
            held = book.map.find(KEY)
            assert held is not None
            added = book.entry(version=2, blob=digest(blob), policy=held.policy, policy_version=1)
            await book.push(client, book.key_leaf(added))
            keys = tuple(
                leaf.ReleasedKey(e.id, e.version, Hex(e.blob), e.kek, e.manifest, e.policy)
                for e in book.map.keys
            )
            index = await book.push(client, book.release_leaf(spki, keys=keys))
            released = await book.release(client, index, spki, blobs=(book.blob, blob))

            opened = [guest.decrypt(w, OAEP[released.alg]) for w in released.wrapped]
            assert opened == [book.dek, second]

    run(both())
