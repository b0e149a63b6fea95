"""The TDREPORT in an HCL report, held against the TD quote that was made of it.

Guarantees: `differences` names every field in which the two speak of different TDs. A TDREPORT
proves nothing by itself to anybody elsewhere: its MAC is checked by the CPU that made it. Only the
quote is evidence; the TDREPORT shows that claims and quote belong together.

Source: TDX Module ABI: TDREPORT_STRUCT (REPORTMACSTRUCT, TEE_TCB_INFO, TDINFO_BASE).
"""

from __future__ import annotations

import hmac
import struct
from typing import Final

from verifier.azure.hcl import TDREPORT_SIZE
from verifier.errors import Reason, VerifierError
from verifier.tdx.body import TdBody

_TYPE_TDX: Final = 0x81
_REPORT_DATA: Final = struct.Struct("<64s")
_REPORT_DATA_AT: Final = 128
_TCB_INFO: Final = struct.Struct("<8s16s48s48s8s")
_TCB_INFO_AT: Final = 256
_TD_INFO: Final = struct.Struct("<8s8s48s48s48s48s48s48s48s48s48s")
_TD_INFO_AT: Final = 512

_TCB_FIELDS: Final = ("", "tee_tcb_svn", "mr_seam", "mrsigner_seam", "seam_attributes")
_TD_FIELDS: Final = (
    "td_attributes",
    "xfam",
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_service_td",
)


def parse(raw: bytes) -> dict[str, bytes]:
    """Return the fields that a quote's body has too, under the names of `TdBody`.

    Raises:
        VerifierError: `malformed`, the size or the type is not a TDX TDREPORT's.
    """
    if len(raw) != TDREPORT_SIZE or raw[0] != _TYPE_TDX:
        raise VerifierError(
            Reason.MALFORMED,
            f"TDREPORT: {TDREPORT_SIZE} bytes of type {_TYPE_TDX:#x} expected, "
            f"{len(raw)} of type {raw[:1].hex() or 'none'} seen",
        )
    tcb = dict(zip(_TCB_FIELDS, _TCB_INFO.unpack_from(raw, _TCB_INFO_AT), strict=True))
    del tcb[""]  # which fields are valid
    (report_data,) = _REPORT_DATA.unpack_from(raw, _REPORT_DATA_AT)
    info = zip(_TD_FIELDS, _TD_INFO.unpack_from(raw, _TD_INFO_AT), strict=True)
    return {"report_data": report_data, **tcb, **dict(info)}


def differences(report: dict[str, bytes], body: TdBody) -> list[str]:
    """Return the names of the fields in which the quote's body is not the TDREPORT's.

    A TD 1.0 body has no `mr_service_td`, so there it is not compared.
    """
    return [
        name
        for name, value in report.items()
        if (quoted := getattr(body, name)) is not None and not hmac.compare_digest(quoted, value)
    ]
