"""Which GPUs and switches an accepted result attests, and what a runtime may claim to use of them.

Guarantees: counts genuine, accepted devices only; a tensor parallel size beyond the attested GPUs
is a reason to refuse, and so are claims that cannot be read. Pure: reads nothing but its arguments.
Runtime claims count for as much as the image that makes them, which the policy pins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import msgspec

from verifier.nvgpu.identity import DeviceKind
from verifier.result import AttestationResult, Verdict
from verifier.wire import leaf
from verifier.wire.canonical import Hex


@final
@dataclass(frozen=True, slots=True)
class Attested:
    """The devices of one machine: how many GPUs, and the ids of GPUs and switches, sorted."""

    gpus: int = 0
    ids: tuple[bytes, ...] = ()

    @property
    def digest(self) -> Hex:
        """What a leaf names them by."""
        return leaf.of_devices(self.ids)


def attested(result: AttestationResult) -> Attested:
    """Return the devices that an accepted result is about."""
    devices = [
        each
        for each in result.claims.get("devices", ())
        if each["genuine"] and each["verdict"] == Verdict.ACCEPT.value
    ]
    return Attested(
        gpus=sum(each["kind"] == DeviceKind.GPU.name.lower() for each in devices),
        ids=tuple(sorted(bytes.fromhex(each["device_id"]) for each in devices)),
    )


@final
class Claims(msgspec.Struct, frozen=True):
    """What of a runtime's claims is judged here; others may stand beside it.

    `tensor_parallel_size` is into how many parts the engine splits each layer, `gpus` how many
    GPUs will hold the model: 0 for an engine on the processor. Without `gpus`, each part has one.
    """

    tensor_parallel_size: int | None = None
    gpus: int | None = None


def objections(raw: bytes, found: Attested) -> tuple[str, ...]:
    """Return what is wrong with runtime claims (JSON as sent; empty for none)."""
    if not raw:
        return ()
    try:
        claims = msgspec.json.decode(raw, type=Claims)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ("the runtime claims cannot be read",)
    size, gpus = claims.tensor_parallel_size, claims.gpus
    if (size is not None and size < 1) or (gpus is not None and gpus < 0):
        return ("the runtime claims an impossible number of GPUs or parts",)
    reasons = []
    if size is not None and gpus != 0 and size > found.gpus:
        reasons.append(f"tensor_parallel_size {size} claimed, {found.gpus} GPUs attested")
    if gpus is not None and gpus > found.gpus:
        reasons.append(f"{gpus} GPUs claimed, {found.gpus} attested")
    return tuple(reasons)
