"""The root's and the initrd's file trees, from unpacked packages and closed lists.

Guarantees: a file is in a tree because a list names it, or because a kept file needs it as a
library; no maintainer script of any package has run; no set-user-id bit is left; every program
finds its libraries. `refuse_strangers` looks for what must never be there.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from deploy.guest.settings import HERE, Guest
from deploy.guest.tools import BuildError, Package, Tools, read_list

CHECKOUT: Final = HERE.parent.parent
SITE: Final = "usr/lib/python3/dist-packages"
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
OURS: Final = ("verifier", "inference_runtime", "ostiary")
_NOT_OURS: Final = ("ostiary/simulator", "ostiary/demo", "ostiary/measure")
_PLATFORMS: Final = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
_LINKS: Final = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FOLDERS: Final = (
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var",
    "root",
    "sysroot",
    "usr/bin",
    "usr/sbin",
)
STRANGERS: Final = (
    *(
        "*sh",
        "login",
        "*getty",
        "su",
        "sudo",
        "run0",
        "sulogin",
        "busybox*",
        "toybox",
        "ssh*",
        "dropbear*",
    ),
    *("telnet*", "nc", "ncat", "socat", "perl*", "apt*", "dpkg*", "gdb*", "strace", "curl", "wget"),
    *("systemd-run", "systemd-ssh-*", "systemd-coredump", "kexec*", "kdump*", "swapon", "script"),
)
"""Names of programs that must not be in the image, in any folder that programs lie in."""


def unpack(tools: Tools, packages: Iterable[Package]) -> Path:
    """Unpack packages over one another, without running anything of theirs."""
    folder = tools.build / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for package in packages:
        tools.run("dpkg-deb", "--extract", tools.inside(package.path), tools.inside(folder))
    # Older packages still name /lib and /sbin; everything lies under /usr.
    for name, target in _LINKS.items():
        old = folder / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, folder / target, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        old.symlink_to(target)
    return folder


def keep(unpacked: Path, tree: Path, which: str) -> None:
    """Copy what files.txt names for `which` (`root` or `initrd`) into an empty tree.

    Raises:
        BuildError: a line of the list names nothing.
    """
    lines = [tuple(words) for words in read_list(HERE / "files.txt")]
    never = [pattern for where, pattern in lines if where == "never"]
    shutil.rmtree(tree, ignore_errors=True)
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True)
    for name, target in _LINKS.items():
        (tree / target).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    for where, pattern in lines:
        if where not in {"both", which}:
            continue
        found = [
            path for path in sorted(unpacked.glob(pattern)) if path.is_symlink() or path.is_file()
        ]
        if not found:
            raise BuildError(f"files.txt: {pattern} is in no package")
        for path in found:
            inside = path.relative_to(unpacked)
            if not any(fnmatch.fnmatch(inside.as_posix(), each) for each in never):
                _copy(path, tree / inside)
    for overlay in ("both", which):
        shutil.copytree(HERE / "tree" / overlay, tree, symlinks=True, dirs_exist_ok=True)
    _prune(tree)


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        target.unlink()
    shutil.copy2(path, target, follow_symlinks=False)
    if not path.is_symlink():
        target.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


def _prune(tree: Path) -> None:
    """Remove links between units whose unit is not kept."""
    for path in sorted((tree / "usr/lib/systemd/system").rglob("*")):
        if path.is_symlink() and not path.exists():
            path.unlink()


def add_modules(tools: Tools, unpacked: Path, tree: Path, which: str) -> str:
    """Copy the kernel modules that modules.txt names, and what they need; return the release.

    Raises:
        BuildError: the kernel's package has no such module.
    """
    release = next((unpacked / "usr/lib/modules").iterdir()).name
    source = unpacked / "usr/lib/modules" / release
    if not (source / "modules.dep").exists():
        tools.run("depmod", "--basedir", tools.inside(unpacked), release)
    needs, builtin = {}, (source / "modules.builtin").read_text()
    for line in (source / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[_module(file)] = (file, [_module(other) for other in others.split()])
    wanted = [
        words
        for words in read_list(HERE / "modules.txt")
        if which == "root" or words[1] == "initrd"
    ]
    chosen: list[str] = []
    for name, *_ in wanted:
        module = name.replace("-", "_")
        if module in needs:
            chosen += [module, *needs[module][1]]
        elif f"/{name}.ko" not in builtin and f"/{module}.ko" not in builtin:
            raise BuildError(f"modules.txt: {name} is no module of {release}")
    for module in chosen:
        _copy(source / needs[module][0], tree / "usr/lib/modules" / release / needs[module][0])
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(source / name, tree / "usr/lib/modules" / release / name)
    tools.run("depmod", "--basedir", tools.inside(tree), release)
    loaded = [words[0] for words in wanted if words[1] == ("load" if which == "root" else "initrd")]
    folder = tree / "etc/modules-load.d"
    folder.mkdir(parents=True, exist_ok=True)
    eager = {"dm-verity", "erofs", "efivarfs"}
    named = loaded if which == "root" else [name for name in loaded if name in eager]
    (folder / "ostiary.conf").write_text("".join(f"{name}\n" for name in named))
    return release


def _module(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def add_python(tools: Tools, tree: Path) -> list[str]:
    """Add the wheels that wheels.txt names, by the lock's hashes, and our own packages."""
    wheels = tools.build / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir()
    lock = tools.build / "wheels.lock"
    lock.write_text(wheel_pins((CHECKOUT / "requirements.lock").read_text()))
    flags = [f"--platform={each}" for each in _PLATFORMS]
    flags += [f"--abi={each}" for each in ("cp313", "abi3", "none")]
    command = (
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp"),
        *("--python-version=3.13", *flags, f"--dest={wheels}", f"--requirement={lock}"),
    )
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - ourselves
    if done.returncode != 0:
        raise BuildError(f"pip could not fetch the wheels:\n{done.stderr[-4000:]}")
    site, told = tree / SITE, []
    for wheel in sorted(wheels.glob("*.whl")):
        told.append(wheel.name)
        _unpack_wheel(wheel, site)
    for name in OURS:
        _copy_ours(CHECKOUT / name, site / name)
    _describe_ours(site)
    return told


