"""Is a genuine SEV-SNP report acceptable? Rules and reference values, and nothing about keys.

Guarantees: every rule is checked, whatever failed before, so that one refusal lists every reason;
what no policy gives a value for is named as not judged. Only means anything for a report that
`verify` returned.

Source: AMD 56860 (GUEST_POLICY, PLATFORM_INFO, TCB_VERSION, ATTESTATION_REPORT), AMD-SB-3015. The
steps go on from verify.py's eight.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Mapping
from typing import Final

from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, SnpReference, SnpRules, SnpTcb
from verifier.result import Appraisal
from verifier.snp import claims
from verifier.snp.claims import bit
from verifier.snp.report import KEY_VLEK, SnpReport
from verifier.snp.verify import Genuine

_ALL_ONES_32: Final = b"\xff" * 32
_REFERENCE_FIELDS: Final = SnpReference.__struct_fields__[1:]
"""Every field but the name: each is a field of the report under the same name."""


def _reaches(tcb: Mapping[str, int], floor: Mapping[str, int]) -> bool:
    """Tell whether each part is at its floor or above; a part that the chip lacks counts as 0."""
    return all(tcb.get(part, 0) >= svn for part, svn in floor.items())


def _text(tcb: Mapping[str, int]) -> str:
    """Return TCB parts as people read them: `bootloader 4, tee 0, snp 24, microcode 219`."""
    return ", ".join(f"{part} {svn}" for part, svn in tcb.items())


def _floor(rule: SnpTcb) -> dict[str, int]:
    return {part: getattr(rule, part) for part in rule.__struct_fields__}


def _validate_origin(appraisal: Appraisal, genuine: Genuine, rules: SnpRules) -> None:
    """Version, product, key and platform are ones that policy lists (after steps 1, 2, 3, 7)."""
    report = genuine.report
    appraisal.require(
        "report version",
        report.version in rules.report_versions,
        Reason.REPORT_VERSION_NOT_ALLOWED,
        f"one of {list(rules.report_versions)}",
        report.version,
    )
    appraisal.require(
        "product",
        genuine.generation.product in rules.products,
        Reason.PLATFORM_NOT_ALLOWED,
        f"one of {list(rules.products)}",
        genuine.generation.product,
    )
    appraisal.require(
        "signing key",
        report.signing_key_name in rules.signing_keys,
        Reason.PLATFORM_NOT_ALLOWED,
        f"one of {list(rules.signing_keys)}",
        report.signing_key_name,
    )
    if report.signing_key == KEY_VLEK:
        appraisal.require(
            "CSP",
            genuine.vek.csp_id in rules.csps,
            Reason.CSP_NOT_ALLOWED,
            f"one of {list(rules.csps)}",
            genuine.vek.csp_id,
        )
    appraisal.require(
        "CHIP_ID shown",
        rules.allow_masked_chip_id or not report.chip_id_masked,
        Reason.CHIP_ID_MASKED,
        "any" if rules.allow_masked_chip_id else "not masked",
        "masked" if report.chip_id_masked else "not masked",
    )
    if rules.chip_ids:
        # The short form is the HWID that Turin's key server goes by. Zero is never an identity.
        short = report.chip_id[: genuine.generation.hwid_size]
        appraisal.require(
            "chip",
            not report.chip_id_masked
            and (report.chip_id in rules.chip_ids or short in rules.chip_ids),
            Reason.PLATFORM_NOT_ALLOWED,
            "one that policy lists",
            report.chip_id.hex(),
        )


def _validate_tcb(appraisal: Appraisal, genuine: Genuine, rules: SnpRules) -> None:
    """Step 9: the four TCB versions agree with one another and reach the policy's floor."""
    report, tcb = genuine.report, genuine.tcb
    current, committed = tcb["current_tcb"], tcb["committed_tcb"]
    for name in ("reported_tcb", "committed_tcb"):
        appraisal.require(
            f"{name.upper()} below CURRENT_TCB",
            _reaches(current, tcb[name]),
            Reason.TCB_MISMATCH,
            f"at most {_text(current)}",
            _text(tcb[name]),
        )
    appraisal.require(
        "COMMITTED version below CURRENT version",
        report.committed_version <= report.current_version,
        Reason.TCB_MISMATCH,
        f"at most {report.current_version}",
        report.committed_version,
    )
    provisional = committed != current or report.committed_version != report.current_version
    appraisal.require(
        "firmware committed",
        rules.allow_provisional_firmware or not provisional,
        Reason.TCB_PROVISIONAL,
        "any" if rules.allow_provisional_firmware else "committed",
        "provisional" if provisional else "committed",
    )
    rule = rules.min_tcb.get(genuine.generation.product)  # type: ignore[call-overload]  # a str of the same three
    for name in ("reported_tcb", "committed_tcb", "launch_tcb"):
        if rule is None:
            appraisal.not_judged(
                f"{name.upper()} minimum", _text(tcb[name]), "no minimum in policy"
            )
            continue
        appraisal.require(
            f"{name.upper()} minimum",
            _reaches(tcb[name], _floor(rule)),
            Reason.TCB_BELOW_MINIMUM,
            f"at least {_text(_floor(rule))}",
            _text(tcb[name]),
        )


