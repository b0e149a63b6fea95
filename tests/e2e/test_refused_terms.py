"""Recipients, keys, leases and collateral for which a release is refused, one test per cause."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ostiary import vendor
from tests.kit import vendors
from tests.kit.broker import House, problem, running
from tests.kit.broker_guest import Asked, identity
from tests.kit.broker_home import (
    BARE,
    MODEL,
    SINGLE,
    STATES,
    TENANT,
    Clock,
    Prepared,
    write_collateral,
)
from tests.kit.vendors import NOW
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64
from verifier.wire.leaf import KeyState
from verifier.wire.messages import KeyRef, Recipient

# Recipients.


def rsa_spki(bits: int, exponent: int = 65537) -> bytes:
    """Return the SPKI of a fresh RSA key."""
    key = rsa.generate_private_key(exponent, bits)
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def with_rsa(spki: bytes) -> tuple[Recipient, ...]:
    """Return the guest's recipients with another RSA key."""
    return (Recipient(messages.WRAP_RSA, B64(spki)), identity().recipients[1])


def good_spki() -> bytes:
    """Return the guest's own RSA key."""
    return bytes(identity().recipients[0].key)


BAD_RSA = {
    "e = 1": lambda: good_spki()[:-5] + bytes.fromhex("0203000001"),
    "e = 1, shorter": lambda: good_spki()[:-5] + bytes.fromhex("020101"),
    "e = 3": lambda: good_spki()[:-5] + bytes.fromhex("0203000003"),
    "even modulus": lambda: good_spki()[:-6] + b"\x00" + good_spki()[-5:],
    "2048 bits": lambda: rsa_spki(2048),
    "4096 bits": lambda: good_spki() + bytes(128),
    "trailing byte": lambda: good_spki() + b"\0",
    "length in another form": lambda: b"\x30\x83\x00" + good_spki()[2:],
    "no parameters": lambda: good_spki().replace(bytes.fromhex("0500"), b"", 1),
    "elliptic curve": lambda: (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ),
    "garbage": lambda: b"\xff" * 422,
    "another oid": lambda: good_spki().replace(
        bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01010a"), 1
    ),
}


@pytest.mark.parametrize("name", BAD_RSA)
def test_rsa_recipient(house: House, name: str) -> None:
    """A key is wrapped to canonical RSA-3072 with e = 65537 only; attested evidence or not."""
    asked = replace(house.ask(), recipients=with_rsa(BAD_RSA[name]()))

    house.refused(asked.body(), "malformed")


def test_missing_recipients(house: House) -> None:
    """Without an instance key, or without an RSA key, nothing is released."""
    wrap, instance = identity().recipients
    for recipients in ((wrap,), (instance,)):
        asked = replace(house.ask(), recipients=recipients)
        house.refused(asked.body(), "malformed", why="no ")


@pytest.mark.parametrize(
    "spki",
    [
        b"\xff" * 44,
        bytes.fromhex("302a300506032b6571032100") + bytes(32),
        bytes.fromhex("302a300506032b6570032100") + bytes(33),
        bytes.fromhex("300506030f0f0f") + bytes(40),
    ],
)
def test_instance_recipient(house: House, spki: bytes) -> None:
    """The instance key is an Ed25519 key, since it signs renewals and registry reads."""
    who = identity()
    request = messages.ChallengeRequest(
        v=1, tenant=TENANT, purpose="release", kind="tdx", caller=sha256(spki)
    )
    raw = house.send("POST", "/v1/challenges", canonical.encode(request)).content
    challenge = canonical.decode(raw, messages.ChallengeAnswer).challenge
    recipients = (who.recipients[0], Recipient(messages.INSTANCE, B64(spki)))
    asked = Asked(who, house.tenant, bytes(challenge), recipients=recipients)

    house.refused(asked.body(), "malformed", why="recipients")


def sha256(raw: bytes) -> canonical.Hex:
    """Return a SHA-256 as a caller digest."""
    return canonical.Hex(hashlib.sha256(raw).digest())


def test_hpke_recipient(house: House) -> None:
    """The slot of the post-quantum layer is refused by name, not passed over."""
    hpke = Recipient(messages.HPKE, B64(bytes(1216)))
    asked = replace(house.ask(), recipients=(*identity().recipients, hpke))

    house.refused(asked.body(), "malformed", why=messages.HPKE)


# Keys and leases.


@pytest.mark.parametrize("state", STATES)
def test_key_state(house: House, state: KeyState) -> None:
    """A key in any state but active is not released, alone or beside one that is."""
    for keys in ((STATES[state],), tuple(sorted((MODEL, STATES[state])))):
        asked = replace(house.ask(), keys=keys)
        house.refused(asked.body(), "key_not_active", why=f"{state.value}, not")


