"""The tools root: a small Debian of the guest's suite, whose tools make every byte of the image.

Guarantees: what this machine's distribution is makes no difference to the image; packages are
checked against Debian's signed index, and against a lock where one is given.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

PACKAGES: Final = (
    *("systemd", "systemd-ukify", "systemd-boot-efi", "cryptsetup-bin", "erofs-utils", "kmod"),
    *("cpio", "zstd", "fdisk", "dosfstools", "mtools", "nftables"),
)
_ENVIRONMENT: Final = (
    *("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/root"),
    "DEBIAN_FRONTEND=noninteractive",
)


@final
class BuildError(Exception):
    """The image cannot be built; the text says why."""


def say(text: str) -> None:
    """Print a line at once: steps take minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read_list(path: Path) -> list[list[str]]:
    """Return the lines of a list as words, without comments."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [words for words in lines if words]


@final
@dataclass(frozen=True, slots=True)
class Package:
    """A fetched package."""

    name: str
    version: str
    sha256: str
    path: Path


@final
@dataclass(frozen=True, slots=True)
class Tools:
    """The root folder of the tools. Everything that is built lies under its `/build`."""

    root: Path
    epoch: int

    @property
    def build(self) -> Path:
        """Where the image is put together, as seen from outside."""
        return self.root / "build"

    def inside(self, path: Path) -> str:
        """Return a path as the tools see it."""
        return f"/{path.relative_to(self.root)}"

    def run(self, *command: str, folder: str = "/build") -> str:
        """Run a tool and return what it said; its failure ends the build.

        Raises:
            BuildError: it failed, with what it complained of.
        """
        inner = 'cd "$0" && exec "$@"'
        done = subprocess.run(  # noqa: S603 - that is what it is for
            [
                *("chroot", str(self.root), "env", *_ENVIRONMENT),
                *(f"SOURCE_DATE_EPOCH={self.epoch}", "sh", "-c", inner, folder, *command),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            told = f"{command[0]} ended with {done.returncode}: {' '.join(command)}"
            raise BuildError(f"{told}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout


def make(root: Path, suite: str, mirror: str, epoch: int) -> Tools:
    """Return the tools root, made if it is not there yet.

    Raises:
        BuildError: debootstrap or apt-get failed, or debootstrap is not installed.
    """
    tools, ready = Tools(root, epoch), root / ".ready"
    if not ready.exists():
        debootstrap = shutil.which("debootstrap")
        if debootstrap is None:
            raise BuildError("debootstrap is needed (Debian, Ubuntu: apt-get install debootstrap)")
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        say(f"  a {suite} with the tools, in {root} (some minutes)")
        command = (debootstrap, "--variant=minbase", suite, str(root), *mirror.split())
        log = root.with_suffix(".log")
        with log.open("wb") as told:
            done = subprocess.run(command, check=False, stdout=told, stderr=told)  # noqa: S603 - fixed words
        if done.returncode != 0:
            raise BuildError(f"debootstrap ended with {done.returncode}; see {log}")
        (root / "build").mkdir()
        _add_updates(root / "etc/apt/sources.list", suite)
        tools.run("apt-get", "update", "-qq")
        tools.run("apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES)
        ready.touch()
    else:
        tools.run("apt-get", "update", "-qq")
    return tools


def _add_updates(sources: Path, suite: str) -> None:
    """Add a release's updates and security fixes, from the same mirror."""
    _, mirror, _, section = sources.read_text().split()[:4]
    lines = [f"deb {mirror} {suite} {section}", f"deb {mirror} {suite}-updates {section}"]
    if mirror.rstrip("/").endswith("/debian"):
        lines.append(f"deb {mirror.rstrip('/')}-security {suite}-security {section}")
    sources.write_text("".join(f"{line}\n" for line in lines))


def fetch(tools: Tools, names: Sequence[str], lock: Path | None) -> tuple[Package, ...]:
    """Fetch the named packages and none else, in the lock's versions if there is a lock.

    Raises:
        BuildError: one cannot be had, or is not the one that the lock names.
    """
    locked = {} if lock is None else {words[0]: words[1:3] for words in read_list(lock)}
    if lock is not None and locked.keys() != set(names):
        differ = sorted(locked.keys() ^ set(names))
        raise BuildError(f"{lock} is about other packages: {', '.join(differ)}")
    folder = tools.build / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = [f"{name}={locked[name][0]}" if lock else name for name in names]
    tools.run("chmod", "0777", tools.inside(folder))
    tools.run("apt-get", "download", "-qq", *asked, folder=tools.inside(folder))
    found = {}
    for path in sorted(folder.glob("*.deb")):
        told = tools.run(
            "dpkg-deb", "--show", "--showformat=${Package} ${Version}", tools.inside(path)
        )
        name, version = told.split()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if lock and [version, digest] != locked[name]:
            raise BuildError(f"{name} {version} has SHA-256 {digest}, the lock says {locked[name]}")
        found[name] = Package(name, version, digest, path)
    if found.keys() != set(names):
        raise BuildError(f"not fetched: {', '.join(sorted(found.keys() ^ set(names)))}")
    return tuple(found[name] for name in sorted(found))


def real_kernel(tools: Tools, name: str) -> str:
    """Return the kernel package that a meta-package stands for, or the name as it is."""
    told = tools.run("apt-cache", "depends", name)
    found = [line.split()[-1] for line in told.splitlines() if "Depends: linux-image-" in line]
    return found[0] if found else name
