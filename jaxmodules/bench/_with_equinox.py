"""The training step and the ResNet-50 layers in Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxmodules import nn
from jaxmodules.bench._measure import Side
from jaxmodules.bench._with_raw import LEARNING_RATE, MOMENTUM, WIDTH, make_batch


class Net(eqx.Module):
    """Linear layers and tanh, with the running means of what comes out."""

    layers: list[eqx.nn.Linear]

    def __call__(self, x: jax.Array, means: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        """Return the activations and the new means."""
        new_means = []
        for layer, mean in zip(self.layers, means, strict=True):
            x = jnp.tanh(jax.vmap(layer)(x))
            new_means.append((1 - MOMENTUM) * mean + MOMENTUM * x.mean(0))
        return x, new_means


def make_step(blocks: int) -> Side:
    """Return a training step that keeps its state between calls."""
    optimizer = optax.adam(LEARNING_RATE)
    x, y = map(jnp.asarray, make_batch())

    @eqx.filter_jit
    def train_step(net: Net, means: list[jax.Array], opt_state: Any) -> Any:
        def loss_fn(net: Net) -> tuple[jax.Array, list[jax.Array]]:
            out, new_means = net(x, means)
            return jnp.mean((out - y) ** 2), new_means

        (loss, means), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(net)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(net, eqx.is_inexact_array))
        return eqx.apply_updates(net, updates), means, opt_state, loss

    net = Net([eqx.nn.Linear(WIDTH, WIDTH, key=key) for key in jax.random.split(jax.random.key(0), blocks)])
    state = [net, [jnp.zeros(WIDTH)] * blocks, optimizer.init(eqx.filter(net, eqx.is_inexact_array))]

    def step() -> jax.Array:
        *state[:], loss = train_step(*state)
        return loss

    return step


def build_layers(layers: list[nn.Module]) -> list[Any]:
    """Return Equinox layers with the settings of the given ones."""
    built: list[Any] = []
    key = jax.random.key(0)
    for layer in layers:
        key, used = jax.random.split(key)
        match layer:
            case nn.Conv2d():
                sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
                built.append(eqx.nn.Conv2d(*sizes, use_bias=False, key=used))
            case nn.BatchNorm2d():
                built.append(eqx.nn.BatchNorm(layer.num_features, axis_name="batch", mode="batch"))
            case nn.Linear():
                built.append(eqx.nn.Linear(layer.in_features, layer.out_features, key=used))
    return built
