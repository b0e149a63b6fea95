"""Tenants, import keys, imports and answers at the worker."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from broker.hsm.errors import HsmError, HsmReason
from tests.kit.hsm import (
    MANIFEST,
    TENANT,
    Book,
    Prepared,
    Vendor,
    digest,
    import_dek,
    ready,
    run,
    seal_dek,
    spki_of,
    worker,
)
from verifier import dsse
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import (
    ANSWER_TYPE,
    Lease,
    ReleaseAnswer,
    RenewalAnswer,
    WrappedKey,
)

pytestmark = pytest.mark.softhsm


async def _reason(attempt: Any) -> HsmReason:
    with pytest.raises(HsmError) as caught:
        await attempt
    return caught.value.reason


def test_a_tenant_begins_once_and_is_enrolled_once(hsm_home: Callable[..., Path]) -> None:
    """Begin and enrol may be repeated; another genesis for the same name may not."""
    home = hsm_home()
    vendor = Vendor()

    async def life() -> None:
        async with worker(home) as client:
            key = (await client.info()).broker_key
            begun = await client.begin_tenant(TENANT)
            assert await client.begin_tenant(TENANT) == begun
            genesis = vendor.genesis(key, begun)
            await client.enrol_tenant(genesis)
            await client.enrol_tenant(genesis)

            assert await _reason(client.begin_tenant(TENANT)) is HsmReason.EXISTS
            other = vendor.genesis(key, begun, created=1)
            assert await _reason(client.enrol_tenant(other)) is HsmReason.EXISTS
            assert await _reason(client.begin_tenant("No Name")) is HsmReason.MALFORMED

    run(life())


def test_a_genesis_must_name_this_worker_s_own_keys(hsm_home: Callable[..., Path]) -> None:
    """Another broker, log key, tree or mode, or too few signatures: no tenant."""
    home = hsm_home()
    vendor = Vendor()
    stranger = spki_of(Ed25519PrivateKey.generate())

    async def attempts() -> None:
        async with worker(home) as client:
            key = (await client.info()).broker_key
            begun = await client.begin_tenant(TENANT)
            for changes in (
                {"broker_key": B64(stranger), "broker": digest(stranger)},
                {"log_key": B64(bytes(32))},
                {"tree": Hex(bytes(16))},
                {"simulated": False},
                {"signers": tuple(sorted((B64(stranger), B64(spki_of(vendor.signers[0])))))}
                | {"threshold": 2},
            ):
                wrong = vendor.genesis(key, begun, **changes)
                assert await _reason(client.enrol_tenant(wrong)) is HsmReason.REFUSED
            unknown = vendor.genesis(key, begun, tenant="unknown")
            assert await _reason(client.enrol_tenant(unknown)) is HsmReason.NOT_FOUND
            assert await _reason(client.enrol_tenant(b"{}")) is HsmReason.MALFORMED
            await client.enrol_tenant(vendor.genesis(key, begun))

    run(attempts())


def test_only_a_dek_of_32_bytes_comes_in(enrolled_home: Callable[[], Prepared]) -> None:
    """SoftHSM pads a shorter secret silently; the worker finds out and refuses it."""
    prepared = enrolled_home()

    async def attempt() -> None:
        async with worker(prepared.home) as client:
            for size in (1, 16, 24, 25, 31, 33, 64):
                wrong = import_dek(client, prepared, os.urandom(size))
                assert await _reason(wrong) is HsmReason.MALFORMED, size
            assert len((await import_dek(client, prepared, os.urandom(32))).blob) == 40

    run(attempt())


def test_an_import_needs_the_vendor_s_own_words(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """Statement, ciphertext and import key belong together, under the tenant's signature."""
    prepared = enrolled_home()
    dek = os.urandom(32)

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            foreign = Prepared(prepared.home, Vendor(), prepared.genesis, prepared.import_spki)
            for wrong, reason in (
                (import_dek(client, foreign, dek), HsmReason.REFUSED),
                (import_dek(client, prepared, dek, ciphertext=digest(b"")), HsmReason.REFUSED),
                (import_dek(client, prepared, dek, genesis=digest(b"")), HsmReason.REFUSED),
                (import_dek(client, prepared, dek, import_key=digest(b"")), HsmReason.NOT_FOUND),
                (import_dek(client, prepared, dek, sent=b"short"), HsmReason.MALFORMED),
                (import_dek(client, prepared, dek, sent=bytes(512)), HsmReason.MALFORMED),
            ):
                assert await _reason(wrong) is reason

    run(attempts())


