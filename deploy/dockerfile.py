"""Reads a Dockerfile into steps, and judges it by a few rules that need no Docker engine.

Guarantees: an instruction that this reader does not know is an error, never skipped; so what
`run_dockerfile_steps.py` performs is the whole file. Does not know here-documents, ONBUILD or
build-time mounts: the Dockerfile must do without them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, final

KNOWN: Final = frozenset(
    {
        *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("RUN", "SHELL", "USER", "WORKDIR"),
    }
)


class DockerfileError(Exception):
    """The Dockerfile cannot be read, or breaks a rule; the text names the line."""


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its line, its name in capitals, and the rest as written."""

    line: int
    name: str
    rest: str

    def words(self) -> tuple[str, ...]:
        """Return the rest, split as a shell would.

        Raises:
            DockerfileError: a quotation is not closed.
        """
        try:
            return tuple(shlex.split(self.rest))
        except ValueError as error:
            raise DockerfileError(f"line {self.line}: {error}") from error

    def exec_form(self) -> tuple[str, ...]:
        """Return the JSON list of an exec form.

        Raises:
            DockerfileError: it is in shell form.
        """
        try:
            value = json.loads(self.rest)
        except (ValueError, RecursionError) as error:
            raise DockerfileError(f"line {self.line}: {self.name} in shell form") from error
        if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            raise DockerfileError(f"line {self.line}: {self.name} is not a list of texts")
        return tuple(value)


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it. `base` is an image, or the name of an earlier stage."""

    name: str
    base: str
    steps: tuple[Step, ...] = field(default=())


def parse(text: str) -> list[Step]:
    """Return the steps of a Dockerfile, comments and continuation lines resolved.

    Raises:
        DockerfileError: an instruction is unknown, or the file ends within one.
    """
    steps, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or pending):
            continue
        start = start if pending else number
        pending += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        name, _, rest = pending.strip().partition(" ")
        if name not in KNOWN:
            raise DockerfileError(f"line {start}: {name} is not an instruction known here")
        if not rest.strip():
            raise DockerfileError(f"line {start}: {name} says nothing")
        steps.append(Step(start, name, rest.strip()))
        pending = ""
    if pending:
        raise DockerfileError(f"line {start}: the file ends within an instruction")
    return steps


def stages(steps: Sequence[Step]) -> list[Stage]:
    """Return the stages, with build arguments (their defaults) put into each FROM.

    Raises:
        DockerfileError: a step stands before the first FROM, or a stage has no name.
    """
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for step in steps:
        if step.name == "FROM":
            base, *rest = step.words() or ("",)
            if len(rest) != 2 or rest[0].upper() != "AS":  # noqa: PLR2004 - AS and a name
                raise DockerfileError(f"line {step.line}: a stage without a name")
            for key, value in arguments.items():
                base = base.replace(f"${{{key}}}", value)
            found.append(Stage(rest[1], base))
        elif found:
            last = found.pop()
            found.append(Stage(last.name, last.base, (*last.steps, step)))
        elif step.name == "ARG":
            key, _, value = step.rest.replace('"', "").partition("=")
            arguments[key] = value
        else:
            raise DockerfileError(f"line {step.line}: {step.name} before the first FROM")
    return found


def lint(text: str) -> list[str]:
    """Return what is wrong with a Dockerfile; nothing wrong is an empty list.

    Rules: bases have a version and none is `latest`; the demo and the last stage end as a numbered
    user that is not root; processes start in exec form; the last stage has a health check and
    exposes one port; pip installs with hashes or without dependencies.
    """
    try:
        found = stages(parse(text))
        return _lint(found)
    except DockerfileError as error:
        return [str(error)]


def _lint(found: Sequence[Stage]) -> list[str]:
    wrong = []
    names = {stage.name for stage in found}
    users: dict[str, str] = {}
    for stage in found:
        tag = stage.base.partition("@")[0].rpartition(":")[2]
        if stage.base not in names and (
            ":" not in stage.base or not re.match(r"[0-9]+\.[0-9]+", tag)
        ):
            wrong.append(f"stage {stage.name}: base {stage.base} names no version")
        users[stage.name] = users.get(stage.base, "0:0")
        for step in stage.steps:
            if step.name == "USER":
                users[stage.name] = step.rest
            if step.name in {"CMD", "ENTRYPOINT", "SHELL"}:
                step.exec_form()
            if step.name == "HEALTHCHECK":
                Step(step.line, "HEALTHCHECK", step.rest.partition("CMD ")[2]).exec_form()
            wrong += [
                f"line {step.line}: pip installs without hashes"
                for command in re.findall(r"pip install[^&;]*", step.rest)
                if "--require-hashes" not in command and "--no-deps" not in command
            ]
    if not found:
        return ["no stage"]
    last = found[-1]
    started = [stage for stage in found if any(s.name == "ENTRYPOINT" for s in stage.steps)]
    wrong += [
        f"stage {stage.name} runs as {users[stage.name]}"
        for stage in started
        if not re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", users[stage.name])
    ]
    wrong += [
        f"stage {last.name} has {count} {name}, not one"
        for name in ("ENTRYPOINT", "EXPOSE", "HEALTHCHECK")
        if (count := sum(step.name == name for step in last.steps)) != 1
    ]
    return wrong


def ignored(path: str, patterns: Sequence[str]) -> bool:
    """Return whether .dockerignore keeps `path` (relative, with /) out; the last match decides."""
    verdict = False
    parents = [str(PurePosixPath(path)), *map(str, PurePosixPath(path).parents)]
    for line in patterns:
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!").rstrip("/")
        anywhere = pattern.startswith("**/")
        pattern = pattern.removeprefix("**/")
        if any(_matches(parent, pattern, anywhere=anywhere) for parent in parents):
            verdict = not keep
    return verdict


def _matches(path: str, pattern: str, *, anywhere: bool) -> bool:
    parts, wanted = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    tail = parts[-len(wanted) :] if anywhere else parts
    return len(tail) == len(wanted) and all(map(fnmatchcase, tail, wanted))
