"""Renewals: a longer lease for whoever holds it, on fresh evidence, and never a key."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from inference_runtime import exchange
from tests.kit.broker import House
from tests.kit.broker_guest import Asked, Kind, identity
from tests.kit.broker_home import MODEL, RELEASES, RENEWALS, SECOND, td
from tests.kit.vendors import NOW
from verifier import dsse
from verifier.wire import canonical, leaf, messages
from verifier.wire.canonical import B64
from verifier.wire.leaf import KeyState


def held(house: House, kind: Kind = "tdx") -> exchange.Released:
    """Have a lease."""
    return house.released(house.ask(kind=kind))


def renewing(house: House, lease: str, kind: Kind = "tdx", *, name: str = "guest") -> Asked:
    """Ask for a challenge to renew a lease."""
    return house.ask("renew", kind, name=name, lease=lease)


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_good(own: House, kind: Kind) -> None:
    """A live lease is prolonged on fresh evidence; the answer is signed, logged, and has no key."""
    first = held(own, kind)
    with own.clock.at(NOW + 1800):
        asked = renewing(own, first.lease.id, kind)
        answer = own.send("POST", RENEWALS, asked.renewal())
        assert answer.status_code == 200, own.reasons()
        longer = asked.open_renewal(answer.content)

    assert longer.id == first.lease.id
    assert longer.not_after == first.lease.not_after + 1800
    assert b"wrapped" not in answer.content
    payload = dsse.payload_unverified(answer.content)
    entry = leaf.decode(bytes(canonical.decode(payload, messages.RenewalAnswer).leaf))
    assert isinstance(entry, leaf.RenewalLeaf)
    assert (entry.lease, entry.keys, entry.kind) == (first.lease.id, (MODEL,), kind)


def test_twice(house: House) -> None:
    """A renewal, like a release, spends its challenge."""
    asked = renewing(house, held(house).lease.id)
    body = asked.renewal()
    assert house.send("POST", RENEWALS, body).status_code == 200

    house.refused(body, "challenge_spent", to=RENEWALS)


def test_signature(house: House) -> None:
    """Evidence alone renews nothing: the instance key must sign what it binds, and this lease."""
    lease = held(house).lease.id
    for spoil in (
        lambda a: identity("other").instance.sign(messages.renewal_message(a.report_data(), lease)),
        lambda a: a.identity.instance.sign(messages.renewal_message(a.report_data(), "other")),
        lambda a: a.identity.instance.sign(messages.renewal_message(bytes(64), lease)),
        lambda a: a.identity.instance.sign(a.report_data()),
        lambda _: bytes(64),
    ):
        asked = renewing(house, lease)
        body = asked.renewal(signature=B64(spoil(asked)))
        house.refused(body, "denied", to=RENEWALS, why="not signed by the instance")


def test_other_instance(house: House) -> None:
    """Another instance, with evidence and signature of its own, does not renew this lease."""
    lease = held(house).lease.id
    asked = renewing(house, lease, name="other")

    house.refused(asked.renewal(), "denied", to=RENEWALS, why="holds the lease")


def test_other_keys(house: House) -> None:
    """A lease is renewed for the keys that it was given for."""
    lease = held(house).lease.id
    for keys in ((SECOND,), (MODEL, SECOND)):
        asked = replace(renewing(house, lease), keys=keys)
        house.refused(asked.renewal(), "denied", to=RENEWALS, why="holds the lease")


def test_other_wrap_key(house: House) -> None:
    """A lease is renewed for the RSA key that it was given to."""
    lease = held(house).lease.id
    mixed = (identity("other").recipients[0], identity().recipients[1])
    asked = replace(renewing(house, lease), recipients=mixed)

    house.refused(asked.renewal(), "denied", to=RENEWALS, why="holds the lease")


def test_bound_to_another_lease(house: House) -> None:
    """Evidence for one lease renews no other lease of the same instance."""
    first, second = held(house).lease.id, held(house).lease.id
    asked = renewing(house, first)
    body = replace(asked, lease=second).renewal(asked.evidence())

    house.refused(body, "evidence_refused", to=RENEWALS, why="report_data")


def test_bad_evidence(house: House) -> None:
    """A machine that turned into another one loses its lease."""
    asked = renewing(house, held(house).lease.id)
    debug = asked.evidence(td(house.tenant, debug=True))

    house.refused(asked.renewal(debug), "evidence_refused", to=RENEWALS, why="debug")


def test_unknown_lease(house: House) -> None:
    """A lease that never was is not renewed."""
    house.refused(renewing(house, "nothing").renewal(), "lease_ended", to=RENEWALS)


def test_ended(house: House) -> None:
    """A lease that the vendor revoked is never renewed."""
    lease = held(house).lease.id
    house.vendor("DELETE", f"/leases/{lease}")

    house.refused(renewing(house, lease).renewal(), "lease_ended", to=RENEWALS)


def test_ran_out(house: House) -> None:
    """A lease whose time is over is not renewed; a second before it is."""
    released = held(house)
    with house.clock.at(released.lease.not_after):
        asked = renewing(house, released.lease.id)
        house.refused(asked.renewal(), "lease_ended", to=RENEWALS)
    with house.clock.at(released.lease.not_after - 1):
        asked = renewing(house, released.lease.id)
        assert house.send("POST", RENEWALS, asked.renewal()).status_code == 200


@pytest.mark.parametrize("state", [KeyState.SUSPENDED, KeyState.COMPROMISED, KeyState.DEACTIVATED])
def test_revoked_key(own: House, state: KeyState) -> None:
    """When a key is not active any more its leases are not renewed."""
    lease = held(own).lease.id
    own.order(MODEL, state)

    own.refused(renewing(own, lease).renewal(), "key_not_active", to=RENEWALS, why=state.value)
    own.refused(own.ask().body(), "key_not_active", to=RELEASES, why=state.value)


def test_release_message_at_the_renewal_door(house: House) -> None:
    """One message is not read as the other, in either direction."""
    release, renewal = house.ask(), renewing(house, "x")

    for target, body in ((RENEWALS, release.body()), (RELEASES, renewal.renewal())):
        answer = house.send("POST", target, body)
        assert msgspec.json.decode(answer.content)["code"] == "malformed"
