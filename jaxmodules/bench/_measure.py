"""Time several sides of a comparison fairly, in one process."""

import importlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax

Side = Callable[[], Any]


def peer(name: str) -> ModuleType | None:
    """Return the file of this folder that wraps a peer library; ``None`` where that library is not installed."""
    try:
        return importlib.import_module(f"jaxmodules.bench.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("jaxmodules"):
            raise
        return None


def interleave(sides: Mapping[str, Side], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds per call of every side, round by round.

    Every round runs each side once, for about ``seconds`` (one call at least), in a random order and after a few
    calls that do not count, so that whatever else the machine does, other sides' idle threads included, falls on all
    of them alike. What a call returns is waited for, so that no cost hides behind the device's queue.
    """
    order = list(sides)
    shuffle = random.Random(0).shuffle
    calls = {}
    for name, side in sides.items():
        for _ in range(3):
            once = _time(side, 1)
        calls[name] = max(1, round(seconds / once))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            _time(sides[name], calls[name] // 5)
            times[name].append(_time(sides[name], calls[name]))
    return times


def ratio(times: Mapping[str, list[float]], side: str, base: str) -> float:
    """Return the median over the rounds of one side's time divided by another's."""
    return statistics.median(ours / theirs for ours, theirs in zip(times[side], times[base], strict=True))


def _time(side: Side, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(side())
    return (time.perf_counter() - start) / max(calls, 1)
