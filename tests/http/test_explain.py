"""The operator's and the vendor's view of a refusal: every reason, and what to do about it."""

from __future__ import annotations

import pytest

from ostiary.__main__ import main
from tests.kit.broker import House, problem
from tests.kit.broker_home import RIVAL, TENANT, td
from verifier.advice import ADVICE
from verifier.errors import Reason


def refused_release(house: House) -> int:
    """Have a debuggable machine refused, and return the number of its audit entry."""
    asked = house.ask()
    house.refused(asked.body(asked.evidence(td(house.tenant, debug=True))), "evidence_refused")
    return int(house.vendor("GET", "/audit?limit=1").json()[0]["id"])


def test_a_refusal_is_explained(house: House) -> None:
    """A vendor's signer reads what failed, what was expected and seen, and what to do."""
    entry = refused_release(house)
    told = house.vendor("GET", f"/audit/{entry}").json()

    assert (told["id"], told["code"], told["kind"]) == (entry, "evidence_refused", "release")
    (found,) = told["problems"]
    assert found["reason"] == "debug_enabled"
    assert found["advice"] == ADVICE[Reason.DEBUG_ENABLED]
    assert found["misses"][0]["name"] == "td_attributes.debug"
    assert f"what to do: {ADVICE[Reason.DEBUG_ENABLED]}" in told["explanation"]
    assert told["reasons"][0] in told["explanation"]


def test_only_the_tenants_signers_read_it(house: House) -> None:
    """Another tenant's signer, nobody, and who asks for another tenant's entry learn nothing."""
    entry = refused_release(house)
    path = f"/v1/tenants/{TENANT}/audit/{entry}"
    rival = house.prepared.signers[RIVAL]

    problem(house.send("GET", path), "unauthenticated", 401)
    problem(house.call("GET", path, key=rival, issuer=RIVAL), "forbidden", 403)
    theirs = path.replace(TENANT, RIVAL)
    problem(house.call("GET", theirs, key=rival, issuer=RIVAL), "not_found", 404)
    problem(house.call("GET", f"/v1/tenants/{TENANT}/audit/{1 << 40}"), "not_found", 404)


def test_the_operator_reads_it_too(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """`ostiary broker audit` lists refusals, and says of one what the door says of it."""
    entry = refused_release(house)
    told = house.vendor("GET", f"/audit/{entry}").json()["explanation"]
    home = str(house.prepared.home)

    assert main(["broker", "--home", home, "audit", str(entry)]) == 0
    assert capsys.readouterr().out == told + "\n"
    assert main(["broker", "--home", home, "audit"]) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert (first[0], first[2:]) == (str(entry), ["release", "evidence_refused"])
    assert main(["broker", "--home", home, "audit", str(1 << 40)]) == 1
    assert "not_found" in capsys.readouterr().err
