"""Provenance through the whole broker: a vendor hands bundles in, a release rests on them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("sigstore") is None:
    pytest.skip("extra `provenance` is not installed", allow_module_level=True)

from inference_runtime import exchange
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.errors import Fault, RuntimeFault
from ostiary.simulator.device import serving
from tests.kit import provenance as kit
from tests.kit import sigstore, vendors
from tests.kit.broker import problem, running
from tests.kit.broker_guest import identity
from tests.kit.broker_home import MODEL, RELEASES, RENEWALS, RIVAL, TENANT, Prepared, td
from tests.kit.gpu_broker import Through
from tests.kit.provenance import Demanding, about, digest_of, rules
from verifier import dsse, received
from verifier.appraise import appraise
from verifier.policy import ReleasePolicy
from verifier.provenance import stored
from verifier.provenance.signed import Provenance
from verifier.snp.endorsements import SnpEndorsements
from verifier.tdx import collateral as tdx_collateral
from verifier.tdx.collateral import TdxCollateral
from verifier.wire import canonical, leaf, messages
from verifier.wire.canonical import B64
from verifier.wire.framing import Reader

ELSEWHERE = "https://github.com/evil/guest-image"


@pytest.fixture(scope="module")
def shared(
    prepared_broker: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demanding]:
    """Give a broker that a suite shares; every test puts a policy of its own in force."""
    with running(prepared_broker.copied(tmp_path_factory.mktemp("built") / "home")) as house:
        yield Demanding(house, house.prepared.policies["main"])


@pytest.fixture
def tdx(shared: Demanding) -> Demanding:
    """Give the broker under a policy that demands provenance of a TD's firmware."""
    shared.demand(rules("mr_td"))
    return shared


def measured(site: Demanding) -> bytes:
    """Return the launch measurement of the tenant's TD."""
    return td(site.house.tenant).body.mr_td


def refused(site: Demanding, why: str, code: str = "evidence_refused") -> str:
    """Check that a TD gets nothing, and return the reasons."""
    return site.house.refused(site.house.ask().body(), code, why=why)


def refused_set(site: Demanding, raw: bytes, code: str) -> None:
    """Check that a set is not taken."""
    problem(site.hand_in(raw), code)


def spoil(site: Demanding, raw: bytes) -> None:
    """Put another set in the place of this version's, as who holds database and disk can."""
    name = site.house.run(site.house.services.releases.objects.put(raw))
    site.house.sql(
        "UPDATE provenance SET object = ? WHERE policy = ?",
        hashlib.sha256(raw).digest(),
        site.digest,
    )
    assert name == hashlib.sha256(raw).digest()


@pytest.mark.parametrize("kind", kit.MACHINES)
def test_release_and_renewal(shared: Demanding, tmp_path: Path, kind: str) -> None:
    """The runtime gets its key, and its lease goes on, on bundles about what was measured."""
    machine = kit.MACHINES[kind](shared.house.tenant)
    subject, digest = digest_of(machine)
    shared.sign(rules(subject), references=[kit.admitting(machine)] if kind == "logged" else [])
    # Before the policy: no request finds the one without the other.
    name = shared.have(about(digest), about(hashlib.sha384(b"something else").digest()))
    shared.enforce()
    who = identity(f"built {kind}")

    def attested(client: BrokerClient, lease: str) -> tuple[exchange.Anchor, exchange.Bound]:
        device = SocketDevice(tmp_path / "device")
        purpose: messages.Purpose = "renew" if lease else "release"
        answer = client.challenge(TENANT, purpose, machine.kind, who)
        told = device.launch_config().value
        anchor = exchange.read_anchor(answer.document, told, simulated_allowed=True)
        return anchor, exchange.attest(
            device,
            who,
            anchor,
            challenge=answer.challenge,
            purpose=purpose,
            keys=(MODEL,),
            lease=lease,
            claims=b"{}",
        )

    with (
        serving(tmp_path / "device", machine),
        BrokerClient("http://broker", transport=Through(shared.house)) as client,
    ):
        anchor, bound = attested(client, "")
        envelope = client.release(exchange.release_request(bound, who))
        released = exchange.open_release(envelope, bound, who, anchor)
        anchor, again = attested(client, released.lease.id)
        envelope = client.renew(exchange.renew_request(again, who))
        renewed = exchange.open_renewal(envelope, again, who, anchor)

    assert bytes(released.deks[MODEL].view()) == shared.house.prepared.dek
    assert renewed.id == released.lease.id
    (first, second) = json.loads(released.answer.result)["claims"]["provenance"]
    assert first["identity"] == second["identity"] == sigstore.IDENTITY
    replayed(shared, released, bound.report_data, name)