def wheel_pins(lock: str) -> str:
    """Return the lock's pins of what wheels.txt names; of several for one name the last one.

    The last is for the newest Python. Markers are left out: pip would judge them by the Python
    that builds, and the image must not depend on that.

    Raises:
        BuildError: a name is not in the lock.
    """
    names = {words[0] for words in read_list(HERE / "wheels.txt")}
    pins = {}
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        name = re.split(r"[= ]", block)[0]
        if name in names:
            first, *others = block.splitlines()
            pin = first.split(";")[0].removesuffix("\\").strip()
            pins[name] = "\n".join([f"{pin} \\", *others])
    if names != pins.keys():
        raise BuildError(f"requirements.lock pins no {', '.join(sorted(names - pins.keys()))}")
    return "\n".join(pins[name] for name in sorted(pins)) + "\n"


def _unpack_wheel(wheel: Path, site: Path) -> None:
    """Unpack a wheel; its scripts and data files are left out."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename
            if ".data/" in name:
                head, _, rest = name.partition(".data/")
                place, _, name = rest.partition("/")
                if place not in {"purelib", "platlib"} or "/" in head:
                    continue
            target = site / name
            if info.is_dir() or "/tests/" in name or name.endswith((".pyi", ".pxd", ".h", ".a")):
                continue
            if not target.resolve().is_relative_to(site.resolve()):
                raise BuildError(f"{wheel.name}: {name} lies outside")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(info))
            target.chmod(0o644)


def _copy_ours(source: Path, target: Path) -> None:
    def skip(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(CHECKOUT)
        left = {name for name in names if name == "__pycache__"}
        return left | {
            name
            for name in names
            if any((inside / name).as_posix().split(".")[0] == each for each in _NOT_OURS)
        }

    shutil.copytree(source, target, ignore=skip)


def _describe_ours(site: Path) -> None:
    """Write our distribution's metadata: vLLM finds its plug-in by the entry point."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    info = site / f"ostiary-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: ostiary\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def configure(tree: Path, guest: Guest) -> None:
    """Write the files that follow from guest.toml."""
    (tree / "etc/nftables.conf").write_text(guest.firewall())
    (tree / "etc/hosts").write_text(guest.hosts())
    unit = tree / "etc/systemd/system/ostiary-runtime.service"
    unit.write_text(unit.read_text().replace("@ARGUMENTS@", guest.serve_arguments()))
    ours = tree / "usr/lib/ostiary-guest"
    ours.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "machine.py", ours / "machine.py")


