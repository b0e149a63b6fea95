"""One target in one process: `python -m fuzz.child TARGET SECONDS OUT [CORPUS]`; see `fuzz.run`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import random  # noqa: TID251 - a mutator must be able to repeat itself
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GUIDED = importlib.util.find_spec("atheris") is not None
if _GUIDED:
    import atheris  # type: ignore[import-untyped]  # only where it is installed

    with atheris.instrument_imports(include=["verifier", "broker.release", "inference_runtime"]):
        from fuzz import seeds, targets
else:
    from fuzz import seeds, targets

_MEMORY = 4 << 30
_SLOW = 5.0
"""Seconds after which one input is a finding: whoever sends it keeps a processor busy."""
_MAX_SEED = 256 * 1024
_MAX_INPUT = 64 * 1024


class Campaign:
    """Counts inputs of one target and keeps one input for each distinct finding."""

    def __init__(self, name: str, seconds: int, out: Path) -> None:
        self.name = name
        self.target = targets.TARGETS[name]
        self.end = time.monotonic() + seconds
        self.out = out
        self.tried = 0
        self.findings: dict[str, str] = {}

    def one(self, raw: bytes) -> None:
        """Try one input; when the time is over, write the report and end the process."""
        self.tried += 1
        began = time.monotonic()
        try:
            targets.attempt(self.target, raw)
        except Exception as error:  # noqa: BLE001 - whatever else is raised is what we look for
            self._found(raw, error)
        ended = time.monotonic()
        if ended - began > _SLOW:
            self._keep(raw, "slow", f"one input took {ended - began:.1f} s")
        if ended > self.end:
            self.finish()

    def _found(self, raw: bytes, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        self._keep(raw, f"{type(error).__name__} {where}", str(error)[:200])

    def _keep(self, raw: bytes, kind: str, message: str) -> None:
        if kind in self.findings:
            return
        path = self.out / f"{self.name}-{hashlib.sha256(raw).hexdigest()[:16]}"
        path.write_bytes(raw)
        self.findings[kind] = f"{kind}: {message} ({path.name})"

    def finish(self) -> None:
        """Write the report and end the process, whatever libFuzzer would still do."""
        told = {"tried": self.tried, "findings": list(self.findings.values())}
        (self.out / f"{self.name}.json").write_text(json.dumps(told))
        os._exit(0)


def mutate(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return `raw` with a few bytes flipped, cut, doubled, or replaced by a piece of `other`."""
    bent = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(bent) + 1)
        step = rng.randrange(6)
        if step == 0 and at < len(bent):
            bent[at] ^= 1 << rng.randrange(8)
        elif step == 1 and at < len(bent):
            bent[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif step == 2:  # noqa: PLR2004 - one of six
            del bent[at : at + rng.randint(1, 32)]
        elif step == 3:  # noqa: PLR2004 - same
            bent[at:at] = bent[at : at + rng.randint(1, 32)]
        elif step == 4 and other:  # noqa: PLR2004 - same
            start = rng.randrange(len(other))
            bent[at : at + rng.randint(0, 16)] = other[start : start + rng.randint(1, 64)]
        else:
            bent[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x80\0\0\0", b"\0\0\0\x80"))
    return bytes(bent[:_MAX_INPUT])


def _blind(campaign: Campaign, pool: Sequence[bytes]) -> None:
    rng = random.Random(int.from_bytes(campaign.name.encode()))  # noqa: S311 - same inputs each run
    while True:
        campaign.one(mutate(rng.choice(pool), rng.choice(pool), rng))


def _recorded(folder: Path | None) -> list[bytes]:
    """Return the files of a corpus that are small enough to be seeds."""
    files = sorted(folder.rglob("*")) if folder is not None else []
    return [f.read_bytes() for f in files if f.is_file() and f.stat().st_size <= _MAX_SEED]


def main(name: str, seconds: str, out: str, corpus: str | None = None) -> None:
    """Fuzz one target; never returns."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pool = [*seeds.make().get(name, [b""]), *_recorded(None if corpus is None else Path(corpus))]
    campaign = Campaign(name, int(seconds), Path(out))
    for raw in pool:
        campaign.one(raw)
    if not _GUIDED:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        _blind(campaign, pool)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for number, raw in enumerate(pool):
            Path(folder, str(number)).write_bytes(raw)
        options: list[Any] = [
            sys.argv[0],
            folder,
            f"-max_total_time={int(seconds) + 10}",
            f"-max_len={_MAX_INPUT}",
            "-timeout=20",
            f"-rss_limit_mb={_MEMORY >> 20}",
            f"-artifact_prefix={out}/{name}-",
        ]
        atheris.Setup(options, campaign.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