def _validate_policy(appraisal: Appraisal, report: SnpReport, rules: SnpRules) -> None:
    """Step 10: GUEST_POLICY asks the firmware for what our policy asks."""
    policy = report.policy
    must_be = {
        # Bit: (name, the one value that is acceptable, or None for either; reason).
        claims.POLICY_RESERVED_ONE: ("reserved, one", 1, Reason.GUEST_POLICY),
        claims.POLICY_DEBUG: ("DEBUG", None if rules.allow_debug else 0, Reason.DEBUG_ENABLED),
        claims.POLICY_MIGRATE_MA: (
            "MIGRATE_MA",
            None if rules.allow_migration_agent else 0,
            Reason.MIGRATION_ALLOWED,
        ),
        claims.POLICY_SMT: ("SMT", None if rules.allow_smt else 0, Reason.GUEST_POLICY),
        claims.POLICY_SINGLE_SOCKET: (
            "SINGLE_SOCKET",
            1 if rules.require_single_socket else None,
            Reason.GUEST_POLICY,
        ),
        claims.POLICY_CXL: ("CXL_ALLOW", None if rules.allow_cxl else 0, Reason.GUEST_POLICY),
        claims.POLICY_MEM_AES_256_XTS: (
            "MEM_AES_256_XTS",
            1 if rules.require_mem_aes_256_xts else None,
            Reason.GUEST_POLICY,
        ),
        claims.POLICY_RAPL_DIS: (
            "RAPL_DIS",
            1 if rules.require_rapl_dis else None,
            Reason.GUEST_POLICY,
        ),
        claims.POLICY_CIPHERTEXT_HIDING: (
            "CIPHERTEXT_HIDING",
            1 if rules.require_ciphertext_hiding else None,
            Reason.GUEST_POLICY,
        ),
        claims.POLICY_PAGE_SWAP_DISABLE: (
            "PAGE_SWAP_DISABLE",
            1 if rules.require_page_swap_disable else None,
            Reason.GUEST_POLICY,
        ),
    }
    for index, (name, value, reason) in must_be.items():
        seen = bit(policy, index)
        appraisal.require(
            f"GUEST_POLICY {name}",
            value is None or seen == value,
            reason,
            "any" if value is None else value,
            seen,
        )
    appraisal.require(
        "GUEST_POLICY reserved",
        policy >> claims.POLICY_KNOWN_BITS == 0,
        Reason.GUEST_POLICY,
        f"zero from bit {claims.POLICY_KNOWN_BITS}",
        hex(policy),
    )
    abi = (policy >> 8 & 0xFF, policy & 0xFF)
    floor = (rules.min_abi_major, rules.min_abi_minor)
    appraisal.require(
        "GUEST_POLICY ABI", abi >= floor, Reason.GUEST_POLICY, f"at least {floor}", abi
    )


def _validate_platform(appraisal: Appraisal, report: SnpReport, rules: SnpRules) -> None:
    """Step 11: PLATFORM_INFO shows what policy requires; unknown bits are shown, not refused."""
    info = report.platform_info
    if report.has_cpuid:
        # AMD-SB-3015 (BadRAM). The bit came with version 3.
        seen = bit(info, claims.INFO_ALIAS_CHECK_COMPLETE)
        appraisal.require(
            "ALIAS_CHECK_COMPLETE",
            seen == 1 or not rules.require_alias_check,
            Reason.PLATFORM_INFO,
            1 if rules.require_alias_check else "any",
            seen,
        )
    else:
        appraisal.not_judged("ALIAS_CHECK_COMPLETE", "no such bit", "report version 2")
    for required, index, name in (
        (rules.require_rapl_dis, claims.INFO_RAPL_DIS, "RAPL_DIS"),
        (rules.require_ciphertext_hiding, claims.INFO_CIPHERTEXT_HIDING, "CIPHERTEXT_HIDING"),
    ):
        if required:
            seen = bit(info, index)
            appraisal.require(f"PLATFORM_INFO {name}", seen == 1, Reason.PLATFORM_INFO, 1, seen)
    unknown = claims.unknown_platform_info(info)
    if unknown:
        appraisal.not_judged("PLATFORM_INFO reserved", unknown, "bits without a known meaning")


