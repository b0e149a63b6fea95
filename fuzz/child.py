"""One target in one process: `python -m fuzz.child TARGET SECONDS OUT SEEDS NUMBER [CORPUS]`.

`fuzz.run` starts it. SEEDS is the folder of this run's seeds, NUMBER what the random choices start
from: the same seeds and the same number give the same inputs in the same order, as many of them as
there is time for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import random  # noqa: TID251 - what is mutated must be able to repeat itself
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.blind import MAX_INPUT, mutate, recorded

_GUIDED = importlib.util.find_spec("atheris") is not None
if _GUIDED:
    import atheris  # type: ignore[import-untyped]  # only where it is installed

    with atheris.instrument_imports(include=["verifier", "broker.release", "inference_runtime"]):
        from fuzz import targets
else:
    from fuzz import targets

_MEMORY = 4 << 30
_SLOW = 5.0
"""Seconds after which one input is a finding: whoever sends it keeps a processor busy."""


class Campaign:
    """Counts inputs of one target and keeps one input for each distinct finding."""

    def __init__(self, name: str, seconds: int, out: Path) -> None:
        self.name = name
        self.target = targets.TARGETS[name]
        self.end = time.monotonic() + seconds
        self.out = out
        self.tried = 0
        self.findings: dict[str, dict[str, str]] = {}

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
        self.findings[kind] = {"what": f"{kind}: {message}", "file": path.name}

    def finish(self) -> None:
        """Write the report and end the process, whatever libFuzzer would still do."""
        told = {"tried": self.tried, "findings": list(self.findings.values())}
        (self.out / f"{self.name}.json").write_text(json.dumps(told))
        os._exit(0)


def _blind(campaign: Campaign, pool: Sequence[bytes], number: int) -> None:
    rng = random.Random(f"{number} {campaign.name}")  # noqa: S311 - same inputs each run
    while True:
        campaign.one(mutate(rng.choice(pool), rng.choice(pool), rng))


def main(  # noqa: PLR0917 - the command line, in its order
    name: str, seconds: str, out: str, seeds: str, number: str, corpus: str | None = None
) -> None:
    """Fuzz one target; never returns."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pool = [*recorded(Path(seeds, name)), *recorded(None if corpus is None else Path(corpus))]
    campaign = Campaign(name, int(seconds), Path(out))
    for raw in pool:
        campaign.one(raw)
    if not _GUIDED:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        _blind(campaign, pool, int(number))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for index, raw in enumerate(pool):
            Path(folder, f"{index:06}").write_bytes(raw)
        options: list[Any] = [
            sys.argv[0],
            folder,
            f"-seed={number}",
            f"-max_total_time={int(seconds) + 10}",
            f"-max_len={MAX_INPUT}",
            "-timeout=20",
            f"-rss_limit_mb={_MEMORY >> 20}",
            f"-artifact_prefix={out}/{name}-",
        ]
        atheris.Setup(options, campaign.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
