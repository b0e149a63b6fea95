"""Challenges and evidence for which a release is refused, one test per cause, over HTTP.

`House.refused` holds for each that the answer is an opaque problem document, that the reasons are
on record, and that the log did not grow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import TdxMachine
from tests.kit.broker import House, problem, running
from tests.kit.broker_guest import Kind, identity
from tests.kit.broker_home import (
    BARE,
    MODEL,
    RENEWALS,
    RIVAL,
    SECOND,
    Prepared,
    snp,
    td,
)
from tests.kit.vendors import NOW
from verifier.wire import messages
from verifier.wire.canonical import B64
from verifier.wire.messages import Recipient

# Challenges.


def test_replayed(house: House) -> None:
    """A challenge is spent by its first use, also when that succeeded."""
    asked = house.ask()
    body = asked.body()
    house.released(asked)

    house.refused(body, "challenge_spent")


def test_replayed_after_a_refusal(house: House) -> None:
    """A challenge is spent by its first use, also when that was refused."""
    asked = house.ask()
    house.refused(asked.body(claims=B64(b"x")), "evidence_refused")

    house.refused(asked.body(), "challenge_spent")


def test_used_twice_at_once(house: House) -> None:
    """Of many concurrent uses of one challenge exactly one wins."""
    asked = house.ask()
    body, before = asked.body(), house.size()
    answers = house.together(*(house.sending("POST", "/v1/releases", body) for _ in range(8)))

    assert sorted(a.status_code for a in answers) == [200] + [403] * 7
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, "challenge_spent")
    assert house.size() == before + 1


def test_of_another_broker(house: House, own: House) -> None:
    """A challenge counts at the broker that made it, and not at a copy with the same database."""
    foreign = replace(own.ask(), tenant=house.tenant)

    house.refused(foreign.body(), "challenge_unknown")


def test_of_another_purpose(house: House) -> None:
    """A challenge to renew releases nothing, and one to release renews nothing."""
    to_renew, to_release = house.ask("renew"), house.ask("release")

    house.refused(to_renew.body(), "challenge_unknown")
    house.refused(replace(to_release, lease="x").renewal(), "challenge_unknown", to=RENEWALS)


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_of_another_kind(house: House, kind: Kind) -> None:
    """The kind of evidence comes from the challenge: the other kind's is not even looked for."""
    asked = house.ask(kind=kind)
    other = snp(house.tenant) if kind == "tdx" else td(house.tenant)

    house.refused(asked.body(asked.evidence(other)), "evidence_refused")


def test_of_another_caller(house: House) -> None:
    """A challenge given to one instance key is no use to another."""
    stolen = replace(house.ask(), identity=identity("other"))

    house.refused(stolen.body(), "challenge_unknown", why="somebody else")


def test_of_another_tenant(house: House) -> None:
    """A challenge for one tenant opens no key of another, though both have one of that name."""
    asked = replace(house.ask(tenant=RIVAL), tenant=house.tenant)

    before = house.size()
    problem(house.release(asked.body()), "key_not_active")
    assert house.size() == before


def test_expired(house: House) -> None:
    """A challenge lives 60 seconds, not one more."""
    early, late = house.ask(), house.ask()

    with house.clock.at(NOW + 60):
        house.refused(late.body(), "challenge_expired")
    with house.clock.at(NOW + 59):
        problem(house.release(replace(early, keys=(BARE,)).body()), "key_not_active")


@pytest.mark.parametrize("at", [0, 1, 5, 40, 45, 60, -33, -1])
def test_altered_challenge(house: House, at: int) -> None:
    """No bit of a challenge can be changed: version, key id, nonce, expiry, names, MAC."""
    asked = house.ask()
    raw = bytearray(asked.challenge)
    raw[at] ^= 1

    house.refused(replace(asked, challenge=bytes(raw)).body(), "challenge_unknown")


@pytest.mark.parametrize("raw", [b"\x01", bytes(31), bytes(32), bytes(200), b"\xff" * 4096])
def test_no_challenge(house: House, raw: bytes) -> None:
    """Bytes that are no challenge are unknown, whatever their length."""
    asked = replace(house.ask(), challenge=raw)

    house.refused(asked.body(), "challenge_unknown")


def test_after_a_restart(fresh: Prepared) -> None:
    """The keys of challenges live in the worker's memory and die with it."""
    with running(fresh) as before:
        asked = before.ask()
    with running(fresh) as after:
        after.refused(asked.body(), "challenge_unknown")


# Evidence.


@pytest.mark.parametrize("kind", ["tdx", "snp"])
@pytest.mark.parametrize("at", [0, 100, 300, 600, 900])
def test_flipped_bit(house: House, kind: Kind, at: int) -> None:
    """A bit flipped in header, measurement, report data or signature is refused."""
    asked = house.ask(kind=kind)
    good = asked.evidence()
    cpu = bytearray(good.cpu)
    cpu[at] ^= 1
    evidence = msgspec.structs.replace(good, cpu=B64(bytes(cpu)))

    house.refused(asked.body(evidence), "evidence_refused")


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_debug(house: House, kind: Kind) -> None:
    """A machine whose host may read its memory gets nothing."""
    asked = house.ask(kind=kind)
    machine = td(house.tenant, debug=True) if kind == "tdx" else snp(house.tenant, debug=True)

    house.refused(asked.body(asked.evidence(machine)), "evidence_refused", why="debug")


