"""Numbers that others will quote: they must mean what they say."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import common, plots


def steady(value: float, calls: list[str] | None = None, who: str = "") -> Callable[[], float]:
    def sample() -> float:
        if calls is not None:
            calls.append(who)
        return value

    return sample


def test_ratio_of_rates() -> None:
    """With higher = better, twice the peer's rate is a ratio of 2."""
    row = common.measure("r", "1/s", ours=steady(10), peer=steady(5), limit=steady(20), rounds=3)

    assert (row.ours, row.peer, row.limit) == (10, 5, 20)
    assert (row.ratio_to_peer, row.ratio_to_limit) == (2, 0.5)
    assert (row.spread, row.rounds) == (0, 3)


def test_ratio_of_times() -> None:
    """With lower = better, half of the peer's time is a ratio of 2."""
    row = common.measure("t", "ms", ours=steady(5), peer=steady(10), rounds=1, better="lower")

    assert (row.ratio_to_peer, row.ratio_to_limit, row.limit) == (2, None, None)


def test_rounds_take_turns() -> None:
    """Ours, peer and limit are measured in turns, and the order changes from round to round."""
    calls: list[str] = []
    samples = {who: steady(1, calls, who) for who in ("ours", "peer", "limit")}
    common.measure("x", "1/s", **samples, rounds=3)  # type: ignore[arg-type]

    forth = ["ours", "peer", "limit"]
    assert calls == [*forth[::-1], *forth, *forth[::-1], *forth]


def test_median_and_spread() -> None:
    """The warming round is not counted; the median is; spread is the range over the median."""
    values = iter([1000.0, 8.0, 10.0, 14.0])
    row = common.measure("x", "1/s", ours=lambda: next(values), rounds=3)

    assert row.ours == 10
    assert row.spread == pytest.approx(0.6)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_meaningless_measurement(value: float) -> None:
    """A measurement that is not a positive number is an error, never a row."""
    with pytest.raises(common.BenchmarkError, match="peer measured"):
        common.measure("x", "1/s", ours=steady(1), peer=steady(value), rounds=1)


def test_no_rounds() -> None:
    """Zero rounds measure nothing and are refused."""
    with pytest.raises(common.BenchmarkError):
        common.measure("x", "1/s", ours=steady(1), rounds=0)


def test_rate_counts_calls() -> None:
    """`rate` agrees with a call whose duration is known."""
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.01)

    rate = common.rate(work, seconds=0.1)

    assert 10 < rate <= 100
    assert calls >= 2


def test_duration_is_in_seconds() -> None:
    """`duration` returns seconds."""
    assert 0.02 <= common.duration(lambda: time.sleep(0.02)) < 2


def test_json_has_exactly_the_agreed_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints a list of objects with the nine fields and nothing else."""
    common.main(lambda: [common.measure("x", "1/s", ours=steady(2), rounds=1)], ["--json"])

    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == [
        "name",
        "unit",
        "ours",
        "peer",
        "limit",
        "ratio_to_peer",
        "ratio_to_limit",
        "spread",
        "rounds",
    ]
    assert row["peer"] is None


def test_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--json` a table is printed in which every line has the same columns."""
    rows = [common.measure("x", "1/s", ours=steady(1234.5), peer=steady(617.25), rounds=1)]
    common.main(lambda: rows, [])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    assert "1,230" in lines[2]
    assert "2.00" in lines[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.01234, "0.0123"), (9.996, "10.0"), (123456.0, "123,000")],
)
def test_numbers(value: float | None, text: str) -> None:
    """Numbers are shown with three significant digits."""
    assert common.number(value) == text


def test_runner_finds_benchmarks_only(tmp_path: Path) -> None:
    """Only modules that can be run count as benchmarks, not helpers and not the runner."""
    (tmp_path / "one.py").write_text(
        '"""Measures one.\n\nMore."""\nif __name__ == "__main__":\n    1\n'
    )
    (tmp_path / "helper.py").write_text('"""Helps."""\n')
    (tmp_path / "_private.py").write_text('if __name__ == "__main__":\n    1\n')

    assert runner.names(tmp_path) == ["one"]
    assert runner.about(tmp_path / "one.py") == "Measures one."


def test_runner_writes_table_and_plots(tmp_path: Path) -> None:
    """Results hold table, rows and a picture; what failed is named."""
    row = common.measure("x", "1/s", ours=steady(3), peer=steady(2), limit=steady(9), rounds=1)
    report = runner.Report("one", "Measures one.", (row,))

    text = runner.write([report], ["two"], tmp_path).read_text()

    assert "Measures one." in text
    assert "FAILED: two" in text
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())["one"][0]["ratio_to_peer"] == 1.5


def test_no_ratio_no_plot(tmp_path: Path) -> None:
    """A benchmark without a peer and a limit gets no picture, and an old one is removed."""
    path = tmp_path / "old.png"
    path.write_bytes(b"old")

    assert not plots.draw([common.measure("x", "s", ours=steady(1), rounds=1)], "x", path)
    assert not path.exists()
