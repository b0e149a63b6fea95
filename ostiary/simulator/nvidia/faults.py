"""Devices and sets that lie or are broken, one fault each, for demo and tests.

Guarantees: a fault changes what it names and nothing else; what a device says wrongly it signs
correctly, except where the fault is the signature. The honest simulator never imports this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.devices import Device, DeviceSet
from ostiary.simulator.nvidia.report import Block, Field


def with_field(device: Device, kind: int, data: bytes | None) -> Device:
    """Return the device with another opaque field, or without it; a new one comes last."""
    kept = [field for field in device.fields if field.type != kind]
    if data is None:
        return replace(device, fields=tuple(kept))
    new = Field(kind, data)
    if len(kept) == len(device.fields):
        return replace(device, fields=(*kept, new))
    fields = tuple(new if field.type == kind else field for field in device.fields)
    return replace(device, fields=fields)


def bad_measurement(device: Device, index: int, value: bytes = bytes([0xBA]) * 48) -> Device:
    """Return the device with another value at a RIM index (from 0): other firmware ran."""
    blocks = tuple(
        Block(block.index, value) if block.index == index + 1 else block for block in device.blocks
    )
    return replace(device, blocks=blocks)


def bad_signature(device: Device) -> Device:
    """Return the device with the last bit of every signature flipped."""
    return replace(device, damage=lambda report: report[:-1] + bytes([report[-1] ^ 1]))


def trailing_byte(device: Device) -> Device:
    """Return the device whose report has a byte too many, as one careless collector's had."""
    return replace(device, damage=lambda report: report + b"\0")


def stale(device: Device, nonce: bytes) -> Device:
    """Return the device that answers every nonce with a report for this one."""
    old = device.report(nonce)
    return replace(device, damage=lambda _: old)


def other_firmware_id(device: Device) -> Device:
    """Return the device whose report names other firmware than its certificate."""
    return with_field(device, devices.FWID, bytes(48))


def unlocked(switch: Device) -> Device:
    """Return the switch without its lock."""
    return with_field(switch, devices.LOCK_STATUS, bytes(2))


def open_at_gpu(device: Device, stranger: bytes) -> Device:
    """Return the GPU with a link to a switch (PDI) that is not of the set."""
    links = next(field.data for field in device.fields if field.type == devices.DEVICE_PDI)
    return with_field(device, devices.DEVICE_PDI, stranger[::-1] + links[len(stranger) :])


def open_at_switch(switch: Device, stranger: bytes) -> Device:
    """Return the switch with a port to a GPU (PDI) that is not of the set."""
    ports = next(field.data for field in switch.fields if field.type == devices.SWITCH_GPU_PDIS)
    return with_field(switch, devices.SWITCH_GPU_PDIS, stranger + ports[len(stranger) :])


def at_gpu(whole: DeviceSet, number: int, fault: Callable[[Device], Device]) -> DeviceSet:
    """Return the set with one GPU bent."""
    return replace(whole, gpus=_at(whole.gpus, number, fault))


def at_switch(whole: DeviceSet, number: int, fault: Callable[[Device], Device]) -> DeviceSet:
    """Return the set with one switch bent."""
    return replace(whole, switches=_at(whole.switches, number, fault))


def _at(
    all_of: Sequence[Device], number: int, fault: Callable[[Device], Device]
) -> tuple[Device, ...]:
    return tuple(fault(each) if at == number else each for at, each in enumerate(all_of))