@pytest.mark.parametrize("ref", [KeyRef("nothing", 1), KeyRef(MODEL.id, 2)])
def test_unknown_key(house: House, ref: KeyRef) -> None:
    """A key version that nobody handed in is not released."""
    asked = replace(house.ask(), keys=(ref,))

    house.refused(asked.body(), "key_not_active", why="unknown")


def test_key_under_no_policy(house: House) -> None:
    """An active key that no policy names is not released: no policy allows nothing."""
    asked = replace(house.ask(), keys=(BARE,))

    house.refused(asked.body(), "key_not_active", why="no policy")


def test_keys_of_two_policies(house: House) -> None:
    """Two keys under two policies do not go in one release."""
    asked = replace(house.ask(), keys=(MODEL, SINGLE))

    house.refused(asked.body(), "denied", why="one policy")


def test_lease_limit(own: House) -> None:
    """A policy of one lease gives one; another is given when that one has ended or run out."""
    first = own.released(own.ask(keys=(SINGLE,)))
    own.refused(own.ask(keys=(SINGLE,)).body(), "lease_limit", why="max_leases 1")
    own.vendor("DELETE", f"/leases/{first.lease.id}")

    second = own.released(own.ask(keys=(SINGLE,)))
    with own.clock.at(second.lease.not_after):
        own.released(own.ask(keys=(SINGLE,)))


def test_lease_limit_at_once(own: House) -> None:
    """Of many that ask at once for the last lease one gets it, and one leaf is written."""
    bodies = [own.ask(keys=(SINGLE,)).body() for _ in range(6)]
    before = own.size()
    answers = own.together(*(own.sending("POST", "/v1/releases", body) for body in bodies))

    assert sorted(a.status_code for a in answers) == [200] + [403] * 5
    assert own.size() == before + 1


def test_policy_no_longer_names_it(own: House) -> None:
    """A key that the next policy version leaves out is not released any more."""
    first = own.prepared.policies["main"]
    draft = vendor.policy_file(first)
    rest = tuple(key for key in draft.keys if key != f"{MODEL.id}/{MODEL.version}")
    second = vendor.sign_policy(
        msgspec.structs.replace(draft, keys=rest),
        own.tenant,
        own.key,
        version=2,
        predecessor=vendor.policy_digest(first),
    )
    own.vendor("PUT", "/policies", second)

    own.refused(own.ask().body(), "key_not_active", why="no policy")
    problem(own.call("PUT", f"/v1/tenants/{TENANT}/policies", first), "policy_rolled_back", 409)


# Collateral.


def test_no_collateral(fresh: Prepared) -> None:
    """Without endorsements for the platform nothing is appraised, and it says so."""
    (fresh.home / "collateral" / "tdx" / "x.json").unlink()
    with running(fresh) as house:
        house.refused(house.ask().body(), "collateral_unavailable")
        house.released(house.ask(kind="snp"))


def test_no_snp_collateral(fresh: Prepared) -> None:
    """Without AMD's CRL nothing is released to an SNP guest: no list is not an empty list."""
    (fresh.home / "collateral" / "snp" / "Genoa" / "crl.der").unlink()
    with running(fresh) as house:
        asked = house.ask(kind="snp")
        house.refused(asked.body(), "collateral_unavailable")


def test_stale_collateral(fresh: Prepared) -> None:
    """Collateral is not used a second past its own dates."""
    day = 86_400
    with running(fresh, Clock(NOW + 29 * day - 10)) as house:
        house.released()
        with house.clock.at(NOW + 30 * day):
            house.refused(house.ask().body(), "evidence_refused", why="expired")


def test_revoked_platform(fresh: Prepared) -> None:
    """A platform whose PCK certificate is revoked gets nothing, once the CRL says so."""
    with running(fresh) as house:
        house.released()
        serial = pck_serial()
        write_collateral(fresh.home, revoked_pcks=(serial,))
        house.refused(house.ask().body(), "evidence_refused", why="revoked")


def pck_serial() -> int:
    """Return the serial of the session's platform."""
    return x509.load_der_x509_certificate(vendors.platform().chain[0]).serial_number


def test_broken_collateral(fresh: Prepared) -> None:
    """A collateral file that cannot be read is a refusal, not a crash."""
    (fresh.home / "collateral" / "tdx" / "x.json").write_text("{")
    with running(fresh) as house:
        answer = house.release(house.ask().body())
        problem(answer, answer.json()["code"])
        assert answer.status_code in {403, 503}
