"""Intel's signed JSON: TCB info (version 3) and QE identity (version 2), of PCS API v4.

Guarantees: members come in Intel's order and spelling, and `to_text` prints them as Intel does (no
whitespace), so a signature over that text covers what a real one covers. Everything is a plain
dict: a negative test changes what it likes before it has the text signed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

Document = dict[str, Any]
"""One JSON object, in member order."""
Tee = Literal["tdx", "sgx"]

DAY: Final = 86_400
"""Seconds."""
VALIDITY: Final = 30 * DAY
"""Seconds from issueDate to nextUpdate in what Intel signs."""

TDX_QE_MRSIGNER: Final = bytes.fromhex(
    "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
)
SGX_QE_MRSIGNER: Final = bytes.fromhex(
    "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
)

_SGX_COMPONENTS: Final[dict[int, tuple[str, ...]]] = {
    0: ("BIOS", "Early Microcode Update"),
    1: ("OS/VMM", "SGX Late Microcode Update"),
    2: ("OS/VMM", "TXT SINIT"),
    3: ("BIOS",),
    4: ("BIOS",),
    5: ("BIOS",),
    7: ("OS/VMM", "SEAMLDR ACM"),
}
_TDX_COMPONENTS: Final[dict[int, tuple[str, ...]]] = {
    0: ("OS/VMM", "TDX Module"),
    1: ("OS/VMM", "TDX Module"),
    2: ("OS/VMM", "TDX Late Microcode Update"),
}

SGX_CURRENT: Final = (4, 4, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
"""SGX components of the simulated platform's PCK certificate."""
PCESVN_CURRENT: Final = 13
TDX_SVN_CURRENT: Final = (11, 1, 4, *(0,) * 13)
"""TEE_TCB_SVN of the simulated TDX module: SVN 11 of major version 1, microcode 4."""


def iso(moment: int) -> str:
    """Return unix seconds in Intel's spelling of RFC 3339."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_text(document: Document) -> str:
    """Return the exact text that Intel would sign."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _components(svns: Sequence[int], names: dict[int, tuple[str, ...]]) -> list[Document]:
    keys = ("category", "type")
    return [
        {"svn": svn, **dict(zip(keys, names.get(index, ()), strict=False))}
        for index, svn in enumerate(svns)
    ]


def tcb_level(
    *,
    sgx: Sequence[int],
    pcesvn: int,
    tdx: Sequence[int] | None,
    status: str,
    date: str,
    advisories: Sequence[str] = (),
) -> Document:
    """Return one TCB level; `tdx` is None for SGX, `date` in Intel's spelling."""
    tcb: Document = {"sgxtcbcomponents": _components(sgx, _SGX_COMPONENTS), "pcesvn": pcesvn}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = _components(tdx, _TDX_COMPONENTS)
    level: Document = {"tcb": tcb, "tcbDate": date, "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def isv_level(isvsvn: int, status: str, date: str, advisories: Sequence[str] = ()) -> Document:
    """Return one level of a TDX module or of a QE."""
    level: Document = {"tcb": {"isvsvn": isvsvn}, "tcbDate": date, "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def tcb_levels(tee: Tee) -> list[Document]:
    """Return the default levels, newest first: UpToDate, then two that are OutOfDate."""
    rows = (
        (4, 13, 5, 4, "UpToDate", "2024-11-13T00:00:00Z", ()),
        (3, 13, 5, 3, "OutOfDate", "2024-03-13T00:00:00Z", ("INTEL-SA-01036",)),
        (2, 5, 3, 2, "OutOfDate", "2018-01-04T00:00:00Z", ("INTEL-SA-00106", "INTEL-SA-00115")),
    )
    return [
        tcb_level(
            sgx=(micro, micro, 2, 2, micro, 1, 0, seamldr, *(0,) * 8),
            pcesvn=pcesvn,
            tdx=(5, 0, tdx_micro, *(0,) * 13) if tee == "tdx" else None,
            status=status,
            date=date,
            advisories=advisories,
        )
        for micro, pcesvn, seamldr, tdx_micro, status, date, advisories in rows
    ]


def module_identity(
    identity: str, levels: Sequence[Document], *, mrsigner: bytes = bytes(48)
) -> Document:
    """Return one entry of tdxModuleIdentities; `identity` is such as "TDX_01"."""
    return {
        "id": identity,
        "mrsigner": mrsigner.hex().upper(),
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
        "tcbLevels": list(levels),
    }


def module_identities() -> list[Document]:
    """Return the default module identities: major versions 3 and 1."""
    newest = isv_level(3, "UpToDate", "2024-11-13T00:00:00Z")
    return [
        module_identity("TDX_03", [newest]),
        module_identity(
            "TDX_01",
            [
                isv_level(6, "UpToDate", "2024-11-13T00:00:00Z"),
                isv_level(4, "OutOfDate", "2024-03-13T00:00:00Z", ["INTEL-SA-01036"]),
            ],
        ),
    ]


def tcb_info(
    now: int,
    *,
    fmspc: bytes,
    pceid: bytes,
    tee: Tee = "tdx",
    issued: int | None = None,
    next_update: int | None = None,
    evaluation_number: int = 18,
    levels: Sequence[Document] | None = None,
    modules: Sequence[Document] | None = None,
    identity: str | None = None,
    version: int = 3,
) -> Document:
    """Return TCB info as of `now` (unix seconds), issued a day before unless told otherwise.

    Source: Intel PCS API v4, "Get TDX TCB Info" and "Get SGX TCB Info" (TcbInfoV3).
    """
    start = now - DAY if issued is None else issued
    document: Document = {
        "id": identity or tee.upper(),
        "version": version,
        "issueDate": iso(start),
        "nextUpdate": iso(start + VALIDITY if next_update is None else next_update),
        "fmspc": fmspc.hex(),
        "pceId": pceid.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": evaluation_number,
    }
    if tee == "tdx":
        document["tdxModule"] = {
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
        }
        document["tdxModuleIdentities"] = list(module_identities() if modules is None else modules)
    document["tcbLevels"] = list(tcb_levels(tee) if levels is None else levels)
    return document


def qe_identity(
    now: int,
    *,
    tee: Tee = "tdx",
    issued: int | None = None,
    next_update: int | None = None,
    evaluation_number: int = 18,
    levels: Sequence[Document] | None = None,
    mrsigner: bytes | None = None,
    isvprodid: int | None = None,
    identity: str | None = None,
    version: int = 2,
) -> Document:
    """Return the quoting enclave's identity as of `now` (unix seconds).

    Source: Intel PCS API v4, "Get TDX QE Identity" and "Get SGX QE Identity" (EnclaveIdentityV2).
    """
    start = now - DAY if issued is None else issued
    signer = TDX_QE_MRSIGNER if tee == "tdx" else SGX_QE_MRSIGNER
    product = 2 if tee == "tdx" else 1
    return {
        "id": identity or ("TD_QE" if tee == "tdx" else "QE"),
        "version": version,
        "issueDate": iso(start),
        "nextUpdate": iso(start + VALIDITY if next_update is None else next_update),
        "tcbEvaluationDataNumber": evaluation_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": (signer if mrsigner is None else mrsigner).hex().upper(),
        "isvprodid": product if isvprodid is None else isvprodid,
        "tcbLevels": list(
            [
                isv_level(4, "UpToDate", "2024-11-13T00:00:00Z"),
                isv_level(3, "OutOfDate", "2024-03-13T00:00:00Z", ["INTEL-SA-01036"]),
            ]
            if levels is None
            else levels
        ),
    }
