"""Arithmetic of schedules, once for Python's numbers and for traced ones.

Python's numbers go through the very operations that PyTorch applies to them. Traced ones are float32: there an
expression is arranged so that it does not cancel.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import Tracer
from jaxmodules.optim._number import Number


def is_traced(*values: Any) -> bool:
    """Tell whether any of some numbers is traced."""
    return any(isinstance(value, Tracer) for value in values)


def select(condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return ``then()`` or ``otherwise()``, numbers or lists of them."""
    if not is_traced(condition):
        return then() if condition else otherwise()
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then(), otherwise())


def branch(
    condition: Any, then: Callable[[], None], otherwise: Callable[[], None], cells: Callable[[], Iterable[Number]]
) -> None:
    """Run ``then()`` or ``otherwise()``; on a traced condition both, and keep one's writes to ``cells()``."""
    if not is_traced(condition):
        (then if condition else otherwise)()
        return
    places = list(cells())
    before = [cell.value for cell in places]
    then()
    chosen = [cell.value for cell in places]
    for cell, value in zip(places, before, strict=True):
        cell.value = value
    otherwise()
    for cell, value in zip(places, chosen, strict=True):
        if value is not cell.value:
            cell.value = jnp.where(condition, value, cell.value)


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller number."""
    return jnp.minimum(a, b) if is_traced(a, b) else min(a, b)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger number."""
    return jnp.maximum(a, b) if is_traced(a, b) else max(a, b)


def floor(value: Any) -> Any:
    """Return the whole number below."""
    if not is_traced(value):
        return math.floor(value)
    return value if jnp.issubdtype(value.dtype, jnp.integer) else jnp.floor(value).astype(jnp.int32)


def power(base: Any, exponent: Any) -> Any:
    """Return ``base ** exponent``; where only the exponent is traced, as if the base were not rounded to float32."""
    if is_traced(base) or not is_traced(exponent) or base <= 0:
        return base**exponent
    rounded = float(np.float32(base))
    return jnp.power(rounded, exponent) * jnp.exp(exponent * math.log(base / rounded))


def one_plus_cos(angle: Any, left: Any) -> Any:
    """Return ``1 + cos(angle)`` where ``angle = pi * (1 - left)``."""
    return 2 * jnp.sin(math.pi / 2 * left) ** 2 if is_traced(angle) else 1 + math.cos(angle)


def count_up_to(value: Any, ordered: Sequence[Any]) -> Any:
    """Return how many of some numbers, in order, are not above a value."""
    return jnp.sum(np.asarray(ordered) <= value) if is_traced(value) else bisect.bisect_right(ordered, value)
