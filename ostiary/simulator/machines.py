"""A simulated machine: fixed at launch, it gives evidence for any 64 bytes and for nothing else.

Guarantees: the body or report that was launched never changes afterwards; only report data does.
A machine's chip (its keys and certificates) can be kept in a folder, so that a reboot is the same
platform with the same PPID or CHIP_ID.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, final

from ostiary.simulator import store
from ostiary.simulator.amd import Chip, report_of
from ostiary.simulator.pck import Platform, SgxExtension
from ostiary.simulator.quote import TdBody, quote_v4, quote_v5
from ostiary.simulator.snp import SnpReport, Tcb, require_product
from ostiary.simulator.store import SimulatorError
from verifier.wire.messages import Vtpm

Kind = Literal["tdx", "snp", "azure-tdx", "azure-snp", "gcp-tdx", "gcp-snp"]
_CHAIN: Final = ("leaf", "intermediate", "root")
_VCEK: Final = "63da758d-e664-4564-adc5-f4b93be8accd"
_VLEK: Final = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
_ASK: Final = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
_ARK: Final = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
_TABLE_ROW: Final = 24


class Machine(Protocol):
    """What the report device of a simulated machine needs."""

    @property
    def kind(self) -> Kind:
        """The kind of evidence."""
        ...

    @property
    def ak(self) -> bytes:
        """The vTPM's public key (SPKI, DER); empty without one."""
        ...

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return evidence bound to 64 bytes, event log, auxiliary blob."""
        ...

    def vtpm(self, report_data: bytes) -> Vtpm | None:
        """Return what the vTPM says for the same 64 bytes; None without one."""
        ...

    def claims(self) -> tuple[bytes, bytes]:
        """Return the launch configuration, and the body or report with zero report data."""
        ...


@final
@dataclass(frozen=True, slots=True, repr=False)
class TdxMachine:
    """A running TD. `version` is that of its quotes: 4, or 5 with a TD 1.5 body."""

    platform: Platform
    body: TdBody
    version: Literal[4, 5] = 4

    @property
    def kind(self) -> Kind:
        """The kind of evidence."""
        return "tdx"

    @property
    def ak(self) -> bytes:
        """Nothing: there is no TPM."""
        return b""

    def vtpm(self, report_data: bytes) -> Vtpm | None:  # noqa: ARG002 - as every machine has it
        """Return nothing: there is no TPM."""
        return None

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return a quote, and no event log or auxiliary blob."""
        body = replace(self.body, report_data=report_data)
        make = quote_v4 if self.version == 4 else quote_v5  # noqa: PLR2004 - quote versions
        return make(self.platform, body), b"", b""

    def claims(self) -> tuple[bytes, bytes]:
        """Return MRCONFIGID and the TD body."""
        body = replace(self.body, report_data=bytes(64))
        return body.mr_config_id, body.td10() if self.version == 4 else body.td15()  # noqa: PLR2004


@final
@dataclass(frozen=True, slots=True, repr=False)
class SnpMachine:
    """A running SNP guest on a chip."""

    chip: Chip
    launched: SnpReport

    @property
    def kind(self) -> Kind:
        """The kind of evidence."""
        return "snp"

    @property
    def ak(self) -> bytes:
        """Nothing: there is no TPM."""
        return b""

    def vtpm(self, report_data: bytes) -> Vtpm | None:  # noqa: ARG002 - as every machine has it
        """Return nothing: there is no TPM."""
        return None

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:
        """Return a report and the host's certificate table."""
        fields = report_of(self.chip, self.launched, report_data=report_data)
        return self.chip.sign(fields), b"", certificate_table(self.chip)

    def claims(self) -> tuple[bytes, bytes]:
        """Return HOST_DATA and the unsigned report."""
        fields = report_of(self.chip, self.launched, report_data=bytes(64))
        return fields.host_data, fields.encode()


