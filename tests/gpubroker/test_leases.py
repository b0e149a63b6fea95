"""A GPU is in one machine at a time: leases elsewhere refuse, a machine's new start supersedes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from broker.log.sequencer import Sequencer
from broker.release.flow import ReleaseFlow
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.devices import DeviceSet
from tests.kit import nvgpu
from tests.kit.broker_home import MODEL, RENEWALS, SECOND, SINGLE, Prepared
from tests.kit.gpu_broker import Site, site
from verifier.wire import canonical, leaf
from verifier.wire.messages import ReleaseRequest


@pytest.fixture
def own(fresh: Prepared) -> Iterator[Site]:
    """Give a site whose policy wants two GPUs."""
    with site(fresh) as found:
        found.require(2)
        yield found


def two() -> DeviceSet:
    """Return new GPUs, that are in no lease."""
    return devices.device_set(nvgpu.vendor(), 2, "mpt")


def ids(whole: DeviceSet) -> list[str]:
    """Return device ids as reasons name them."""
    return [each.identity.brom_serial.to_bytes(9).hex() for each in whole.devices]


def ends(own: Site) -> list[tuple[str, str]]:
    """Return lease and cause of every lease end in the log."""
    rows = own.house.sql("SELECT leaf FROM leaves WHERE type = 'lease-end' ORDER BY idx")
    entries = [leaf.decode(row[0]) for row in rows]
    return [(each.lease, each.cause) for each in entries if isinstance(each, leaf.LeaseEndLeaf)]


def test_a_gpu_in_a_lease_elsewhere(own: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Two machines show one GPU: the second gets nothing, and the operator is told at once."""
    whole, other = two(), two()
    first = own.released(own.ask(whole))
    mixed = [other.devices[0], whole.devices[1]]
    with caplog.at_level(logging.ERROR, logger="broker.release"):
        reasons = own.refused(own.ask(mixed, name="b"), "gpu_in_use", on="b")

    assert f"device {ids(whole)[1]} is in lease {first} on another platform" in reasons
    assert ids(other)[0] not in reasons
    (alert,) = (record.getMessage() for record in caplog.records)
    assert alert.startswith("ALERT gpu_in_use: ")
    assert first in alert
    assert ids(whole)[1] in alert
    assert own.states() == {first: "live"}
    assert ends(own) == []


def test_it_is_free_when_the_lease_is_over(own: Site) -> None:
    """A GPU may move to another machine once its lease was ended, or ran out."""
    whole = two()
    first = own.released(own.ask(whole))
    own.house.vendor("DELETE", f"/leases/{first}")
    second = own.released(own.ask(whole, name="b"), on="b")
    with own.house.clock.at(own.house.clock.now + 3600):
        third = own.released(own.ask(whole, name="c"), on="c")

    assert own.states() == {first: "revoked", second: "live", third: "live"}


def test_a_new_start_supersedes(own: Site) -> None:
    """The same machine with the same GPUs, started anew, ends its old lease, in the log."""
    whole = two()
    old = own.released(own.ask(whole))
    before = own.house.size()
    new = own.released(own.ask(whole, name="started anew"))

    assert own.house.size() == before + 2
    assert ends(own) == [(old, "superseded")]
    assert own.states() == {old: "superseded", new: "live"}
    rows = own.house.sql("SELECT id, leaf FROM leases")
    assert dict(rows) == {old: before, new: before + 1}
    types = own.house.sql(
        "SELECT type FROM leaves WHERE idx >= ? AND g = ? ORDER BY idx",
        before,
        own.house.tenant.digest,
    )
    assert types == [("lease-end",), ("release",)]
    # The old start is not prolonged; the new one is.
    late = own.renewing(whole, old)
    own.house.refused(
        late.renewal(late.evidence(own.machine())), "lease_ended", to=RENEWALS, leaves=0
    )
    again = own.renewing(whole, new, name="started anew")
    assert own.house.renew(again.renewal(again.evidence(own.machine()))).status_code == 200


def test_superseding_makes_room(own: Site) -> None:
    """Under a policy of one lease a machine that starts anew need not wait for its old lease."""
    own.policies["single"] = own.house.prepared.policies["single"]
    own.require(2, name="single")
    whole = two()
    old = own.released(own.ask(whole, keys=(SINGLE,)))
    new = own.released(own.ask(whole, name="started anew", keys=(SINGLE,)))
    own.refused(own.ask(two(), name="b", keys=(SINGLE,)), "lease_limit", on="b")

    assert own.states() == {old: "superseded", new: "live"}


