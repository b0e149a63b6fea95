"""QE identity: what Intel's quoting enclave for TDs, or for enclaves, must look like.

Guarantees: `parse` returns only an identity of version 2 of the QE that was asked for, with every
field present and in range. Does not check the signature: `collateral` does, over the same text,
before it comes here.

Source: Intel PCS API v4, "Get TDX Quoting Enclave Identity" and "Get SGX QE Identity".
"""

from __future__ import annotations

from typing import Final, Literal, final

import msgspec

from verifier.tdx.vendor_json import (
    U16,
    U32,
    EnclaveLevel,
    IsvLevel,
    enclave_levels,
    hex_bytes,
    moment,
    read,
)

Tee = Literal["TDX", "SGX"]
IDS: Final[dict[Tee, str]] = {"TDX": "TD_QE", "SGX": "QE"}
"""The `id` of the quoting enclave's identity."""
_WHAT = "QE identity"


@final
class _Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    version: int
    issue_date: str = msgspec.field(name="issueDate")
    next_update: str = msgspec.field(name="nextUpdate")
    tcb_evaluation_data_number: U32 = msgspec.field(name="tcbEvaluationDataNumber")
    miscselect: str
    miscselect_mask: str = msgspec.field(name="miscselectMask")
    attributes: str
    attributes_mask: str = msgspec.field(name="attributesMask")
    mrsigner: str
    isvprodid: U16
    tcb_levels: tuple[IsvLevel, ...] = msgspec.field(name="tcbLevels")


_DECODER: Final = msgspec.json.Decoder(_Identity)


@final
class QeIdentity(msgspec.Struct, frozen=True):
    """The quoting enclave of `tee`; dates are unix seconds, levels stand highest first.

    Values and masks are integers of the bytes as they stand in a report, first byte highest.
    """

    tee: Tee
    issue_date: int
    next_update: int
    evaluation_number: int
    miscselect: int
    miscselect_mask: int
    attributes: int
    attributes_mask: int
    mrsigner: bytes
    isvprodid: int
    levels: tuple[EnclaveLevel, ...]


def parse(text: str, tee: Tee = "TDX") -> QeIdentity:
    """Return the QE identity in Intel's signed text.

    Raises:
        VerifierError: `collateral_malformed`, or `collateral_mismatch` for another id or version.
    """
    identity = read(text, _DECODER, IDS[tee], 2, _WHAT)
    return QeIdentity(
        tee=tee,
        issue_date=moment(identity.issue_date, f"{_WHAT}: issueDate"),
        next_update=moment(identity.next_update, f"{_WHAT}: nextUpdate"),
        evaluation_number=identity.tcb_evaluation_data_number,
        miscselect=_bits(identity.miscselect, 4, "miscselect"),
        miscselect_mask=_bits(identity.miscselect_mask, 4, "miscselectMask"),
        attributes=_bits(identity.attributes, 16, "attributes"),
        attributes_mask=_bits(identity.attributes_mask, 16, "attributesMask"),
        mrsigner=hex_bytes(identity.mrsigner, 32, f"{_WHAT}: mrsigner"),
        isvprodid=identity.isvprodid,
        levels=enclave_levels(identity.tcb_levels, _WHAT),
    )


def _bits(text: str, length: int, name: str) -> int:
    return int.from_bytes(hex_bytes(text, length, f"{_WHAT}: {name}"))
