"""TCB info: the levels that Intel publishes for one kind of platform (FMSPC).

Guarantees: `parse` returns only TDX TCB info of version 3 with every field present and in range,
16 components each, levels in Intel's matching order. Does not check the signature: `collateral`
does, over the same text, before it comes here.

Source: Intel PCS API v4, "Get TDX TCB Info"; Intel QVL for the order of levels.
"""

from __future__ import annotations

from typing import Final, final

import msgspec

from verifier.errors import Reason
from verifier.result import TcbStatus
from verifier.tdx.vendor_json import (
    PLATFORM_STATUSES,
    SVN_LIMIT,
    U16_LIMIT,
    EnclaveLevel,
    IsvLevel,
    convert,
    enclave_levels,
    hex_bytes,
    loads,
    moment,
    number,
    refuse,
    require_id,
)

COMPONENTS: Final = 16
_WHAT = "TCB info"


@final
class _Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    svn: int
    category: str = ""
    type: str = ""


@final
class _Tcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sgxtcbcomponents: tuple[_Component, ...]
    pcesvn: int
    tdxtcbcomponents: tuple[_Component, ...]


@final
class _Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tcb: _Tcb
    tcb_date: str = msgspec.field(name="tcbDate")
    tcb_status: TcbStatus = msgspec.field(name="tcbStatus")
    advisory_ids: tuple[str, ...] = msgspec.field(name="advisoryIDs", default=())


@final
class _Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mrsigner: str
    attributes: str
    attributes_mask: str = msgspec.field(name="attributesMask")


@final
class _ModuleIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    mrsigner: str
    attributes: str
    attributes_mask: str = msgspec.field(name="attributesMask")
    tcb_levels: tuple[IsvLevel, ...] = msgspec.field(name="tcbLevels")


@final
class _TcbInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    version: int
    issue_date: str = msgspec.field(name="issueDate")
    next_update: str = msgspec.field(name="nextUpdate")
    fmspc: str
    pce_id: str = msgspec.field(name="pceId")
    tcb_type: int = msgspec.field(name="tcbType")
    tcb_evaluation_data_number: int = msgspec.field(name="tcbEvaluationDataNumber")
    tdx_module: _Module = msgspec.field(name="tdxModule")
    tcb_levels: tuple[_Level, ...] = msgspec.field(name="tcbLevels")
    tdx_module_identities: tuple[_ModuleIdentity, ...] = msgspec.field(
        name="tdxModuleIdentities", default=()
    )


@final
class PlatformLevel(msgspec.Struct, frozen=True):
    """One TCB level of the platform; `date` is unix seconds."""

    sgx: tuple[int, ...]
    pcesvn: int
    tdx: tuple[int, ...]
    status: TcbStatus
    date: int
    advisories: tuple[str, ...]


@final
class ModuleIdentity(msgspec.Struct, frozen=True):
    """What a TDX module must look like; no levels for the module of TDX 1.0."""

    id: str
    mrsigner: bytes
    attributes: int
    attributes_mask: int
    levels: tuple[EnclaveLevel, ...] = ()


@final
class TcbInfo(msgspec.Struct, frozen=True):
    """TCB info of one FMSPC; dates are unix seconds, levels stand highest first."""

    issue_date: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    module: ModuleIdentity
    modules: dict[str, ModuleIdentity]
    levels: tuple[PlatformLevel, ...]


def parse(text: str) -> TcbInfo:
    """Return the TCB info in Intel's signed text.

    Raises:
        VerifierError: `collateral_malformed`, or `collateral_mismatch` for another id, version or
            tcbType.
    """
    data = loads(text, _WHAT)
    require_id(data, "TDX", 3, _WHAT)
    info = convert(data, _TcbInfo, _WHAT)
    if info.tcb_type != 0:
        refuse(f"{_WHAT}: tcbType 0 expected, {info.tcb_type} seen", Reason.COLLATERAL_MISMATCH)
    modules = [_module_identity(identity) for identity in info.tdx_module_identities]
    by_id = {module.id: module for module in modules}
    if len(by_id) != len(modules):
        refuse(f"{_WHAT}: one tdxModuleIdentities id twice")
    return TcbInfo(
        issue_date=moment(info.issue_date, f"{_WHAT}: issueDate"),
        next_update=moment(info.next_update, f"{_WHAT}: nextUpdate"),
        fmspc=hex_bytes(info.fmspc, 6, f"{_WHAT}: fmspc"),
        pce_id=hex_bytes(info.pce_id, 2, f"{_WHAT}: pceId"),
        evaluation_number=number(
            info.tcb_evaluation_data_number, 1 << 32, f"{_WHAT}: tcbEvaluationDataNumber"
        ),
        module=_module("tdxModule", info.tdx_module, ()),
        modules=by_id,
        levels=_platform_levels(info.tcb_levels),
    )


def _module(
    name: str, module: _Module | _ModuleIdentity, levels: tuple[EnclaveLevel, ...]
) -> ModuleIdentity:
    what = f"{_WHAT}: {name}"
    return ModuleIdentity(
        id=name.upper(),
        mrsigner=hex_bytes(module.mrsigner, 48, f"{what}: mrsigner"),
        attributes=int.from_bytes(hex_bytes(module.attributes, 8, f"{what}: attributes")),
        attributes_mask=int.from_bytes(
            hex_bytes(module.attributes_mask, 8, f"{what}: attributesMask")
        ),
        levels=levels,
    )


def _module_identity(identity: _ModuleIdentity) -> ModuleIdentity:
    levels = enclave_levels(identity.tcb_levels, f"{_WHAT}: {identity.id}")
    return _module(identity.id, identity, levels)


def _svns(components: tuple[_Component, ...], what: str) -> tuple[int, ...]:
    if len(components) != COMPONENTS:
        refuse(f"{what}: {COMPONENTS} components expected, {len(components)} seen")
    return tuple(number(component.svn, SVN_LIMIT, what) for component in components)


def _platform_levels(levels: tuple[_Level, ...]) -> tuple[PlatformLevel, ...]:
    """Return the levels highest first, by SGX components, then PCESVN, then TDX components."""
    checked = [
        PlatformLevel(
            sgx=_svns(level.tcb.sgxtcbcomponents, f"{_WHAT}: sgxtcbcomponents"),
            pcesvn=number(level.tcb.pcesvn, U16_LIMIT, f"{_WHAT}: pcesvn"),
            tdx=_svns(level.tcb.tdxtcbcomponents, f"{_WHAT}: tdxtcbcomponents"),
            status=level.tcb_status,
            date=moment(level.tcb_date, f"{_WHAT}: tcbDate"),
            advisories=level.advisory_ids,
        )
        for level in levels
    ]
    if not checked:
        refuse(f"{_WHAT}: no TCB levels")
    for level in checked:
        if level.status not in PLATFORM_STATUSES:
            refuse(f"{_WHAT}: status {level.status} of a platform level")
    if len({(level.sgx, level.pcesvn, level.tdx) for level in checked}) != len(checked):
        refuse(f"{_WHAT}: two levels with the same SVNs")
    return tuple(
        sorted(checked, key=lambda level: (level.sgx, level.pcesvn, level.tdx), reverse=True)
    )
