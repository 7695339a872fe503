"""Measure the training step of small models beside hand-written JAX and PyTorch."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench import _raw_models
from jaxmodules.bench._measure import Side, interleave, peer, ratio
from jaxmodules.bench._table import in_units, judge, show
from jaxmodules.bench._tasks import TASKS, Task
from jaxmodules.nn import functional as F

BAR = 1.02
LEARNING_RATE = 0.01
MOMENTUM = 0.9


def run(rounds: int, seconds: float) -> None:
    """Compare a step of SGD with momentum on every model: ours, by hand, and PyTorch's."""
    rows = []
    torch = peer("_with_torch")
    for task in TASKS:
        jm.manual_seed(0)
        net = task.build(nn)
        ours, raw = make_step(task, net), make_raw_step(task, net)
        sides: dict[str, Side] = {"jm.jit": ours.step, "raw JAX": raw.step}
        if torch is not None:
            sides["PyTorch"] = torch.make_model_step(task, net.state_dict(), LEARNING_RATE, MOMENTUM)
        first = {name: float(side()) for name, side in sides.items()}
        if not np.allclose(list(first.values()), first["raw JAX"], rtol=1e-4):
            raise RuntimeError(f"{task.title}: the sides should have the same loss, got {first}")
        times = interleave(sides, rounds, seconds)
        medians = [in_units(statistics.median(times[name])) for name in sides]
        costs = [f"{ours.cost(what) / raw.cost(what):.3f}" for what in ("flops", "bytes accessed")]
        beside = f"{ratio(times, 'jm.jit', 'PyTorch'):.2f}" if "PyTorch" in times else ""
        medians += [""] * (3 - len(medians))
        rows.append((task.name, *medians, judge(ratio(times, "jm.jit", "raw JAX"), BAR), *costs, beside))
    show(
        "Training step, SGD with momentum; PyTorch eager on two threads",
        ("model", "jm.jit", "raw JAX", "PyTorch", "/ raw JAX", "FLOPs", "bytes", "/ PyTorch"),
        rows,
        "\n".join(f"{task.name}: {task.title}" for task in TASKS),
    )


class Step:
    """A compiled step that keeps its state, and the costs of its program."""

    def __init__(self, step: Side, lower: Callable[[], jax.stages.Lowered]) -> None:
        self.step = step
        self._lower = lower

    def cost(self, what: str) -> float:
        """Return what XLA's cost analysis says of the program."""
        return self._costs[what]

    @functools.cached_property
    def _costs(self) -> Any:
        return self._lower().compile().cost_analysis()


def make_step(task: Task, net: nn.Module) -> Step:
    """Return the step of a jaxmodules model; it trains a copy."""
    net = jax.tree.map(jnp.array, net)
    optimizer = jm.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    @jm.jit
    def train_step(net: nn.Module, optimizer: jm.optim.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = jm.value_and_grad(lambda net: F.cross_entropy(net(x), y))(net)
        optimizer.step(grads)
        return loss

    batch = [jnp.asarray(array) for array in task.make_batch()]
    return Step(lambda: train_step(net, optimizer, *batch), lambda: train_step.lower(net, optimizer, *batch))


def make_raw_step(task: Task, net: nn.Module) -> Step:
    """Return the step of the model written by hand, from the same arrays."""
    forward = _raw_models.MODELS[task.name]
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)
    params = {name: jnp.array(p) for name, p in net.named_parameters()}
    state: Any = [params, {name: jnp.array(b) for name, b in net.named_buffers()}, optimizer.init(params)]

    @jax.jit
    def train_step(params: Any, buffers: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            scores, new = forward(params, buffers, x)
            return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean(), new

        (loss, buffers), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), buffers, opt_state, loss

    batch = [jnp.asarray(array) for array in task.make_batch()]

    def step() -> jax.Array:
        *state[:], loss = train_step(*state, *batch)
        return loss

    return Step(step, lambda: train_step.lower(*state, *batch))
