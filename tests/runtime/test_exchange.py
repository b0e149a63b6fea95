"""What a guest refuses: every field of an answer that is not the one of its own exchange.

The broker of these tests signs, logs and wraps properly whatever it says, so that each refusal is
about the one field that differs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime import exchange
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Anchor, Bound, Identity
from tests.kit.runtime import MODEL, POLICY, SoftBroker, sha256, wrap
from tests.kit.tlog import Log
from verifier import dsse
from verifier.wire import binding, canonical, leaf, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import KeyRef

OTHER = KeyRef("other-model", 1)
OTHER_DIGEST = Hex(hashlib.sha256(b"another").digest())


def asked(broker: SoftBroker, who: Identity, bound: Bound) -> messages.ReleaseRequest:
    """Return the request that a guest sends."""
    del broker
    return canonical.decode(exchange.release_request(bound, who), messages.ReleaseRequest)


def refused(call: Callable[[], object], *words: str, code: Fault = Fault.ANSWER_INVALID) -> str:
    """Check that something is refused for what it should be, and return the sentence."""
    with pytest.raises(RuntimeFault) as caught:
        call()
    assert caught.value.code is code, caught.value
    for word in words:
        assert word in str(caught.value), caught.value
    return str(caught.value)


@pytest.mark.parametrize("alg", ["rsa-oaep-sha1", "rsa-oaep-sha256"])
def test_good(broker: SoftBroker, guest: Identity, alg: str) -> None:
    """A good answer gives the DEKs, their manifests and the lease, whatever OAEP hash it names."""
    broker.alg = alg
    broker.deks[OTHER], broker.manifests[OTHER] = bytes(range(32)), bytes(OTHER_DIGEST)
    bound = broker.bound(guest, keys=(OTHER, MODEL))
    answer = broker.release_answer(asked(broker, guest, bound))
    released = exchange.open_release(broker.sign(answer), bound, guest, broker.anchor)

    assert {ref: bytes(dek.view()) for ref, dek in released.deks.items()} == broker.deks
    assert released.manifests == broker.manifests
    assert released.lease == answer.lease
    for dek in broker.deks.values():
        assert dek.hex() not in repr(released)


ANSWER: dict[str, tuple[dict[str, Any], str]] = {
    "broker": ({"broker": OTHER_DIGEST}, "broker"),
    "genesis": ({"genesis": OTHER_DIGEST}, "genesis"),
    "challenge": ({"challenge": OTHER_DIGEST}, "challenge"),
    "recipients": ({"recipients": OTHER_DIGEST}, "recipients"),
    "another policy": ({"policies": (OTHER_DIGEST,)}, "policies"),
    "one policy more": ({"policies": tuple(sorted((OTHER_DIGEST, Hex(POLICY))))}, "policies"),
    "a policy twice": ({"policies": (Hex(POLICY), Hex(POLICY))}, "policies"),
    "no policy": ({"policies": ()}, "policies"),
    "no key": ({"keys": ()}, "keys"),
    "result": ({"result": B64(b'{"verdict":"reject"}')}, "attestation result"),
    "no receipt": ({"receipt": ""}, "receipt"),
    "no leaf": ({"leaf": B64()}, "receipt"),
    "receipt of nonsense": ({"receipt": "\u00e4\n" * 40}, "receipt"),
}


@pytest.mark.parametrize("name", ANSWER)
def test_field_of_the_answer(broker: SoftBroker, guest: Identity, name: str) -> None:
    """An answer with one field that is not of this exchange is refused, and the field is named."""
    changes, word = ANSWER[name]
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound), **changes)

    refused(lambda: exchange.open_release(broker.sign(answer), bound, guest, broker.anchor), word)


LEASES: dict[str, Callable[[messages.Lease], messages.Lease]] = {
    "id": lambda lease: messages.Lease("another", lease.not_after, lease.renew_after),
    "longer": lambda lease: messages.Lease(lease.id, lease.not_after + 1, lease.renew_after),
    "shorter": lambda lease: messages.Lease(lease.id, lease.not_after - 1, lease.renew_after),
}


@pytest.mark.parametrize("name", LEASES)
def test_lease_of_the_answer(broker: SoftBroker, guest: Identity, name: str) -> None:
    """A lease that the log does not hold like that is refused."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    lying = msgspec.structs.replace(answer, lease=LEASES[name](answer.lease))

    refused(lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor), "lease")


