"""How a genuine platform stands: its TCB levels compared with what Intel publishes.

Guarantees: platform, TDX module (for a TD) and quoting enclave each match a level or the whole is
an error; the worst of them tells the status, the oldest the date, all together the advisories. Does
not say which status is good enough: `validate` does.

Source: Intel QVL (TCB level matching and convergence; TDRelaunchAdvised); PCS API v4.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import ge
from typing import Final, final

from verifier.errors import Reason, VerifierError
from verifier.result import TcbStatus
from verifier.tdx.pck import SgxExtension
from verifier.tdx.tcbinfo import ModuleIdentity, PlatformLevel, TcbInfo
from verifier.tdx.vendor_json import EnclaveLevel

_OUT_OF_DATE: Final = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
"""What a platform status becomes if the module or the QE is out of date."""
_RELAUNCH: Final = {
    TcbStatus.UP_TO_DATE: TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: (
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    ),
}
"""What an out-of-date launch becomes if the module that runs now stands like this."""
_MODULE_PARTS = 2


@final
@dataclass(frozen=True, slots=True)
class Tcb:
    """The converged status; `module` is None for SGX and TDX 1.0; `date` is unix seconds."""

    status: TcbStatus
    platform: TcbStatus
    module: TcbStatus | None
    qe: TcbStatus
    date: int
    advisories: tuple[str, ...]


def module_identity(info: TcbInfo, svn: bytes) -> ModuleIdentity:
    """Return what the TDX module with this TEE_TCB_SVN must look like.

    Byte 1 of the SVN is the module's major version: 0 is TDX 1.0, else there is an identity for it.

    Raises:
        VerifierError: `tdx_module_mismatch` if Intel lists no such module.
    """
    if svn[1] == 0 and info.module is not None:
        return info.module
    name = f"TDX_{svn[1]:02X}"
    found = info.modules.get(name)
    if found is None:
        raise VerifierError(
            Reason.TDX_MODULE_MISMATCH,
            f"TDX module: one of {', '.join(sorted(info.modules)) or 'none'} expected, {name} seen",
        )
    return found


def platform_level(info: TcbInfo, sgx: SgxExtension, svn: bytes) -> PlatformLevel:
    """Return the first level that the PCK's components and the quote's TEE_TCB_SVN reach.

    A TDX 1.5 module (byte 1 above 0) has its own identity, so its bytes 0 and 1 are not compared.
    An SGX quote has no TEE_TCB_SVN and SGX levels no TDX components: there `svn` is empty.

    Raises:
        VerifierError: `tcb_not_supported`.
    """
    first = _MODULE_PARTS if svn and svn[1] > 0 else 0
    have = tuple(svn)[first:]
    for level in info.levels:
        if (
            sgx.pcesvn >= level.pcesvn
            and _reaches(sgx.components, level.sgx)
            and _reaches(have, level.tdx[first:])
        ):
            return level
    raise VerifierError(
        Reason.TCB_NOT_SUPPORTED,
        f"platform TCB: below every level: components {list(sgx.components)}, "
        f"PCESVN {sgx.pcesvn}" + (f", TEE_TCB_SVN {svn.hex()}" if svn else ""),
    )


def _reaches(have: tuple[int, ...], need: tuple[int, ...]) -> bool:
    if len(have) != len(need):
        raise ValueError("as many parts in the platform's TCB as in the level expected")
    return all(map(ge, have, need))


def enclave_level(levels: tuple[EnclaveLevel, ...], isvsvn: int, what: str) -> EnclaveLevel:
    """Return the first level that `isvsvn` reaches.

    Raises:
        VerifierError: `tcb_not_supported`.
    """
    for level in levels:
        if level.isvsvn <= isvsvn:
            return level
    raise VerifierError(Reason.TCB_NOT_SUPPORTED, f"{what}: ISVSVN {isvsvn} is below every level")


def evaluate(
    info: TcbInfo, sgx: SgxExtension, qe: EnclaveLevel, launch: bytes, current: bytes | None
) -> Tcb:
    """Return how the platform, its module and its QE stand together.

    Args:
        info: TCB info for this platform.
        sgx: the PCK certificate's SGX extension.
        qe: the level of the quoting enclave.
        launch: TEE_TCB_SVN, when the TD was launched; empty for an SGX enclave.
        current: TEE_TCB_SVN_2, of the module that runs now (TDX 1.5 bodies only).

    Raises:
        VerifierError: `tcb_not_supported` or `tdx_module_mismatch`.
    """
    platform = platform_level(info, sgx, launch)
    module = None
    if launch:
        identity = module_identity(info, launch)
        module = enclave_level(identity.levels, launch[0], identity.id) if identity.levels else None
    status = converge(platform.status, qe.status, None if module is None else module.status)
    if current is not None and current != launch:
        status = _relaunch(status, info, sgx, qe, current)
    parts = (platform, qe) if module is None else (platform, module, qe)
    return Tcb(
        status=status,
        platform=platform.status,
        module=None if module is None else module.status,
        qe=qe.status,
        date=min(part.date for part in parts),
        advisories=tuple(sorted({name for part in parts for name in part.advisories})),
    )


def converge(platform: TcbStatus, qe: TcbStatus, module: TcbStatus | None) -> TcbStatus:
    """Return one status for all parts: Revoked beats all, then out of date, then the platform's."""
    parts = (platform, qe, module)
    if TcbStatus.REVOKED in parts:
        return TcbStatus.REVOKED
    if TcbStatus.OUT_OF_DATE in parts[1:]:
        return _OUT_OF_DATE.get(platform, platform)
    return platform


def _relaunch(
    status: TcbStatus, info: TcbInfo, sgx: SgxExtension, qe: EnclaveLevel, current: bytes
) -> TcbStatus:
    """Return the status given the module that runs now.

    Launched out of date, but fine now: a new launch would help. A revoked module now is revoked.
    """
    try:
        now = evaluate(info, sgx, qe, current, None).status
    except VerifierError:
        return status  # no level for the current module: it cannot better the launch's status
    if now is TcbStatus.REVOKED:
        return now
    if status in (TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED):
        return _RELAUNCH.get(now, status)
    return status
