"""A key's whole life at the worker, on a real SoftHSM."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from broker.hsm.errors import HsmError, HsmReason
from tests.kit.hsm import OAEP, Prepared, ready, run, spki_of, worker
from verifier.tlog.checkpoint import open_checkpoint
from verifier.tlog.note import VerifierKey
from verifier.wire import canonical
from verifier.wire.documents import Genesis

pytestmark = pytest.mark.softhsm


def test_a_dek_goes_in_and_comes_out_for_the_guest_alone(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """From import to release the DEK is opaque, and the guest opens what its vendor sealed."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
            released = await book.release(client, index, spki)

            assert book.dek not in book.blob
            assert guest.decrypt(released.wrapped[0], OAEP[released.alg]) == book.dek
            head = await client.head(book.g)
            assert (head.size, head.root) == (4, book.tree.frontier.root())
            assert (head.epoch, head.state) == (2, book.map.digest())
            genesis = canonical.decode(prepared.payload, Genesis)
            origin = genesis.origin(hashlib.sha256(prepared.payload).digest())
            vkey = VerifierKey(origin, genesis.log_key)
            assert open_checkpoint(head.checkpoint, origin, vkey).size == 4

    run(life())


def test_a_permit_is_spent_once(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """The same leaf opens nothing a second time, whatever receipt comes with it."""
    prepared = enrolled_home()
    spki = spki_of(guest)

    async def twice() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(spki))
            await book.release(client, index, spki)
            await book.push(client, book.release_leaf(spki))

            with pytest.raises(HsmError) as caught:
                await book.release(client, index, spki)

            assert caught.value.reason is HsmReason.PERMIT_SPENT

    run(twice())