@pytest.mark.parametrize("part", ["firmware", "config", "kernel", "image"])
@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_unknown_measurement(house: House, kind: Kind, part: str) -> None:
    """A machine that booted anything else than the policy's image gets nothing."""
    image = {**LaunchRequest(bytes(48)).image, part: b"something else"}
    asked = house.ask(kind=kind)
    machine = td(house.tenant, image=image) if kind == "tdx" else snp(house.tenant, image=image)

    house.refused(asked.body(asked.evidence(machine)), "evidence_refused")


def test_launched_for_somebody_else(house: House) -> None:
    """A machine launched for another tenant, or for nobody, gets nothing: MRCONFIGID says so."""
    for config in (bytes(48), td(house.prepared.tenants[RIVAL]).body.mr_config_id):
        asked = house.ask()
        evidence = asked.evidence(td(house.tenant, config=config))
        house.refused(asked.body(evidence), "evidence_refused", why="mr_config")


def test_host_data_of_somebody_else(house: House) -> None:
    """The same for an SNP guest: HOST_DATA says for whom it was launched."""
    asked = house.ask(kind="snp")
    evidence = asked.evidence(snp(house.tenant, config=bytes(32)))

    house.refused(asked.body(evidence), "evidence_refused", why="measurement")


def test_another_vendor(house: House) -> None:
    """Evidence that chains to a root which nobody pinned gets nothing."""
    stranger = FakeIntel.create(NOW)
    machine = TdxMachine(
        stranger.platform(), launch_td(LaunchRequest(td(house.tenant).body.mr_config_id))
    )
    asked = house.ask()

    house.refused(asked.body(asked.evidence(machine)), "evidence_refused")


BOUND_OTHERWISE: dict[str, dict[str, Any]] = {
    "challenge": {"challenge": b"another challenge"},
    "purpose": {"purpose": "renew"},
    "tenant": {"genesis": bytes(32)},
    "broker": {"broker": bytes(32)},
    "keys": {"keys": (SECOND,)},
    "more keys": {"keys": (MODEL, SECOND)},
    "lease": {"lease": "another-lease"},
    "kind": {"kind": "snp"},
    "claims": {"claims": b'{"engine":"other"}'},
    "vTPM key": {"ak": b"another key"},
    "GPU": {"gpus": (messages.GpuEvidence(1, B64(b"report"), B64(b"chain")),)},
}


@pytest.mark.parametrize("what", BOUND_OTHERWISE)
def test_bound_otherwise(house: House, what: str) -> None:
    """Genuine evidence that binds one thing else than the request says is refused."""
    asked = house.ask()
    lying = replace(asked, **BOUND_OTHERWISE[what])
    cpu, _, _ = td(house.tenant).report(lying.report_data())

    house.refused(
        asked.body(messages.Evidence(cpu=B64(cpu))),
        "evidence_refused",
        why="report_data",
    )


def test_bound_to_other_recipients(house: House) -> None:
    """Evidence of one machine with the RSA key of another, who relays it, is refused."""
    asked = house.ask()
    relayed = (
        Recipient(messages.WRAP_RSA, identity("other").recipients[0].key),
        asked.identity.recipients[1],
    )
    body = asked.body(recipients=relayed)

    house.refused(body, "evidence_refused", why="report_data")


def test_order_of_recipients(house: House) -> None:
    """The order in which recipients are sent is no lie: the set is what is bound."""
    asked = house.ask()
    answer = house.release(asked.body(recipients=tuple(reversed(asked.identity.recipients))))

    assert answer.status_code == 200
    assert bytes(asked.open(answer.content).deks[MODEL].view()) == house.prepared.dek


def test_gpus(house: House) -> None:
    """GPU evidence that is none is refused and named, though the machine commits to it."""
    gpus = (messages.GpuEvidence(1, B64(b"report"), B64(b"chain")),)
    asked = replace(house.ask(), gpus=gpus)

    house.refused(asked.body(), "evidence_refused", why="gpu[0]")


@pytest.mark.parametrize("cpu", [b"\0", b"\x04\x00" + bytes(700), bytes(0x4A0), b"\xff" * 5000])
@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_garbage(house: House, kind: Kind, cpu: bytes) -> None:
    """Bytes that are no evidence at all are refused like any other."""
    asked = house.ask(kind=kind)
    body = asked.body(messages.Evidence(cpu=B64(cpu), endorsements=B64(cpu)))

    house.refused(body, "evidence_refused")


def test_trailing_bytes(house: House) -> None:
    """A quote with anything but padding behind it is not that quote."""
    asked = house.ask()
    good = asked.evidence()
    evidence = msgspec.structs.replace(good, cpu=B64(good.cpu + b"\1"))

    house.refused(asked.body(evidence), "evidence_refused")
