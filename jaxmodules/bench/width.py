"""Measure how the cost of a step grows with the number of parameters: what is gathered, dispatched and scattered."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench._measure import Side, interleave, ratio
from jaxmodules.bench._table import in_units, judge, show

BAR = 1.05
WIDTHS = (100, 1_000, 10_000)


def run(rounds: int, seconds: float, widths: tuple[int, ...] = WIDTHS) -> None:
    """Step through so many parameters of one number each, with SGD, whose arithmetic is next to nothing."""
    sides: dict[str, Side] = {}
    for width in widths:
        sides[f"raw {width}"] = _raw_step(width)
        sides[f"jm {width}"] = _our_step(width)
    times = interleave(sides, rounds, seconds)
    rows = []
    for width in widths:
        medians = {side: statistics.median(times[f"{side} {width}"]) for side in ("raw", "jm")}
        each = [in_units(seconds / width) for seconds in medians.values()]
        verdict = judge(ratio(times, f"jm {width}", f"raw {width}"), BAR)
        rows.append((f"{width:,}", *map(in_units, medians.values()), verdict, *each))
    columns = ("parameters", "raw JAX", "jm.jit", "/ raw JAX", "for each: raw JAX", "jm.jit")
    show("Step of SGD over parameters of one number each", columns, rows)


def _our_step(width: int) -> Callable[[], Any]:
    net = nn.ParameterList([nn.Parameter(jnp.ones(1)) for _ in range(width)])
    optimizer = jm.optim.SGD(net.parameters(), lr=1e-3)
    ones = jnp.ones(1)
    step = jm.jit(lambda optimizer, grad: optimizer.step([grad] * width))
    return lambda: (step(optimizer, ones), net[0].value)


def _raw_step(width: int) -> Callable[[], Any]:
    params: Any = {str(i): jnp.ones(1) for i in range(width)}
    optimizer = optax.sgd(1e-3)
    state = [params, optimizer.init(params)]
    ones = jnp.ones(1)

    @jax.jit
    def step(params: Any, opt_state: Any, grad: jax.Array) -> Any:
        updates, opt_state = optimizer.update(dict.fromkeys(params, grad), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def side() -> Any:
        state[:] = step(*state, ones)
        return state[0]["0"]

    return side
