"""Results as tokens at the door: for whom, about what, and never beyond the lease."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import pytest

from tests.kit.broker import House, problem
from tests.kit.broker_guest import identity
from tests.kit.broker_home import RIVAL, TENANT
from tests.kit.ear import AUDIENCE, NONCE
from verifier.ear import keys, token
from verifier.ear.claims import Ear
from verifier.ear.vector import Tier

ROOT = f"/v1/tenants/{TENANT}"
ASKED = f"aud={quote(AUDIENCE, safe='')}&nonce={NONCE.hex()}"


def of_lease(lease: str, asked: str = ASKED) -> str:
    return f"{ROOT}/leases/{lease}/result?{asked}"


def of_leaf(index: int, asked: str = ASKED) -> str:
    return f"{ROOT}/log/result?index={index}&{asked}"


def checked(house: House, raw: bytes) -> Ear:
    """Verify a token as its relying party does: with the key from the public route."""
    jwks = house.send("GET", "/.well-known/jwks.json")
    assert jwks.headers["content-type"] == "application/jwk-set+json"
    return token.verify(
        raw,
        keys.read_jwks(jwks.content),
        issuer=house.services.broker.hex(),
        audience=AUDIENCE,
        nonce=NONCE,
        now=house.services.clock(),
    )


@pytest.mark.parametrize("dialect", ["ietf", "legacy"])
def test_a_signer_gets_a_token_about_a_release(house: House, dialect: str) -> None:
    """By lease and by leaf; both say the same, and what the leaf says."""
    done = house.released()
    index = house.size() - 1
    entry = bytes(done.answer.leaf)

    by_lease = house.call("GET", of_lease(done.lease.id) + f"&dialect={dialect}")
    by_leaf = house.call("GET", of_leaf(index) + f"&dialect={dialect}")

    assert by_lease.headers["content-type"] == "application/eat+jwt"
    assert by_lease.headers["cache-control"] == "no-store"
    one, other = checked(house, by_lease.content), checked(house, by_leaf.content)
    assert one.token != other.token
    assert one.basis == other.basis
    assert one.dialect == dialect
    assert one.basis.leaf == hashlib.sha256(b"\0" + entry).digest()
    assert (one.basis.policy,) == done.answer.policies
    assert one.basis.result == hashlib.sha256(done.answer.result).digest()
    assert one.basis.simulated
    assert one.status is Tier.CONTRAINDICATED
    vector = one.submods["cpu0"].vector
    assert (vector.hardware, vector.executables, vector.runtime_opaque) == (97, 3, 2)


def test_the_runtime_gets_its_own_and_no_other(house: House) -> None:
    """A runtime shows its result to others; another's it does not get."""
    mine = house.released().lease.id
    other = house.released(house.ask(name="other")).lease.id
    who: dict[str, Any] = {"key": identity().instance, "issuer": f"lease:{mine}"}

    good = house.call("GET", of_lease(mine), **who)

    assert checked(house, good.content).basis.kind == "tdx"
    problem(house.call("GET", of_lease(other), **who), "forbidden", 403)
    problem(house.call("GET", of_leaf(house.size() - 1), **who), "forbidden", 403)


def test_after_a_renewal_it_is_about_the_newest_evidence(house: House) -> None:
    """The leaf of the renewal, and the policy that it names."""
    asked = house.ask()
    done = house.released(asked)
    again = house.ask("renew", lease=done.lease.id)
    assert house.renew(again.renewal()).status_code == 200

    ear = checked(house, house.call("GET", of_lease(done.lease.id)).content)

    assert (ear.basis.policy,) == done.answer.policies
    assert ear.basis.leaf != hashlib.sha256(b"\0" + bytes(done.answer.leaf)).digest()


def test_an_ended_lease_has_no_token(house: House) -> None:
    """Neither by its name nor by its leaf."""
    lease = house.released().lease.id
    index = house.size() - 1
    house.vendor("DELETE", f"/leases/{lease}")

    problem(house.call("GET", of_lease(lease)), "lease_ended", 403)
    problem(house.call("GET", of_leaf(index)), "lease_ended", 403)


def test_only_releases_and_renewals_have_tokens(house: House) -> None:
    """The genesis has none, nor a leaf or lease that is not there."""
    problem(house.call("GET", of_leaf(0)), "not_found", 404)
    problem(house.call("GET", of_leaf(10**6)), "not_found", 404)
    problem(house.call("GET", of_lease("none")), "not_found", 404)


def test_another_tenants_lease_is_not_there(house: House) -> None:
    """A signer of another tenant learns nothing of it, by either road."""
    lease = house.released().lease.id
    rival: dict[str, Any] = {"key": house.prepared.signers[RIVAL], "issuer": RIVAL}

    problem(house.call("GET", of_lease(lease), **rival), "forbidden", 403)
    elsewhere = of_lease(lease).replace(f"/{TENANT}/", f"/{RIVAL}/", 1)
    problem(house.call("GET", elsewhere, **rival), "not_found", 404)


@pytest.mark.parametrize(
    "asked",
    [
        f"aud=&nonce={NONCE.hex()}",
        f"aud={'a' * 257}&nonce={NONCE.hex()}",
        f"aud=%C3%BC&nonce={NONCE.hex()}",
        f"aud=a%0Ab&nonce={NONCE.hex()}",
        "aud=a&nonce=",
        "aud=a&nonce=" + "00" * 8,
        "aud=a&nonce=" + "00" * 65,
        "aud=a&nonce=" + "AA" * 32,
        "aud=a&nonce=xyz",
    ],
)
def test_what_cannot_be_asked(house: House, asked: str) -> None:
    """Audience and nonce have their bounds; the caller learns that it is its mistake."""
    lease = house.released().lease.id

    problem(house.call("GET", of_lease(lease, asked)), "malformed", 400)
    problem(house.call("GET", of_leaf(house.size() - 1, asked)), "malformed", 400)


@pytest.mark.parametrize("asked", ["aud=a", f"nonce={NONCE.hex()}", f"{ASKED}&dialect=other"])
def test_what_is_missing_or_unknown(house: House, asked: str) -> None:
    """Without audience or nonce, or in a dialect that nobody speaks, there is nothing to sign."""
    assert house.call("GET", of_lease("none", asked)).status_code == 400