LEAF: dict[str, tuple[dict[str, Any], str]] = {
    "genesis": ({"genesis": OTHER_DIGEST}, "logged genesis"),
    "challenge": ({"challenge": OTHER_DIGEST}, "logged challenge"),
    "recipients": ({"recipients": OTHER_DIGEST}, "logged recipients"),
    "RSA key": ({"recipient": OTHER_DIGEST}, "recipient"),
    "no key": ({"keys": ()}, "logged keys"),
    "result": ({"result": OTHER_DIGEST}, "attestation result"),
    "lease": ({"lease": "another"}, "lease"),
    "not_after": ({"not_after": 1}, "lease"),
    "not simulated": ({"simulated": False}, "simulated"),
}


@pytest.mark.parametrize("name", LEAF)
def test_field_of_the_leaf(broker: SoftBroker, guest: Identity, name: str) -> None:
    """An answer whose logged leaf says something else is refused."""
    changes, word = LEAF[name]
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound), logged=changes)

    refused(lambda: exchange.open_release(broker.sign(answer), bound, guest, broker.anchor), word)


LOGGED_KEY: dict[str, dict[str, Any]] = {
    "id": {"id": "another"},
    "version": {"version": 2},
    "manifest": {"manifest": OTHER_DIGEST},
    "policy": {"policy": OTHER_DIGEST},
}


@pytest.mark.parametrize("name", LOGGED_KEY)
def test_key_of_the_leaf(broker: SoftBroker, guest: Identity, name: str) -> None:
    """A leaf that names another key, version, manifest or policy is refused."""
    bound = broker.bound(guest)
    request = asked(broker, guest, bound)
    (good,) = broker.release_leaf(request, broker.lease()).keys
    keys = (msgspec.structs.replace(good, **LOGGED_KEY[name]),)
    answer = broker.release_answer(request, logged={"keys": keys})

    refused(lambda: exchange.open_release(broker.sign(answer), bound, guest, broker.anchor))


WRAPPED: dict[str, dict[str, Any]] = {
    "id": {"id": "another"},
    "version": {"version": 2},
    "manifest": {"manifest": OTHER_DIGEST},
    "hash": {"alg": "rsa-oaep-sha256"},
    "empty": {"wrapped": B64()},
    "garbage": {"wrapped": B64(bytes(384))},
    "too long": {"wrapped": B64(bytes(385))},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_key_of_the_answer(broker: SoftBroker, guest: Identity, name: str) -> None:
    """A wrapped key of another name, version, manifest or hash, or that does not open: refused."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    keys = (msgspec.structs.replace(answer.keys[0], **WRAPPED[name]),)
    lying = msgspec.structs.replace(answer, keys=keys)

    refused(lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor))


def test_unknown_algorithm(broker: SoftBroker, guest: Identity) -> None:
    """A wrapping that nobody specified is refused before anything is opened."""
    bound = broker.bound(guest)
    raw = canonical.encode(broker.release_answer(asked(broker, guest, bound)))
    lying = raw.replace(b'"rsa-oaep-sha1"', b'"rsa-pkcs1"')

    refused(lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor))


def test_other_keys_everywhere(broker: SoftBroker, guest: Identity) -> None:
    """A consistent answer, leaf and all, for other keys than were asked for is refused."""
    broker.deks[OTHER], broker.manifests[OTHER] = bytes(32), bytes(OTHER_DIGEST)
    bound = broker.bound(guest)
    for keys in ((OTHER,), (OTHER, MODEL)):
        lying = msgspec.structs.replace(asked(broker, guest, bound), keys=keys)
        envelope = broker.sign(broker.release_answer(lying))
        refused(lambda sent=envelope: exchange.open_release(sent, bound, guest, broker.anchor))


def test_order_of_keys(broker: SoftBroker, guest: Identity) -> None:
    """Keys come in the order in which they were asked for."""
    broker.deks[OTHER], broker.manifests[OTHER] = bytes(32), bytes(OTHER_DIGEST)
    bound = broker.bound(guest, keys=(OTHER, MODEL))
    answer = broker.release_answer(asked(broker, guest, bound))
    lying = msgspec.structs.replace(answer, keys=tuple(reversed(answer.keys)))

    refused(lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor), "keys")


def test_wrapped_to_somebody_else(broker: SoftBroker, guest: Identity, stranger: Identity) -> None:
    """A key that was wrapped to another RSA key does not open."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    spki = messages.recipient(stranger.recipients, messages.WRAP_RSA)
    keys = (msgspec.structs.replace(answer.keys[0], wrapped=wrap(bytes(32), spki)),)
    lying = msgspec.structs.replace(answer, keys=keys)

    refused(
        lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor),
        "does not open",
    )


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_length_of_a_dek(broker: SoftBroker, guest: Identity, size: int) -> None:
    """A DEK is 32 bytes; another length is refused, and says nothing of the bytes."""
    broker.deks[MODEL] = secret = b"\xa5" * size
    bound = broker.bound(guest)
    envelope = broker.sign(broker.release_answer(asked(broker, guest, bound)))

    said = refused(lambda: exchange.open_release(envelope, bound, guest, broker.anchor), "32 bytes")
    assert not secret or (secret.hex() not in said and repr(secret) not in said)