def test_one_start_may_have_several_leases(own: Site) -> None:
    """Two models on one machine: the same start holds both leases, and a new one ends both."""
    whole = two()
    first = own.released(own.ask(whole))
    second = own.released(own.ask(whole, keys=(SECOND,)))
    assert own.states() == {first: "live", second: "live"}

    third = own.released(own.ask(whole, name="started anew"))
    assert own.states() == {first: "superseded", second: "superseded", third: "live"}
    assert sorted(ends(own)) == sorted([(first, "superseded"), (second, "superseded")])


def test_a_refused_start_supersedes_nothing(own: Site) -> None:
    """Whoever gets no lease ends none: limit and devices are judged in one transaction."""
    own.policies["single"] = own.house.prepared.policies["single"]
    own.require(2, name="single")
    whole, other = two(), two()
    full = own.released(own.ask(other, name="b", keys=(SINGLE,)), on="b")
    old = own.released(own.ask(whole))
    own.refused(own.ask(whole, name="started anew", keys=(SINGLE,)), "lease_limit")
    mixed = [whole.devices[0], other.devices[1]]
    own.refused(own.ask(mixed, name="started anew"), "gpu_in_use")

    assert own.states() == {full: "live", old: "live"}
    assert ends(own) == []


def test_a_renewal_keeps_its_devices(own: Site) -> None:
    """A lease goes on with the very GPUs that it was given for, and on its own machine."""
    whole, other = two(), two()
    lease = own.released(own.ask(whole))
    for devices_shown in (other, replace(whole, gpus=(whole.gpus[0], other.gpus[1]))):
        asked = own.renewing(devices_shown, lease)
        own.house.refused(
            asked.renewal(asked.evidence(own.machine())),
            "denied",
            to=RENEWALS,
            why="not the GPUs and switches of the lease",
        )
    moved = own.renewing(whole, lease)
    own.house.refused(
        moved.renewal(moved.evidence(own.machine("b"))), "gpu_in_use", to=RENEWALS, leaves=0
    )
    turned = own.renewing(replace(whole, gpus=whole.gpus[::-1]), lease)
    answer = own.house.renew(turned.renewal(turned.evidence(own.machine())))
    assert answer.status_code == 200, own.house.reasons()


def test_at_once(own: Site) -> None:
    """Of many machines that show one GPU at the same moment, one gets a lease."""
    whole = two()
    bodies = []
    for name in ("", "b", "c", "d"):
        asked = own.ask(whole, name=f"guest {name}")
        bodies.append(asked.body(asked.evidence(own.machine(name))))
    before = own.house.size()
    answers = own.house.together(
        *(own.house.sending("POST", "/v1/releases", body) for body in bodies)
    )

    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    refused = {answer.json()["code"] for answer in answers if answer.status_code == 403}
    assert refused == {"gpu_in_use"}
    assert own.house.size() == before + 1
    assert list(own.states().values()) == ["live"]


def test_two_brokers_at_once(own: Site) -> None:
    """Two brokers on one database give a GPU to one machine only."""
    flow = own.house.services.releases
    other = replace(flow, sequencer=Sequencer(flow.store, flow.hsm))
    whole = two()

    async def release(by: ReleaseFlow, body: bytes) -> str:
        try:
            await by.release(canonical.decode(body, ReleaseRequest))
        except Exception as error:  # noqa: BLE001 - told below, whatever it is
            return str(error)
        return "released"

    bodies = []
    for name in ("", "b"):
        asked = own.ask(whole, name=f"guest {name}")
        bodies.append(asked.body(asked.evidence(own.machine(name))))
    said = own.house.together(release(flow, bodies[0]), release(other, bodies[1]))
    own.house.run(other.sequencer.aclose())

    assert said.count("released") == 1
    assert any(line.startswith("gpu_in_use") for line in said)
    assert list(own.states().values()) == ["live"]


def test_machines_without_gpus_do_not_care(own: Site) -> None:
    """A policy without GPUs leaves leases as they are: nothing is held, nothing superseded."""
    own.require(0)
    first = own.released(own.house.ask())
    second = own.released(own.house.ask(name="started anew"))

    assert own.states() == {first: "live", second: "live"}
    assert own.house.sql("SELECT count(*) FROM devices") == [(0,)]


def test_the_machines_keys_are_listed_with_its_devices(own: Site) -> None:
    """A signer sees which devices a lease holds."""
    whole = two()
    lease = own.released(own.ask(whole))
    (row,) = own.house.vendor("GET", "/leases").json()

    assert (row["id"], row["devices"]) == (lease, sorted(ids(whole)))
    assert row["keys"] == [f"{MODEL.id}/{MODEL.version}"]
