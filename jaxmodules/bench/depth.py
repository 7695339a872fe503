"""Measure how the time to trace and lower a training step grows with the number of equal blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench._measure import interleave, ratio
from jaxmodules.bench._table import in_units, judge, show

BAR = 3.0
DEPTH = 48


def _encoder(layers: int) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), layers)


def _lower(net: nn.Module, fresh: bool) -> Callable[[], Any]:
    """Return a function that traces and lowers a step anew, ``fresh`` as in a process that has traced nothing yet."""
    x = jnp.ones((2, 5, 32))

    def step(net: nn.Module, x: Any) -> Any:
        return jm.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)

    def side() -> None:
        if fresh:
            jax.clear_caches()
        jm.jit(step).lower(net, x)

    return side


def run(rounds: int) -> None:
    """Compare one encoder layer with many, and with many that have a hook each and so are traced one by one."""
    one, many, apart = _encoder(1), _encoder(DEPTH), _encoder(DEPTH)
    for layer in apart.layers:
        layer.register_forward_hook(lambda module, args, output: None)
    rows = []
    for what, fresh in (("first trace", True), ("in a process that has traced such layers", False)):
        sides = {"one": _lower(one, fresh), "many": _lower(many, fresh), "apart": _lower(apart, fresh)}
        times = interleave(sides, rounds, 0.0)
        best = {name: in_units(min(seconds)) for name, seconds in times.items()}
        verdict = judge(ratio(times, "many", "one"), BAR)
        rows.append([what, best["one"], best["many"], verdict, best["apart"]])
    columns = ["trace and lower", "1 layer", f"{DEPTH} layers", "/ 1 layer", f"{DEPTH}, one by one"]
    show("Training step of a TransformerEncoder", columns, rows)
