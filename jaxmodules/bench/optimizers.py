"""Measure the dispatch of a training step with every optimizer, beside the same step by hand with optax."""

import statistics
from collections.abc import Callable
from typing import Any

import optax
from optax import contrib

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench import _with_jaxmodules, _with_raw
from jaxmodules.bench._measure import Side, interleave, ratio
from jaxmodules.bench._table import in_units, judge, show

BAR = 1.05
LR = _with_raw.LEARNING_RATE

Factory = Callable[..., optax.GradientTransformation]

# Ours, its settings, and optax's of the same name; None where optax has none: there the rule of ours, by hand.
PAIRS: list[tuple[str, dict[str, Any], Factory | None, dict[str, float]]] = [
    ("SGD", {"momentum": 0.9}, optax.sgd, {"momentum": 0.9}),
    ("Adam", {}, optax.adam, {}),
    ("AdamW", {}, optax.adamw, {"weight_decay": 1e-2}),
    ("Adamax", {}, optax.adamax, {}),
    ("NAdam", {}, optax.nadam, {}),
    ("RAdam", {}, optax.radam, {}),
    ("RMSprop", {}, optax.rmsprop, {"decay": 0.99}),
    ("Rprop", {}, optax.rprop, {}),
    ("Adagrad", {}, optax.adagrad, {}),
    ("Adadelta", {}, optax.adadelta, {}),
    ("ASGD", {}, None, {}),
    ("SparseAdam", {}, None, {}),
    ("Adafactor", {}, optax.adafactor, {}),
    ("Muon", {}, contrib.muon, {}),
]


def run(blocks: int, rounds: int, seconds: float) -> None:
    """Compare a step of so many blocks for each optimizer.

    By hand the learning rate and the other numbers are constants of the program, or, as with ours, arguments of it.
    """
    rows = []
    for name, settings, factory, theirs in PAIRS:
        cls = getattr(jm.optim, name)

        def make(net: nn.Module, cls: Any = cls, settings: dict[str, Any] = settings) -> jm.optim.Optimizer:
            return cls(_taken(net, cls), lr=LR, **settings)

        by_hand = {"raw JAX": _rule(cls, settings) if factory is None else factory(LR, **theirs)}
        if factory is not None and factory in _INJECTABLE:
            by_hand["injected"] = optax.inject_hyperparams(factory)(LR, **theirs)
        sides: dict[str, Side] = {"jm.jit": _with_jaxmodules.make_step(blocks, make_optimizer=make)}
        for side, rule in by_hand.items():
            matrices = optax.partition({"matrix": rule, "rest": optax.set_to_zero()}, _kinds)
            sides[side] = _with_raw.make_step(blocks, optimizer=matrices if cls is jm.optim.Muon else rule)
        times = interleave(sides, rounds, seconds)
        medians = [in_units(statistics.median(times[side])) for side in ("raw JAX", "jm.jit")]
        injected = f"{ratio(times, 'jm.jit', 'injected'):.2f}" if "injected" in sides else "-"
        name = name if factory else f"{name} (our rule)"
        rows.append((name, *medians, judge(ratio(times, "jm.jit", "raw JAX"), BAR), injected))
    columns = ("optimizer", "raw JAX + optax", "jm.jit", "/ raw JAX", "/ raw JAX, numbers as arguments")
    show(f"Training step with each optimizer, {blocks} blocks", columns, rows)


_INJECTABLE = (optax.sgd, optax.adam, optax.adamw, optax.adamax, optax.nadam, optax.radam, optax.rmsprop, optax.adagrad)


def _taken(net: nn.Module, cls: Any) -> list[nn.Parameter]:
    """Return the parameters that an optimizer takes: Muon's are matrices."""
    return [p for p in net.parameters() if p.ndim == 2 or cls is not jm.optim.Muon]


def _kinds(params: Any) -> Any:
    return {name: "matrix" if array.ndim == 2 else "rest" for name, array in params.items()}


def _rule(cls: Any, settings: dict[str, Any]) -> optax.GradientTransformation:
    """Return an optimizer's own update rule, with its settings as constants."""
    group: Any = cls(nn.Linear(1, 1).parameters(), lr=LR, **settings).param_groups[0]
    return cls.rule(**group.static(), **group.arrays())