def test_all_or_nothing(broker: SoftBroker, guest: Identity) -> None:
    """Of two keys of which one does not open, none comes out."""
    broker.deks[OTHER], broker.manifests[OTHER] = b"\0" * 31, bytes(OTHER_DIGEST)
    bound = broker.bound(guest, keys=(OTHER, MODEL))
    envelope = broker.sign(broker.release_answer(asked(broker, guest, bound)))

    refused(lambda: exchange.open_release(envelope, bound, guest, broker.anchor))


# The envelope.


def test_another_signer(broker: SoftBroker, guest: Identity) -> None:
    """An answer is the broker's of the genesis, not the vendor's and not a stranger's."""
    bound = broker.bound(guest)
    payload = canonical.encode(broker.release_answer(asked(broker, guest, bound)))
    for key in (broker.vendor, Ed25519PrivateKey.generate()):
        envelope = dsse.sign(messages.ANSWER_TYPE, payload, key)
        refused(lambda sent=envelope: exchange.open_release(sent, bound, guest, broker.anchor))


def test_another_type(broker: SoftBroker, guest: Identity) -> None:
    """What the broker signs as something else, or says as a renewal, releases nothing."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    as_genesis = broker.sign(answer, "application/vnd.ostiary.genesis.v1+json")
    refused(lambda: exchange.open_release(as_genesis, bound, guest, broker.anchor))

    to_renew = replace(bound, lease="a-lease")
    request = canonical.decode(exchange.renew_request(to_renew, guest), messages.RenewRequest)
    renewal = broker.sign(broker.renewal_answer(request))
    refused(lambda: exchange.open_release(renewal, to_renew, guest, broker.anchor))
    refused(lambda: exchange.open_renewal(broker.sign(answer), bound, guest, broker.anchor))


def test_a_bit_of_the_envelope(broker: SoftBroker, guest: Identity) -> None:
    """No byte of a signed answer can be changed."""
    bound = broker.bound(guest)
    good = broker.sign(broker.release_answer(asked(broker, guest, bound)))

    @settings(max_examples=80, deadline=None)
    @given(at=st.integers(0, len(good) - 1), other=st.integers(0, 255))
    def flip(at: int, other: int) -> None:
        bad = good[:at] + bytes((other,)) + good[at + 1 :]
        if bad != good:
            refused(lambda: exchange.open_release(bad, bound, guest, broker.anchor))

    flip()


def test_any_signed_bytes(broker: SoftBroker, guest: Identity) -> None:
    """No bytes make anything but a refusal of ours, also when the broker has signed them."""
    bound = broker.bound(guest)
    good = canonical.encode(broker.release_answer(asked(broker, guest, bound)))

    @settings(max_examples=80, deadline=None)
    @given(data=st.data())
    def answer(data: st.DataObject) -> None:
        raw = data.draw(st.binary(max_size=200))
        refused(lambda: exchange.open_release(raw, bound, guest, broker.anchor))
        refused(lambda: exchange.open_release(broker.sign(raw), bound, guest, broker.anchor))
        at = data.draw(st.integers(0, len(good) - 1))
        lying = good[:at] + raw[:3] + good[at + 3 :]
        try:
            exchange.open_release(broker.sign(lying), bound, guest, broker.anchor)
        except RuntimeFault as fault:
            assert fault.code is Fault.ANSWER_INVALID  # noqa: PT017 - or it is no lie at all
        else:
            # `renew_after` is advice, and in no leaf.
            kept = json.loads(lying) | {"lease": json.loads(good)["lease"]}
            assert kept == json.loads(good)

    answer()


# The log.


def test_leaf_of_another_type(broker: SoftBroker, guest: Identity) -> None:
    """The logged leaf of a release is a release, not a renewal of the same words."""
    bound = broker.bound(guest)
    request = asked(broker, guest, bound)
    answer = broker.release_answer(request)
    to_renew = canonical.decode(
        exchange.renew_request(replace(bound, lease=answer.lease.id), guest), messages.RenewRequest
    )
    logged = broker.logged(broker.renewal_leaf(to_renew, answer.lease))
    lying = msgspec.structs.replace(answer, **logged)

    refused(
        lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor),
        "another type",
    )


def receipt_of(log: Log, raw: bytes) -> str:
    """Return the receipt for a leaf put into a log."""
    log.append(b"first", raw)
    return log.receipt(1).decode()


def test_receipt_of_another_log(broker: SoftBroker, guest: Identity) -> None:
    """A receipt counts only from the tenant's own tree: its origin, its key."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    origin = broker.anchor.origin
    others = {
        "another key": Log(origin, seed=9),
        "another tree": Log(origin[:-2] + "00"),
        "another tenant": Log(SoftBroker().anchor.origin),
    }
    for name, log in others.items():
        lying = msgspec.structs.replace(answer, receipt=receipt_of(log, bytes(answer.leaf)))
        envelope = broker.sign(lying)
        refused(lambda sent=envelope: exchange.open_release(sent, bound, guest, broker.anchor), "")
        assert name


