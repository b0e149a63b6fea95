"""Tokens about results: the worker writes them, about what its log names, and signs no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error

from broker.hsm import forbidden, keys, protocol, selftest
from broker.hsm.client import HsmClient
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import HsmHome
from tests.kit.ear import AUDIENCE, NONCE, accepted
from tests.kit.hsm import KEY, Book, Prepared, digest, ready, run, worker
from tests.kit.hsm_token import opened
from verifier.ear import keys as ear_keys
from verifier.ear import token
from verifier.ear.vector import Tier
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal
from verifier.tlog.merkle import leaf_hash
from verifier.wire import canonical, leaf
from verifier.wire.canonical import Hex
from verifier.wire.messages import KeyRef

pytestmark = pytest.mark.softhsm

RESULT = accepted(simulated=True).to_json()
REAL = accepted().to_json()
REJECTED = Appraisal("tdx", simulated=True).result().to_json()


async def logged(client: HsmClient, book: Book, **changes: Any) -> int:
    """Push a release leaf that names `RESULT`; return its index."""
    entry = book.release_leaf(b"spki", result=digest(RESULT), **changes)
    return await book.push(client, entry)


def call(book: Book, index: int, **changes: Any) -> protocol.SignResult:
    """Return the call for a token about the leaf at `index`."""
    fields: dict[str, Any] = {
        "g": book.g,
        "leaf": book.leaves[index],
        "receipt": book.receipt(index),
        "result": RESULT,
        "dialect": "ietf",
        "audience": AUDIENCE,
        "nonce": NONCE,
        "now": book.time + 5,
    }
    return protocol.SignResult(**fields | changes)


async def refusal(attempt: Any) -> HsmError:
    with pytest.raises(HsmError) as caught:
        await attempt
    return caught.value


@pytest.mark.parametrize("dialect", ["legacy", "ietf"])
def test_a_token_says_what_the_leaf_says(
    enrolled_home: Callable[[], Prepared], dialect: str
) -> None:
    """Its basis is the leaf's, its issuer the broker, its end no later than 300 seconds."""
    prepared = enrolled_home()

    async def life() -> None:
        async with worker(prepared.home) as client:
            info = await client.info()
            book = await ready(client, prepared)
            index = await logged(client, book)
            raw = await client.sign_result(call(book, index, dialect=dialect))
            again = await client.sign_result(call(book, index, dialect=dialect))
        key = ear_keys.from_spki(info.result_key)
        asked: dict[str, Any] = {
            "issuer": digest(info.broker_key).hex(),
            "audience": AUDIENCE,
            "nonce": NONCE,
            "now": book.time + 5,
        }
        ear = token.verify(raw, {ear_keys.key_id(key): key}, **asked)
        entry = leaf.decode(book.leaves[index])
        assert isinstance(entry, leaf.ReleaseLeaf)
        assert ear.dialect == dialect
        assert (ear.issued, ear.expires) == (book.time + 5, book.time + 305)
        assert ear.basis.policy == entry.keys[0].policy
        assert (ear.basis.evidence, ear.basis.collateral) == (entry.evidence, entry.collateral)
        assert (ear.basis.result, ear.basis.evaluated) == (entry.result, entry.time)
        assert (ear.basis.genesis, ear.basis.leaf) == (book.g, leaf_hash(book.leaves[index]))
        assert ear.basis.simulated
        assert ear.status is Tier.CONTRAINDICATED  # simulated hardware proves nothing
        assert len(ear.token) == 32
        assert token.verify(again, {ear_keys.key_id(key): key}, **asked).token != ear.token
        with pytest.raises(VerifierError) as caught:
            token.verify(raw, {ear_keys.key_id(key): key}, **asked | {"nonce": bytes(32)})
        assert caught.value.reason is Reason.NONCE_MISMATCH

    run(life())


def test_a_renewal_has_a_token_too(enrolled_home: Callable[[], Prepared]) -> None:
    """Under the policy that its own leaf names."""
    prepared = enrolled_home()

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            fields = {
                name: getattr(book.release_leaf(b"spki"), name)
                for name in ("challenge", "recipients", "evidence", "collateral", "lease")
            }
            entry = leaf.RenewalLeaf(
                **book.common(),
                **fields,
                keys=(KEY,),
                policy=Hex(b"\x07" * 32),
                kind="tdx",
                result=digest(RESULT),
                not_after=book.time + 60,
                simulated=True,
            )
            index = await book.push(client, entry)
            raw = await client.sign_result(call(book, index))
        told = json.loads(canonical.b64decode(raw.decode().split(".")[1]))
        assert told["ostiary_basis"]["policy"] == "07" * 32
        assert told["exp"] == book.time + 60

    run(life())