def replayed(site: Demanding, released: exchange.Released, report_data: bytes, name: bytes) -> None:
    """Decide again on nothing but the log, the signed policy and what lies under the digests."""
    entry = leaf.decode(released.answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)

    def lying(digest: bytes) -> bytes:
        return site.house.services.releases.objects.path(digest).read_bytes()

    evidence = canonical.decode(lying(entry.evidence), messages.Evidence)
    reader = Reader(lying(entry.collateral))
    cpu, devices, built = reader.lp_list(3)
    reader.end()
    assert (devices, hashlib.sha256(built).digest()) == (b"", name)
    endorsements = endorsements_in(entry.kind, cpu)
    policy = canonical.decode(lying_policy(site), ReleasePolicy)
    again = appraise(
        received.evidence(entry.kind, evidence),
        endorsements,
        policy=policy.appraisal,
        report_data=report_data,
        provenance=stored.read(built),
        now=entry.time,
        anchors=vendors.anchors("Genoa"),
    )
    assert again.to_json() == lying(entry.result)


def endorsements_in(kind: messages.Kind, raw: bytes) -> TdxCollateral | SnpEndorsements:
    """Return the CPU's endorsements as they were stored."""
    if kind == "tdx":
        return tdx_collateral.from_json(raw)
    vek, ask, ark, crl = Reader(raw).lp_list(4)
    return SnpEndorsements(vek=vek, ask=ask, ark=ark, crl=crl)


def lying_policy(site: Demanding) -> bytes:
    """Return the payload of the policy in force, as its leaf holds it."""
    rows = site.house.sql("SELECT leaf FROM leaves WHERE type = 'policy' ORDER BY idx DESC LIMIT 1")
    entry = leaf.decode(rows[0][0])
    assert isinstance(entry, leaf.PolicyLeaf)
    return dsse.payload_unverified(entry.document)


def test_no_bundle(tdx: Demanding) -> None:
    """A policy that demands provenance refuses until its vendor has handed some in."""
    assert "provenance.mr_td.bundle" in refused(tdx, "provenance_missing")
    tdx.have(about(hashlib.sha384(b"another image").digest()))
    refused(tdx, "provenance_missing")
    tdx.have(about(measured(tdx)))
    tdx.house.released()


@pytest.mark.parametrize(
    ("signer", "what"),
    [
        ({"names": (sigstore.uri(f"{ELSEWHERE}/.github/workflows/build.yml@x"),)}, "identity"),
        ({"repository": ELSEWHERE}, "repository"),
        ({"ref": "refs/heads/feature"}, "ref"),
        ({"issuer": "https://accounts.evil.example"}, "issuer"),
    ],
)
def test_somebody_else(tdx: Demanding, signer: dict[str, Any], what: str) -> None:
    """A genuine bundle by another identity, from another repository or ref opens nothing."""
    tdx.have(about(measured(tdx), **signer))
    assert f"provenance.mr_td.{what}" in refused(tdx, "provenance_identity")


def test_another_root(tdx: Demanding) -> None:
    """Bundles that are genuine under a root of somebody's own are worth nothing."""
    other = sigstore.Instance.create()
    signed = other.attest(sigstore.statement({"sha384": measured(tdx).hex()}))
    tdx.have(sigstore.raw(signed), root=other.trusted_root())
    refused(tdx, "provenance_root")