def _validate_reference(
    appraisal: Appraisal, report: SnpReport, policy: AppraisalPolicy | None
) -> None:
    """One whole reference tuple must match: values of different images never mix."""
    if policy is None:
        for name in _REFERENCE_FIELDS:
            appraisal.not_judged(name, getattr(report, name).hex())
        return
    references = policy.candidates(SnpReference, functools.partial(getattr, report))
    if not references:
        appraisal.require(
            "reference values", False, Reason.NO_REFERENCE_VALUES, "at least one", "none"
        )
        return
    matching = [reference.name for reference in references if _matches(report, reference)]
    appraisal.require(
        "measurement",
        bool(matching),
        Reason.MEASUREMENT_UNKNOWN,
        f"one of {[reference.name for reference in references]}",
        matching[0] if matching else report.measurement.hex(),
    )


def _matches(report: SnpReport, reference: SnpReference) -> bool:
    """Tell whether each value that the reference gives is the report's."""
    if reference.author_key_digest is not None and not report.author_key_en:
        return False
    return all(
        getattr(reference, name) in (None, getattr(report, name)) for name in _REFERENCE_FIELDS
    )


def _validate_guest(
    appraisal: Appraisal,
    report: SnpReport,
    policy: AppraisalPolicy | None,
    rules: SnpRules,
    report_data: bytes | None,
) -> None:
    """Step 12: the guest that asked is at a VMPL, and is an image, that policy admits."""
    appraisal.require(
        "VMPL", report.vmpl <= rules.max_vmpl, Reason.VMPL, f"at most {rules.max_vmpl}", report.vmpl
    )
    appraisal.require(
        "GUEST_SVN",
        report.guest_svn >= rules.min_guest_svn,
        Reason.TCB_BELOW_MINIMUM,
        f"at least {rules.min_guest_svn}",
        report.guest_svn,
    )
    appraisal.require(
        "REPORT_ID_MA",
        rules.allow_migration_agent or report.report_id_ma == _ALL_ONES_32,
        Reason.MIGRATION_ALLOWED,
        "any" if rules.allow_migration_agent else "all ones: no migration agent",
        report.report_id_ma.hex(),
    )
    _validate_mitigations(appraisal, report, rules)
    _validate_reference(appraisal, report, policy)
    if report_data is None:
        appraisal.not_judged("REPORT_DATA", report.report_data.hex(), "no expected report data")
        return
    appraisal.require(
        "REPORT_DATA",
        hmac.compare_digest(report.report_data, report_data),
        Reason.REPORT_DATA_MISMATCH,
        report_data.hex(),
        report.report_data.hex(),
    )


def _validate_mitigations(appraisal: Appraisal, report: SnpReport, rules: SnpRules) -> None:
    """Require mitigations by mask, at launch and now; a report without vectors shows none."""
    vectors = {"launch": report.launch_mit_vector, "current": report.current_mit_vector}
    required = rules.required_mitigations
    if not required:
        if report.has_mitigations:
            seen = [hex(vector) for vector in vectors.values()]
            appraisal.not_judged("mitigation vectors", seen, "no required mitigations in policy")
        return
    for name, vector in vectors.items():
        appraisal.require(
            f"mitigation vector, {name}",
            vector & required == required,
            Reason.PLATFORM_INFO,
            f"all bits of {required:#x}",
            hex(vector) if report.has_mitigations else f"none in version {report.version}",
        )


def validate(
    appraisal: Appraisal,
    genuine: Genuine,
    *,
    policy: AppraisalPolicy | None,
    report_data: bytes | None,
) -> None:
    """Record every rule that the genuine report meets or fails. Raises nothing.

    Without `policy` every rule takes its strict default and reference values are not judged.
    `report_data` is the expected 64 bytes; None leaves them not judged.
    """
    rules = SnpRules() if policy is None else policy.snp
    _validate_origin(appraisal, genuine, rules)
    _validate_tcb(appraisal, genuine, rules)  # step 9
    _validate_policy(appraisal, genuine.report, rules)  # step 10
    _validate_platform(appraisal, genuine.report, rules)  # step 11
    _validate_guest(appraisal, genuine.report, policy, rules, report_data)  # step 12
