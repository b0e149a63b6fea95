"""TCB levels: matching, convergence, dates, advisories and relaunch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from ostiary.simulator.pck import SgxExtension
from ostiary.simulator.quote import EnclaveReport, quote_v5
from tests.kit import vendors
from tests.kit.tdx import accepted, judge, refused, tcb_info
from tests.kit.vendors import NOW, good_body, good_collateral
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, TdxReference, TdxRules
from verifier.result import AttestationResult, TcbStatus
from verifier.tdx import tcbinfo
from verifier.tdx.pck import parse_extension
from verifier.tdx.tcb import converge, platform_level
from verifier.wire.canonical import Hex

S = TcbStatus
DATE = "2024-11-13T00:00:00Z"
OLD = "2023-02-15T00:00:00Z"
SGX = tcb.SGX_CURRENT
TDX = tcb.TDX_SVN_CURRENT


def level(
    status: str = "UpToDate",
    *,
    sgx: tuple[int, ...] = SGX,
    pcesvn: int = tcb.PCESVN_CURRENT,
    tdx: tuple[int, ...] = (0,) * 16,
    date: str = DATE,
    advisories: tuple[str, ...] = (),
) -> Any:
    return tcb.tcb_level(
        sgx=sgx, pcesvn=pcesvn, tdx=tdx, status=status, date=date, advisories=advisories
    )


def module(*levels: Any, name: str = "TDX_01") -> Any:
    return tcb.module_identity(name, levels)


def status_of(
    levels: list[Any],
    modules: list[Any] | None = None,
    svn: tuple[int, ...] = TDX,
    **changes: Any,
) -> AttestationResult:
    info = tcb_info(levels=levels, modules=modules)
    body = good_body(tee_tcb_svn=bytes(svn))
    return judge(body=body, endorsements=good_collateral(tcb_info=info), **changes)


def bumped(svns: tuple[int, ...], index: int) -> tuple[int, ...]:
    return (*svns[:index], svns[index] + 1, *svns[index + 1 :])


@pytest.mark.parametrize("index", range(16))
def test_every_sgx_component_counts(index: int) -> None:
    """A level that asks for one more in any component is not reached."""
    below = level("OutOfDate", sgx=(0,) * 16, pcesvn=0)

    assert status_of([level(), below]).tcb_status is S.UP_TO_DATE
    assert status_of([level(sgx=bumped(SGX, index)), below]).tcb_status is S.OUT_OF_DATE


def test_the_pcesvn_counts() -> None:
    """A level with a higher PCESVN is not reached."""
    higher = level(pcesvn=tcb.PCESVN_CURRENT + 1)

    assert status_of([higher, level("OutOfDate", pcesvn=0)]).tcb_status is S.OUT_OF_DATE


@pytest.mark.parametrize("index", range(16))
def test_tdx_components_count_from_two_for_a_versioned_module(index: int) -> None:
    """With TEE_TCB_SVN[1] above 0 the module has its own levels: 0 and 1 are not compared."""
    levels = [level(tdx=bumped(TDX, index)), level("OutOfDate")]
    expected = S.UP_TO_DATE if index < 2 else S.OUT_OF_DATE

    assert status_of(levels).tcb_status is expected


@pytest.mark.parametrize("index", range(16))
def test_all_tdx_components_count_for_tdx_10(index: int) -> None:
    """With TEE_TCB_SVN[1] at 0 all sixteen are compared, so that no rollback hides."""
    svn = (5, 0, 4, *(0,) * 13)
    levels = [level(tdx=bumped(svn, index)), level("OutOfDate")]

    assert status_of([level(tdx=svn)], svn=svn).tcb_status is S.UP_TO_DATE
    assert status_of(levels, svn=svn).tcb_status is S.OUT_OF_DATE


def test_below_every_level_is_an_error_and_no_status() -> None:
    """A platform that no level fits is not supported: nothing may wave that through."""
    result = status_of([level(pcesvn=99)])

    assert refused(result, Reason.TCB_NOT_SUPPORTED)
    assert result.tcb_status is None


def test_levels_match_in_intels_order_whatever_the_list_says() -> None:
    """Levels are sorted: an older level that stands first does not match first."""
    older = level("OutOfDate", sgx=(0,) * 16, pcesvn=0)

    assert status_of([older, level()]).tcb_status is S.UP_TO_DATE


def test_the_pck_tells_the_components_and_not_the_qe() -> None:
    """The QE report's CPUSVN has no say in the platform's TCB."""
    report = replace(EnclaveReport(), cpusvn=b"\xff" * 16)
    sgx = SgxExtension(
        bytes(16), (0,) * 16, 13, FMSPC, cpusvn=b"\xff" * 16, platform_instance_id=bytes(16)
    )
    machine = vendors.fake_intel().platform(sgx=sgx)

    assert refused(judge(machine=machine, qe_report=report), Reason.TCB_NOT_SUPPORTED)


@pytest.mark.parametrize(
    ("svn", "expected"), [(11, S.UP_TO_DATE), (6, S.UP_TO_DATE), (5, S.OUT_OF_DATE)]
)
def test_the_module_has_levels_of_its_own(svn: int, expected: TcbStatus) -> None:
    """The module's ISVSVN is TEE_TCB_SVN[0]; a platform that is fine cannot hide an old one."""
    result = judge(body=good_body(tee_tcb_svn=bytes((svn, *TDX[1:]))))

    assert result.tcb_status is expected
    assert result.claims["tcb"]["platform"] == "UpToDate"
    assert result.claims["tcb"]["module"] == expected.value


