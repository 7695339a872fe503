"""Measure the dispatch of a training step with every optimizer, beside the same step by hand with optax."""

import statistics
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

# Ours, its settings, and optax's of the same name; None where optax has none: there the rule of ours, by hand.
PAIRS: list[tuple[str, dict[str, Any], optax.GradientTransformation | None]] = [
    ("SGD", {"momentum": 0.9}, optax.sgd(LR, 0.9)),
    ("Adam", {}, optax.adam(LR)),
    ("AdamW", {}, optax.adamw(LR, weight_decay=1e-2)),
    ("Adamax", {}, optax.adamax(LR)),
    ("NAdam", {}, optax.nadam(LR)),
    ("RAdam", {}, optax.radam(LR)),
    ("RMSprop", {}, optax.rmsprop(LR, 0.99)),
    ("Rprop", {}, optax.rprop(LR)),
    ("Adagrad", {}, optax.adagrad(LR)),
    ("Adadelta", {}, optax.adadelta(LR)),
    ("ASGD", {}, None),
    ("SparseAdam", {}, None),
    ("Adafactor", {}, optax.adafactor(LR)),
    ("Muon", {}, contrib.muon(LR)),
]


def run(blocks: int, rounds: int, seconds: float) -> None:
    """Compare a step of so many blocks for each optimizer."""
    rows = []
    for name, settings, theirs in PAIRS:
        cls = getattr(jm.optim, name)

        def make(net: nn.Module, cls: Any = cls, settings: dict[str, Any] = settings) -> jm.optim.Optimizer:
            return cls(_taken(net, cls), lr=LR, **settings)

        by_hand = theirs or _rule(cls, settings)
        if cls is getattr(jm.optim, "Muon", None):
            by_hand = optax.partition({"matrix": by_hand, "rest": optax.set_to_zero()}, _kinds)
        sides: dict[str, Side] = {
            "jm.jit": _with_jaxmodules.make_step(blocks, make_optimizer=make),
            "by hand": _with_raw.make_step(blocks, optimizer=by_hand),
        }
        times = interleave(sides, rounds, seconds)
        medians = [in_units(statistics.median(times[side])) for side in ("by hand", "jm.jit")]
        what = "optax's" if theirs else "our rule"
        rows.append((name, f"{medians[0]} ({what})", medians[1], judge(ratio(times, "jm.jit", "by hand"), BAR)))
    title = f"Training step with each optimizer, {blocks} blocks"
    show(title, ("optimizer", "raw JAX", "jm.jit", "/ raw JAX"), rows)


def _taken(net: nn.Module, cls: Any) -> list[nn.Parameter]:
    """Return the parameters that an optimizer takes: Muon's are matrices."""
    return [p for p in net.parameters() if p.ndim == 2 or cls is not getattr(jm.optim, "Muon", None)]


def _kinds(params: Any) -> Any:
    return {name: "matrix" if array.ndim == 2 else "rest" for name, array in params.items()}


def _rule(cls: Any, settings: dict[str, Any]) -> optax.GradientTransformation:
    """Return an optimizer's own update rule, with its settings as constants."""
    group: Any = cls(nn.Linear(1, 1).parameters(), lr=LR, **settings).param_groups[0]
    return cls.rule(**group.static(), **group.arrays())
