"""GPU evidence as files have it: the JSON list that nvattest writes and that NRAS is sent.

    [{"arch": "HOPPER", "nonce": "<hex>", "evidence": "<base64>", "certificate": "<base64 of PEM>"}]

Guarantees: what is returned are the bytes of reports and chains as they came. `arch` only tells a
switch from a GPU here, and the certificates say that again.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from verifier.errors import Reason, VerifierError
from verifier.nvgpu.device import DeviceEvidence
from verifier.nvgpu.identity import DeviceKind

MAX_FILE: Final = 4 * 1024 * 1024
MAX_DEVICES: Final = 64
_SWITCHES: Final = frozenset({"LS10"})


def read(raw: bytes, what: str) -> tuple[DeviceEvidence, ...]:
    """Return the devices in a file, in its order.

    Raises:
        VerifierError: `malformed`, `too_large`.
    """
    if len(raw) > MAX_FILE:
        raise VerifierError(Reason.TOO_LARGE, f"{what}: {len(raw)} bytes, at most {MAX_FILE}")
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"{what}: not JSON: {error}") from error
    each = found.get("evidences", found) if isinstance(found, dict) else found
    if not isinstance(each, list) or not 1 <= len(each) <= MAX_DEVICES:
        raise VerifierError(Reason.MALFORMED, f"{what}: a list of 1 to {MAX_DEVICES} devices")
    return tuple(_device(entry, f"{what}: device {place}") for place, entry in enumerate(each))


def _device(entry: object, what: str) -> DeviceEvidence:
    if not isinstance(entry, dict):
        raise VerifierError(Reason.MALFORMED, f"{what}: an object expected")
    arch = entry.get("arch")
    if not isinstance(arch, str):
        raise VerifierError(Reason.MALFORMED, f"{what}: arch: a string expected")
    kind = DeviceKind.SWITCH if arch.upper() in _SWITCHES else DeviceKind.GPU
    return DeviceEvidence(kind, _bytes(entry, "evidence", what), _bytes(entry, "certificate", what))


def _bytes(entry: dict[str, Any], member: str, what: str) -> bytes:
    value = entry.get(member)
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, f"{what}: {member}: {error}") from error
