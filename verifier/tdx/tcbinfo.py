"""TCB info: the levels that Intel publishes for one kind of platform (FMSPC).

Guarantees: `parse` returns only TCB info of version 3 for the TEE that was asked for, with every
field present and in range, 16 components each, levels in Intel's matching order. Does not check the
signature: `collateral` does, over the same text, before it comes here.

Source: Intel PCS API v4, "Get TDX TCB Info" and "Get SGX TCB Info"; Intel QVL for the order of
levels.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, final

import msgspec

from verifier.errors import Reason
from verifier.result import TcbStatus
from verifier.tdx.identity import Tee
from verifier.tdx.vendor_json import (
    PLATFORM_STATUSES,
    U16,
    U32,
    EnclaveLevel,
    IsvLevel,
    Svn,
    enclave_levels,
    hex_bytes,
    moment,
    read,
    refuse,
)

COMPONENTS: Final = 16
_WHAT = "TCB info"


@final
class _Component(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    svn: Svn
    category: str = ""
    type: str = ""


_Components: TypeAlias = Annotated[
    list[_Component], msgspec.Meta(min_length=COMPONENTS, max_length=COMPONENTS)
]


@final
class _SgxTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sgxtcbcomponents: _Components
    pcesvn: U16


@final
class _TdxTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sgxtcbcomponents: _Components
    pcesvn: U16
    tdxtcbcomponents: _Components


@final
class _SgxLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    tcb: _SgxTcb
    tcb_date: str = msgspec.field(name="tcbDate")
    tcb_status: TcbStatus = msgspec.field(name="tcbStatus")
    advisory_ids: tuple[str, ...] = msgspec.field(name="advisoryIDs", default=())


@final
class _TdxLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    tcb: _TdxTcb
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
class _SgxTcbInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    version: int
    issue_date: str = msgspec.field(name="issueDate")
    next_update: str = msgspec.field(name="nextUpdate")
    fmspc: str
    pce_id: str = msgspec.field(name="pceId")
    tcb_type: int = msgspec.field(name="tcbType")
    tcb_evaluation_data_number: U32 = msgspec.field(name="tcbEvaluationDataNumber")
    tcb_levels: tuple[_SgxLevel, ...] = msgspec.field(name="tcbLevels")


@final
class _TdxTcbInfo(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    id: str
    version: int
    issue_date: str = msgspec.field(name="issueDate")
    next_update: str = msgspec.field(name="nextUpdate")
    fmspc: str
    pce_id: str = msgspec.field(name="pceId")
    tcb_type: int = msgspec.field(name="tcbType")
    tcb_evaluation_data_number: U32 = msgspec.field(name="tcbEvaluationDataNumber")
    tdx_module: _Module = msgspec.field(name="tdxModule")
    tdx_module_identities: tuple[_ModuleIdentity, ...] = msgspec.field(
        name="tdxModuleIdentities", default=()
    )
    tcb_levels: tuple[_TdxLevel, ...] = msgspec.field(name="tcbLevels")


_SGX_DECODER: Final = msgspec.json.Decoder(_SgxTcbInfo)
_TDX_DECODER: Final = msgspec.json.Decoder(_TdxTcbInfo)


@final
class PlatformLevel(msgspec.Struct, frozen=True):
    """One TCB level of the platform; `date` is unix seconds; `tdx` is empty for SGX."""

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
    """TCB info of one FMSPC for one TEE; dates are unix seconds, levels stand highest first.

    `module` is None and `modules` is empty for SGX.
    """

    tee: Tee
    issue_date: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    module: ModuleIdentity | None
    modules: dict[str, ModuleIdentity]
    levels: tuple[PlatformLevel, ...]


def parse(text: str, tee: Tee = "TDX") -> TcbInfo:
    """Return the TCB info in Intel's signed text.

    Raises:
        VerifierError: `collateral_malformed`; `collateral_mismatch` for another id, version or
            tcbType; `unsupported` for SGX TCB info of version 2.
    """
    info: _SgxTcbInfo | _TdxTcbInfo
    module, modules = None, list[ModuleIdentity]()
    if tee == "TDX":
        info = read(text, _TDX_DECODER, tee, 3, _WHAT)
        module = _module("tdxModule", info.tdx_module, ())
        modules = [_module_identity(identity) for identity in info.tdx_module_identities]
    else:
        info = read(text, _SGX_DECODER, tee, 3, _WHAT)
    if info.tcb_type != 0:
        refuse(f"{_WHAT}: tcbType 0 expected, {info.tcb_type} seen", Reason.COLLATERAL_MISMATCH)
    by_id = {module.id: module for module in modules}
    if len(by_id) != len(modules):
        refuse(f"{_WHAT}: one tdxModuleIdentities id twice")
    return TcbInfo(
        tee=tee,
        issue_date=moment(info.issue_date, f"{_WHAT}: issueDate"),
        next_update=moment(info.next_update, f"{_WHAT}: nextUpdate"),
        fmspc=hex_bytes(info.fmspc, 6, f"{_WHAT}: fmspc"),
        pce_id=hex_bytes(info.pce_id, 2, f"{_WHAT}: pceId"),
        evaluation_number=info.tcb_evaluation_data_number,
        module=module,
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


def _svns(components: list[_Component]) -> tuple[int, ...]:
    return tuple([component.svn for component in components])


def _order(level: PlatformLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return level.sgx, level.pcesvn, level.tdx


def _platform_levels(
    levels: tuple[_SgxLevel, ...] | tuple[_TdxLevel, ...],
) -> tuple[PlatformLevel, ...]:
    """Return the levels highest first, by SGX components, then PCESVN, then TDX components."""
    checked = [
        PlatformLevel(
            sgx=_svns(level.tcb.sgxtcbcomponents),
            pcesvn=level.tcb.pcesvn,
            tdx=_svns(level.tcb.tdxtcbcomponents) if isinstance(level.tcb, _TdxTcb) else (),
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
    if len({_order(level) for level in checked}) != len(checked):
        refuse(f"{_WHAT}: two levels with the same SVNs")
    return tuple(sorted(checked, key=_order, reverse=True))
