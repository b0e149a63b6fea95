"""What a broker asks in room 3 about GPUs and switches: its store, then NVIDIA's services.

Guarantees: as `gpus.gather`; of devices that are not genuine nobody is told and nothing is fetched,
so a stranger cannot have arbitrary things asked for. Does not judge the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, final

from verifier.collateral.gpus import Chain, FoundGpus, gather
from verifier.collateral.sources import Stored
from verifier.errors import VerifierError
from verifier.nvgpu import needs
from verifier.nvgpu.device import DeviceEvidence
from verifier.nvgpu.needs import Needs


class GpuCollateral(Protocol):
    """Where a broker gets the endorsements of GPUs and switches from."""

    async def find(self, devices: Sequence[DeviceEvidence], *, revocation: bool) -> FoundGpus:
        """Return the endorsements of these devices, as far as anybody has them.

        Args:
            devices: not judged yet.
            revocation: whether to ask if certificates are revoked.

        Raises:
            VerifierError: `collateral_unavailable`, `collateral_expired`.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class StoredGpus:
    """`GpuCollateral` from a store, which NVIDIA's services fill as far as there are any."""

    stored: Stored

    async def find(self, devices: Sequence[DeviceEvidence], *, revocation: bool) -> FoundGpus:
        """Return the endorsements of the genuine ones of these devices.

        Raises:
            VerifierError: as `GpuCollateral.find`.
        """
        stored, ids, chains = self.stored, dict[str, None](), list[Chain]()
        for each in devices:
            # One that is not genuine has no needs; the appraisal refuses it by name.
            with suppress(VerifierError):
                told = needs.read(
                    (each,), now=stored.clock(), anchors=stored.anchors, cache=stored.cache
                )
                ids |= dict.fromkeys(told.rim_ids)
                chains += told.chains
        return await gather(stored, Needs(tuple(ids), tuple(chains)), revocation=revocation)
