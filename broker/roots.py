"""The vendor roots that this broker trusts: the pinned ones, and a simulator's if it must.

Guarantees: a simulator's roots come from one file that the settings name, which production settings
refuse (`settings.py`); never from policy, database or collateral.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import msgspec

from broker.errors import BrokerError, Code
from broker.settings import Settings
from verifier.anchors import PINNED, Anchors


@final
class SimulatedRoots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SHA-256 (hex) of the simulator's roots, as `ostiary simulator init` writes them.

    Of the certificate (DER), but NVIDIA's: of the key (SPKI).
    """

    intel: tuple[str, ...] = ()
    amd: dict[str, str] = {}
    tpm: tuple[str, ...] = ()
    nvidia_device: tuple[str, ...] = ()
    nvidia_rim: tuple[str, ...] = ()


def load(settings: Settings, home: Path) -> Anchors:
    """Return the anchors for these settings.

    Raises:
        BrokerError: `settings_invalid`.
    """
    if not settings.simulated:
        return PINNED
    return read_roots(home / settings.simulated_roots)


def read_roots(path: Path) -> Anchors:
    """Return the real roots and a simulator's, from its file.

    Raises:
        BrokerError: `settings_invalid`.
    """
    try:
        roots = msgspec.json.decode(path.read_bytes(), type=SimulatedRoots)
        return PINNED.with_simulated(
            intel=[bytes.fromhex(text) for text in roots.intel],
            amd={product: bytes.fromhex(text) for product, text in roots.amd.items()},
            tpm=[bytes.fromhex(text) for text in roots.tpm],
            nvidia_device=[bytes.fromhex(text) for text in roots.nvidia_device],
            nvidia_rim=[bytes.fromhex(text) for text in roots.nvidia_rim],
        )
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise BrokerError(Code.SETTINGS_INVALID, f"{path}: not a file of roots: {error}") from error
