"""Builds the guest image.

    python3 -m deploy.guest.build [--settings FILE] [--out FOLDER] [--work FOLDER] [--mirror URL]
                                  [--packages LOCK] [--epoch SECONDS]

Needs Linux, root, debootstrap, and some gigabytes in FOLDER; the first time takes minutes.
Guarantees: what is in the image is what the lists beside this file name; the same packages, wheels,
checkout and settings give the same bytes. Packages change with Debian's updates: `packages.tsv` in
the output says which went in, and `--packages` builds with the very same ones or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from deploy.guest import images, trees
from deploy.guest.settings import HERE, Guest, SettingsError
from deploy.guest.tools import BuildError, Tools, fetch, make, read_list, real_kernel, say

EPOCH: Final = 1767225600
"""The date of every file: 2026-01-01. It says nothing, and is the same in every build."""


def build(tools: Tools, guest: Guest, out: Path, lock: Path | None) -> None:
    """Build everything into `out`.

    Raises:
        BuildError: with the reason.
    """
    say("1. packages")
    kernel_package = real_kernel(tools, guest.kernel)
    names = [words[0] for words in read_list(HERE / "packages.txt")]
    packages = fetch(tools, [*names, kernel_package], lock)
    unpacked = trees.unpack(tools, packages)
    say(f"  {len(packages)} packages, {kernel_package}")

    say("2. the root")
    root_tree, initrd_tree = tools.build / "root", tools.build / "initrd"
    trees.keep(unpacked, root_tree, "root")
    release = trees.add_modules(tools, unpacked, root_tree, "root")
    wheels = trees.add_python(tools, root_tree)
    trees.configure(root_tree, guest)
    trees.drop_libraries(root_tree)
    trees.finish(tools, root_tree)
    trees.refuse_strangers(root_tree)
    root = images.make_root(tools, root_tree)
    say(f"  {root.data.stat().st_size >> 20} MiB, {len(wheels)} wheels, root hash {root.hash}")

    say("3. the initrd")
    trees.keep(unpacked, initrd_tree, "initrd")
    trees.add_modules(tools, unpacked, initrd_tree, "initrd")
    (initrd_tree / "init").symlink_to("usr/lib/systemd/systemd")
    trees.drop_libraries(initrd_tree)
    trees.finish(tools, initrd_tree)
    trees.refuse_strangers(initrd_tree)
    initrd = images.make_initrd(tools, initrd_tree)
    say(f"  {initrd.stat().st_size >> 20} MiB")

    say("4. UKI and disk")
    line = guest.kernel_words(root.hash)
    kernel = unpacked / "boot" / f"vmlinuz-{release}"
    uki = images.make_uki(
        tools,
        kernel=kernel,
        initrd=initrd,
        line=line,
        release=release,
        os_release=root_tree / "etc/os-release",
    )
    disk = images.make_disk(tools, uki, root)

    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kernel, out / "vmlinuz")
    for path in (initrd, uki, disk):
        shutil.copyfile(path, out / path.name)
    (out / "cmdline").write_text(line)
    (out / "roothash").write_text(root.hash + "\n")
    table = [f"{each.name}\t{each.version}\t{each.sha256}" for each in packages]
    (out / "packages.tsv").write_text("\n".join(table) + "\n")
    (out / "wheels.txt").write_text("\n".join(wheels) + "\n")
    (out / "files.tsv").write_text(_listing(root_tree) + _listing(initrd_tree))
    sums = [
        f"{_sha256(path)}  {path.name}"
        for path in sorted(out.iterdir())
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (out / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    say("\n".join(sums))


def _listing(tree: Path) -> str:
    lines = []
    for path in sorted(tree.rglob("*")):
        name = f"{tree.name}/{path.relative_to(tree)}"
        if path.is_symlink():
            lines.append(f"{name}\t-> {path.readlink()}")
        elif path.is_file():
            lines.append(f"{name}\t{path.stat().st_mode & 0o7777:o}\t{_sha256(path)}")
    return "\n".join(lines) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    """Build; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", type=Path, default=HERE / "guest.toml")
    parser.add_argument("--out", type=Path, default=Path("guest-image"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/ostiary-guest"))  # noqa: S108 - made 0700 below
    parser.add_argument("--mirror", default="", help="where debootstrap fetches packages")
    parser.add_argument("--packages", type=Path, help="an earlier build's packages.tsv")
    parser.add_argument("--epoch", type=int, default=EPOCH)
    chosen = parser.parse_args(arguments)
    try:
        guest = Guest.parse(chosen.settings.read_text())
        if os.geteuid() != 0:
            raise BuildError("root is needed: roots are made and entered")  # noqa: TRY301 - told as the others
        os.umask(0o022)
        chosen.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        tools = make(chosen.work / f"tools-{guest.suite}", guest.suite, chosen.mirror, chosen.epoch)
        build(tools, guest, chosen.out, chosen.packages)
    except (BuildError, SettingsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
