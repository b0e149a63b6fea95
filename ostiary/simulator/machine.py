"""Launches a simulated machine: turns what it was started from into what the hardware would report.

Guarantees: equal content gives equal measurements, and any changed byte changes one. The formulas
are the simulator's own: a real TDX module measures pages and event logs, a real PSP measures the
launch image, and neither gives these numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, final

from ostiary.simulator.quote import TdBody
from ostiary.simulator.snp import SnpReport, report_for
from ostiary.simulator.store import SimulatorError

_DOMAIN: Final = b"ostiary/simulated-measurement/v1"
PARTS: Final = ("firmware", "config", "kernel", "image")
"""Named content: firmware is measured into MRTD, the others into RTMR 0, 1 and 2."""
DEMO_IMAGE: Final[Mapping[str, bytes]] = MappingProxyType(
    {part: f"ostiary demo image: {part}".encode() for part in PARTS}
)
"""The image that demo and tests launch."""
_MR_CONFIG_ID_SIZE: Final = 48
_HOST_DATA_SIZE: Final = 32


@final
@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a machine is started from: named content, and the configuration that is measured.

    `config` is MRCONFIGID (48 bytes) for TDX, HOST_DATA (32 bytes) for SNP. `debug` launches a
    machine whose host may read its memory; its evidence says so.
    """

    config: bytes
    image: Mapping[str, bytes] = field(default_factory=lambda: DEMO_IMAGE)
    debug: bool = False

    def digest(self, part: str) -> bytes:
        """Return SHA-384 of one named part, under the simulator's own domain.

        Raises:
            SimulatorError: the image has no such part, or parts that nothing measures.
        """
        if self.image.keys() != set(PARTS):
            raise SimulatorError(f"an image has exactly the parts {', '.join(PARTS)}")
        message = _DOMAIN + b"\x00" + part.encode() + b"\x00" + self.image[part]
        return hashlib.sha384(message).digest()


def extend(register: bytes, digest: bytes) -> bytes:
    """Return a 48-byte register after one extend (TDX module ABI, TDG.MR.RTMR.EXTEND)."""
    return hashlib.sha384(register + digest).digest()


def launch_td(request: LaunchRequest) -> TdBody:
    """Return the TD body of a machine launched so; its report data is still zero.

    Raises:
        SimulatorError: MRCONFIGID is not 48 bytes, or the image has other parts.
    """
    if len(request.config) != _MR_CONFIG_ID_SIZE:
        raise SimulatorError(f"MRCONFIGID has {_MR_CONFIG_ID_SIZE} bytes")
    blank = TdBody()
    attributes = blank.td_attributes
    if request.debug:
        attributes = bytes([attributes[0] | 1]) + attributes[1:]
    return TdBody(
        td_attributes=attributes,
        mr_td=request.digest("firmware"),
        mr_config_id=request.config,
        rtmr0=extend(blank.rtmr0, request.digest("config")),
        rtmr1=extend(blank.rtmr1, request.digest("kernel")),
        rtmr2=extend(blank.rtmr2, request.digest("image")),
    )


def launch_snp(request: LaunchRequest, product: str = "Genoa") -> SnpReport:
    """Return the report fields of an SNP guest launched so; its report data is still zero.

    Raises:
        SimulatorError: HOST_DATA is not 32 bytes, or the image has other parts.
    """
    if len(request.config) != _HOST_DATA_SIZE:
        raise SimulatorError(f"HOST_DATA has {_HOST_DATA_SIZE} bytes")
    measurement = bytes(48)
    for part in PARTS:
        measurement = extend(measurement, request.digest(part))
    return report_for(
        product, measurement=measurement, host_data=request.config, debug=request.debug
    )
