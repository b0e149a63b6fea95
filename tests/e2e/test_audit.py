"""What an auditor finds at home: after a run of everything the whole log holds."""

from __future__ import annotations

import base64

from ostiary import vendor
from tests.kit.auditor import Walk
from tests.kit.broker import House, problem, running
from tests.kit.broker_guest import identity
from tests.kit.broker_home import MANIFEST, MODEL, RENEWALS, SECOND, TENANT, Prepared
from tests.kit.vendors import NOW
from verifier.tlog.checkpoint import Checkpoint, open_checkpoint
from verifier.tlog.merkle import verify_consistency
from verifier.wire import canonical, leaf
from verifier.wire.canonical import B64
from verifier.wire.leaf import KeyState


def leaves(house: House) -> list[bytes]:
    """Return all leaves, page by page."""
    found: list[bytes] = []
    while True:
        page = house.vendor("GET", f"/log/leaves?start={len(found)}&limit=7").json()
        found += [canonical.b64decode(text) for text in page]
        if not page:
            return found


def walk(house: House) -> list[str]:
    """Return everything that is wrong with the tenant's log."""
    every = leaves(house)
    receipts = [house.vendor("GET", f"/log/proof?index={at}").content for at in range(len(every))]
    checkpoint = house.vendor("GET", "/log/checkpoint").content
    return Walk(house.tenant, MANIFEST).log(every, checkpoint, receipts)


def head(house: House) -> Checkpoint:
    """Return the newest checkpoint, verified."""
    raw = house.vendor("GET", "/log/checkpoint").content
    return open_checkpoint(raw, house.tenant.origin, Walk(house.tenant, MANIFEST).vkey)


def consistent(house: House, old: Checkpoint, new: Checkpoint) -> None:
    """Check that the newer tree extends the older one."""
    raw = house.vendor("GET", f"/log/consistency?old={old.size}&new={new.size}").content
    proof = [base64.b64decode(line) for line in raw.split()]
    verify_consistency(old.size, new.size, proof, old.root, new.root)


def everything(house: House) -> None:
    """Do a bit of all that there is: grants, refusals, renewals, ends, orders, policies."""
    first = house.released()
    house.released(house.ask(kind="snp", keys=(MODEL, SECOND)))
    house.refused(house.ask().body(claims=B64(b"?")), "evidence_refused")
    house.clock.now += 600
    renewing = house.ask("renew", lease=first.lease.id)
    assert house.send("POST", RENEWALS, renewing.renewal()).status_code == 200
    second = house.released(house.ask(name="other"))
    house.call(
        "DELETE",
        f"/v1/tenants/{TENANT}/leases/{second.lease.id}",
        key=identity("other").instance,
        issuer=f"lease:{second.lease.id}",
    )
    house.vendor("DELETE", f"/leases/{first.lease.id}")
    house.order(MODEL, KeyState.SUSPENDED)
    house.refused(house.ask().body(), "key_not_active")
    house.order(MODEL, KeyState.ACTIVE)
    older = house.prepared.policies["main"]
    newer = vendor.sign_policy(
        vendor.policy_file(older),
        house.tenant,
        house.key,
        version=2,
        predecessor=vendor.policy_digest(older),
    )
    house.vendor("PUT", "/policies", newer)
    problem(house.call("PUT", f"/v1/tenants/{TENANT}/policies", older), "policy_rolled_back")
    house.clock.now -= 300
    house.released()
    house.order(SECOND, KeyState.COMPROMISED)


def test_everything(fresh: Prepared) -> None:
    """Leaves, root, checkpoint, receipts, epochs, state digests and consistency all hold."""
    with running(fresh) as house:
        before = head(house)
        everything(house)
        middle = head(house)
        assert walk(house) == []
        consistent(house, before, middle)
        consistent(house, middle, middle)
    with running(fresh) as house:
        house.clock.now = NOW + 600
        house.released()
        after = head(house)
        assert walk(house) == []
        consistent(house, before, after)
        consistent(house, middle, after)
        kinds = {type(leaf.decode(raw)) for raw in leaves(house)}
        assert kinds == {
            leaf.GenesisLeaf,
            leaf.ImportKeyLeaf,
            leaf.KeyLeaf,
            leaf.PolicyLeaf,
            leaf.ReleaseLeaf,
            leaf.RenewalLeaf,
            leaf.LeaseEndLeaf,
        }


def test_the_walk_finds_lies(house: House) -> None:
    """The walk above can fail: leaves left out, put in, swapped or altered are all found."""
    house.released()
    every = leaves(house)
    good = [leaf.decode(raw) for raw in every]
    changed = good[-1]

    for lie in (good[1:], [*good[:5], *good[6:]], [*good, good[2]], [*good, changed, good[0]]):
        walked = Walk(house.tenant, MANIFEST)
        for at, entry in enumerate(lie):
            walked.leaf(at, entry)
        assert walked.wrong


def test_lease_put_back(own: House) -> None:
    """A revoked lease whose row is put back gives no key, and the walk shows what it did."""
    lease = own.released().lease.id
    own.vendor("DELETE", f"/leases/{lease}")
    assert walk(own) == []
    own.sql("UPDATE leases SET state = 'live', cause = '' WHERE id = ?", lease)
    answer = own.send("POST", RENEWALS, own.ask("renew", lease=lease).renewal())

    assert b"wrapped" not in answer.content
    if answer.status_code == 200:
        assert any("after the lease's end" in line for line in walk(own))


def test_objects(house: House) -> None:
    """Evidence, collateral and result of a release are stored under the digests in its leaf."""
    entry = leaf.decode(house.released().answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    objects = house.prepared.home / "objects" / "sha256"
    for digest in (entry.evidence, entry.collateral, entry.result):
        assert (objects / digest.hex()[:2] / digest.hex()).is_file()


def test_nobody_elses_log(house: House) -> None:
    """The other tenant's log is its own: another origin, another key, no leaf of this one."""
    own, rival = house.prepared.tenants[TENANT], house.prepared.tenants["rival"]

    assert own.origin != rival.origin
    assert own.genesis.log_key != rival.genesis.log_key
    rows = house.sql("SELECT size FROM trees WHERE g = ?", rival.digest)
    assert rows == [(1,)]
