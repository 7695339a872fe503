"""Draw the sweep of the kernels: a line per layer, a mark for each thing measured of it."""

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxmodules.bench._kernel_cases import BOTH, FORWARD, INPUT, WEIGHT

MARKS = {FORWARD: ("o", "#1b6ca8"), INPUT: ("<", "#d1495b"), WEIGHT: (">", "#edae49"), BOTH: ("D", "#66a182")}


def draw(rows: Sequence[Any], path: Path) -> None:
    """Draw how long the library takes beside every other side, families apart, what gains most at their top."""
    lines = _sorted(rows)
    sides = list(rows[0].ratios)
    figure = Figure(figsize=(4.5 + 4 * len(sides), 2 + 0.17 * len(lines)), layout="constrained")
    for axes, side in zip(figure.subplots(1, len(sides), sharey=True, squeeze=False)[0], sides, strict=True):
        axes.axvline(1, color="black", linewidth=1)
        for place, line in enumerate(lines):
            for row in line:
                mark, color = MARKS[row.measure]
                axes.plot(row.ratios[side], place, mark, color=color, markersize=5, alpha=0.85)
        mean = statistics.geometric_mean(row.ratios[side] for row in rows)
        axes.set(xscale="log", title=f"jaxmodules / {side}\ngeometric mean {mean:.2f}", xlabel="times as long")
        axes.grid(axis="x", alpha=0.3)
        _name_lines(axes, lines)
    used = {row.measure for row in rows}
    handles = [Line2D([], [], marker=m, color=c, linestyle="", label=k) for k, (m, c) in MARKS.items() if k in used]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=130)


def _sorted(rows: Sequence[Any]) -> list[list[Any]]:
    """Return the rows of each layer, family after family, what gains most first."""
    lines = [list(members) for _, members in groupby(rows, key=lambda row: row.case)]
    families = list(dict.fromkeys(row.case.family for row in rows))
    means = [statistics.geometric_mean(row.ratios["primitive"] for row in line) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: (families.index(lines[i][0].case.family), means[i]))
    return [lines[i] for i in order]


def _name_lines(axes: Axes, lines: Sequence[Sequence[Any]]) -> None:
    """Name the layers, and shade every second family."""
    names = [f"{line[0].case.family}: {line[0].case.name}" for line in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=7)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    start = 0
    for index, (_, members) in enumerate(groupby(lines, key=lambda line: line[0].case.family)):
        end = start + len(list(members))
        if index % 2 == 0:
            axes.axhspan(start - 0.5, end - 0.5, color="black", alpha=0.05, linewidth=0)
        start = end