def test_a_tampered_bundle(tdx: Demanding) -> None:
    """A bundle that was changed is not taken; put there past the door, it opens nothing."""
    good = about(measured(tdx))
    bad = sigstore.changed(
        json.loads(good),
        "dsseEnvelope.payload",
        sigstore.b64(json.dumps(sigstore.statement({"sha384": "00" * 48})).encode()),
    )
    refused_set(tdx, kit.encoded(good, bad), "provenance_refused")
    refused(tdx, "provenance_missing")
    tdx.have(good)
    tdx.house.released()
    spoil(tdx, kit.encoded(bad))
    refused(tdx, "provenance_invalid")
    spoil(tdx, kit.encoded(good, bad))
    refused(tdx, "provenance_invalid")


def test_a_bundle_of_the_future(tdx: Demanding) -> None:
    """A bundle that was signed later than now is not taken."""
    later = kit.encoded(about(measured(tdx), at=tdx.house.clock.now + 1))
    refused_set(tdx, later, "provenance_refused")
    with tdx.house.clock.at(tdx.house.clock.now + 1):
        assert tdx.hand_in(later).is_success
    refused(tdx, "provenance_invalid")


def test_a_set_that_is_damaged(tdx: Demanding) -> None:
    """An object that is not what its name says, no set, or gone, is the operator's to mend."""
    name = tdx.have(about(measured(tdx)))
    path = tdx.house.services.releases.objects.path(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b" ")
    refused(tdx, "damaged", "collateral_unavailable")
    path.unlink()
    refused(tdx, "no object", "collateral_unavailable")
    path.write_bytes(whole)
    tdx.house.released()
    spoil(tdx, b"{}")
    refused(tdx, "not a valid message", "collateral_unavailable")


def test_what_a_guest_sends_is_no_provenance(tdx: Demanding) -> None:
    """A request has no place for bundles; they are not looked for in what else it holds."""
    built = kit.encoded(about(measured(tdx)))
    asked = tdx.house.ask(claims=built)
    tdx.house.refused(asked.body(), "evidence_refused", why="provenance_missing")
    body = json.loads(tdx.house.ask().body()) | {"provenance": json.loads(built)}
    answer = tdx.house.send("POST", RELEASES, json.dumps(body, separators=(",", ":")).encode())
    problem(answer, "malformed")


def test_a_set_is_for_one_version(tdx: Demanding) -> None:
    """The next version of a policy starts without the set of the one before."""
    tdx.have(about(measured(tdx)))
    lease = tdx.house.released().lease.id
    tdx.demand(rules("mr_td"))
    refused(tdx, "provenance_missing")
    asked = tdx.house.ask("renew", lease=lease)
    tdx.house.refused(asked.renewal(), "evidence_refused", to=RENEWALS, why="provenance_missing")


