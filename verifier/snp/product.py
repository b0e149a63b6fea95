"""AMD product generations: which chip a report speaks of, and how that chip lays out its TCB.

Guarantees: a product is known only if AMD's root for it can be pinned (Milan, Genoa, Turin); any
other CPUID or name is refused, never guessed. Does not look at signatures.

Source: AMD 56860 TCB_VERSION, AMD 57230 (VCEK certificate fields), CPUID family and model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from verifier.errors import Reason, VerifierError

TCB_SIZE: Final = 8
CHIP_ID_SIZE: Final = 64


@final
@dataclass(frozen=True, slots=True)
class Generation:
    """One product as AMD's key server names it.

    `tcb_parts` maps a part's name to its byte in TCB_VERSION; other bytes are spare. `hwid_size`
    is the number of leading CHIP_ID bytes that carry the identity; the rest is zero.
    """

    product: str
    tcb_parts: Mapping[str, int]
    hwid_size: int

    def decode_tcb(self, raw: bytes, what: str) -> dict[str, int]:
        """Return the parts of one TCB_VERSION (8 bytes), named, in the manual's order.

        Raises:
            VerifierError: `malformed` if a spare byte is not zero, as when one generation's TCB is
                read with another's layout.
        """
        parts = {name: raw[index] for name, index in self.tcb_parts.items()}
        if any(raw[index] for index in range(TCB_SIZE) if index not in self.tcb_parts.values()):
            raise VerifierError(
                Reason.MALFORMED, f"{what} {raw.hex()}: spare bytes are not zero on {self.product}"
            )
        return parts


_EARLY_TCB: Final = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
MILAN: Final = Generation("Milan", _EARLY_TCB, CHIP_ID_SIZE)
GENOA: Final = Generation("Genoa", _EARLY_TCB, CHIP_ID_SIZE)
TURIN: Final = Generation(
    "Turin", {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}, 8
)

_BY_NAME: Final = {generation.product: generation for generation in (MILAN, GENOA, TURIN)}

_MODELS: Final = (
    # Family, models from and to. Bergamo and Siena (0xA0-0xAF) go by Genoa's name and keys.
    (0x19, 0x00, 0x0F, MILAN),
    (0x19, 0x10, 0x1F, GENOA),
    (0x19, 0xA0, 0xAF, GENOA),
    (0x1A, 0x00, 0x11, TURIN),
)

_PRODUCT_NAME: Final = re.compile(r"([A-Z][a-z]+)(?:-[A-Z][0-9])?")
"""A product name as certificates carry it: `Genoa`, or with its stepping, `Milan-B0`."""


def from_cpuid(family: int, model: int) -> Generation:
    """Return the generation of a CPUID family and model (both with their extended parts added).

    Raises:
        VerifierError: `product_mismatch` if no product with a pinned root has them.
    """
    for wanted, first, last, generation in _MODELS:
        if family == wanted and first <= model <= last:
            return generation
    raise VerifierError(
        Reason.PRODUCT_MISMATCH,
        f"report: CPUID family {family:#x} model {model:#x} is no product with a pinned root",
    )


def from_name(name: str) -> Generation:
    """Return the generation of a certificate's product name, with or without its stepping.

    Raises:
        VerifierError: `product_mismatch` if no product with a pinned root has that name.
    """
    match = _PRODUCT_NAME.fullmatch(name)
    generation = None if match is None else _BY_NAME.get(match[1])
    if generation is None:
        raise VerifierError(
            Reason.PRODUCT_MISMATCH, f"VEK: {name!r} is no product with a pinned root"
        )
    return generation
