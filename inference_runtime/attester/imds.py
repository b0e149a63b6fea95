"""Azure's metadata service, which turns a TDREPORT into a TD quote.

Guarantees: the quote that comes back carries the TDREPORT's report data. Believes nothing else: the
service is the host's, and the verifier judges the quote. Plain HTTP to a link-local address, past
any proxy: there is nothing secret in a TDREPORT.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import httpx
import msgspec

from inference_runtime.attester.answer import MAX_CPU, check_evidence
from inference_runtime.attester.errors import AttesterError, DeviceFault

QUOTE_URL: Final = "http://169.254.169.254/acc/tdquote"
TIMEOUT_S: Final = 30.0
"""Seconds for the whole answer's parts each."""
TDREPORT_SIZE: Final = 1024
REPORT_DATA: Final = slice(128, 192)
"""REPORTDATA in REPORTMACSTRUCT, the first part of a TDREPORT (TDX module ABI)."""
_MAX_ANSWER: Final = 2 * MAX_CPU
_WHERE: Final = "Azure's metadata service (169.254.169.254)"


class _Answer(msgspec.Struct):
    quote: str


def td_quote(tdreport: bytes, *, transport: httpx.BaseTransport | None = None) -> bytes:
    """Return the TD quote of a TDREPORT (1,024 bytes).

    Args:
        tdreport: as the HCL report has it.
        transport: instead of the network.

    Raises:
        AttesterError: no quote, with what to do.
    """
    asked = {"report": base64.urlsafe_b64encode(tdreport).rstrip(b"=").decode()}
    try:
        with httpx.Client(timeout=TIMEOUT_S, transport=transport, trust_env=False) as client:
            raw = _ask(client, asked)
    except httpx.TransportError as error:
        raise AttesterError(
            DeviceFault.ABSENT,
            f"{_WHERE} cannot be reached ({type(error).__name__}): it quotes for TDX machines in "
            "Azure; let the machine's firewall pass port 80 to it, and use no proxy for it",
        ) from error
    try:
        text = msgspec.json.decode(raw, type=_Answer).quote
        quote = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (msgspec.MsgspecError, UnicodeError, binascii.Error, ValueError) as error:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"{_WHERE} answered with no quote in JSON"
        ) from error
    check_evidence("tdx", quote, tdreport[REPORT_DATA])
    return quote


def _ask(client: httpx.Client, asked: dict[str, str]) -> bytes:
    with client.stream("POST", QUOTE_URL, json=asked) as answer:
        if answer.status_code != httpx.codes.OK:
            raise AttesterError(
                DeviceFault.FAILED,
                f"{_WHERE} answered {answer.status_code} to {QUOTE_URL}: is this a TDX machine in "
                "Azure (sizes DCesv5, ECesv5 and later)? If so, try again in a minute",
            )
        data = bytearray()
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > _MAX_ANSWER:
                raise AttesterError(DeviceFault.ANSWER_INVALID, f"{_WHERE} sent too much")
        return bytes(data)
