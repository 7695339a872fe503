"""The training step as one would write it by hand: ``jax.jit`` over flat dicts of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules.bench._measure import Side

WIDTH = 32
BATCH = 8
MOMENTUM = 0.1
LEARNING_RATE = 1e-3

Arrays = dict[str, jax.Array]


def make_batch() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets, the same for every library."""
    random = np.random.RandomState(0)
    return random.randn(BATCH, WIDTH).astype(np.float32), random.randn(BATCH, WIDTH).astype(np.float32)


def make_arrays(blocks: int) -> tuple[Arrays, Arrays]:
    """Return parameters and running means."""
    random = np.random.RandomState(1)
    params = {}
    for i in range(blocks):
        params[f"{i}.weight"] = jnp.asarray(random.uniform(-0.17, 0.17, (WIDTH, WIDTH)), jnp.float32)
        params[f"{i}.bias"] = jnp.zeros(WIDTH)
    return params, {f"{i}.mean": jnp.zeros(WIDTH) for i in range(blocks)}


def make_function(
    blocks: int, optimizer: optax.GradientTransformation | None = None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the step, not yet compiled, and its arguments; the optimizer is Adam where none is given."""
    optimizer = optimizer or optax.adam(LEARNING_RATE)

    def train_step(params: Arrays, means: Arrays, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_fn(params: Arrays) -> tuple[jax.Array, Arrays]:
            activation, new_means = x, {}
            for i in range(blocks):
                activation = jnp.tanh(activation @ params[f"{i}.weight"].T + params[f"{i}.bias"])
                new_means[f"{i}.mean"] = (1 - MOMENTUM) * means[f"{i}.mean"] + MOMENTUM * activation.mean(0)
            return jnp.mean((activation - y) ** 2), new_means

        (loss, means), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), means, opt_state, loss

    params, means = make_arrays(blocks)
    return train_step, (params, means, optimizer.init(params), *map(jnp.asarray, make_batch()))


def make_step(blocks: int, donate: bool = False, optimizer: optax.GradientTransformation | None = None) -> Side:
    """Return a training step that keeps its state between calls."""
    function, (*state, x, y) = make_function(blocks, optimizer)
    train_step = jax.jit(function, donate_argnums=(0, 1, 2) if donate else ())

    def step() -> jax.Array:
        *state[:], loss = train_step(*state, x, y)
        return loss

    return step