def test_an_import_key_dies_and_nothing_comes_in_by_it(
    enrolled_home: Callable[[], Prepared],
) -> None:
    """A destroyed import key is gone for good, after a restart too; others go on."""
    prepared = enrolled_home()
    sealed = seal_dek(os.urandom(32), prepared.import_spki)

    async def life() -> None:
        async with worker(prepared.home) as client:
            other = await client.create_import_key(prepared.g)
            name = hashlib.sha256(prepared.import_spki).digest()
            await client.destroy_import_key(prepared.g, name)
            assert await _reason(client.destroy_import_key(prepared.g, name)) is HsmReason.NOT_FOUND
            gone = import_dek(client, prepared, b"", sent=sealed)
            assert await _reason(gone) is HsmReason.NOT_FOUND
            again = Prepared(prepared.home, prepared.vendor, prepared.genesis, other)
            first = await import_dek(client, again, os.urandom(32))
        async with worker(prepared.home) as client:
            gone = import_dek(client, prepared, b"", sent=sealed)
            assert await _reason(gone) is HsmReason.NOT_FOUND
            assert await import_dek(client, again, os.urandom(32)) != first

    run(life())


def _answer(book: Book, index: int, broker: bytes, **changes: Any) -> bytes:
    entry = book.release_leaf(b"")
    logged = canonical.decode(book.leaves[index], type(entry))
    fields: dict[str, Any] = {
        "v": 1,
        "broker": Hex(broker),
        "genesis": Hex(book.g),
        "challenge": logged.challenge,
        "recipients": logged.recipients,
        "policies": (),
        "keys": (WrappedKey("model", 1, MANIFEST, "rsa-oaep-sha1", B64(b"wrapped")),),
        "lease": Lease(logged.lease, logged.not_after, logged.time),
        "leaf": B64(book.leaves[index]),
        "receipt": book.receipt(index).decode(),
        "result": B64(b"{}"),
    }
    return canonical.encode(ReleaseAnswer(**fields | changes))


def test_the_broker_key_signs_answers_to_its_own_leaves_and_nothing_else(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """An answer is signed only as its leaf says it, and no other bytes are."""
    prepared = enrolled_home()

    async def attempts() -> None:
        async with worker(prepared.home) as client:
            key = (await client.info()).broker_key
            broker = hashlib.sha256(key).digest()
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki_of(guest)))
            good = _answer(book, index, broker)
            envelope = await client.sign_answer(good)
            assert dsse.verify(envelope, ANSWER_TYPE, [key]) == good

            renewal = canonical.decode(good, ReleaseAnswer)
            same = ("v", "broker", "genesis", "challenge", "recipients", "lease", "leaf")
            fields = {name: getattr(renewal, name) for name in (*same, "receipt", "result")}
            for wrong in (
                _answer(book, index, digest(b"another broker")),
                _answer(book, index, broker, genesis=Hex(bytes(32))),
                _answer(book, index, broker, challenge=Hex(bytes(32))),
                _answer(book, index, broker, recipients=Hex(bytes(32))),
                _answer(book, index, broker, lease=Lease("lease-1", 1 << 40, 1)),
                _answer(book, index, broker, keys=()),
                _answer(book, index, broker, receipt=book.receipt(1).decode()),
                _answer(book, index, broker, receipt="not a receipt"),
                canonical.encode(RenewalAnswer(**fields)),
                b"anything else",
            ):
                with pytest.raises(HsmError):
                    await client.sign_answer(wrong)

    run(attempts())


def test_challenge_keys_stay_until_they_rotate_and_die_with_the_worker(
    hsm_home: Callable[..., Path],
) -> None:
    """All callers get the same key; a restart forgets it."""
    home = hsm_home()

    async def life() -> None:
        async with worker(home) as client:
            first = await client.challenge_keys()
            assert (await client.challenge_keys()).keys == first.keys
            assert len(first.keys[0][1]) == 32
            assert 0 < first.rotates_in <= 900
        async with worker(home) as client:
            assert (await client.challenge_keys()).keys != first.keys

    run(life())
