"""What endorsements a set of devices needs, so that they can be fetched before it is appraised.

Guarantees: names come only from devices that are genuine, so that nobody can have arbitrary things
fetched. Judges nothing: `appraise` does, from the same evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from cryptography import x509 as certificates

from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.nvgpu import device
from verifier.nvgpu.device import DeviceEvidence
from verifier.result import Appraisal


@final
@dataclass(frozen=True, slots=True)
class Needs:
    """RIMs by the ids of NVIDIA's service, each once; chains from BROM up to the root."""

    rim_ids: tuple[str, ...]
    chains: tuple[tuple[certificates.Certificate, ...], ...]


def read(
    devices: Sequence[DeviceEvidence], *, now: int, anchors: Anchors, cache: Cache | None = None
) -> Needs:
    """Return what these devices need.

    Args:
        devices: in any order.
        now: unix seconds.
        anchors: the pinned roots.
        cache: of certificate chains.

    Raises:
        VerifierError: a device is not genuine, or does not tell which RIMs are its own.
    """
    ids: dict[str, None] = {}
    chains = []
    for each in devices:
        found = device.verify(Appraisal("nvidia"), each, now=now, anchors=anchors, cache=cache)
        chip = found.chain.identity.chip
        ids |= dict.fromkeys(device.rim_ids(chip, found.opaque).values())
        chains.append(found.chain.certificates[1:])
    return Needs(tuple(ids), tuple(chains))
