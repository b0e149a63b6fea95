"""Vendor roots that evidence may chain to: Intel, AMD, makers of vTPMs; SHA-256 of the DER.

NVIDIA's are pinned by key, SHA-256 of the SPKI: its device root was issued again with the same key.

Guarantees: the default is the real vendors' roots and nothing else. A simulator's roots exist only
in an `Anchors` that some process setting with a frightening name built with `with_simulated`; any
result that rests on one says `simulated`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, final

INTEL_SGX_ROOT: Final = bytes.fromhex(
    "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
)
"""SHA-256 of Intel's "SGX Root CA" certificate (DER)."""

AMD_ARK: Final[Mapping[str, bytes]] = {
    "Milan": bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    "Genoa": bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    "Turin": bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
}
"""SHA-256 of AMD's root key certificate (DER) by product name."""

TPM_AK_ROOTS: Final[Mapping[str, frozenset[bytes]]] = {
    "azure": frozenset(
        {
            bytes.fromhex("e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95"),
            bytes.fromhex("8c2bb9144d4970c94fb8105cc5d860a58e2e675eb360fdd8c14b30833aaaec1d"),
        }
    ),
    "gce": frozenset(
        {
            bytes.fromhex("9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf"),
            bytes.fromhex("594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"),
        }
    ),
}
"""SHA-256 of the roots (DER) above the attestation keys of virtual TPMs, by their maker: Azure
Virtual TPM Root 2023 and Microsoft RSA Devices Root 2021; Google's tpm_ek_root_1 and EK/AK CA."""

NVIDIA_DEVICE_ROOT: Final = bytes.fromhex(
    "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
)
"""SHA-256 of the SPKI of "NVIDIA Device Identity CA"."""

NVIDIA_RIM_ROOT: Final = bytes.fromhex(
    "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"
)
"""SHA-256 of the SPKI of "NVIDIA CoRIM signing Root CA"."""


@final
@dataclass(frozen=True, slots=True)
class Anchors:
    """The roots that one process trusts. Build simulated ones with `with_simulated` only."""

    intel: frozenset[bytes] = frozenset({INTEL_SGX_ROOT})
    amd: Mapping[str, frozenset[bytes]] = field(
        default_factory=lambda: {product: frozenset({pin}) for product, pin in AMD_ARK.items()}
    )
    tpm: Mapping[str, frozenset[bytes]] = field(default_factory=lambda: dict(TPM_AK_ROOTS))
    nvidia_device: frozenset[bytes] = frozenset({NVIDIA_DEVICE_ROOT})
    nvidia_rim: frozenset[bytes] = frozenset({NVIDIA_RIM_ROOT})
    simulated: frozenset[bytes] = frozenset()

    def is_simulated(self, root_sha256: bytes) -> bool:
        """Tell whether a root that was accepted belongs to a simulator."""
        return root_sha256 in self.simulated

    def with_simulated(
        self,
        *,
        intel: Iterable[bytes] = (),
        amd: Mapping[str, bytes] | None = None,
        tpm: Iterable[bytes] = (),
        nvidia_device: Iterable[bytes] = (),
        nvidia_rim: Iterable[bytes] = (),
    ) -> Anchors:
        """Return anchors that also trust these simulator roots, marked as such.

        Pins are SHA-256 of the DER; of the SPKI for NVIDIA's.
        """
        extra_device, extra_rim = frozenset(nvidia_device), frozenset(nvidia_rim)
        extra_intel = frozenset(intel)
        extra_amd = dict(amd or {})
        extra_tpm = frozenset(tpm)
        products = {
            product: pins | ({extra_amd[product]} if product in extra_amd else set())
            for product, pins in self.amd.items()
        }
        return replace(
            self,
            intel=self.intel | extra_intel,
            amd=products,
            tpm={**self.tpm, "simulated": extra_tpm} if extra_tpm else self.tpm,
            nvidia_device=self.nvidia_device | extra_device,
            nvidia_rim=self.nvidia_rim | extra_rim,
            simulated=self.simulated
            | extra_intel
            | frozenset(extra_amd.values())
            | extra_tpm
            | extra_device
            | extra_rim,
        )


PINNED: Final = Anchors()
"""The real vendors' roots, and only those."""
