"""The guest's side: of all genuine answers it opens the one that answers its question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.hsm.errors import HsmError
from inference_runtime.attester import Evidence, LaunchConfig
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Identity, read_anchor
from tests.kit.broker import House
from tests.kit.broker_guest import Asked, identity
from tests.kit.broker_home import MODEL, RELEASES, RENEWALS, RIVAL, SECOND, anchor_of
from verifier import dsse
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import ReleaseAnswer


def refuse(asked: Asked, envelope: bytes, what: str = "") -> None:
    """Check that a guest does not open this."""
    with pytest.raises(RuntimeFault) as refused:
        asked.open(envelope)
    assert refused.value.code is Fault.ANSWER_INVALID
    assert what in str(refused.value), str(refused.value)


def answered(house: House, asked: Asked | None = None) -> tuple[Asked, bytes]:
    """Return a question and its genuine answer."""
    question = asked or house.ask()
    answer = house.send("POST", RELEASES, question.body())
    assert answer.status_code == 200, house.reasons()
    return question, answer.content


def read(envelope: bytes) -> ReleaseAnswer:
    """Return the payload of an answer."""
    return canonical.decode(dsse.payload_unverified(envelope), ReleaseAnswer)


def signed_by(key: Ed25519PrivateKey, answer: Any) -> bytes:
    """Return an answer as another broker signs it."""
    return dsse.sign(messages.ANSWER_TYPE, canonical.encode(answer), key)


def resigned(house: House, answer: ReleaseAnswer) -> bytes:
    """Return an answer signed by the broker's own key, as whoever holds its worker's client can."""
    return house.run(house.services.releases.hsm.sign_answer(canonical.encode(answer)))


def test_to_another_guest(house: House) -> None:
    """An answer relayed to another machine, which asked too, does not open there."""
    _, envelope = answered(house)
    other, own = answered(house, house.ask(name="other"))

    refuse(other, envelope, "challenge")
    assert set(other.open(own).deks) == {MODEL}


def test_to_a_guest_with_the_same_challenge(house: House) -> None:
    """Also one that claims the same challenge does not open it: the recipients are others."""
    asked, envelope = answered(house)

    refuse(replace(asked, identity=identity("other")), envelope, "recipients")


def test_to_a_guest_with_another_wrap_key(house: House) -> None:
    """A guest whose instance key is the same and whose RSA key is another does not open it."""
    asked, envelope = answered(house)
    mixed = Identity(identity("other").wrap, asked.identity.instance)

    refuse(replace(asked, identity=mixed), envelope, "recipients")


def test_of_an_earlier_question(house: House) -> None:
    """An answer to an earlier question of the same guest is none to this one."""
    _, envelope = answered(house)

    refuse(house.ask(), envelope, "challenge")


def test_for_other_keys(house: House) -> None:
    """An answer with other keys, or more, than asked for is none."""
    asked, envelope = answered(house, house.ask(keys=(MODEL, SECOND)))

    for keys in ((MODEL,), (SECOND,)):
        refuse(replace(asked, keys=keys), envelope, "keys")


def test_of_another_tenant(house: House) -> None:
    """A guest launched for another tenant of the same broker does not open it."""
    asked, envelope = answered(house)

    refuse(replace(asked, tenant=house.prepared.tenants[RIVAL]), envelope)


def test_of_another_broker(house: House) -> None:
    """An answer signed by another key than the genesis names is refused, whatever it says."""
    asked, envelope = answered(house)

    refuse(asked, signed_by(Ed25519PrivateKey.generate(), read(envelope)), "broker's answer")


def test_without_a_signature(house: House) -> None:
    """An answer without a signature, or of another type, is refused."""
    asked, envelope = answered(house)
    found = msgspec.json.decode(envelope)
    spoilt: tuple[dict[str, Any], ...] = (
        {"signatures": []},
        {"payloadType": "application/vnd.ostiary.policy.v1+json"},
        {"signatures": [found["signatures"][0] | {"keyid": "00" * 32}]},
    )
    for changes in spoilt:
        refuse(asked, msgspec.json.encode(found | changes))


@pytest.mark.parametrize("at", [30, 200, 1000, 3000, -20])
def test_flipped_bit(house: House, at: int) -> None:
    """No bit of an answer can be changed on the way."""
    asked, envelope = answered(house)
    raw = bytearray(envelope)
    raw[at] ^= 1

    refuse(asked, bytes(raw))


def test_a_renewals_answer(house: House) -> None:
    """The answer to a renewal opens nothing, and that to a release renews nothing."""
    asked, envelope = answered(house)
    lease = asked.open(envelope).lease.id
    renewing = house.ask("renew", lease=lease)
    renewed = house.send("POST", RENEWALS, renewing.renewal()).content

    refuse(renewing, renewed)
    with pytest.raises(RuntimeFault):
        renewing.open_renewal(envelope)
    assert renewing.open_renewal(renewed).id == lease


SWAPS: dict[str, Callable[[ReleaseAnswer, ReleaseAnswer], ReleaseAnswer]] = {
    "leaf": lambda own, other: msgspec.structs.replace(own, leaf=other.leaf),
    "receipt": lambda own, other: msgspec.structs.replace(own, receipt=other.receipt),
    "leaf and receipt": lambda own, other: msgspec.structs.replace(
        own, leaf=other.leaf, receipt=other.receipt
    ),
    "result": lambda own, other: msgspec.structs.replace(own, result=B64(other.result + b" ")),
    "lease": lambda own, other: msgspec.structs.replace(own, lease=other.lease),
    "longer lease": lambda own, _: msgspec.structs.replace(
        own, lease=msgspec.structs.replace(own.lease, not_after=own.lease.not_after + 1)
    ),
    "challenge": lambda own, other: msgspec.structs.replace(own, challenge=other.challenge),
    "recipients": lambda own, _: msgspec.structs.replace(own, recipients=Hex(bytes(32))),
    "policy": lambda own, _: msgspec.structs.replace(own, policies=(Hex(bytes(32)),)),
    "no key": lambda own, _: msgspec.structs.replace(own, keys=()),
    "manifest": lambda own, _: msgspec.structs.replace(
        own, keys=(msgspec.structs.replace(own.keys[0], manifest=Hex(bytes(32))),)
    ),
    "wrapped key": lambda own, other: msgspec.structs.replace(
        own, keys=(msgspec.structs.replace(own.keys[0], wrapped=other.keys[0].wrapped),)
    ),
    "genesis": lambda own, _: msgspec.structs.replace(own, genesis=Hex(bytes(32))),
    "broker": lambda own, _: msgspec.structs.replace(own, broker=Hex(bytes(32))),
}


@pytest.mark.parametrize("what", SWAPS)
def test_parts_of_two_answers(house: House, what: str) -> None:
    """Parts of another genuine release do not fit into this one, not even under a good signature.

    The signature here is by the genesis' own key as far as the guest can tell: the worker signs no
    such answer (it checks receipt and broker), so the test holds a key in its place.
    """
    asked, envelope = answered(house)
    _, other = answered(house, house.ask(name="other"))
    key = Ed25519PrivateKey.generate()
    spki = B64(dsse.spki(key.public_key()))
    # A guest that was launched for a broker with this key, and otherwise for this tenant.
    genesis = asked.tenant.genesis
    object_changes = {"broker_key": spki, "broker": genesis.broker}
    forged = _unchecked(genesis, **object_changes)
    launched = replace(asked, tenant=replace(asked.tenant, genesis=forged))
    assert launched.open(signed_by(key, read(envelope))).lease.id

    refuse(launched, signed_by(key, SWAPS[what](read(envelope), read(other))))


def _unchecked(value: Any, **changes: Any) -> Any:
    """Return a copy of a message with other fields, past the checks of its making."""
    copied = msgspec.structs.replace(value)
    for name, field in changes.items():
        msgspec.structs.force_setattr(copied, name, field)
    return copied


@pytest.mark.parametrize("what", ["leaf", "receipt", "broker", "genesis"])
def test_the_worker_signs_no_lies(house: House, what: str) -> None:
    """The worker signs no answer whose receipt does not prove its leaf in the tenant's own log."""
    _, envelope = answered(house)
    _, other = answered(house)

    with pytest.raises(HsmError):
        resigned(house, SWAPS[what](read(envelope), read(other)))


