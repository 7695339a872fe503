"""The training step in jaxmodules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench._measure import Side
from jaxmodules.bench._with_raw import LEARNING_RATE, MOMENTUM, WIDTH, make_batch


class Block(nn.Module):
    """A linear layer and tanh, with the running mean of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", jnp.zeros(WIDTH))

    def forward(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(self.linear(x))
        self.mean = (1 - MOMENTUM) * self.mean + MOMENTUM * x.mean(0)
        return x


MakeOptimizer = Callable[[nn.Module], jm.optim.Optimizer]


def _adam(net: nn.Module) -> jm.optim.Optimizer:
    return jm.optim.Adam(net.parameters(), lr=LEARNING_RATE)


def make_function(blocks: int, make_optimizer: MakeOptimizer = _adam) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the step, not yet compiled, and its arguments."""

    def train_step(net: nn.Module, optimizer: jm.optim.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = jm.value_and_grad(lambda net: jnp.mean((net(x) - y) ** 2))(net)
        optimizer.step(grads)
        return loss

    net = nn.Sequential(*(Block() for _ in range(blocks)))
    return train_step, (net, make_optimizer(net), *map(jnp.asarray, make_batch()))


def make_step(blocks: int, donate: bool = False, make_optimizer: MakeOptimizer = _adam) -> Side:
    """Return a training step that keeps its state between calls."""
    function, arguments = make_function(blocks, make_optimizer)
    train_step = jm.jit(function, donate=donate)
    return lambda: train_step(*arguments)
