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
    """Time every single step, the sides taking turns; raw JAX's percentile is the median over its turns."""
    sides: dict[str, Side] = {"raw JAX": _with_raw.make_step(blocks), "jm.jit": _with_jaxmodules.make_step(blocks)}
    turns: dict[str, list[list[float]]] = {name: [] for name in sides}
    for side in sides.values():
        _times(side, 10)
    for _ in range(max(1, steps // CHUNK)):
        for name, side in sides.items():
            turns[name].append(_times(side, min(CHUNK, steps)))
    rows = []
    base = statistics.median(_percentile(times) for times in turns["raw JAX"])
    for name in sides:
        every = [t for times in turns[name] for t in times]
        slow = _percentile(every)
        verdict = judge(slow / base, BAR) if name == "jm.jit" else ""
        rows.append((name, in_units(statistics.median(every)), in_units(slow), verdict, in_units(max(every))))
    columns = ("side", "median", "99th percentile", "/ raw JAX's, median of turns", "slowest")
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
