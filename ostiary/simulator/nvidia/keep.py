"""Keeps a machine's GPUs and switches in a folder, so that a reboot is the same devices.

Guarantees: as `ostiary.simulator.store`. A device whose firmware changed between two starts keeps
its PDI and boot ROM key and gets a new attestation key, as a real one does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.simulator import store
from ostiary.simulator.nvidia import devices, firmware
from ostiary.simulator.nvidia.devices import DeviceSet, Mode
from ostiary.simulator.nvidia.identity import Chip, Identity
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.store import SimulatorError

_HEAD = "gpus.json"


def open_set(
    vendor: FakeNvidia,
    folder: Path | None,
    count: int,
    mode: Mode | None = None,
    driver: str = devices.DRIVER,
) -> DeviceSet:
    """Return the devices kept in `folder`, or new ones, which are then kept there.

    Args:
        vendor: who made them.
        folder: None keeps nothing.
        count: GPUs.
        mode: as for `devices.device_set`.
        driver: version that they run now.

    Raises:
        SimulatorError: the folder holds devices of another vendor or number, or cannot be used.
    """
    if folder is None or not (folder / _HEAD).exists():
        made = devices.device_set(vendor, count, mode, driver=driver)
        if folder is not None:
            save(made, folder)
        return made
    kept = []
    for identity in load(folder):
        if identity.chain[-1] != vendor.certificates["device_root"]:
            raise SimulatorError(f"{folder} holds GPUs of another vendor")
        kept.append(_updated(vendor, identity, driver))
    return devices.device_set(vendor, count, mode, driver=driver, identities=kept)


def _updated(vendor: FakeNvidia, kept: Identity, driver: str) -> Identity:
    wanted = firmware.fwid(kept.chip, driver)
    if kept.chip != "GH100" or kept.fwid == wanted:
        return kept
    return vendor.device(kept.chip, wanted, pdi=kept.pdi, brom_key=kept.brom_key)


def save(whole: DeviceSet, folder: Path) -> None:
    """Write the devices' keys (0600) and chains into a folder that holds none.

    Raises:
        SimulatorError: it cannot be written, or devices are there already.
    """
    store.make_folder(folder)
    heads = []
    for number, device in enumerate(whole.devices):
        identity = device.identity
        store.write_key(folder / f"{number}.brom.key.pem", identity.brom_key)
        store.write_key(folder / f"{number}.key.pem", identity.key)
        store.write_new(folder / f"{number}.chain.pem", identity.chain_pem)
        heads.append(
            {"chip": identity.chip, "pdi": identity.pdi.hex(), "fwid": identity.fwid.hex()}
        )
    # Written last: a folder without it is half a machine.
    store.write_new(folder / _HEAD, json.dumps(heads).encode())


def load(folder: Path) -> list[Identity]:
    """Return the devices that `save` left, in order.

    Raises:
        SimulatorError: a file is missing or not what was saved.
    """
    path = folder / _HEAD
    try:
        heads = json.loads(store.read(path))
        return [_identity(folder, number, head) for number, head in enumerate(heads)]
    except (ValueError, KeyError, TypeError) as error:
        raise SimulatorError(f"{path} is not what saved GPUs have") from error


def _identity(folder: Path, number: int, head: dict[str, Any]) -> Identity:
    chips: dict[str, Chip] = {"GH100": "GH100", "LS10": "LS10"}
    chain = x509.load_pem_x509_certificates(store.read(folder / f"{number}.chain.pem"))
    return Identity(
        chip=chips[head["chip"]],
        pdi=bytes.fromhex(head["pdi"]),
        fwid=bytes.fromhex(head["fwid"]),
        brom_key=store.read_ec_key(folder / f"{number}.brom.key.pem"),
        key=store.read_ec_key(folder / f"{number}.key.pem"),
        chain=tuple(each.public_bytes(Encoding.DER) for each in chain),
    )
