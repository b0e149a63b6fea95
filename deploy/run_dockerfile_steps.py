"""Performs a Dockerfile's steps one by one in an empty root, where no Docker engine can be had.

    python3 deploy/run_dockerfile_steps.py [--target STAGE] [--work FOLDER] [--bind PATH ...]
                                           [--mirror URL] [--check COMMAND ...]

Needs Linux, root and Debian's `debootstrap`; takes minutes and about a gigabyte in FOLDER.
Guarantees: the instructions of every stage up to the target are carried out in order, RUN as the
stage's user with the stage's environment and shell, COPY through .dockerignore; the first that
fails ends it. Then every command given by --check runs in the target's root as its user.
Does not prove what the registry's base image holds: `python:X.Y-slim-SUITE` is stood in for by a
minimal SUITE with the distribution's own Python 3, whose version is printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.dockerfile import DockerfileError, Stage, Step, ignored, parse, stages

CONTEXT: Final = Path(__file__).resolve().parent.parent
_INSIDE: Final = "--already-in-a-mount-namespace"
_FROM_HOST: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/ssl/certs/ca-certificates.crt",
)
_PASSED: Final = (
    "PIP_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)


@final
@dataclass(slots=True)
class Image:
    """A root folder and what the steps so far have set for it."""

    root: Path
    user: str = "0:0"
    folder: str = "/"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    env: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )

    def copy(self, root: Path) -> Image:
        """Return the same image in a root of its own, byte for byte."""
        run("cp", "--archive", "--reflink=auto", str(self.root), str(root))
        return Image(root, self.user, self.folder, self.shell, dict(self.env))


@final
@dataclass(slots=True)
class Builder:
    """Carries out stages. `network` is what RUN steps see of this machine's client settings."""

    work: Path
    mirror: str
    binds: tuple[Path, ...]
    network: dict[str, str]
    images: dict[str, Image] = field(default_factory=dict)
    bases: dict[str, Path] = field(default_factory=dict)

    def build(self, stage: Stage) -> Image:
        """Carry out one stage."""
        say(f"\nFROM {stage.base} AS {stage.name}")
        parent = self.images.get(stage.base) or Image(self.base(stage.base))
        image = self.images[stage.name] = parent.copy(self.work / f"stage-{stage.name}")
        for step in stage.steps:
            say(f"{step.name} {step.rest}")
            self.perform(step, image)
        return image

    def base(self, name: str) -> Path:
        """Return an empty root of the suite that an image's tag ends with."""
        suite = name.partition("@")[0].rpartition("-")[2]
        if suite not in self.bases:
            root = self.work / f"base-{suite}"
            packages = "--include=python3,python3-venv,ca-certificates"
            run(
                "debootstrap", "--variant=minbase", packages, suite, str(root), *self.mirror.split()
            )
            self.bases[suite] = root
            self.enter(Image(root), ("python3", "--version"))
        return self.bases[suite]

    def perform(self, step: Step, image: Image) -> None:
        """Carry out one instruction of a stage."""
        match step.name:
            case "RUN":
                self.enter(image, (*image.shell, step.rest), network=True)
            case "COPY":
                self.copy(step, image)
            case "WORKDIR":
                image.folder = step.rest
                (image.root / step.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                image.env |= dict(word.split("=", 1) for word in step.words())
            case "SHELL":
                image.shell = step.exec_form()
            case "USER":
                image.user = step.rest
            case "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass  # metadata: changes nothing in the root
            case _:
                raise DockerfileError(f"line {step.line}: {step.name} cannot be carried out here")

    def copy(self, step: Step, image: Image) -> None:
        """Copy from the build context or from another stage."""
        words = list(step.words())
        source = CONTEXT
        patterns = (CONTEXT / ".dockerignore").read_text().splitlines()
        if words[0].startswith("--from="):
            source, patterns = self.images[words.pop(0).removeprefix("--from=")].root, []
        if words[0].startswith("--"):
            raise DockerfileError(f"line {step.line}: {words[0]} cannot be carried out here")
        *names, target = words
        into = image.root / (Path(image.folder) / target).as_posix().lstrip("/")
        for name in names:
            path = source / name.strip("/")
            if path.is_dir():
                copy_folder(path, into, source, patterns)
            elif ignored(name, patterns):
                raise DockerfileError(f"line {step.line}: .dockerignore keeps {name} out")
            else:
                place = into / path.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)

    def enter(self, image: Image, command: tuple[str, ...], *, network: bool = False) -> None:
        """Run a command inside a root, as the image's user and in its folder."""
        inner = f"cd {shlex.quote(image.folder)} && exec {shlex.join(command)}"
        environment = image.env | (self.network if network else {})
        with_env = [
            "env",
            "--ignore-environment",
            *(f"{key}={value}" for key, value in environment.items()),
        ]
        mounted = self.mount(image.root, network=network)
        try:
            run(
                "chroot",
                f"--userspec={image.user}",
                str(image.root),
                *with_env,
                "/bin/sh",
                "-c",
                inner,
            )
        finally:
            for place in reversed(mounted):
                run("umount", "--recursive", "--lazy", str(place))

    def mount(self, root: Path, *, network: bool) -> list[Path]:
        """Give a root /proc, /dev and, for RUN, what it needs to reach package servers."""
        mounted = []
        shown = [Path("/proc"), Path("/dev")]
        if network:
            shown += [path for path in (*map(Path, _FROM_HOST), *self.binds) if path.exists()]
        for path in shown:
            place = root / path.as_posix().lstrip("/")
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            run("mount", "--rbind" if path.is_dir() else "--bind", str(path.resolve()), str(place))
            mounted.append(place)
        return mounted


