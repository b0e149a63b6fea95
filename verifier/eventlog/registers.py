"""Quoted registers from a JSON file: what a log is compared with on the command line.

Guarantees: one meaning for each document that is read, anything else is refused. Does not make the
values true: only a verified quote does that, and who names such a file says that they come of one.
"""

from __future__ import annotations

from typing import Final

from verifier.errors import Reason, VerifierError
from verifier.eventlog.runtime import strict_json
from verifier.eventlog.tcg import MAX_PCR, SIZES
from verifier.wire.canonical import hexdecode

MAX_JSON: Final = 64 * 1024
_BY_SIZE: Final = {2 * size: bank for bank, size in SIZES.items()}


def _malformed(message: str) -> VerifierError:
    return VerifierError(Reason.MALFORMED, f"registers: {message}")


def from_json(raw: bytes) -> dict[str, dict[int, bytes]]:
    """Return the registers by bank.

    Read are `{"bank": "sha256", "pcrs": {"0": hex}}` and `{"alg": "sha384", "rtmr": {"0": hex}}`
    (the hash may be left out: lengths tell it), `{"pcrs": {"sha1": {"0": hex}}}`,
    `{"sha256": {"0": hex}}` and `{"0": hex}`.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    if len(raw) > MAX_JSON:
        raise VerifierError(Reason.TOO_LARGE, f"registers: {len(raw)} bytes, limit {MAX_JSON}")
    try:
        told = strict_json(raw)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"not JSON: {error}") from error
    if not isinstance(told, dict) or not told:
        raise _malformed("an object with registers expected")
    named = told.keys() & {"bank", "alg"}
    held = told.keys() & {"pcrs", "rtmr", "replayed"}
    if held:
        if len(held) != 1 or len(named) > 1 or told.keys() - held - named:
            raise _malformed("one of pcrs and rtmr, and its bank, expected")
        values = told[held.pop()]
        told = {_bank(told[named.pop()]): values} if named else values
    return _banks(told)


def _bank(name: object) -> str:
    if not isinstance(name, str) or name not in SIZES:
        raise _malformed(f"bank {name!r} is not known")
    return name


def _banks(told: object) -> dict[str, dict[int, bytes]]:
    if not isinstance(told, dict) or not told:
        raise _malformed("an object with registers expected")
    if all(isinstance(value, str) for value in told.values()):
        sizes = {len(value) for value in told.values()}
        bank = _BY_SIZE.get(sizes.pop()) if len(sizes) == 1 else None
        if bank is None:
            raise _malformed("digests of one hash expected")
        told = {bank: told}
    return {_bank(name): registers(name, values) for name, values in told.items()}


def registers(bank: str, values: object) -> dict[int, bytes]:
    """Return the registers of one bank: an object by index, or a list from index 0; digests in hex.

    Raises:
        VerifierError: `malformed`.
    """
    if isinstance(values, list):
        values = {str(index): value for index, value in enumerate(values)}
    if not isinstance(values, dict) or not values:
        raise _malformed(f"{bank}: an object expected")
    found: dict[int, bytes] = {}
    for key, text in values.items():
        if key not in _INDICES:
            raise _malformed(f"{bank}: index {key!r}")
        value = hexdecode(text.lower()) if isinstance(text, str) else b""
        if len(value) != SIZES[bank]:
            raise _malformed(f"{bank}: {key}: {SIZES[bank]} bytes of hex expected")
        found[int(key)] = value
    return found


_INDICES: Final = frozenset(map(str, range(MAX_PCR + 1)))
