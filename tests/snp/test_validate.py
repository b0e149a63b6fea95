"""Each rule refuses what it names, admits what policy allows, and never hides another's reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.kit.snp import AMAZON
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, SnpReference, SnpRules, SnpTcb, TdxReference
from verifier.result import Appraisal, AttestationResult, Verdict
from verifier.snp.endorsements import VekExtensions
from verifier.snp.product import GENOA, MILAN, TURIN, Generation
from verifier.snp.report import SnpReport
from verifier.snp.validate import validate
from verifier.snp.verify import Genuine
from verifier.wire.canonical import Hex

TCB = {
    "Milan": bytes.fromhex("04000000000018db"),
    "Genoa": bytes.fromhex("0a00000000001754"),
    "Turin": bytes.fromhex("0101010400000051"),
}
GENERATIONS = [MILAN, GENOA, TURIN]


def report_of(generation: Generation, **changes: Any) -> SnpReport:
    """Return a report that strict defaults accept, with fields changed."""
    tcb = TCB[generation.product]
    chip_id = bytes(range(1, 65)) if generation is not TURIN else bytes(range(1, 9)) + bytes(56)
    report = SnpReport(
        version=5,
        guest_svn=7,
        policy=0x3001F,
        family_id=b"\x01" * 16,
        image_id=b"\x02" * 16,
        vmpl=0,
        current_tcb=tcb,
        platform_info=0x25,
        signer_info=0,
        report_data=b"\x0d" * 64,
        measurement=b"\x0e" * 48,
        host_data=b"\x0f" * 32,
        id_key_digest=b"\x10" * 48,
        author_key_digest=b"\x11" * 48,
        report_id=b"\x12" * 32,
        report_id_ma=b"\xff" * 32,
        reported_tcb=tcb,
        cpuid_fam=0x19,
        cpuid_mod=0x01,
        cpuid_step=1,
        chip_id=chip_id,
        committed_tcb=tcb,
        current_version=(1, 55, 29),
        committed_version=(1, 55, 29),
        launch_tcb=tcb,
        launch_mit_vector=0,
        current_mit_vector=0,
        signature_r=1,
        signature_s=1,
    )
    return replace(report, **changes)


def judge(
    report: SnpReport,
    policy: AppraisalPolicy | None = None,
    *,
    generation: Generation = MILAN,
    report_data: bytes | None = None,
) -> AttestationResult:
    """Validate a report as if its signatures were good."""
    names = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    tcb = {name: generation.decode_tcb(getattr(report, name), name) for name in names}
    csp_id = AMAZON if report.signing_key else None
    vek = VekExtensions(generation, tcb["reported_tcb"], None, csp_id)
    appraisal = Appraisal("snp")
    genuine = Genuine(report, generation, vek, tcb)
    validate(appraisal, genuine, policy=policy, report_data=report_data)
    return appraisal.result()


def rules(**values: Any) -> AppraisalPolicy:
    """Return a policy with these rules and the good measurement."""
    return AppraisalPolicy(
        snp=SnpRules(**values), reference=(SnpReference(name="a", measurement=Hex(b"\x0e" * 48)),)
    )


def tcb(**parts: int) -> bytes:
    """Return a Milan TCB version that differs from the good one in these parts."""
    raw = bytearray(TCB["Milan"])
    for name, svn in parts.items():
        raw[MILAN.tcb_parts[name]] = svn
    return bytes(raw)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.product)
@pytest.mark.parametrize("version", [3, 4, 5])
def test_good_report(generation: Generation, version: int) -> None:
    """A plain report passes strict defaults, and says what was not judged."""
    result = judge(report_of(generation, version=version), generation=generation)

    unjudged = {check.name for check in result.checks if check.ok is None}
    assert result.verdict is Verdict.ACCEPT
    assert {"measurement", "host_data", "REPORT_DATA", "REPORTED_TCB minimum"} <= unjudged
    assert ("mitigation vectors" in unjudged) == (version == 5)


@pytest.mark.parametrize(
    ("launch", "current", "failing"),
    [
        (0b111, 0b110, ()),
        (0b101, 0b110, ("launch",)),
        (0b110, 0b011, ("current",)),
        (0, 0, ("launch", "current")),
    ],
)
def test_required_mitigations(launch: int, current: int, failing: tuple[str, ...]) -> None:
    """Each required bit must be set in both vectors; other bits do not matter."""
    report = report_of(MILAN, launch_mit_vector=launch, current_mit_vector=current)
    result = judge(report, rules(required_mitigations=0b110))

    failed = [check.name for check in result.checks if check.ok is False]
    assert failed == [f"mitigation vector, {name}" for name in failing]
    assert result.reasons == ((Reason.PLATFORM_INFO,) if failing else ())


@pytest.mark.parametrize("version", [3, 4])
def test_a_report_without_mitigation_vectors_shows_none(version: int) -> None:
    """Where mitigations are required, a version that cannot tell them is refused, and says so."""
    result = judge(report_of(MILAN, version=version), rules(required_mitigations=1))

    assert result.reasons == (Reason.PLATFORM_INFO,)
    assert any(check.seen == f"none in version {version}" for check in result.checks)


POLICY = 0x3001F
VLEK = 1 << 2

# What differs from a good report, the reason, and the rules that admit it (None: nothing does).
REFUSED: list[tuple[dict[str, Any], Reason, dict[str, Any] | None]] = [
    ({"version": 2}, Reason.REPORT_VERSION_NOT_ALLOWED, {"report_versions": (2,)}),
    ({"policy": POLICY & ~(1 << 17)}, Reason.GUEST_POLICY, None),
    ({"policy": POLICY | 1 << 19}, Reason.DEBUG_ENABLED, {"allow_debug": True}),
    ({"policy": POLICY | 1 << 18}, Reason.MIGRATION_ALLOWED, {"allow_migration_agent": True}),
    ({"policy": POLICY | 1 << 21}, Reason.GUEST_POLICY, {"allow_cxl": True}),
    *[({"policy": POLICY | 1 << bit}, Reason.GUEST_POLICY, None) for bit in (26, 31, 32, 63)],
    ({"platform_info": 0x05}, Reason.PLATFORM_INFO, {"require_alias_check": False}),
    ({"platform_info": 0}, Reason.PLATFORM_INFO, {"require_alias_check": False}),
    ({"vmpl": 1}, Reason.VMPL, {"max_vmpl": 1}),
    ({"vmpl": 3}, Reason.VMPL, {"max_vmpl": 3}),
    ({"vmpl": 0xFFFFFFFF}, Reason.VMPL, None),
    ({"chip_id": bytes(64)}, Reason.CHIP_ID_MASKED, {"allow_masked_chip_id": True}),
    ({"report_id_ma": bytes(32)}, Reason.MIGRATION_ALLOWED, {"allow_migration_agent": True}),
    (
        {"report_id_ma": b"\xff" * 31 + b"\xfe"},
        Reason.MIGRATION_ALLOWED,
        {"allow_migration_agent": True},
    ),
    *[
        ({"current_tcb": tcb(**{part: svn})}, Reason.TCB_PROVISIONAL, _ADMIT)
        for _ADMIT in [{"allow_provisional_firmware": True}]
        for part, svn in {"bootloader": 5, "tee": 1, "snp": 0x19, "microcode": 0xDC}.items()
    ],
    (
        {"committed_version": (1, 55, 28)},
        Reason.TCB_PROVISIONAL,
        {"allow_provisional_firmware": True},
    ),
    ({"committed_version": (1, 55, 30)}, Reason.TCB_MISMATCH, None),
    ({"committed_version": (2, 0, 0)}, Reason.TCB_MISMATCH, None),
    *[
        ({field: tcb(**{part: svn})}, Reason.TCB_MISMATCH, None)
        for field in ("reported_tcb", "committed_tcb")
        for part, svn in {"bootloader": 5, "tee": 1, "snp": 0x19, "microcode": 0xDC}.items()
    ],
]


@pytest.mark.parametrize(("changes", "reason", "admit"), REFUSED)
def test_strict_defaults(
    changes: dict[str, Any], reason: Reason, admit: dict[str, Any] | None
) -> None:
    """Strict defaults refuse it for this reason; only the named rule, if any, admits it."""
    report = report_of(MILAN, **changes)
    everything = {
        "report_versions": (2, 3, 4, 5),
        "max_vmpl": 3,
        "allow_debug": True,
        "allow_migration_agent": True,
        "allow_cxl": True,
        "require_alias_check": False,
        "allow_provisional_firmware": True,
        "allow_masked_chip_id": True,
    }

    assert reason in judge(report).reasons
    if admit is None:
        assert reason in judge(report, rules(**everything)).reasons
    else:
        assert judge(report, rules(**admit)).verdict is Verdict.ACCEPT
        others = {name: value for name, value in everything.items() if name not in admit}
        assert reason in judge(report, rules(**others)).reasons


# Rules that only bite where policy states them: the report's change, the rule, the reason.
STATED: list[tuple[dict[str, Any], dict[str, Any], Reason]] = [
    ({}, {"products": ("Genoa", "Turin")}, Reason.PLATFORM_NOT_ALLOWED),
    ({}, {"products": ()}, Reason.PLATFORM_NOT_ALLOWED),
    ({}, {"signing_keys": ("VLEK",)}, Reason.PLATFORM_NOT_ALLOWED),
    ({}, {"report_versions": (3, 4)}, Reason.REPORT_VERSION_NOT_ALLOWED),
    ({}, {"report_versions": ()}, Reason.REPORT_VERSION_NOT_ALLOWED),
    ({}, {"allow_smt": False}, Reason.GUEST_POLICY),
    ({}, {"require_single_socket": True}, Reason.GUEST_POLICY),
    ({}, {"require_mem_aes_256_xts": True}, Reason.GUEST_POLICY),
    ({"platform_info": 0x2D}, {"require_rapl_dis": True}, Reason.GUEST_POLICY),
    ({"policy": POLICY | 1 << 23}, {"require_rapl_dis": True}, Reason.PLATFORM_INFO),
    ({"platform_info": 0x35}, {"require_ciphertext_hiding": True}, Reason.GUEST_POLICY),
    ({"policy": POLICY | 1 << 24}, {"require_ciphertext_hiding": True}, Reason.PLATFORM_INFO),
    ({}, {"require_page_swap_disable": True}, Reason.GUEST_POLICY),
    ({}, {"min_abi_major": 1}, Reason.GUEST_POLICY),
    ({}, {"min_abi_minor": 0x20}, Reason.GUEST_POLICY),
    ({}, {"min_guest_svn": 8}, Reason.TCB_BELOW_MINIMUM),
    ({}, {"chip_ids": (Hex(bytes(range(64))),)}, Reason.PLATFORM_NOT_ALLOWED),
    ({}, {"chip_ids": (Hex(bytes(range(1, 9))),)}, Reason.PLATFORM_NOT_ALLOWED),
    (
        {"chip_id": bytes(64)},
        {"chip_ids": (Hex(bytes(64)),), "allow_masked_chip_id": True},
        Reason.PLATFORM_NOT_ALLOWED,
    ),
    ({"signer_info": VLEK}, {"csps": (AMAZON,)}, Reason.PLATFORM_NOT_ALLOWED),
    ({"signer_info": VLEK}, {"signing_keys": ("VLEK",)}, Reason.CSP_NOT_ALLOWED),
    (
        {"signer_info": VLEK},
        {"signing_keys": ("VLEK",), "csps": (AMAZON[3:], AMAZON + ".")},
        Reason.CSP_NOT_ALLOWED,
    ),
    *[
        ({}, {"min_tcb": {"Milan": SnpTcb(**{part: svn})}}, Reason.TCB_BELOW_MINIMUM)
        for part, svn in {
            "bootloader": 5,
            "tee": 1,
            "snp": 0x19,
            "microcode": 0xDC,
            "fmc": 1,
        }.items()
    ],
    (
        {"launch_tcb": tcb(microcode=0xDA)},
        {"min_tcb": {"Milan": SnpTcb(microcode=0xDB)}},
        Reason.TCB_BELOW_MINIMUM,
    ),
    (
        # Higher in the top byte and lower in another: one u64 comparison would admit it.
        {"launch_tcb": tcb(microcode=0xFF, snp=0x17)},
        {"min_tcb": {"Milan": SnpTcb(snp=0x18)}},
        Reason.TCB_BELOW_MINIMUM,
    ),
]


@pytest.mark.parametrize(("changes", "rule", "reason"), STATED)
def test_stated_rules(changes: dict[str, Any], rule: dict[str, Any], reason: Reason) -> None:
    """A rule that policy states refuses for its reason and no other."""
    assert judge(report_of(MILAN, **changes), rules(**rule)).reasons == (reason,)


MET: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"policy": POLICY & ~(1 << 16)}, {"allow_smt": False}),
    ({"policy": POLICY | 1 << 20}, {"require_single_socket": True}),
    ({"policy": POLICY | 1 << 22}, {"require_mem_aes_256_xts": True}),
    ({"policy": POLICY | 1 << 23, "platform_info": 0x2D}, {"require_rapl_dis": True}),
    ({"policy": POLICY | 1 << 24, "platform_info": 0x35}, {"require_ciphertext_hiding": True}),
    ({"policy": POLICY | 1 << 25}, {"require_page_swap_disable": True}),
    ({"policy": POLICY | 2 << 8}, {"min_abi_major": 1, "min_abi_minor": 0xFF}),
    ({}, {"min_abi_minor": 0x1F}),
    ({}, {"min_guest_svn": 7}),
    ({}, {"chip_ids": (Hex(bytes(64)), Hex(bytes(range(1, 65))))}),
    ({"signer_info": VLEK}, {"signing_keys": ("VLEK",), "csps": ("CN=other", AMAZON)}),
    ({}, {"min_tcb": {"Milan": SnpTcb(bootloader=4, tee=0, snp=0x18, microcode=0xDB)}}),
    ({}, {"products": ("Milan",)}),
]


@pytest.mark.parametrize(("changes", "rule"), MET)
def test_rules_met(changes: dict[str, Any], rule: dict[str, Any]) -> None:
    """A report that is exactly at the edge of a rule is accepted."""
    result = judge(report_of(MILAN, **changes), rules(**rule))

    assert result.verdict is Verdict.ACCEPT, result.reasons


def test_turin_floor_and_chip() -> None:
    """Turin has an FMC floor, and its chips go by 8 bytes as well as by 64."""
    report = report_of(TURIN)
    floor = {"Turin": SnpTcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=0x51)}
    short = Hex(report.chip_id[:8])

    met = judge(report, rules(min_tcb=floor, chip_ids=(short,)), generation=TURIN)
    above = judge(report, rules(min_tcb={"Turin": SnpTcb(fmc=2)}), generation=TURIN)
    other = judge(report, rules(min_tcb={"Milan": SnpTcb(fmc=2)}), generation=TURIN)

    assert met.verdict is Verdict.ACCEPT
    assert above.reasons == (Reason.TCB_BELOW_MINIMUM,)
    assert other.verdict is Verdict.ACCEPT
    assert any(c.ok is None and c.name == "REPORTED_TCB minimum" for c in other.checks)


def test_unknown_platform_bits() -> None:
    """Unknown PLATFORM_INFO bits are shown and not refused: real Turin reports set bit 6."""
    result = judge(report_of(TURIN, platform_info=0x65), generation=TURIN)

    (check,) = (check for check in result.checks if check.name == "PLATFORM_INFO reserved")
    assert result.verdict is Verdict.ACCEPT
    assert check.ok is None
    assert check.seen == "['reserved_6']"


def test_alias_check_before_version_3() -> None:
    """Version 2 has no alias check bit, so there it is not judged, even where required."""
    result = judge(report_of(MILAN, version=2, platform_info=1), rules(report_versions=(2,)))

    assert result.verdict is Verdict.ACCEPT
    assert any(check.name == "ALIAS_CHECK_COMPLETE" and check.ok is None for check in result.checks)


def test_all_reasons_at_once() -> None:
    """One refusal lists every reason."""
    report = report_of(
        MILAN,
        version=2,
        policy=1 << 18 | 1 << 19 | 1 << 40,
        vmpl=2,
        chip_id=bytes(64),
        current_tcb=tcb(microcode=0xDC),
        reported_tcb=tcb(microcode=0xDD),
        signer_info=VLEK,
    )
    strict = rules(min_guest_svn=9)

    assert set(judge(report, strict, report_data=bytes(64)).reasons) == {
        Reason.REPORT_VERSION_NOT_ALLOWED,
        Reason.PLATFORM_NOT_ALLOWED,
        Reason.CSP_NOT_ALLOWED,
        Reason.CHIP_ID_MASKED,
        Reason.TCB_MISMATCH,
        Reason.TCB_PROVISIONAL,
        Reason.GUEST_POLICY,
        Reason.DEBUG_ENABLED,
        Reason.MIGRATION_ALLOWED,
        Reason.VMPL,
        Reason.TCB_BELOW_MINIMUM,
        Reason.REPORT_DATA_MISMATCH,
    }


GOOD = {
    "measurement": b"\x0e" * 48,
    "host_data": b"\x0f" * 32,
    "id_key_digest": b"\x10" * 48,
    "author_key_digest": b"\x11" * 48,
    "family_id": b"\x01" * 16,
    "image_id": b"\x02" * 16,
}
AUTHOR_KEY_EN = 1


def reference(**changes: bytes) -> SnpReference:
    """Return the reference values of the good report, some of them changed."""
    values = {name: Hex(value) for name, value in (GOOD | changes).items()}
    return SnpReference(name="image", **values)


def test_reference_values() -> None:
    """The whole tuple must match; each value of it counts."""
    report = report_of(MILAN, signer_info=AUTHOR_KEY_EN)

    assert judge(report, AppraisalPolicy(reference=(reference(),))).verdict is Verdict.ACCEPT
    for name, value in GOOD.items():
        changed = reference(**{name: bytes([value[0] ^ 1]) + value[1:]})
        result = judge(report, AppraisalPolicy(reference=(changed,)))
        assert result.reasons == (Reason.MEASUREMENT_UNKNOWN,), name


def test_reference_tuples_do_not_mix() -> None:
    """Two references that are each half right are wrong together; a later right one is right."""
    report = report_of(MILAN, signer_info=AUTHOR_KEY_EN)
    halves = (reference(host_data=bytes(32)), reference(measurement=bytes(48)))

    mixed = judge(report, AppraisalPolicy(reference=halves))
    found = judge(report, AppraisalPolicy(reference=(*halves, reference())))

    assert mixed.reasons == (Reason.MEASUREMENT_UNKNOWN,)
    assert found.verdict is Verdict.ACCEPT


def test_author_key_without_enable() -> None:
    """AUTHOR_KEY_DIGEST means nothing unless AUTHOR_KEY_EN says so, not even when it is equal."""
    report = report_of(MILAN)

    result = judge(report, AppraisalPolicy(reference=(reference(),)))

    assert result.reasons == (Reason.MEASUREMENT_UNKNOWN,)


def test_no_reference_values() -> None:
    """A policy that names no SNP guest refuses all of them, whatever else it names."""
    rtmrs = {name: Hex(bytes(48)) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    tdx = TdxReference(name="td", **rtmrs)

    for policy in (AppraisalPolicy(), AppraisalPolicy(reference=(tdx,))):
        assert judge(report_of(MILAN), policy).reasons == (Reason.NO_REFERENCE_VALUES,)


@pytest.mark.parametrize(
    "report_data", [b"", b"\x0d", b"\x0d" * 32, b"\x0d" * 63, b"\x0d" * 65, bytes(64)]
)
def test_report_data(report_data: bytes) -> None:
    """REPORT_DATA must be equal in full length: no prefix passes, and nothing longer."""
    good = judge(report_of(MILAN), report_data=b"\x0d" * 64)
    bad = judge(report_of(MILAN), report_data=report_data)

    assert good.verdict is Verdict.ACCEPT
    assert bad.reasons == (Reason.REPORT_DATA_MISMATCH,)