def copy_folder(path: Path, into: Path, source: Path, patterns: list[str]) -> None:
    """Copy what a folder holds, as COPY does, without what is ignored; links stay links."""

    def skip(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(source)
        return {name for name in names if ignored((inside / name).as_posix(), patterns)}

    shutil.copytree(path, into, symlinks=True, ignore=skip, dirs_exist_ok=True)


def run(*command: str) -> None:
    """Run a command; its failure is ours."""
    subprocess.run(command, check=True)  # noqa: S603 - that is what this tool is for


def say(text: str) -> None:
    """Print a line at once, between the output of commands."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def apt_mirror(suite: str) -> str:
    """Return where this machine's apt finds a suite, or nothing: then debootstrap's own default."""
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {suite}")
    if shutil.which("apt-get") is None:
        return ""
    found = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - fixed words
    return next(iter(found.stdout.split()), "")


def main(arguments: list[str]) -> int:
    """Carry out the steps; return the exit status."""
    if _INSIDE not in arguments:
        inside = (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            __file__,
            _INSIDE,
        )
        return subprocess.run((*inside, *arguments), check=False).returncode  # noqa: S603 - ourselves
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--target", default="", help="the stage to end with (the last one)")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/ostiary-docker-steps"))  # noqa: S108 - root's alone: made 0700 below
    parser.add_argument("--mirror", default="", help="where debootstrap fetches packages")
    parser.add_argument(
        "--bind", type=Path, action="append", default=[], help="show this path to RUN steps"
    )
    parser.add_argument(
        "--check", action="append", default=[], help="run this in the target at the end"
    )
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        parser.error("root and debootstrap are needed (Debian: apt-get install debootstrap)")
    found = stages(parse((CONTEXT / "Dockerfile").read_text()))
    target = chosen.target or found[-1].name
    if target not in {stage.name for stage in found}:
        parser.error(f"no stage {target}")
    shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(mode=0o700, parents=True)
    chosen.work.chmod(0o711)  # roots are entered as other users
    network = {key: value for key, value in os.environ.items() if key.startswith(_PASSED)}  # noqa: TID251 - a build tool hands pip's settings on
    suite = found[0].base.partition("@")[0].rpartition("-")[2]
    builder = Builder(chosen.work, chosen.mirror or apt_mirror(suite), tuple(chosen.bind), network)
    needed = {target}
    for stage in reversed(found):
        if stage.name in needed:
            needed |= {
                stage.base,
                *(
                    w.removeprefix("--from=")
                    for s in stage.steps
                    for w in s.words()[:1]
                    if s.name == "COPY"
                ),
            }
    for stage in found:
        if stage.name in needed:
            builder.build(stage)
    image = builder.images[target]
    for command in chosen.check:
        say(f"\ncheck as {image.user}: {command}")
        builder.enter(image, ("/bin/sh", "-euc", command))
    say(f"\n{target}: all steps carried out, {len(chosen.check)} checks passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
