"""Simulated GPUs and NVSwitches, alone or as the set of one machine.

Guarantees: a device's report has the blocks and opaque fields of the real one, in its order, for
any nonce; a protected-PCIe set names its members both ways, as the real eight and four do. Faults
are explicit: `faults.py` bends one device, nothing else ever lies.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from ostiary.simulator.nvidia import firmware
from ostiary.simulator.nvidia.identity import Chip, Identity
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.report import Block, Field, Report
from ostiary.simulator.store import SimulatorError

Mode = Literal["spt", "mpt", "ppcie"]
MODES: Final[tuple[Mode, ...]] = ("spt", "mpt", "ppcie")
COUNTS: Final = (1, 2, 4, 8)
DRIVER: Final = "590.12"
VBIOS: Final = "96.00.A5.00.01"
SWITCH_BIOS: Final = "96.10.73.00.01"
PPCIE_GPUS: Final = 8
PPCIE_SWITCHES: Final = 4
NONCE_SIZE: Final = 32

# Opaque field types, by the names of NVIDIA's own tools.
DRIVER_VERSION: Final = 3
GPU_INFO: Final = 4
VBIOS_VERSION: Final = 6
NVDEC0_STATUS: Final = 11
MSRSCNT: Final = 12
CPRINFO: Final = 13
BOARD_ID: Final = 14
CHIP_SKU: Final = 15
CHIP_SKU_MOD: Final = 16
PROJECT: Final = 17
PROJECT_SKU: Final = 18
PROJECT_SKU_MOD: Final = 19
FWID: Final = 20
PROTECTED_PCIE_STATUS: Final = 21
DEVICE_PDI: Final = 22
"""A switch's own id; on a GPU, the ids of the switches at its links, byte-reversed."""
DISABLED_PORTS: Final = 23
POSITION_ID: Final = 24
LOCK_STATUS: Final = 25
SWITCH_GPU_PDIS: Final = 26
OPAQUE_DATA_VERSION: Final = 34
FEATURE_FLAG: Final = 36

BOARD: Final = ("G520", "0200", "885")
"""PROJECT, PROJECT_SKU and CHIP_SKU of the simulated board: parts of its VBIOS RIM's id."""
SWITCH_BOARD: Final = ("5612", "0002", "890")
_ON: Final = b"\xaa"
_OFF: Final = b"\x55"
_FLAGS: Final[dict[Mode, int]] = {"spt": 0, "mpt": 1, "ppcie": 2}
_FLAG_FROM: Final = 590
"""First driver branch whose reports carry the feature flag."""
_LINKS: Final = 18
"""NVLinks of a Hopper GPU."""
_PORT_MAP_SIZE: Final = 64


@final
@dataclass(frozen=True, slots=True, repr=False)
class Device:
    """One device. `kind` is 1 for a GPU and 2 for a switch, as on the wire."""

    kind: Literal[1, 2]
    identity: Identity
    driver: str
    """The driver's version; empty on a switch."""
    vbios: str
    blocks: tuple[Block, ...]
    fields: tuple[Field, ...]
    damage: Callable[[bytes], bytes] | None = None
    """What happens to a report after it was signed; None for nothing."""

    def said(self, nonce: bytes) -> Report:
        """Return what the device reports for a nonce."""
        return Report(nonce, secrets.token_bytes(NONCE_SIZE), self.blocks, self.fields)

    def report(self, nonce: bytes) -> bytes:
        """Return signed evidence for a nonce of 32 bytes.

        Raises:
            SimulatorError: the nonce has another size.
        """
        if len(nonce) != NONCE_SIZE:
            raise SimulatorError(f"a nonce of {len(nonce)} bytes, {NONCE_SIZE} expected")
        signed = self.said(nonce).sign(self.identity.key)
        return signed if self.damage is None else self.damage(signed)

    @property
    def chain(self) -> bytes:
        """The certificate chain as PEM, leaf first."""
        return self.identity.chain_pem