def drop_libraries(tree: Path) -> None:
    """Leave out libraries that nothing kept needs.

    Raises:
        BuildError: a program's library is missing.
    """
    folder = tree / LIBRARIES
    needed = {words[1] for words in read_list(HERE / "files.txt") if words[0] == "dlopen"}
    waiting = [each for each in _elf(tree) if folder not in each.parents or each.name in needed]
    used: set[Path] = {(folder / name).resolve() for name in needed if (folder / name).exists()}
    used |= {folder / name for name in needed}
    missing = []
    for path in waiting:
        try:
            for library in _linked(tree, path):
                used |= {library, library.resolve()}
        except BuildError as error:
            missing.append(str(error))
    if missing:
        raise BuildError("\n".join(missing))
    for path in sorted(folder.iterdir()):
        linked = path.is_symlink() or path.resolve() not in used
        if not path.is_dir() and path not in used and linked:
            path.unlink()


def _elf(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and path.name.partition(".ko")[1] == "":
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF" and not path.name.startswith("ld-linux"):
                    yield path


def _linked(tree: Path, path: Path) -> Iterator[Path]:
    """Ask the tree's own loader which libraries a program needs; nothing of it is run."""
    if path.is_symlink():
        path = path.parent / path.readlink()
    loader = "/usr/lib64/ld-linux-x86-64.so.2"
    name = f"/{path.relative_to(tree)}"
    done = subprocess.run(  # noqa: S603 - the loader of the image's C library
        ["chroot", str(tree), loader, "--list", name],  # noqa: S607 - root's own path
        check=False,
        capture_output=True,
        text=True,
    )
    told = done.stdout + done.stderr
    if "statically linked" in told:
        return
    if "not found" in told or done.returncode != 0:
        raise BuildError(f"{name} lacks a library: {told.strip()}")
    for line in told.splitlines():
        _, arrow, right = line.partition("=> ")
        if arrow:
            library = right.split()[0].lstrip("/")
            yield tree / (library if library.startswith("usr/") else f"usr/{library}")


def finish(tools: Tools, tree: Path) -> None:
    """Make the loader's cache, and give everything the build's one date."""
    tools.run("ldconfig", "-r", tools.inside(tree))
    shutil.rmtree(tree / "var/cache", ignore_errors=True)
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (tools.epoch, tools.epoch), follow_symlinks=False)


def refuse_strangers(tree: Path) -> None:
    """Refuse a tree with a shell, a login, a way in, or a program that runs as somebody else.

    Raises:
        BuildError: with every name.
    """
    found = []
    for path in sorted(tree.rglob("*")):
        if path.is_dir() or not (path.stat(follow_symlinks=False).st_mode & stat.S_IXUSR):
            continue
        if path.is_symlink() or path.is_file():
            name = path.relative_to(tree).as_posix()
            if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(f"{name} (set-user-id)")
            if any(fnmatch.fnmatch(path.name, each) for each in STRANGERS):
                found.append(name)
    if found:
        raise BuildError(f"this must not be in the image: {', '.join(found)}")
