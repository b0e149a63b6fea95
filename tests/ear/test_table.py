"""The one table: complete, never affirming what was not asked, and equal to the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.ear import accepted
from verifier.ear import table
from verifier.ear.vector import Tier, Vector, tier
from verifier.errors import Reason
from verifier.result import Check, TcbStatus

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "ear.md"


def test_every_reason_and_every_status_has_a_row() -> None:
    """A new reason without a meaning in AR4SI's words stops here."""
    assert set(Reason) == set(table.REFUSED)
    assert set(TcbStatus) == set(table.STATUSES)


def test_the_docs_show_this_table() -> None:
    """What `docs/ear.md` shows is what the code does, row for row."""
    shown = re.search(r"<!-- table -->\n(.*?)<!-- /table -->", DOCS.read_text(), re.DOTALL)

    assert shown is not None
    assert shown[1] == table.markdown()


@pytest.mark.parametrize("reason", Reason)
def test_no_refusal_leaves_its_member_affirmed(reason: Reason) -> None:
    """Whatever passed besides, the members that a refusal speaks of are not affirming."""
    failed = Check("what failed", ok=False, expected="a", seen="b", reason=reason)
    checks = (*accepted().checks, failed)

    found = table.vector("tdx", checks, tcb_status=TcbStatus.UP_TO_DATE, simulated=False)

    for member, value in table.REFUSED[reason]:
        assert getattr(found, member.replace("-", "_")) == value
        assert tier(value) is not Tier.AFFIRMING


def test_a_good_machine_is_affirmed_by_what_was_judged() -> None:
    """Genuine, no debug, a reference that fits: and no claim of anything else."""
    found = table.vector("tdx", accepted().checks, tcb_status=TcbStatus.UP_TO_DATE, simulated=False)

    assert found == Vector(configuration=2, executables=3, hardware=2, runtime_opaque=2)


@pytest.mark.parametrize("status", set(TcbStatus) - {TcbStatus.UP_TO_DATE})
def test_an_admitted_status_is_told_all_the_same(status: TcbStatus) -> None:
    """A policy may admit OutOfDate; the token says at least that it is unsafe."""
    found = table.vector("tdx", accepted().checks, tcb_status=status, simulated=False)

    assert found.tier() in {Tier.WARNING, Tier.CONTRAINDICATED}


def test_simulated_hardware_is_contraindicated() -> None:
    """Nobody outside the demo can take it for real."""
    found = table.vector("tdx", accepted().checks, tcb_status=None, simulated=True)

    assert found.hardware == 97


def test_a_check_that_asked_for_nothing_affirms_nothing() -> None:
    """Where a policy admits debug, memory is not called encrypted, and the settings are unsafe."""
    checks = [Check("td_attributes.debug", ok=True, expected="allowed", seen="0x1")]

    found = table.vector("tdx", checks, tcb_status=None, simulated=False)

    assert found == Vector(configuration=32)


def test_azures_launch_measurement_is_not_the_guests() -> None:
    """In Azure only PCRs speak of what the guest booted."""
    launch = Check("snp.measurement", ok=True, expected="paravisor", seen="paravisor")
    pcrs = Check("tpm.pcrs", ok=True, expected="image", seen="image")

    def executables(*checks: Check) -> int:
        return table.vector("azure-snp", checks, tcb_status=None, simulated=False).executables

    assert executables(launch) == 0
    assert executables(launch, pcrs) == 3