@final
@dataclass(frozen=True, slots=True, repr=False)
class DeviceSet:
    """The devices of one machine: GPUs, then switches."""

    mode: Mode
    gpus: tuple[Device, ...]
    switches: tuple[Device, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """All of them, in the order that evidence is sent in."""
        return self.gpus + self.switches


def vbios_field(version: str) -> bytes:
    """Return the 8 bytes by which a GPU names its VBIOS, for `96.00.A5.00.01`."""
    *first, last = (int(part, 16) for part in version.split("."))
    return bytes(reversed(first)) + bytes([last, 0, 0, 0])


def _text(text: str, size: int | None = None) -> bytes:
    return text.encode().ljust(len(text) + 1 if size is None else size, b"\0")


def _counters(blocks: Sequence[Block], count: int) -> bytes:
    """Return how often each register was extended: once where something was measured."""
    return b"".join(int(any(block.value)).to_bytes(4, "little") for block in blocks[:count])


def has_flag(driver: str) -> bool:
    """Tell whether reports of this driver carry the feature flag."""
    return int(driver.split(".", maxsplit=1)[0]) >= _FLAG_FROM


def gpu(
    identity: Identity,
    mode: Mode,
    *,
    driver: str = DRIVER,
    vbios: str = VBIOS,
    switches: Sequence[bytes] = (),
) -> Device:
    """Return a Hopper GPU that runs this firmware.

    Args:
        identity: its keys and chain.
        mode: how it shares its work; protected PCIe names its switches.
        driver: version.
        vbios: version, five hexadecimal bytes with dots.
        switches: PDIs of the switches that its links go to.
    """
    running: tuple[tuple[firmware.RimKind, str], ...] = (("driver", driver), ("vbios", vbios))
    blocks = firmware.measured(*running, blocks=firmware.BLOCKS["GH100"])
    project, project_sku, chip_sku = BOARD
    fields = [
        Field(VBIOS_VERSION, vbios_field(vbios)),
        Field(BOARD_ID, bytes.fromhex("37040000")),
        Field(CHIP_SKU, _text(chip_sku, 9)),
        Field(CHIP_SKU_MOD, _text("0", 5)),
        Field(PROJECT, _text(project)),
        Field(PROJECT_SKU, _text(project_sku)),
        Field(PROJECT_SKU_MOD, _text("", 2)),
        Field(DRIVER_VERSION, _text(driver)),
        Field(GPU_INFO, bytes.fromhex("8001000000000000")),
        Field(MSRSCNT, _counters(blocks, len(blocks))),
        Field(CPRINFO, bytes.fromhex("00c00100")),
        Field(NVDEC0_STATUS, _OFF),
        Field(FWID, identity.fwid),
        Field(PROTECTED_PCIE_STATUS, _ON if mode == "ppcie" else _OFF),
    ]
    if switches:
        links = (switches[link % len(switches)][::-1] for link in range(_LINKS))
        fields.append(Field(DEVICE_PDI, b"".join(links)))
    if has_flag(driver):
        fields.append(Field(OPAQUE_DATA_VERSION, b"\1\0"))
        fields.append(Field(FEATURE_FLAG, _FLAGS[mode].to_bytes(2, "little")))
    return Device(1, identity, driver, vbios, blocks, tuple(fields))


def switch(
    identity: Identity, gpus: Sequence[bytes], *, vbios: str = SWITCH_BIOS, position: int = 0
) -> Device:
    """Return an LS10 NVSwitch, locked, whose ports go to these GPUs (PDIs)."""
    blocks = firmware.measured(("switch", vbios), blocks=firmware.BLOCKS["LS10"])
    ports = bytes(number % len(gpus) for number in range(2 * len(gpus)))
    fields = (
        Field(VBIOS_VERSION, vbios.encode()),
        Field(DEVICE_PDI, identity.pdi),
        Field(MSRSCNT, _counters(blocks, 27)),
        Field(SWITCH_GPU_PDIS, b"".join(gpus) + ports.ljust(_PORT_MAP_SIZE, b"\xff")),
        Field(DISABLED_PORTS, b"\xec\0"),
        Field(POSITION_ID, position.to_bytes(2, "little")),
        Field(LOCK_STATUS, b"\1\0"),
    )
    return Device(2, identity, "", vbios, blocks, fields)


def device_set(
    vendor: FakeNvidia,
    count: int,
    mode: Mode | None = None,
    *,
    driver: str = DRIVER,
    vbios: str = VBIOS,
    switch_bios: str = SWITCH_BIOS,
    identities: Sequence[Identity] | None = None,
) -> DeviceSet:
    """Return the devices of one machine.

    Args:
        vendor: who made them.
        count: 1, 2, 4 or 8 GPUs; protected PCIe has eight, and four switches.
        mode: None for single mode with one GPU, else multi.
        driver: version.
        vbios: of the GPUs.
        switch_bios: of the switches.
        identities: GPUs, then switches, of an earlier start; None makes new ones.

    Raises:
        SimulatorError: no machine has these devices.
    """
    said: Mode = mode or ("spt" if count == 1 else "mpt")
    if count not in COUNTS or (said == "ppcie" and count != PPCIE_GPUS):
        raise SimulatorError(f"no simulated machine has {count} GPUs in mode {said}")
    if said == "mpt" and not has_flag(driver):
        raise SimulatorError(f"driver {driver} has no multi-GPU mode without switches")
    switches = PPCIE_SWITCHES if said == "ppcie" else 0
    if identities is None:
        identities = [make(vendor, "GH100", driver) for _ in range(count)]
        identities += [make(vendor, "LS10", switch_bios) for _ in range(switches)]
    if [each.chip for each in identities] != ["GH100"] * count + ["LS10"] * switches:
        raise SimulatorError("these are not the devices of such a machine")
    own, others = identities[:count], identities[count:]
    ports = [each.pdi for each in others]
    links = [each.pdi for each in own]
    return DeviceSet(
        said,
        tuple(gpu(each, said, driver=driver, vbios=vbios, switches=ports) for each in own),
        tuple(switch(e, links, vbios=switch_bios, position=i) for i, e in enumerate(others)),
    )


def make(vendor: FakeNvidia, chip: Chip, version: str) -> Identity:
    """Return a new device whose attestation key was born in this firmware."""
    return vendor.device(chip, firmware.fwid(chip, version))