def test_a_platform_out_of_date_is_not_hidden_by_its_module() -> None:
    """The reverse: the module's level alone must not decide."""
    result = status_of([level("OutOfDate", advisories=("INTEL-SA-1",))])

    assert refused(result, Reason.TCB_STATUS)
    assert result.tcb_status is S.OUT_OF_DATE
    assert result.claims["tcb"]["module"] == "UpToDate"
    assert result.advisory_ids == ("INTEL-SA-1",)


def test_a_module_below_every_level_is_not_supported() -> None:
    """No level of the module fits."""
    result = judge(body=good_body(tee_tcb_svn=bytes((3, *TDX[1:]))))

    assert refused(result, Reason.TCB_NOT_SUPPORTED, saying="TDX_01")


@pytest.mark.parametrize("major", [2, 4, 255])
def test_an_unlisted_module_version_is_a_mismatch(major: int) -> None:
    """A module version without an identity is none that Intel vouches for."""
    body = good_body(tee_tcb_svn=bytes((11, major, *TDX[2:])))

    assert refused(judge(body=body), Reason.TDX_MODULE_MISMATCH)


def test_module_ids_are_hexadecimal() -> None:
    """TEE_TCB_SVN[1] of 0x0A is TDX_0A, in either case."""
    body = good_body(tee_tcb_svn=bytes((11, 10, *TDX[2:])))
    for name in ("TDX_0A", "TDX_0a"):
        modules = [module(tcb.isv_level(6, "UpToDate", DATE), name=name)]
        info = tcb_info(modules=modules)

        assert accepted(judge(body=body, endorsements=good_collateral(tcb_info=info)))


def test_the_module_is_intels() -> None:
    """MRSIGNERSEAM and SEAMATTRIBUTES are as the identity says, attributes zero besides."""
    foreign = good_body(mrsigner_seam=b"\1" + bytes(47))
    debug = good_body(seam_attributes=b"\1" + bytes(7))
    masked = tcb_info()
    for identity in (masked["tdxModule"], *masked["tdxModuleIdentities"]):
        identity["attributesMask"] = "00" * 8

    assert refused(judge(body=foreign), Reason.TDX_MODULE_MISMATCH, saying="MRSIGNERSEAM")
    assert refused(judge(body=debug), Reason.TDX_MODULE_MISMATCH, saying="SEAMATTRIBUTES")
    assert refused(
        judge(body=debug, endorsements=good_collateral(tcb_info=masked)),
        Reason.TDX_MODULE_MISMATCH,
    )


def test_the_module_identity_of_the_version_counts() -> None:
    """The signer is that of the module's own identity, not of the base module."""
    signer = b"\7" * 48
    levels = [tcb.isv_level(6, "UpToDate", DATE)]
    info = tcb_info(modules=[tcb.module_identity("TDX_01", levels, mrsigner=signer)])
    endorsements = good_collateral(tcb_info=info)

    assert refused(judge(endorsements=endorsements), Reason.TDX_MODULE_MISMATCH)
    assert accepted(judge(endorsements=endorsements, body=good_body(mrsigner_seam=signer)))


OUT = S.OUT_OF_DATE
OUT_CONFIG = S.OUT_OF_DATE_CONFIGURATION_NEEDED


