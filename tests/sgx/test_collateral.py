"""Collateral of an SGX quote: its own TCB info and QE identity, and no TD's."""

from __future__ import annotations

from typing import Any

import pytest

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from ostiary.simulator.quote import quote_sgx
from tests.kit import sgx, tdx, vendors
from tests.kit.sgx import judge
from tests.kit.tdx import accepted, collateral, refused
from tests.kit.vendors import NOW, good_collateral
from verifier.cache import Cache
from verifier.errors import Reason
from verifier.result import TcbStatus, Verdict

S = TcbStatus
DATE = "2024-11-13T00:00:00Z"
OLD = "2023-02-15T00:00:00Z"


def tcb_info(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"fmspc": FMSPC, "pceid": bytes(2), "tee": "sgx", **changes}
    return dict(tcb.tcb_info(NOW, **arguments))


def level(status: str, *, date: str = DATE, advisories: tuple[str, ...] = (), **svns: Any) -> Any:
    arguments: dict[str, Any] = {"sgx": tcb.SGX_CURRENT, "pcesvn": tcb.PCESVN_CURRENT, **svns}
    return tcb.tcb_level(tdx=None, status=status, date=date, advisories=advisories, **arguments)


def with_info(document: Any) -> Any:
    return judge(endorsements=good_collateral(tee="sgx", tcb_info=document))


def test_without_collateral_it_is_missing() -> None:
    """Absent collateral is a refusal by name."""
    assert refused(judge(endorsements=None), Reason.COLLATERAL_MISSING)


def test_collateral_of_tds_is_refused() -> None:
    """TCB info or QE identity of TDX is of no use to an SGX quote, and the reverse."""
    good = good_collateral(tee="sgx")
    other = good_collateral()
    for document in ("tcb_info", "qe_identity"):
        parts = (document, f"{document}_signature")
        mixed = good | {part: other[part] for part in parts}

        assert refused(judge(endorsements=mixed), Reason.COLLATERAL_MISMATCH)
    assert refused(judge(endorsements=other), Reason.COLLATERAL_MISMATCH)
    assert refused(tdx.judge(endorsements=good), Reason.COLLATERAL_MISMATCH)


def test_what_was_remembered_for_one_tee_is_not_used_for_the_other() -> None:
    """A cache that holds collateral of SGX does not let a TD's quote rest on it."""
    cache = Cache()
    endorsements = collateral(tee="sgx")
    assert accepted(judge(endorsements=endorsements, cache=cache))

    result = tdx.judge(endorsements=endorsements, cache=cache)

    assert refused(result, Reason.COLLATERAL_MISMATCH)
    assert result.claims["pck"]["fmspc"] == FMSPC.hex()


def test_tcb_info_of_version_2_is_unsupported_and_not_an_empty_list() -> None:
    """The older form has no id and other names for components."""
    text = tcb.to_text({k: v for k, v in tcb_info(version=2).items() if k != "id"})
    result = with_info(text)

    assert result.verdict is Verdict.UNSUPPORTED
    assert "version 2" in result.checks[-1].seen
    for_tds = good_collateral(tcb_info=text)
    assert refused(tdx.judge(endorsements=for_tds), Reason.COLLATERAL_MISMATCH)


@pytest.mark.parametrize(
    "document",
    [
        tcb_info(version=2),
        tcb_info(identity="TDX"),
        tcb_info() | {"tcbType": 1},
        tcb_info(fmspc=bytes(6)),
    ],
    ids=["version", "id", "type", "fmspc"],
)
def test_tcb_info_is_for_this_tee_and_platform(document: Any) -> None:
    """Another id, version, type or platform is a mismatch."""
    assert refused(with_info(document), Reason.COLLATERAL_MISMATCH)


def test_tdx_parts_in_sgx_tcb_info_are_refused() -> None:
    """A field that does not belong there would be dropped unseen."""
    tds = tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2))

    assert refused(with_info(tds | {"id": "SGX"}), Reason.COLLATERAL_MALFORMED)


@pytest.mark.parametrize("index", range(16))
def test_every_component_counts(index: int) -> None:
    """A level that asks for one more in any component is not reached."""
    more = list(tcb.SGX_CURRENT)
    more[index] += 1
    levels = [level("UpToDate", sgx=more), level("OutOfDate", sgx=[0] * 16, pcesvn=0)]

    assert with_info(tcb_info(levels=levels)).tcb_status is S.OUT_OF_DATE


def test_below_every_level_is_an_error() -> None:
    """No level fits: an error, and no status."""
    assert refused(
        with_info(tcb_info(levels=[level("UpToDate", pcesvn=99)])), Reason.TCB_NOT_SUPPORTED
    )


def test_platform_and_qe_converge() -> None:
    """The worse of both tells the status, the older the date, both the advisories."""
    identity = tcb.qe_identity(
        NOW, tee="sgx", levels=[tcb.isv_level(4, "OutOfDate", OLD, ["INTEL-SA-2"])]
    )
    info = tcb_info(levels=[level("ConfigurationNeeded", advisories=("INTEL-SA-1",))])
    result = judge(endorsements=good_collateral(tee="sgx", tcb_info=info, qe_identity=identity))

    assert refused(result, Reason.TCB_STATUS)
    assert result.tcb_status is S.OUT_OF_DATE_CONFIGURATION_NEEDED
    assert result.advisory_ids == ("INTEL-SA-1", "INTEL-SA-2")
    assert result.claims["tcb"]["date"] == OLD


def test_revocation_is_judged() -> None:
    """A listed PCK and a missing CRL are refused."""
    chain = vendors.platform().chain
    listed = good_collateral(tee="sgx", revoked_pcks=[tdx.serial(chain[0])])

    assert refused(judge(endorsements=listed), Reason.CERTIFICATE_REVOKED)
    without = good_collateral(tee="sgx") | {"pck_crl": ""}
    assert refused(judge(endorsements=without), Reason.CRL_MISSING)


def test_processor_ca_platforms_are_judged() -> None:
    """Single-processor machines have PCKs of the other CA, without an instance id."""
    machine = vendors.fake_intel().platform(ca="processor_ca")
    quote = quote_sgx(machine, sgx.ENCLAVE)

    assert accepted(judge(quote, endorsements=good_collateral(tee="sgx", ca="processor_ca")))
    assert refused(judge(quote), Reason.CRL_INVALID)
