"""Look at the slow calls: the 99th percentile of many steps, which hidden traces or rebuilt caches would show in."""

import statistics
import time

import jax

from jaxmodules.bench import _with_jaxmodules, _with_raw
from jaxmodules.bench._measure import Side
from jaxmodules.bench._table import in_units, judge, show

BAR = 1.5
CHUNK = 500


def run(blocks: int, steps: int) -> None:
    """Time every single step, the sides taking turns.

    What is compared is the median over the turns of the percentile within one: a machine that is slow for some turns
    is so for both sides.
    """
    sides: dict[str, Side] = {"raw JAX": _with_raw.make_step(blocks), "jm.jit": _with_jaxmodules.make_step(blocks)}
    turns: dict[str, list[list[float]]] = {name: [] for name in sides}
    for side in sides.values():
        _times(side, 10)
    for _ in range(max(1, steps // CHUNK)):
        for name, side in sides.items():
            turns[name].append(_times(side, min(CHUNK, steps)))
    rows = []
    within = {name: statistics.median(map(_percentile, turns[name])) for name in sides}
    for name in sides:
        every = [t for times in turns[name] for t in times]
        verdict = judge(within[name] / within["raw JAX"], BAR) if name == "jm.jit" else ""
        times = statistics.median(every), _percentile(every), within[name]
        rows.append((name, *map(in_units, times), verdict, in_units(max(every))))
    columns = ("side", "median", "99th percentile", "of turns, median", "/ raw JAX", "slowest")
    show(f"Each of {steps:,} training steps, {blocks} blocks, Adam", columns, rows)


def _times(side: Side, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(side())
        times.append(time.perf_counter() - start)
    return times


def _percentile(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]
