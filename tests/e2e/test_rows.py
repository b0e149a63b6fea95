"""Rows are a cache, the log is the truth: whoever writes the database gets nothing out."""

from __future__ import annotations

import pytest

from broker.errors import BrokerError, Code
from ostiary import vendor
from tests.kit.broker import House, problem, running
from tests.kit.broker_home import MODEL, RENEWALS, SECOND, Prepared
from verifier.wire.leaf import KeyState


def refuse_start(prepared: Prepared) -> BrokerError:
    """Return why the broker of this home does not start."""
    with pytest.raises(BrokerError) as refused, running(prepared):
        pass
    return refused.value


# Rows. The log is the truth.


def test_blobs_swapped(own: House) -> None:
    """Two keys whose blobs were swapped in their rows are both refused."""
    rows = own.sql("SELECT id, blob FROM keys WHERE id IN (?, ?)", MODEL.id, SECOND.id)
    (first, one), (second, two) = rows
    own.sql("UPDATE keys SET blob = ? WHERE id = ?", two, first)
    own.sql("UPDATE keys SET blob = ? WHERE id = ?", one, second)

    for ref in (MODEL, SECOND):
        own.refused(own.ask(keys=(ref,)).body(), "state_mismatch", why="the log says")


CHANGES = (
    "state = 'active'",
    "blob = x'00'",
    "kek = 2",
    "manifest = zeroblob(32)",
    "policy_version = 7",
    "policy = zeroblob(32)",
    "id = 'renamed'",
    "version = 9",
    "state = 'unheard-of'",
)


def test_key_row_changed(own: House) -> None:
    """A key's row with any other value than the log's is refused, and a renewal under it too."""
    lease = own.released().lease.id
    own.order(MODEL, KeyState.SUSPENDED)
    (row,) = own.sql("SELECT rowid, * FROM keys WHERE id = ?", MODEL.id)
    for change in CHANGES:
        own.sql(f"UPDATE keys SET {change} WHERE rowid = ?", row[0])  # noqa: S608 - of this list

        own.refused(own.ask().body(), "state_mismatch")
        renewal = own.ask("renew", lease=lease).renewal()
        own.refused(renewal, "state_mismatch", to=RENEWALS)
        problem(own.call("GET", "/v1/tenants/acme/state"), "state_mismatch", 503)

        own.sql("DELETE FROM keys WHERE rowid = ?", row[0])
        marks = ", ".join("?" * (len(row) - 1))
        own.sql(f"INSERT INTO keys VALUES ({marks})", *row[1:])  # noqa: S608 - question marks
        row = own.sql("SELECT rowid, * FROM keys WHERE id = ?", MODEL.id)[0]
        own.refused(own.ask().body(), "key_not_active")


def test_key_row_removed(own: House) -> None:
    """A key's row that is gone is noticed by whoever asks for another key."""
    own.sql("DELETE FROM keys WHERE id = ?", SECOND.id)

    own.refused(own.ask().body(), "state_mismatch")


def test_head_row_changed_too(own: House) -> None:
    """Whoever changes the row of the tree as well contradicts the newest leaf."""
    own.order(MODEL, KeyState.SUSPENDED)
    own.sql("UPDATE keys SET state = 'active' WHERE id = ?", MODEL.id)
    own.sql("UPDATE trees SET state = zeroblob(32) WHERE g = ?", own.tenant.digest)

    own.refused(own.ask().body(), "state_mismatch")


def test_policy_row_replaced(own: House) -> None:
    """Another policy that the vendor signed once does not take the place of the one in force."""
    first = own.prepared.policies["main"]
    other = vendor.sign_policy(
        vendor.policy_file(first),
        own.tenant,
        own.key,
        version=2,
        predecessor=vendor.policy_digest(first),
    )
    own.sql("UPDATE policies SET envelope = ? WHERE name = 'main'", other)

    own.refused(own.ask().body(), "state_mismatch")


def test_policy_rows_removed(own: House) -> None:
    """Without the policy that the log names nothing is released, nor is an older one let in."""
    own.sql("DELETE FROM policies WHERE name = 'main'")

    own.refused(own.ask().body(), "state_mismatch")
    again = own.call("PUT", "/v1/tenants/acme/policies", own.prepared.policies["main"])
    problem(again, "state_mismatch", 503)


def test_tenant_row_replaced(own: House) -> None:
    """A tenant's row with somebody else's genesis lets nobody in and nothing out."""
    rival = own.sql("SELECT genesis FROM tenants WHERE name = 'rival'")[0][0]
    asked = own.ask()
    own.sql("UPDATE tenants SET genesis = ? WHERE name = 'acme'", rival)

    problem(own.release(asked.body()), "state_mismatch", 503)
    problem(own.call("GET", "/v1/tenants/acme/state"), "state_mismatch", 503)


def test_leaf_row_changed(fresh: Prepared) -> None:
    """A leaf or node changed under the signed head is found at the next start."""
    with running(fresh) as house:
        house.sql("UPDATE nodes SET hash = zeroblob(32) WHERE g = ?", house.tenant.digest)

    assert refuse_start(fresh).code is Code.LOG_ROLLED_BACK