def test_nothing_else_is_signed(enrolled_home: Callable[[], Prepared]) -> None:
    """Each part that does not fit is refused, and the refusal says which."""
    prepared = enrolled_home()
    spoiled: list[tuple[dict[str, Any], HsmReason, str]] = [
        ({"result": RESULT + b" "}, HsmReason.REFUSED, "not the one that the leaf names"),
        ({"result": accepted().to_json()}, HsmReason.REFUSED, "not the one"),
        ({"receipt": b"x"}, HsmReason.MALFORMED, ""),
        ({"leaf": b"{}"}, HsmReason.REFUSED, "log_proof"),
        ({"audience": ""}, HsmReason.MALFORMED, "audience"),
        ({"audience": "a" * 257}, HsmReason.MALFORMED, "audience"),
        ({"audience": "a\nb"}, HsmReason.MALFORMED, "audience"),
        ({"audience": "ü"}, HsmReason.MALFORMED, "audience"),
        ({"nonce": bytes(8)}, HsmReason.MALFORMED, "nonce"),
        ({"nonce": bytes(65)}, HsmReason.MALFORMED, "nonce"),
        ({"g": bytes(32)}, HsmReason.NOT_FOUND, ""),
    ]

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await logged(client, book)
            cases = [
                *spoiled,
                ({"now": book.time - 1}, HsmReason.REFUSED, "older than its leaf"),
                ({"now": book.time + 3600}, HsmReason.REFUSED, "token_expired"),
                ({"now": 1 << 53}, HsmReason.REFUSED, "token_expired"),
                (
                    {"leaf": book.leaves[1], "receipt": book.receipt(1)},
                    HsmReason.REFUSED,
                    "no release and no renewal",
                ),
                ({"leaf": book.leaves[1]}, HsmReason.REFUSED, "log_proof"),
            ]
            for changes, reason, said in cases:
                error = await refusal(client.sign_result(call(book, index, **changes)))
                assert (error.reason, said in error.detail) == (reason, True), (changes, error)
            bad_leaves: list[tuple[dict[str, Any], bytes, str]] = [
                ({"result": digest(REJECTED)}, REJECTED, "contradict"),
                ({"result": digest(REAL)}, REAL, "contradict"),
                ({"kind": "snp"}, RESULT, "contradict"),
                ({"result": digest(b"{}")}, b"{}", "result"),
            ]
            for changes, result, said in bad_leaves:
                fields = {"result": digest(RESULT)} | changes
                at = await book.push(client, book.release_leaf(b"spki", **fields))
                error = await refusal(client.sign_result(call(book, at, result=result)))
                assert said in error.detail, (changes, error)

    run(life())


def test_a_leaf_under_two_policies_has_no_token(enrolled_home: Callable[[], Prepared]) -> None:
    """A token names one policy; no leaf of this broker's names two."""
    prepared = enrolled_home()

    async def life() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            entry = book.release_leaf(b"spki", result=digest(RESULT))
            other = leaf.ReleasedKey(
                "other", 1, Hex(bytes(32)), 1, Hex(bytes(32)), Hex(b"\x09" * 32)
            )
            keys_ = (*entry.keys, other)
            assert KeyRef("other", 1) > KEY
            index = await logged(client, book, keys=keys_)
            error = await refusal(client.sign_result(call(book, index)))
            assert "several policies" in error.detail

    run(life())


def test_a_home_without_the_key_signs_no_result(enrolled_home: Callable[[], Prepared]) -> None:
    """A home of before there was such a key serves all else, and makes none silently."""
    prepared = enrolled_home()
    place = HsmHome(prepared.home)
    with opened(prepared.home) as session:
        assert keys.destroy_all(session, keys.result_id(simulated=True)) == 2
    told = json.loads(place.marker.read_bytes())
    del told["result"]
    place.marker.write_bytes(json.dumps(told, separators=(",", ":")).encode())

    async def life() -> None:
        async with worker(prepared.home) as client:
            assert (await client.info()).result_key == b""
            book = await ready(client, prepared)
            index = await logged(client, book)
            error = await refusal(client.sign_result(call(book, index)))
            assert error.reason is HsmReason.UNSUPPORTED
            assert "none is made later" in error.detail

    run(life())


def test_a_home_that_lost_the_key_does_not_start(hsm_home: Callable[..., Path]) -> None:
    """Where the ceremony made one, a missing one or another one is fatal."""
    home = hsm_home()
    key_id = keys.result_id(simulated=True)

    async def start() -> HsmError:
        async with worker(home) as client:
            return await refusal(client.info())

    with opened(home) as session:
        keys.destroy_all(session, key_id)
    gone = run(start())
    with opened(home) as session:
        keys.make_result_pair(session, keys.Wanted(key_id, "another"))
    other = run(start())

    assert (gone.reason, other.reason) == (HsmReason.TOKEN_MISSING, HsmReason.TOKEN_MISSING)
    assert "not the one of the ceremony" in other.detail


def test_the_key_does_one_thing(hsm_home: Callable[..., Path]) -> None:
    """It is not to be had, signs by ECDSA alone, and its halves must match."""
    key_id = keys.result_id(simulated=True)
    with opened(hsm_home()) as session:
        private: Any = keys.find_one(session, ObjectClass.PRIVATE_KEY, key_id)
        assert "attributes are as they must be" in forbidden.check_attributes(
            private, key_id, "result"
        )
        assert private[Attribute.ALLOWED_MECHANISMS] == (int(Mechanism.ECDSA),)
        with pytest.raises(PKCS11Error):
            private.sign(b"text", mechanism=Mechanism.ECDSA_SHA256)
        lines = selftest.run(session).checks
        assert any(key_id.hex() in line and "wrap it out" in line for line in lines)
        public: Any = keys.find_one(session, ObjectClass.PUBLIC_KEY, key_id)
        public.destroy()
        other = keys.Wanted(b"other", "other")
        stranger: Any = keys.make_result_pair(session, other)
        stranger.destroy()
        copied: Any = keys.find_one(session, ObjectClass.PUBLIC_KEY, b"other")
        copied[Attribute.ID] = key_id
        with pytest.raises(HsmError, match="do not match"):
            selftest.run(session)
        copied.destroy()
        keys.make_signing_pair(session, keys.Wanted(b"ed", "ed"))
        with pytest.raises(HsmError, match="not P-256"):
            keys.p256_spki(keys.find_one(session, ObjectClass.PUBLIC_KEY, b"ed"))
