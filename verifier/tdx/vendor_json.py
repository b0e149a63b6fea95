"""What Intel's signed JSON documents have in common: strict reading of text, hex and dates.

Guarantees: duplicate keys, floats, unknown fields and wrong types are errors. The caller has
checked the signature over the very text first; nothing here re-serialises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, NoReturn, Protocol, TypeAlias, TypeVar, final

import msgspec

from verifier.errors import Reason, VerifierError
from verifier.result import TcbStatus

T = TypeVar("T")
_LEGACY_VERSION: Final = 2

SVN_LIMIT: Final = 256
"""An SVN is one byte."""
U16_LIMIT: Final = 65536
"""PCESVN, ISVSVN and ISVPRODID have two bytes."""
Svn: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=SVN_LIMIT)]
U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=U16_LIMIT)]
U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]

PLATFORM_STATUSES: Final = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.REVOKED,
    }
)
"""What a platform TCB level may say (PCS API v4, TCB info)."""
ENCLAVE_STATUSES: Final = frozenset(
    {TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED}
)
"""What a level of the TDX module or of the QE may say (PCS API v4, identities)."""


@final
class IsvTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `tcb` object of a module or QE level."""

    isvsvn: U16


@final
class IsvLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A TCB level of the TDX module or of the QE, as Intel writes it."""

    tcb: IsvTcb
    tcb_date: str = msgspec.field(name="tcbDate")
    tcb_status: TcbStatus = msgspec.field(name="tcbStatus")
    advisory_ids: tuple[str, ...] = msgspec.field(name="advisoryIDs", default=())


@final
class EnclaveLevel(msgspec.Struct, frozen=True):
    """A checked TCB level of the TDX module or of the QE; `date` is unix seconds."""

    isvsvn: int
    status: TcbStatus
    date: int
    advisories: tuple[str, ...]


class Document(Protocol):
    """A type of document: what every one of Intel's says of itself."""

    @property
    def id(self) -> str:
        """What the document is about."""
        ...

    @property
    def version(self) -> int:
        """The version of its form."""
        ...


D = TypeVar("D", bound=Document)


def refuse(message: str, reason: Reason = Reason.COLLATERAL_MALFORMED) -> NoReturn:
    """Raise the error of a vendor document."""
    raise VerifierError(reason, message)


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"key {key!r} twice")
        seen[key] = value
    return seen


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}: only integers expected")


def loads(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Raises:
        VerifierError: `collateral_malformed`; also for duplicate keys and for any float.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_no_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: JSON: {error}") from error
    if not isinstance(value, dict):
        refuse(f"{what}: a JSON object expected")
    return value


def read(text: str, decoder: msgspec.json.Decoder[D], kind: str, version: int, what: str) -> D:
    """Return a signed document of this `id` and `version` as its strict type.

    Intel prints each member once, in the order of our types and without spaces. Text that our own
    printing of what was read gives again is such text, so it holds no key twice and no float; any
    other text takes the slow way and is searched for both.

    Raises:
        VerifierError: `collateral_mismatch` for another id or version, `unsupported` for the TCB
            info of PCS API v3, else `collateral_malformed`.
    """
    try:
        value = decoder.decode(text)
        if (value.id, value.version) == (kind, version) and (
            msgspec.json.encode(value) == text.encode()
        ):
            return value
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        pass  # the slow way says what is wrong
    data = loads(text, what)
    _require_id(data, kind, version, what)
    return convert(data, decoder.type, what)


def _require_id(data: Mapping[str, Any], kind: str, version: int, what: str) -> None:
    """Check the `id` and `version` of a document before its other fields are read."""
    seen = (data.get("id"), data.get("version"))
    if kind == "SGX" and seen == (None, _LEGACY_VERSION):
        # Its components have other names: read as version 3 it would have none, and fit anything.
        refuse(f"{what}: version 2, of PCS API v3", Reason.UNSUPPORTED)
    if seen != (kind, version) or isinstance(seen[1], bool):
        refuse(
            f"{what}: id {kind!r} version {version} expected, {seen[0]!r} version {seen[1]!r} seen",
            Reason.COLLATERAL_MISMATCH,
        )


def convert(data: Mapping[str, Any], kind: type[T], what: str) -> T:
    """Return the document as its strict type.

    Raises:
        VerifierError: `collateral_malformed`, with the path of the field.
    """
    try:
        return msgspec.convert(data, kind, strict=True)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter: half a surrogate
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: {error}") from error


def hex_bytes(text: str, length: int, what: str) -> bytes:
    """Return `length` bytes of hexadecimal in either case (Intel writes both).

    Raises:
        VerifierError: `collateral_malformed`.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != length or len(text) != 2 * length:
        refuse(f"{what}: {length} bytes of hexadecimal expected, {text[:200]!r} seen")
    return raw


def moment(text: str, what: str) -> int:
    """Return the unix seconds of a date as Intel prints it: 2024-03-13T00:00:00Z.

    Raises:
        VerifierError: `collateral_malformed`.
    """
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.isoformat() == f"{text[:-1]}+00:00" and text[-1] == "Z":
            return int(parsed.timestamp())
    except (ValueError, OverflowError):
        pass  # refused below
    refuse(f"{what}: a date like 2024-03-13T00:00:00Z expected, {text[:40]!r} seen")


def enclave_levels(levels: Iterable[IsvLevel], what: str) -> tuple[EnclaveLevel, ...]:
    """Return module or QE levels, highest ISVSVN first.

    Raises:
        VerifierError: `collateral_malformed` for none, for one SVN twice, for another status.
    """
    checked = [
        EnclaveLevel(
            isvsvn=level.tcb.isvsvn,
            status=level.tcb_status,
            date=moment(level.tcb_date, f"{what}: tcbDate"),
            advisories=level.advisory_ids,
        )
        for level in levels
    ]
    if not checked:
        refuse(f"{what}: no TCB levels")
    for level in checked:
        if level.status not in ENCLAVE_STATUSES:
            refuse(f"{what}: status {level.status} at ISVSVN {level.isvsvn}")
    if len({level.isvsvn for level in checked}) != len(checked):
        refuse(f"{what}: two levels with one ISVSVN")
    return tuple(sorted(checked, key=lambda level: level.isvsvn, reverse=True))