def test_a_policy_that_demands_none(shared: Demanding) -> None:
    """A set for a policy that demands nothing is not looked at, and the collateral is as before."""
    shared.demand()
    shared.have(about(hashlib.sha384(b"whatever").digest()))
    entry = leaf.decode(shared.house.released().answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    raw = shared.house.services.releases.objects.path(entry.collateral).read_bytes()
    assert tdx_collateral.from_json(raw).root_ca_crl


def test_show(tdx: Demanding) -> None:
    """The vendor gets the set back as it came, and the newest where there were several."""
    problem(tdx.house.call("GET", tdx.target), "not_found")
    tdx.have(about(measured(tdx), at=sigstore.SIGNED - 5))
    name = tdx.have(about(measured(tdx)))
    assert hashlib.sha256(tdx.house.call("GET", tdx.target).content).digest() == name


def test_who_may(tdx: Demanding) -> None:
    """Only a signer of the very tenant hands sets in: no other vendor, and no runtime."""
    raw, house = kit.encoded(about(measured(tdx))), tdx.house
    rival: dict[str, Any] = {"key": house.prepared.signers[RIVAL], "issuer": RIVAL}
    problem(house.call("PUT", tdx.target, raw, **rival), "forbidden")
    problem(house.call("GET", tdx.target, **rival), "forbidden")
    tdx.have(about(measured(tdx)))
    runtime: dict[str, Any] = {
        "key": identity().instance,
        "issuer": f"lease:{house.released().lease.id}",
    }
    problem(house.call("PUT", tdx.target, raw, **runtime), "forbidden")
    problem(house.call("GET", tdx.target, **runtime), "forbidden")


def test_a_rivals_set_for_our_policy(tdx: Demanding) -> None:
    """Sets lie under their tenant: another's for the same digest is not found."""
    rival: dict[str, Any] = {"key": tdx.house.prepared.signers[RIVAL], "issuer": RIVAL}
    target = tdx.target.replace(f"/{TENANT}/", f"/{RIVAL}/")
    raw = kit.encoded(about(measured(tdx)))
    assert tdx.house.call("PUT", target, raw, **rival).is_success
    refused(tdx, "provenance_missing")


def test_sizes_and_shapes(tdx: Demanding) -> None:
    """Too much, too many, nothing, garbage and what is no digest is refused at the door."""
    good = about(measured(tdx))
    problem(tdx.hand_in(b" " * (messages.MAX_PROVENANCE + 1)), "too_large", 413)
    root = B64(sigstore.instance().trusted_root())
    for bundles in ((), (B64(good),) * (messages.MAX_BUNDLES + 1), (B64(b""),)):
        fields = {"v": 1, "trusted_root": canonical.b64encode(root)}
        told = fields | {"bundles": [canonical.b64encode(each) for each in bundles]}
        problem(tdx.hand_in(json.dumps(told, separators=(",", ":")).encode()), "malformed", 400)
    problem(tdx.hand_in(b"garbage"), "malformed", 400)
    refused_set(tdx, kit.encoded(b"{}"), "provenance_refused")
    refused_set(tdx, kit.encoded(good, root=b"{}"), "provenance_refused")
    for name in ("00", "zz" * 32, "AB" * 32):
        target = tdx.target.replace(tdx.digest.hex(), name)
        problem(tdx.house.call("PUT", target, kit.encoded(good)), "malformed", 400)
        problem(tdx.house.call("GET", target), "malformed", 400)


def test_without_the_library(
    tdx: Demanding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker without `sigstore` says so: to the vendor, to the guest, to its operator."""
    raw = kit.encoded(about(measured(tdx)))
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    problem(tdx.hand_in(raw), "provenance_unavailable", 503)
    assert "ostiary[provenance]" in refused(tdx, "library", "provenance_unavailable")
    client = BrokerClient("http://broker", transport=Through(tdx.house))
    with client, pytest.raises(RuntimeFault, match="provenance_unavailable") as told:
        client.release(tdx.house.ask().body())
    assert told.value.code is Fault.BROKER_UNAVAILABLE  # it may ask again: this can be mended
    assert not alarms(caplog)
    tdx.demand(rules("mr_td"))
    assert alarms(caplog) == [f"policy main of tenant {TENANT}"]
    tdx.demand()
    tdx.house.released()


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return which policies the operator was alarmed about."""
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    found = [text for text in said if text.startswith("ALERT provenance_unavailable: ")]
    assert all("install ostiary[provenance]" in text for text in found)
    return [text.partition("under ")[2].removesuffix(" is refused") for text in found]


def test_a_start_without_the_library(
    fresh: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that starts without `sigstore` names every policy in force that it cannot judge."""
    with running(fresh) as house:
        site = Demanding(house, fresh.policies["main"])
        site.demand(rules("mr_td"))
        site.have(about(measured(site)))
    assert not alarms(caplog)
    with running(fresh) as house:
        assert not alarms(caplog)
        house.released()
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    with running(fresh) as house:
        assert alarms(caplog) == [f"policy main of tenant {TENANT}"]
        house.refused(house.ask().body(), "provenance_unavailable")


def test_a_start_with_damaged_rows(fresh: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    """A start whose look at the policies fails says so, and serves what it can."""
    with closing(sqlite3.connect(fresh.home / "ostiary.db")) as connection, connection:
        connection.execute("DELETE FROM policies WHERE name = 'single'")
    with running(fresh) as house:
        house.released()
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert [text for text in said if f"policies of tenant {TENANT} cannot be read" in text]
    assert said[0].startswith("ALERT state_mismatch: ")


def test_a_set_goes_there_and_back() -> None:
    """What is read is written again byte by byte."""
    given = Provenance((b"a", b"b"), b"root")
    assert stored.read(stored.encode(given)) == given
