"""The training step and the ResNet-50 layers in Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxmodules import nn
from jaxmodules.bench._measure import Side
from jaxmodules.bench._with_raw import LEARNING_RATE, MOMENTUM, WIDTH, make_batch


class Block(nnx.Module):
    """A linear layer and tanh, with the running mean of what comes out."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.mean = nnx.BatchStat(jnp.zeros(WIDTH))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the activations and update the mean."""
        x = jnp.tanh(self.linear(x))
        self.mean[...] = (1 - MOMENTUM) * self.mean[...] + MOMENTUM * x.mean(0)
        return x


def make_step(blocks: int) -> Side:
    """Return a training step that keeps its state between calls."""
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(*(Block(rngs) for _ in range(blocks)))
    optimizer = nnx.Optimizer(net, optax.adam(LEARNING_RATE), wrt=nnx.Param)
    x, y = map(jnp.asarray, make_batch())

    @nnx.jit
    def train_step(net: nnx.Sequential, optimizer: nnx.Optimizer) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda net: jnp.mean((net(x) - y) ** 2))(net)
        optimizer.update(net, grads)
        return loss

    return lambda: train_step(net, optimizer)


def build_layers(layers: list[nn.Module]) -> list[Any]:
    """Return NNX layers with the settings of the given ones."""
    built: list[Any] = []
    rngs = nnx.Rngs(0)
    for layer in layers:
        match layer:
            case nn.Conv2d():
                sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
                built.append(nnx.Conv(*sizes, padding=layer.padding[0], use_bias=False, rngs=rngs))
            case nn.BatchNorm2d():
                built.append(nnx.BatchNorm(layer.num_features, rngs=rngs))
            case nn.Linear():
                built.append(nnx.Linear(layer.in_features, layer.out_features, rngs=rngs))
    return built