@pytest.mark.parametrize(
    ("platform", "qe", "module_status", "expected"),
    [
        (S.UP_TO_DATE, S.UP_TO_DATE, None, S.UP_TO_DATE),
        (S.UP_TO_DATE, S.UP_TO_DATE, S.UP_TO_DATE, S.UP_TO_DATE),
        (S.UP_TO_DATE, OUT, S.UP_TO_DATE, OUT),
        (S.UP_TO_DATE, S.UP_TO_DATE, OUT, OUT),
        (S.SW_HARDENING_NEEDED, S.UP_TO_DATE, S.UP_TO_DATE, S.SW_HARDENING_NEEDED),
        (S.SW_HARDENING_NEEDED, OUT, S.UP_TO_DATE, OUT),
        (S.CONFIGURATION_NEEDED, S.UP_TO_DATE, S.UP_TO_DATE, S.CONFIGURATION_NEEDED),
        (S.CONFIGURATION_NEEDED, S.UP_TO_DATE, OUT, OUT_CONFIG),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, OUT, OUT, OUT_CONFIG),
        (OUT, S.UP_TO_DATE, S.UP_TO_DATE, OUT),
        (OUT_CONFIG, OUT, S.UP_TO_DATE, OUT_CONFIG),
        (S.REVOKED, S.UP_TO_DATE, S.UP_TO_DATE, S.REVOKED),
        (S.UP_TO_DATE, S.REVOKED, OUT, S.REVOKED),
        (OUT_CONFIG, S.UP_TO_DATE, S.REVOKED, S.REVOKED),
    ],
)
def test_convergence(
    platform: TcbStatus, qe: TcbStatus, module_status: TcbStatus | None, expected: TcbStatus
) -> None:
    """The worst part tells, and configuration advice survives."""
    assert converge(platform, qe, module_status) is expected


def test_the_oldest_date_and_all_advisories_are_told() -> None:
    """tcbDate is the oldest of platform, module and QE; advisories are the union, sorted."""
    identity = tcb.qe_identity(
        NOW, levels=[tcb.isv_level(4, "OutOfDate", "2024-01-01T00:00:00Z", ["INTEL-SA-3"])]
    )
    info = tcb_info(
        levels=[level("OutOfDate", advisories=("INTEL-SA-2", "INTEL-SA-1"))],
        modules=[module(tcb.isv_level(6, "OutOfDate", OLD, ["INTEL-SA-1", "INTEL-SA-4"]))],
    )
    result = judge(endorsements=good_collateral(tcb_info=info, qe_identity=identity))

    assert result.advisory_ids == ("INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3", "INTEL-SA-4")
    assert result.claims["tcb"] == {
        "platform": "OutOfDate",
        "module": "OutOfDate",
        "qe": "OutOfDate",
        "date": OLD,
    }


def test_a_revoked_platform_is_refused_even_if_the_policy_lists_it() -> None:
    """Revoked is never admitted."""
    rules = TdxRules(tcb_statuses=tuple(S))
    body = good_body()
    values = {name: Hex(getattr(body, name)) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    policy = AppraisalPolicy(tdx=rules, reference=(TdxReference(name="demo", **values),))
    result = status_of([level("Revoked")], policy=policy)

    assert refused(result, Reason.TCB_REVOKED)
    assert result.tcb_status is S.REVOKED


def relaunch(launch: int, current: int, *levels: Any) -> TcbStatus | None:
    modules = [
        module(
            tcb.isv_level(6, "UpToDate", DATE),
            tcb.isv_level(4, "OutOfDate", OLD),
            tcb.isv_level(2, "Revoked", OLD),
        )
    ]
    body = good_body(tee_tcb_svn=bytes((launch, *TDX[1:])), tee_tcb_svn2=bytes((current, *TDX[1:])))
    info = tcb_info(modules=modules, **({"levels": list(levels)} if levels else {}))
    endorsements = good_collateral(tcb_info=info)
    quote = quote_v5(vendors.platform(), body)
    return judge(quote=quote, endorsements=endorsements).tcb_status


def test_relaunch_is_advised_where_the_current_module_is_fine() -> None:
    """TDX 1.5: launched under an old module that was replaced since."""
    config = level("ConfigurationNeeded")

    assert relaunch(4, 6) is S.TD_RELAUNCH_ADVISED
    assert relaunch(4, 6, level("SWHardeningNeeded")) is S.TD_RELAUNCH_ADVISED
    assert relaunch(4, 6, config) is S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    assert relaunch(4, 5) is S.OUT_OF_DATE
    assert relaunch(4, 5, config) is S.OUT_OF_DATE_CONFIGURATION_NEEDED
    assert relaunch(4, 6, level("OutOfDate")) is S.OUT_OF_DATE
    assert relaunch(6, 7) is S.UP_TO_DATE
    assert relaunch(4, 1) is S.OUT_OF_DATE


def test_a_revoked_current_module_is_revoked() -> None:
    """A TD that runs now under a revoked module is not saved by its launch."""
    assert relaunch(6, 2) is S.REVOKED
    assert relaunch(2, 6) is S.REVOKED


def test_parts_are_never_compared_with_fewer() -> None:
    """SGX levels have no TDX parts: to hold a TD against them is our mistake, and stops."""
    info = tcbinfo.parse(
        tcb.to_text(tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2), tee="sgx")), "SGX"
    )
    sgx = parse_extension(vendors.platform().sgx.encode())

    with pytest.raises(ValueError, match="as many parts"):
        platform_level(info, sgx, bytes(TDX))
