"""What our checks mean in AR4SI's words: one table, and the vector that follows from it.

Guarantees: every reason of a refusal stands in `REFUSED`, so that no failed check leaves a vector
affirming; a member is affirmed only by a check that passed and asked for something; where several
rows speak of one member, the worst counts. `markdown` is the table as `docs/ear.md` shows it.
Does not judge: the checks are the verifier's, and the status is made of them in `result.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias, final

from verifier.ear.vector import Member, Vector, worst
from verifier.errors import Reason
from verifier.result import Check, TcbStatus

Entries: TypeAlias = tuple[tuple[Member, int], ...]

_NOT_JUDGED: Final[Entries] = (("hardware", 0),)
_UNEXPECTED: Final[Entries] = (("hardware", 1),)
_CRYPTO: Final[Entries] = (("hardware", 99),)
_UNSAFE: Final[Entries] = (("hardware", 32),)
_BROKEN: Final[Entries] = (("hardware", 96),)
_UNKNOWN: Final[Entries] = (("hardware", 97),)
_SETTINGS: Final[Entries] = (("configuration", 96),)
_STRANGER: Final[Entries] = (("instance-identity", 97),)
_STALE: Final[Entries] = (("instance-identity", 99),)
_CODE_UNKNOWN: Final[Entries] = (("executables", 33),)
_CODE_REFUSED: Final[Entries] = (("executables", 96),)
_CODE_FORGED: Final[Entries] = (("executables", 99),)
_VISIBLE: Final[Entries] = (("configuration", 96), ("runtime-opaque", 96))
_REVOKED: Final[Entries] = (("instance-identity", 96), ("hardware", 96))

REFUSED: Final[Mapping[Reason, Entries]] = MappingProxyType(
    {
        Reason.MALFORMED: _UNEXPECTED,
        Reason.TOO_LARGE: _UNEXPECTED,
        Reason.UNSUPPORTED: _UNEXPECTED,
        Reason.TRAILING_DATA: _UNEXPECTED,
        Reason.KIND_MISMATCH: _UNEXPECTED,
        Reason.COLLATERAL_MISSING: _NOT_JUDGED,
        Reason.COLLATERAL_UNAVAILABLE: _NOT_JUDGED,
        Reason.COLLATERAL_EXPIRED: _NOT_JUDGED,
        Reason.COLLATERAL_NOT_YET_VALID: _NOT_JUDGED,
        Reason.COLLATERAL_TOO_OLD: _NOT_JUDGED,
        Reason.CRL_MISSING: _NOT_JUDGED,
        Reason.CRL_EXPIRED: _NOT_JUDGED,
        Reason.RIM_EXPIRED: _NOT_JUDGED,
        Reason.REVOCATION_MISSING: _NOT_JUDGED,
        Reason.REVOCATION_EXPIRED: _NOT_JUDGED,
        Reason.PROVENANCE_UNAVAILABLE: _NOT_JUDGED,
        Reason.COLLATERAL_MALFORMED: _CRYPTO,
        Reason.COLLATERAL_SIGNATURE: _CRYPTO,
        Reason.COLLATERAL_MISMATCH: _CRYPTO,
        Reason.CRL_INVALID: _CRYPTO,
        Reason.REVOCATION_INVALID: _CRYPTO,
        Reason.CERTIFICATE_EXPIRED: _CRYPTO,
        Reason.CERTIFICATE_INVALID: _CRYPTO,
        Reason.CHAIN_INVALID: _CRYPTO,
        Reason.SIGNATURE_MISSING: _CRYPTO,
        Reason.SIGNATURE_INVALID: _CRYPTO,
        Reason.QE_REPORT_INVALID: _CRYPTO,
        Reason.QE_IDENTITY_MISMATCH: _CRYPTO,
        Reason.CHIP_ID_MISMATCH: _CRYPTO,
        Reason.PRODUCT_MISMATCH: _CRYPTO,
        Reason.TCB_MISMATCH: _CRYPTO,
        Reason.GPU_FWID: _CRYPTO,
        Reason.CERTIFICATE_REVOKED: _REVOKED,
        Reason.CERTIFICATE_HOLD: _REVOKED,
        Reason.ROOT_UNKNOWN: _UNKNOWN,
        Reason.SIMULATED: _UNKNOWN,
        Reason.TDX_MODULE_MISMATCH: _UNKNOWN,
        Reason.TCB_NOT_SUPPORTED: _UNKNOWN,
        Reason.GPU_EVIDENCE_MISSING: _UNKNOWN,
        Reason.GPU_UNSUPPORTED: _UNKNOWN,
        Reason.GPU_COUNT: _UNKNOWN,
        Reason.GPU_DUPLICATE: _UNKNOWN,
        Reason.GPU_SET_MIXED: _UNKNOWN,
        Reason.HARDWARE_REPORT_MISSING: _UNKNOWN,
        Reason.NRAS_REFUSED: _BROKEN,
        Reason.TCB_REVOKED: _BROKEN,
        Reason.TCB_STATUS: _UNSAFE,
        Reason.TCB_BELOW_MINIMUM: _UNSAFE,
        Reason.TCB_PROVISIONAL: _UNSAFE,
        Reason.PLATFORM_INFO: _UNSAFE,
        Reason.REPORT_VERSION_NOT_ALLOWED: _UNSAFE,
        Reason.PLATFORM_NOT_ALLOWED: _STRANGER,
        Reason.CHIP_ID_MASKED: _STRANGER,
        Reason.CSP_NOT_ALLOWED: _STRANGER,
        Reason.AK_REFUSED: _STRANGER,
        Reason.AK_NOT_CERTIFIED: _STRANGER,
        Reason.REPORT_DATA_MISMATCH: _STALE,
        Reason.NONCE_MISSING: _STALE,
        Reason.NONCE_MISMATCH: _STALE,
        Reason.DEBUG_ENABLED: _VISIBLE,
        Reason.ATTRIBUTES_REFUSED: _SETTINGS,
        Reason.MIGRATION_ALLOWED: _SETTINGS,
        Reason.SERVICE_TD: _SETTINGS,
        Reason.VMPL: _SETTINGS,
        Reason.GUEST_POLICY: _SETTINGS,
        Reason.GPU_MODE: _SETTINGS,
        Reason.GPU_TOPOLOGY: _SETTINGS,
        Reason.HASH_NOT_ALLOWED: _SETTINGS,
        Reason.PCR_NOT_ALLOWED: _SETTINGS,
        Reason.VM_CONFIGURATION: _SETTINGS,
        Reason.USER_DATA_MISMATCH: _SETTINGS,
        Reason.MEASUREMENT_UNKNOWN: _CODE_UNKNOWN,
        Reason.NO_REFERENCE_VALUES: _CODE_UNKNOWN,
        Reason.PCR_MISSING: _CODE_UNKNOWN,
        Reason.TPM_QUOTE_MISSING: _CODE_UNKNOWN,
        Reason.EVENT_LOG_MISSING: _CODE_UNKNOWN,
        Reason.PROVENANCE_MISSING: _CODE_UNKNOWN,
        Reason.GPU_MEASUREMENT: _CODE_UNKNOWN,
        Reason.EVENT_LOG_REFUSED: _CODE_REFUSED,
        Reason.PROVENANCE_IDENTITY: _CODE_REFUSED,
        Reason.PCR_DIGEST_MISMATCH: _CODE_FORGED,
        Reason.EVENT_LOG_MISMATCH: _CODE_FORGED,
        Reason.PROVENANCE_ROOT: _CODE_FORGED,
        Reason.PROVENANCE_INVALID: _CODE_FORGED,
        Reason.TOKEN_KEY_UNKNOWN: _CRYPTO,
        Reason.TOKEN_ISSUER: _CRYPTO,
        Reason.TOKEN_AUDIENCE: _STALE,
        Reason.TOKEN_EXPIRED: _STALE,
        Reason.TOKEN_NOT_YET_VALID: _STALE,
        Reason.MAA_NOT_ALLOWED: _UNKNOWN,
        Reason.MAA_NOT_COMPLIANT: _BROKEN,
        Reason.DOCUMENT_SIGNATURE: _CODE_FORGED,
        Reason.LOG_PROOF: _CODE_FORGED,
        Reason.LOG_ORIGIN: _CODE_FORGED,
        Reason.LOG_SIGNATURE: _CODE_FORGED,
    }
)
"""What a failed check says, by its reason."""

_CONFIGURATION_UNSAFE: Final[Entries] = (("configuration", 32),)
_BOTH_UNSAFE: Final[Entries] = (("configuration", 32), ("hardware", 32))

STATUSES: Final[Mapping[TcbStatus, Entries]] = MappingProxyType(
    {
        TcbStatus.UP_TO_DATE: (),
        TcbStatus.SW_HARDENING_NEEDED: _UNSAFE,
        TcbStatus.CONFIGURATION_NEEDED: _CONFIGURATION_UNSAFE,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: _BOTH_UNSAFE,
        TcbStatus.OUT_OF_DATE: _UNSAFE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: _BOTH_UNSAFE,
        TcbStatus.REVOKED: _BROKEN,
        TcbStatus.TD_RELAUNCH_ADVISED: _UNSAFE,
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: _BOTH_UNSAFE,
    }
)
"""What a TCB status says even where a policy admits it."""

SIMULATED: Final[Entries] = _UNKNOWN
"""What simulated evidence says, whatever its checks."""


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """A row: a check of this name that passed (or was not judged) says these entries.

    `expected`, where given, is what the check must have asked for: a check that asked for nothing
    affirms nothing. `kinds` are beginnings of kinds of evidence; empty is every kind.
    """

    check: str
    entries: Entries
    why: str
    ok: bool | None = True
    expected: str | None = None
    kinds: tuple[str, ...] = ()

    def fits(self, kind: str, check: Check) -> bool:
        """Tell whether this row speaks of a check; parts of evidence have names before a dot."""
        return (
            check.ok is self.ok
            and (check.name == self.check or check.name.endswith(f".{self.check}"))
            and self.expected in {None, check.expected}
            and (not self.kinds or kind.startswith(self.kinds))
        )


_GENUINE: Final[Entries] = (("hardware", 2),)
_ENCRYPTED: Final[Entries] = (("configuration", 2), ("runtime-opaque", 2))
_BOOTED: Final[Entries] = (("executables", 3),)
_LISTED: Final[Entries] = (("instance-identity", 2),)

SEEN: Final = (
    Seen("TCB level", _GENUINE, "an Intel quote is genuine"),
    Seen("report signature", _GENUINE, "an AMD report is genuine"),
    Seen("td_attributes.debug", _ENCRYPTED, "no debug", expected="DEBUG (bit 0) clear"),
    Seen("attributes.debug", _ENCRYPTED, "no debug", expected="DEBUG (bit 1) clear"),
    Seen("GUEST_POLICY DEBUG", _ENCRYPTED, "no debug", expected="0"),
    Seen("compliance", _GENUINE, "Azure Attestation vouches", kinds=("maa",)),
    Seen("debug", _ENCRYPTED, "no debug", expected="false", kinds=("maa",)),
    Seen("debug", _CONFIGURATION_UNSAFE, "debug not asked", expected="any", kinds=("maa",)),
    Seen("td_attributes.debug", _CONFIGURATION_UNSAFE, "debug not asked", expected="allowed"),
    Seen("attributes.debug", _CONFIGURATION_UNSAFE, "debug not asked", expected="allowed"),
    Seen("GUEST_POLICY DEBUG", _CONFIGURATION_UNSAFE, "debug not asked", expected="any"),
    Seen("measurements", _BOOTED, "a reference fits", kinds=("tdx", "gcp-tdx", "maa")),
    Seen("measurement", _BOOTED, "a reference fits", kinds=("snp", "gcp-snp")),
    Seen("identity", _BOOTED, "a reference fits", kinds=("sgx",)),
    Seen("tpm.pcrs", _BOOTED, "a reference fits", kinds=("azure-", "tpm")),
    Seen("signature", _GENUINE, "a device's report is genuine", kinds=("nvidia",)),
    Seen("mode", (("configuration", 2),), "a mode that the policy admits", kinds=("nvidia",)),
    Seen("measurements", _BOOTED, "equal to NVIDIA's manifests", kinds=("nvidia",)),
    Seen("device_id", _LISTED, "the policy lists the device", kinds=("nvidia",)),
    Seen("platform", _LISTED, "the policy lists the PPID"),
    Seen("chip", _LISTED, "the policy lists the CHIP_ID"),
    Seen("revocation", _UNSAFE, "revocation not judged", ok=None),
)
"""What checks say that did not fail."""


def vector(
    kind: str, checks: Iterable[Check], *, tcb_status: TcbStatus | None, simulated: bool
) -> Vector:
    """Return the vector of one attester.

    Args:
        kind: of the evidence.
        checks: those that are about this attester.
        tcb_status: of its platform, if it has one.
        simulated: whether the evidence chains to a simulator's root.
    """
    told: dict[str, list[int]] = {}
    entries = [each for check in checks for each in _of(kind, check)]
    if tcb_status is not None:
        entries += STATUSES[tcb_status]
    if simulated:
        entries += SIMULATED
    for member, value in entries:
        told.setdefault(member.replace("-", "_"), []).append(value)
    return Vector(**{member: worst(values) for member, values in told.items()})


def _of(kind: str, check: Check) -> Iterator[tuple[Member, int]]:
    if check.reason is not None:
        yield from REFUSED[check.reason]
    for row in SEEN:
        if row.fits(kind, check):
            yield from row.entries


def markdown() -> str:
    """Return the table in Markdown."""
    lines = ["| what was found | what the vector says |", "|---|---|"]
    for entries, reasons in _grouped(REFUSED):
        lines.append(f"| refused: {', '.join(f'`{r}`' for r in reasons)} | {_said(entries)} |")
    for entries, statuses in _grouped(STATUSES):
        lines.append(f"| admitted: {', '.join(f'`{s}`' for s in statuses)} | {_said(entries)} |")
    lines.append(f"| simulated | {_said(SIMULATED)} |")
    for row in SEEN:
        state = "passed" if row.ok else "not judged"
        asked = "" if row.expected is None else f", asked for “{row.expected}”"
        kinds = f" ({', '.join(f'{kind}…' for kind in row.kinds)})" if row.kinds else ""
        lines.append(f"| {state}: `{row.check}`{asked}{kinds}: {row.why} | {_said(row.entries)} |")
    return "\n".join(lines) + "\n"


def _grouped(
    table: Mapping[Reason, Entries] | Mapping[TcbStatus, Entries],
) -> list[tuple[Entries, list[str]]]:
    groups: dict[Entries, list[str]] = {}
    for name, entries in table.items():
        groups.setdefault(entries, []).append(name.value)
    return list(groups.items())


def _said(entries: Entries) -> str:
    return ", ".join(f"{member} {value}" for member, value in entries) or "nothing against it"
