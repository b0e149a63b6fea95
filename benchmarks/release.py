"""Releases per second and their latency over HTTP on SQLite, every check and every guarantee on.

A real broker process with its HSM worker (SoftHSM) releases one key to simulated TDX machines; a
second process plays the clients, on the same cores, with evidence made before the clock starts.
There is no peer: no other key broker logs a release durably and signs for it before it answers, so
none does the same work. The limit is what cannot be spared, back to back in one process: two P-256
verifications, the durable commit of the leaf and the signed checkpoint (one for each group of as
many releases as there are clients), the rewrap to RSA-3072 in the token and the answer's signature.
The limit has one core; broker, worker and clients share all of them, so its ratio may pass 1.
Rows in "% of a release" show where the time of a single release goes, room by room, and as limit
the share of the unavoidable part in it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import release_limit, release_rooms
from benchmarks.common import Row, measure
from benchmarks.release_house import build
from benchmarks.release_limit import Limit
from benchmarks.release_load import Load, Round, generator
from benchmarks.release_rooms import APPEND, APPRAISE, DECODE, PERMIT, REST, SIGN, TIMED, TOTAL

CLIENTS: Final = {1: 60, 16: 400, 64: 400}
"""Clients at once, and the releases of one round with so many."""
ROUNDS: Final = 5
ROOM_RELEASES: Final = 150
_UNAVOIDABLE: Final = {
    APPRAISE: ("verify",),
    APPEND: ("commit", "checkpoint"),
    PERMIT: ("rewrap",),
    SIGN: ("sign",),
}
_HTTP: Final = "1 and 8 http: socket, parse, route"


def rows() -> Sequence[Row]:
    """Set up a broker and measure it."""
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder:
        root = Path(folder)
        house = build(root)
        with release_limit.parts(root / "limit") as limit:
            with house.serving(), generator(house) as load:
                rounds, limits = _rounds(load, limit)
            rooms = release_rooms.measure(house, ROOM_RELEASES)
    found = [row for clients in CLIENTS for row in _rows(clients, rounds[clients], limits[clients])]
    every = [each.challenges for each in rounds[16]]
    found.append(_row("challenges, 16 clients", "1/s", every))
    alone = statistics.median(1 / each.rate for each in rounds[1][1:])
    return [*found, *_shares(rooms, alone, limits[1][-1])]


def _rounds(
    load: Load, limit: Limit
) -> tuple[dict[int, list[Round]], dict[int, list[dict[str, float]]]]:
    """Take turns between load and limit; round 0 warms up, and `measure` leaves it out too."""
    rounds: dict[int, list[Round]] = {clients: [] for clients in CLIENTS}
    limits: dict[int, list[dict[str, float]]] = {clients: [] for clients in CLIENTS}
    for _ in range(ROUNDS + 1):
        for clients, releases in CLIENTS.items():
            rounds[clients].append(load.round(clients, releases))
            limits[clients].append(limit.measure(clients, 64))
    return rounds, limits


def _rows(clients: int, rounds: Sequence[Round], limits: Sequence[dict[str, float]]) -> list[Row]:
    name = f"releases, {clients} client{'s' if clients > 1 else ''}"
    floor = [sum(parts.values()) for parts in limits]
    found = [
        _row(name, "1/s", [each.rate for each in rounds], [1 / seconds for seconds in floor]),
        _row(
            f"{name}: p50",
            "ms",
            [each.quantile(0.5) for each in rounds],
            # Each client waits for one release of every other (Little's law).
            [1e3 * seconds * clients for seconds in floor],
        ),
        _row(f"{name}: p99", "ms", [each.quantile(0.99) for each in rounds]),
    ]
    if clients > 1:
        cost = [1e3 * each.cpu / len(each.latencies) for each in rounds]
        found.append(_row(f"{name}: load generator's CPU per release", "ms", cost))
    return found


def _row(name: str, unit: str, ours: Iterable[float], limit: Iterable[float] | None = None) -> Row:
    """Return the row of samples that were already taken in turns."""
    samples = list(ours)

    def replay(values: Iterable[float]) -> Callable[[], float]:
        return iter(list(values)).__next__

    return measure(
        name,
        unit,
        ours=replay(samples),
        limit=None if limit is None else replay(limit),
        rounds=len(samples) - 1,
        better="higher" if unit == "1/s" else "lower",
    )


def _shares(rooms: dict[str, float], alone: float, floor: dict[str, float]) -> list[Row]:
    """Return the share of each room in a release over HTTP, one client, none waiting.

    Args:
        rooms: seconds in process.
        alone: mean seconds of a release over HTTP.
        floor: seconds of the limit's parts, each release a group of its own.
    """
    seconds = {_HTTP: max(alone - rooms[TOTAL], 0.0)}  # 0 where it is less than the noise
    seconds |= {room: rooms[room] for room in (DECODE, *TIMED, REST)}
    whole = sum(seconds.values())
    found = []
    for room, spent in seconds.items():
        needed = sum(floor[part] for part in _UNAVOIDABLE.get(room, ()))
        limit = 100 * needed / whole if needed else None
        ours = 100 * spent / whole
        ratio = None if limit is None else limit / ours
        found.append(Row(f"room {room}", "% of a release", ours, None, limit, None, ratio, 0.0, 1))
    return found


if __name__ == "__main__":
    from benchmarks.common import main

    main(rows)