def test_receipt_of_another_leaf(broker: SoftBroker, guest: Identity) -> None:
    """A receipt is for exactly the leaf of the answer: another index or leaf is refused."""
    bound = broker.bound(guest)
    answer = broker.release_answer(asked(broker, guest, bound))
    index = len(broker.log.leaves) - 1
    good = broker.log.receipt(index).decode()
    for receipt in (
        broker.log.receipt(0).decode(),
        broker.log.receipt(index - 1).decode(),
        good.replace(f"index {index}", f"index {index - 1}"),
        good + "\n",
        good[:-1],
    ):
        envelope = broker.sign(msgspec.structs.replace(answer, receipt=receipt))
        refused(lambda sent=envelope: exchange.open_release(sent, bound, guest, broker.anchor))


def test_leaf_that_was_never_logged(broker: SoftBroker, guest: Identity) -> None:
    """An answer with a leaf that the log does not hold is refused."""
    bound = broker.bound(guest)
    request = asked(broker, guest, bound)
    answer = broker.release_answer(request)
    entry = leaf.decode(answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    other = B64(canonical.encode(msgspec.structs.replace(entry, time=entry.time + 1)))
    lying = msgspec.structs.replace(answer, leaf=other)

    refused(
        lambda: exchange.open_release(broker.sign(lying), bound, guest, broker.anchor), "receipt"
    )


def test_answer_of_another_exchange(
    broker: SoftBroker, guest: Identity, stranger: Identity
) -> None:
    """An answer, good in itself, to another challenge or another machine is refused."""
    bound, another = broker.bound(guest), broker.bound(guest)
    envelope = broker.sign(broker.release_answer(asked(broker, guest, another)))
    refused(lambda: exchange.open_release(envelope, bound, guest, broker.anchor), "challenge")

    theirs = broker.sign(broker.release_answer(asked(broker, stranger, bound)))
    refused(lambda: exchange.open_release(theirs, bound, guest, broker.anchor), "recipients")


def test_answer_of_another_broker(broker: SoftBroker, guest: Identity) -> None:
    """A second broker with the same tenant's vendor answers in vain."""
    bound = broker.bound(guest)
    other = SoftBroker()
    envelope = other.sign(other.release_answer(asked(other, guest, bound)))
    refused(lambda: exchange.open_release(envelope, bound, guest, broker.anchor), "signatures")


# Renewals.


def renewing(broker: SoftBroker, who: Identity) -> tuple[Bound, messages.RenewRequest]:
    """Return a renewal as a guest asks for it."""
    bound = broker.bound(who, lease="a-lease", purpose="renew")
    return bound, canonical.decode(exchange.renew_request(bound, who), messages.RenewRequest)


def test_renewal(broker: SoftBroker, guest: Identity) -> None:
    """A good answer to a renewal gives the longer lease."""
    bound, request = renewing(broker, guest)
    answer = broker.renewal_answer(request)

    assert exchange.open_renewal(broker.sign(answer), bound, guest, broker.anchor) == answer.lease


def test_renewal_is_signed(broker: SoftBroker, guest: Identity, stranger: Identity) -> None:
    """The instance key signs domain, lease id and report data, each with its length."""
    bound, request = renewing(broker, guest)
    size = len(bound.lease)
    message = (
        b"ostiary/renew/v1"
        + size.to_bytes(8, "big")
        + bound.lease.encode()
        + (64).to_bytes(8, "big")
        + bound.report_data
    )
    guest.instance.public_key().verify(bytes(request.signature), message)
    theirs = canonical.decode(exchange.renew_request(bound, stranger), messages.RenewRequest)
    assert theirs.signature != request.signature


RENEWAL: dict[str, tuple[dict[str, Any], str]] = {
    "broker": ({"broker": OTHER_DIGEST}, "broker"),
    "genesis": ({"genesis": OTHER_DIGEST}, "genesis"),
    "challenge": ({"challenge": OTHER_DIGEST}, "challenge"),
    "recipients": ({"recipients": OTHER_DIGEST}, "recipients"),
    "lease": ({"lease": messages.Lease("another", 1, 1)}, "lease"),
    "lease, longer": ({"lease": messages.Lease("a-lease", 1 << 40, 1)}, "lease"),
    "result": ({"result": B64(b"{}")}, "attestation result"),
    "receipt": ({"receipt": ""}, "receipt"),
}


@pytest.mark.parametrize("name", RENEWAL)
def test_field_of_a_renewal(broker: SoftBroker, guest: Identity, name: str) -> None:
    """A renewal's answer with one field that is not of this exchange is refused."""
    changes, word = RENEWAL[name]
    bound, request = renewing(broker, guest)
    envelope = broker.sign(broker.renewal_answer(request, **changes))

    refused(lambda: exchange.open_renewal(envelope, bound, guest, broker.anchor), word)


RENEWAL_LEAF: dict[str, tuple[dict[str, Any], str]] = {
    "genesis": ({"genesis": OTHER_DIGEST}, "logged genesis"),
    "challenge": ({"challenge": OTHER_DIGEST}, "logged challenge"),
    "recipients": ({"recipients": OTHER_DIGEST}, "logged recipients"),
    "keys": ({"keys": (OTHER,)}, "logged keys"),
    "result": ({"result": OTHER_DIGEST}, "attestation result"),
    "lease": ({"lease": "another"}, "lease"),
    "not_after": ({"not_after": 1}, "lease"),
    "not simulated": ({"simulated": False}, "simulated"),
}


@pytest.mark.parametrize("name", RENEWAL_LEAF)
def test_field_of_a_renewals_leaf(broker: SoftBroker, guest: Identity, name: str) -> None:
    """A renewal whose logged leaf says something else is refused."""
    changes, word = RENEWAL_LEAF[name]
    bound, request = renewing(broker, guest)
    envelope = broker.sign(broker.renewal_answer(request, logged=changes))

    refused(lambda: exchange.open_renewal(envelope, bound, guest, broker.anchor), word)


def test_another_lease_everywhere(broker: SoftBroker, guest: Identity) -> None:
    """A consistent answer, leaf and all, that prolongs another lease is refused."""
    bound, request = renewing(broker, guest)
    lying = msgspec.structs.replace(request, lease="another")
    envelope = broker.sign(broker.renewal_answer(lying))

    refused(lambda: exchange.open_renewal(envelope, bound, guest, broker.anchor), "lease")


# The anchor.


def test_anchor(broker: SoftBroker) -> None:
    """The genesis that the launch measured is obeyed: MRCONFIGID whole, HOST_DATA its 32 bytes."""
    for measured in (broker.launch, broker.launch[:32]):
        anchor = exchange.read_anchor(broker.document, measured, simulated_allowed=True)
        assert anchor == Anchor(broker.genesis, broker.digest)
        assert anchor.origin == broker.log.origin


def test_launched_for_somebody_else(broker: SoftBroker) -> None:
    """Any other launch value is refused: of another tenant, zeros, shorter, longer, none."""
    launch = broker.launch
    for measured in (
        SoftBroker().launch,
        bytes(48),
        bytes(32),
        b"",
        launch[:31],
        launch[:47],
        launch + b"\0",
        bytes((launch[0] ^ 1,)) + launch[1:],
        launch[:32] + bytes(16),
    ):
        refused(
            lambda seen=measured: exchange.read_anchor(
                broker.document, seen, simulated_allowed=True
            ),
            code=Fault.ANCHOR_MISMATCH,
        )


def test_genesis_not_self_signed(broker: SoftBroker) -> None:
    """A genesis that its own signers did not sign is refused, also where the launch names it."""
    payload = canonical.encode(broker.genesis)
    kind = "application/vnd.ostiary.genesis.v1+json"
    documents = {
        "a stranger": dsse.sign(kind, payload, Ed25519PrivateKey.generate()),
        "the broker": dsse.sign(kind, payload, broker.key),
        "nobody": dsse.seal(kind, payload, []),
        "as another type": dsse.sign("text/plain", payload, broker.vendor),
        "no genesis": dsse.sign(kind, b"{}", broker.vendor),
        "garbage": b"garbage",
        "nothing": b"",
    }
    for document in documents.values():
        refused(
            lambda sent=document: exchange.read_anchor(sent, broker.launch, simulated_allowed=True),
            code=Fault.ANCHOR_MISMATCH,
        )


def test_genesis_with_another_threshold(broker: SoftBroker) -> None:
    """A genesis of two signers is not signed by one of them."""
    second = Ed25519PrivateKey.generate()
    signers = sorted((*broker.genesis.signers, B64(dsse.spki(second.public_key()))))
    two = msgspec.structs.replace(broker.genesis, signers=tuple(signers), threshold=2)
    payload = canonical.encode(two)
    kind = "application/vnd.ostiary.genesis.v1+json"
    launch = binding.anchor(bytes(two.broker), hashlib.sha256(payload).digest())
    one = dsse.sign(kind, payload, broker.vendor)

    refused(
        lambda: exchange.read_anchor(one, launch, simulated_allowed=True),
        code=Fault.ANCHOR_MISMATCH,
    )
    both = dsse.sign(kind, payload, broker.vendor, second)
    assert exchange.read_anchor(both, launch, simulated_allowed=True).genesis == two


def test_simulated(broker: SoftBroker) -> None:
    """A simulated tenant is refused unless the runtime was told that this is a demo."""
    refused(
        lambda: exchange.read_anchor(broker.document, broker.launch, simulated_allowed=False),
        code=Fault.SIMULATED_REFUSED,
    )
    real = SoftBroker(simulated=False)
    anchor = exchange.read_anchor(real.document, real.launch, simulated_allowed=False)
    assert not anchor.genesis.simulated


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=120))
def test_any_genesis(raw: bytes) -> None:
    """No bytes for a genesis make anything but a refusal of ours."""
    sent = base64.b64encode(raw).decode()
    envelope = json.dumps({"payload": sent, "payloadType": "x", "signatures": []})
    for document in (raw, envelope.replace(" ", "").encode()):
        refused(
            lambda given=document: exchange.read_anchor(given, bytes(48), simulated_allowed=True),
            code=Fault.ANCHOR_MISMATCH,
        )


# Identity.


def test_identity(guest: Identity, stranger: Identity) -> None:
    """Each boot has keys of its own, RSA-3072 with e = 65537 and Ed25519; no repr shows them."""
    numbers = guest.wrap.public_key().public_numbers()
    assert (guest.wrap.key_size, numbers.e) == (3072, 65537)
    assert guest.caller == sha256(guest.instance_spki)
    assert set(guest.recipients).isdisjoint(stranger.recipients)
    assert "PrivateKey" not in repr(guest)