def certificate_table(chip: Chip) -> bytes:
    """Return the chip's chain as the host hands it to the guest (GHCB, SNP extended guest request).

    Rows of GUID, offset u32, length u32, little-endian, ended by a zero row; then the certificates.
    """
    guids = (_VLEK if chip.vlek else _VCEK, _ASK, _ARK)
    offset = _TABLE_ROW * (len(guids) + 1)
    rows = b""
    for guid, certificate in zip(guids, chip.chain, strict=True):
        size = len(certificate)
        rows += uuid.UUID(guid).bytes + offset.to_bytes(4, "little") + size.to_bytes(4, "little")
        offset += size
    return rows + bytes(_TABLE_ROW) + b"".join(chip.chain)


def save_platform(platform: Platform, folder: Path) -> None:
    """Write an Intel machine's keys (0600) and chain into a folder that holds none.

    Raises:
        SimulatorError: it cannot be written, or a machine is there already.
    """
    store.make_folder(folder)
    sgx = platform.sgx
    head = {
        "ppid": sgx.ppid.hex(),
        "components": sgx.components,
        "pcesvn": sgx.pcesvn,
        "fmspc": sgx.fmspc.hex(),
        "pceid": sgx.pceid.hex(),
    }
    store.write_key(folder / "pck.key.pem", platform.pck_key)
    store.write_key(folder / "attestation.key.pem", platform.attestation_key)
    _save_chain(platform.chain, head, folder)


def load_platform(folder: Path) -> Platform:
    """Return the Intel machine that `save_platform` left.

    Raises:
        SimulatorError: a file is missing or not what was saved.
    """
    head = _head(folder)
    try:
        sgx = SgxExtension(
            ppid=bytes.fromhex(head["ppid"]),
            components=tuple(head["components"]),
            pcesvn=head["pcesvn"],
            fmspc=bytes.fromhex(head["fmspc"]),
            pceid=bytes.fromhex(head["pceid"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SimulatorError(f"{folder} does not hold an Intel machine") from error
    return Platform(
        sgx,
        store.read_ec_key(folder / "pck.key.pem"),
        store.read_ec_key(folder / "attestation.key.pem"),
        _load_chain(folder),
    )


def save_chip(chip: Chip, folder: Path) -> None:
    """Write an AMD chip's key (0600) and chain into a folder that holds none.

    Raises:
        SimulatorError: it cannot be written, or a machine is there already.
    """
    store.make_folder(folder)
    tcb = chip.tcb
    head = {
        "product": chip.product,
        "tcb": [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc],
        "chip_id": chip.chip_id.hex(),
        "vlek": chip.vlek,
    }
    store.write_key(folder / "vek.key.pem", chip.key)
    _save_chain(chip.chain, head, folder)


def load_chip(folder: Path) -> Chip:
    """Return the AMD chip that `save_chip` left.

    Raises:
        SimulatorError: a file is missing or not what was saved.
    """
    head = _head(folder)
    try:
        product = require_product(head["product"])
        tcb = Tcb(*head["tcb"])
        chip_id = bytes.fromhex(head["chip_id"])
        vlek = bool(head["vlek"])
    except (KeyError, TypeError, ValueError) as error:
        raise SimulatorError(f"{folder} does not hold an AMD chip") from error
    key = store.read_ec_key(folder / "vek.key.pem")
    return Chip(product, tcb, chip_id, key, _load_chain(folder), vlek)


def _save_chain(chain: tuple[bytes, ...], head: dict[str, Any], folder: Path) -> None:
    for name, certificate in zip(_CHAIN, chain, strict=True):
        store.write_new(folder / f"{name}.der", certificate)
    # Written last: a folder without it is half a machine, and refused.
    store.write_new(folder / "machine.json", json.dumps(head).encode())


def _load_chain(folder: Path) -> tuple[bytes, bytes, bytes]:
    leaf, intermediate, root = (store.read(folder / f"{name}.der") for name in _CHAIN)
    return leaf, intermediate, root


def _head(folder: Path) -> dict[str, Any]:
    try:
        head = json.loads(store.read(folder / "machine.json"))
    except ValueError as error:
        raise SimulatorError(f"{folder}/machine.json is not JSON") from error
    if not isinstance(head, dict):
        raise SimulatorError(f"{folder}/machine.json is not an object")
    return head