class Device:
    """A machine launched with some configuration."""

    kind: messages.Kind = "tdx"
    ak = b""

    def __init__(self, config: bytes) -> None:
        self._config = config

    def report(self, report_data: bytes) -> Evidence:
        return Evidence(report_data, b"", b"")

    def launch_config(self) -> LaunchConfig:
        return LaunchConfig(self._config)


@pytest.mark.parametrize("size", [32, 48])
def test_anchor(house: House, size: int) -> None:
    """A guest obeys the tenant and broker that its launch measured, and no other one."""
    own, rival = house.tenant, house.prepared.tenants[RIVAL]
    documents = {
        name: house.run(house.services.tenants.find(name)).envelope for name in ("acme", RIVAL)
    }
    measured = Device(anchor_of(own)[:size]).launch_config().value

    found = read_anchor(documents["acme"], measured, simulated_allowed=True)
    assert found.digest == own.digest
    for document, config, allowed, code in (
        (documents[RIVAL], measured, True, Fault.ANCHOR_MISMATCH),
        (documents["acme"], anchor_of(rival)[:size], True, Fault.ANCHOR_MISMATCH),
        (documents["acme"], bytes(size), True, Fault.ANCHOR_MISMATCH),
        (documents["acme"], measured[:-1], True, Fault.ANCHOR_MISMATCH),
        (documents["acme"], b"", True, Fault.ANCHOR_MISMATCH),
        (documents["acme"][:-1], measured, True, Fault.ANCHOR_MISMATCH),
        (documents["acme"], measured, False, Fault.SIMULATED_REFUSED),
    ):
        with pytest.raises(RuntimeFault) as refused:
            read_anchor(document, config, simulated_allowed=allowed)
        assert refused.value.code is code
