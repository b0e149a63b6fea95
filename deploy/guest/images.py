"""From file trees to what is booted: the root with its hash tree, the initrd, the UKI, the disk.

Guarantees: the same trees, tools and date give the same bytes (fixed identifiers, one date, sorted
names); the partitions' identifiers follow from the root hash, so that the initrd finds no other.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from deploy.guest.tools import BuildError, Tools

_SALT: Final = hashlib.sha256(b"ostiary/guest/verity-salt/v1").hexdigest()
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://ostiary.example/guest")
_MIB: Final = 1 << 20
_SECTOR: Final = 512
_ESP: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT: Final = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_VERITY: Final = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"
_VOLUME: Final = "05714121"


@final
@dataclass(frozen=True, slots=True)
class Root:
    """The root's file system, its hash tree, and the hash that stands for all of it."""

    data: Path
    verity: Path
    hash: str


def make_root(tools: Tools, tree: Path) -> Root:
    """Make the root's file system (erofs) and its hash tree (dm-verity).

    Raises:
        BuildError: a tool failed, or said nothing of a root hash.
    """
    data, verity = tools.build / "root.erofs", tools.build / "root.verity"
    for path in (data, verity):
        path.unlink(missing_ok=True)
    tools.run(
        *(
            "mkfs.erofs",
            "--quiet",
            "-zlz4hc",
            "-C65536",
            f"-T{tools.epoch}",
            "--all-time",
            "--all-root",
        ),
        *("-x-1", f"-U{_identifier('root')}", tools.inside(data), tools.inside(tree)),
    )
    told = tools.run(
        *("veritysetup", "format", "--hash=sha256", f"--salt={_SALT}"),
        *(f"--uuid={_identifier('verity')}", tools.inside(data), tools.inside(verity)),
    )
    found = [line.split()[-1] for line in told.splitlines() if line.startswith("Root hash:")]
    if len(found) != 1:
        raise BuildError("veritysetup told no root hash")
    return Root(data, verity, found[0])


def make_initrd(tools: Tools, tree: Path) -> Path:
    """Make the initrd: a cpio archive, compressed."""
    initrd = tools.build / "initrd.cpio.zst"
    initrd.unlink(missing_ok=True)
    pipe = (
        "find . -mindepth 1 -print0 | LC_ALL=C sort --zero-terminated | "
        "cpio --quiet --null --create --format=newc --reproducible --owner=0:0 > ../initrd.cpio && "
        "zstd --quiet --force --rm -15 -T1 ../initrd.cpio -o ../initrd.cpio.zst"
    )
    tools.run("sh", "-euc", pipe, folder=tools.inside(tree))
    return initrd


def make_uki(
    tools: Tools, *, kernel: Path, initrd: Path, line: str, release: str, os_release: Path
) -> Path:
    """Make the unified kernel image."""
    uki = tools.build / "linux.efi"
    uki.unlink(missing_ok=True)
    tools.run(
        *("ukify", "build", f"--linux={tools.inside(kernel)}", f"--initrd={tools.inside(initrd)}"),
        *(f"--cmdline={line}", f"--uname={release}", f"--os-release=@{tools.inside(os_release)}"),
        *("--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub", f"--output={tools.inside(uki)}"),
    )
    return uki


def make_disk(tools: Tools, uki: Path, root: Root) -> Path:
    """Make the disk: the UKI where firmware looks for it, the root, the hash tree."""
    esp, disk = tools.build / "esp.fat", tools.build / "disk.raw"
    esp.unlink(missing_ok=True)
    size = _rounded(uki.stat().st_size + 6 * _MIB)
    with esp.open("wb") as file:
        file.truncate(size)
    tools.run("mkfs.fat", "--invariant", "-i", _VOLUME, "-n", "OSTIARY", tools.inside(esp))
    os.utime(uki, (tools.epoch, tools.epoch))
    for folder in ("::/EFI", "::/EFI/BOOT"):
        tools.run("mmd", "-i", tools.inside(esp), folder)
    tools.run("mcopy", "-m", "-i", tools.inside(esp), tools.inside(uki), "::/EFI/BOOT/BOOTX64.EFI")
    parts = (
        (esp, _ESP, _identifier("esp"), "esp"),
        (root.data, _ROOT, uuid.UUID(root.hash[:32]), "root"),
        (root.verity, _VERITY, uuid.UUID(root.hash[32:]), "root-verity"),
    )
    at, lines = (
        _MIB,
        ["label: gpt", f"label-id: {_identifier('disk')}", f"first-lba: {_MIB // _SECTOR}"],
    )
    places = []
    for path, kind, identifier, name in parts:
        length = _rounded(path.stat().st_size)
        place = f"start={at // _SECTOR}, size={length // _SECTOR}"
        lines.append(f"{place}, type={kind}, uuid={identifier}, name={name}")
        places.append((at, path))
        at += length
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(at + _MIB)
    script = tools.build / "partitions"
    script.write_text("\n".join(lines) + "\n")
    tools.run(
        "sh",
        "-euc",
        'exec sfdisk --quiet --no-reread --no-tell-kernel "$1" < "$2"',
        "sh",
        tools.inside(disk),
        tools.inside(script),
    )
    with disk.open("r+b") as file:
        for start, path in places:
            file.seek(start)
            file.write(path.read_bytes())
    return disk


def _identifier(name: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, name)


def _rounded(size: int) -> int:
    return -(-size // _MIB) * _MIB
