"""What the steps return, turned into numbers when the device has them."""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_LAG = 8  # steps that may be under way: the device always has work, and an interrupt is not far from its end


class Meter:
    """Keeps what steps return until it is computed, and the means over an epoch.

    The oldest result is waited for when more than a few are under way, which also keeps the host from running far
    ahead of the device.
    """

    def __init__(self, deliver: Callable[[int, dict[str, float]], None] | None) -> None:
        self.deliver = deliver
        self.latest: dict[str, float] = {}
        self.sums: dict[str, tuple[float, float]] = {}  # of values times weights, of weights
        self._waiting: deque[tuple[int, Any, int]] = deque()

    def add(self, step: int, result: Any, weight: int) -> None:
        """Take what a step returned for a batch of ``weight`` samples."""
        self._waiting.append((step, result, weight))
        if len(self._waiting) > _LAG:
            self._settle()

    def poll(self) -> None:
        """Take the results that are there, and wait for none."""
        while self._waiting and all(map(_is_there, jax.tree.leaves(self._waiting[0][1]))):
            self._settle()

    def flush(self) -> None:
        """Wait for all results."""
        while self._waiting:
            self._settle()

    def means(self) -> dict[str, float]:
        """Return the means over the samples so far, as far as the results are known."""
        return {name: total / weight for name, (total, weight) in self.sums.items()}

    def clear(self) -> None:
        """Begin a new epoch."""
        self.flush()
        self.sums = {}

    def _settle(self) -> None:
        step, result, weight = self._waiting.popleft()
        self.latest = values = to_floats(result)
        for name, value in values.items():
            total, weights = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = total + value * weight, weights + weight
        if self.deliver is not None:
            self.deliver(step, values)


def _is_there(value: Any) -> bool:
    return not hasattr(value, "is_ready") or value.is_ready()


def to_floats(result: Any, what: str = "a step") -> dict[str, float]:
    """Return what a step returned as numbers by name: a loss, a dict of metrics, or ``(loss, dict)``.

    Raises:
        TypeError: if it is none of these.
    """
    if result is None:
        return {}
    if isinstance(result, dict):
        return {str(name): _to_float(value, what, str(name)) for name, value in result.items()}
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return {"loss": _to_float(result[0], what, "the loss"), **to_floats(result[1], what)}
    return {"loss": _to_float(result, what, "the loss")}


def _to_float(value: Any, what: str, name: str) -> float:
    if not isinstance(value, str | tuple | list):
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        if array.size == 1 and array.dtype.kind not in "OUSc":
            return float(array.item())
    shape = getattr(value, "shape", None)
    got = f"a {type(value).__name__}: {value!r}" if shape is None else f"an array of shape {tuple(shape)}"
    raise TypeError(
        f"{what} must return the loss, a dict of metrics, or (loss, dict), each of them one real number;"
        f" for {name} it returned {got}"
    )
