"""Draws the ratios of one benchmark as bars: how many times better than the peer and the limit.

Guarantees: one picture, readable without the table: every bar carries its number, and the line at 1
is where ours and the other are equal. The axis is logarithmic, so 2 and 1/2 are equally far from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.common import Row, number

_COLOURS: Final = {"peer": "#2b6cb0", "limit": "#b7791f"}
_BAR: Final = 0.38
"""Height of a bar, in rows."""


def draw(rows: Sequence[Row], title: str, path: Path) -> bool:
    """Write the picture to `path`; return False, writing nothing, if no row has a ratio."""
    shown = [row for row in rows if row.ratio_to_peer or row.ratio_to_limit]
    if not shown:
        path.unlink(missing_ok=True)
        return False
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 1.9 + 0.75 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        ends: list[float] = [1.0]
        for at, row in enumerate(shown):
            ratios = {"peer": row.ratio_to_peer, "limit": row.ratio_to_limit}
            present = {who: value for who, value in ratios.items() if value}
            for slot, (who, value) in enumerate(present.items()):
                y = at + (slot - (len(present) - 1) / 2) * _BAR
                axes.barh(y, value - 1, left=1, height=_BAR, color=_COLOURS[who], zorder=2)
                axes.annotate(
                    f"{number(value)}x",
                    (value, y),
                    xytext=(5 if value >= 1 else -5, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if value >= 1 else "right",
                )
                ends.append(value)
        axes.set_xscale("log")
        axes.set_xlim(min(ends) / 1.7, max(ends) * 1.7)
        axes.axvline(1, color="#333333", linewidth=1, zorder=3)
        axes.set_yticks(range(len(shown)), [f"{row.name}\n{_ours(row)}" for row in shown])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", color="#dddddd", zorder=0)
        axes.set_xlabel("right of 1: ours is better")
        axes.set_title(title, loc="left", fontweight="bold")
        for who, colour in _COLOURS.items():
            axes.barh(0, 0, left=1, color=colour, label=f"ours against the {who}")
        figure.legend(loc="outside lower right", ncols=2, frameon=False)
        figure.savefig(path, dpi=130)
    return True


def _ours(row: Row) -> str:
    return f"{number(row.ours)} {row.unit}"
