"""The models of the comparison by hand: functions of flat dicts of arrays, as a JAX expert would write them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules.bench._tasks import STAGES

Array = jax.Array
Arrays = Mapping[str, Array]


def mlp(params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays]:
    """Apply three layers."""
    for i in (0, 2):
        x = jax.nn.relu(_linear(params, f"{i}.", x))
    return _linear(params, "4.", x), state


def lenet(params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays]:
    """Apply two convolutions and three layers."""
    x = _max_pool(jax.nn.relu(_conv(params["0.weight"], x, 1, 2) + params["0.bias"].reshape(1, -1, 1, 1)))
    x = _max_pool(jax.nn.relu(_conv(params["3.weight"], x, 1, 0) + params["3.bias"].reshape(1, -1, 1, 1)))
    x = x.reshape(len(x), -1)
    for i in (7, 9):
        x = jax.nn.relu(_linear(params, f"{i}.", x))
    return _linear(params, "11.", x), state


def transformer(params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays]:
    """Apply four post-norm encoder layers."""
    B, T, C = x.shape
    for i in range(4):
        prefix = f"encoder.layers.{i}."
        qkv = x @ params[f"{prefix}self_attn.in_proj_weight"].T + params[f"{prefix}self_attn.in_proj_bias"]
        q, k, v = (part.reshape(B, T, 4, C // 4) for part in jnp.split(qkv, 3, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (C // 4) ** 0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v).reshape(B, T, C)
        x = _layer_norm(params, f"{prefix}norm1.", x + _linear(params, f"{prefix}self_attn.out_proj.", mixed))
        hidden = jax.nn.relu(_linear(params, f"{prefix}linear1.", x))
        x = _layer_norm(params, f"{prefix}norm2.", x + _linear(params, f"{prefix}linear2.", hidden))
    return _linear(params, "head.", x.mean(1)), state


def lstm(params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays]:
    """Scan over time with the input projection before the loop."""
    weight = params["lstm.weight_hh_l0"].T
    bias = params["lstm.bias_ih_l0"] + params["lstm.bias_hh_l0"]
    projected = jnp.swapaxes(x, 0, 1) @ params["lstm.weight_ih_l0"].T + bias

    def step(carry: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(gates + h @ weight, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((len(x), 256))
    _, hidden = lax.scan(step, (zeros, zeros), projected)
    return _linear(params, "head.", hidden.mean(0)), state


def resnet18(params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays]:
    """Apply eight residual blocks."""
    new: dict[str, Array] = {}
    x = jax.nn.relu(_batch_norm(params, state, new, "1.", _conv(params["0.weight"], x, 1, 1)))
    strides = [stride for _, _, first in STAGES for stride in (first, 1)]
    for i, stride in enumerate(strides, 3):
        out = _conv(params[f"{i}.conv1.weight"], x, stride, 1)
        out = jax.nn.relu(_batch_norm(params, state, new, f"{i}.bn1.", out))
        out = _batch_norm(params, state, new, f"{i}.bn2.", _conv(params[f"{i}.conv2.weight"], out, 1, 1))
        if f"{i}.downsample.0.weight" in params:
            x = _conv(params[f"{i}.downsample.0.weight"], x, stride, 0)
            x = _batch_norm(params, state, new, f"{i}.downsample.1.", x)
        x = jax.nn.relu(out + x)
    return _linear(params, "13.", x.mean((2, 3))), new


MODELS = {"MLP": mlp, "Transformer": transformer, "LSTM": lstm, "LeNet": lenet, "ResNet-18": resnet18}


def _linear(params: Arrays, prefix: str, x: Array) -> Array:
    return x @ params[f"{prefix}weight"].T + params[f"{prefix}bias"]


def _conv(weight: Array, x: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x, weight, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def _max_pool(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def _layer_norm(params: Arrays, prefix: str, x: Array) -> Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * params[f"{prefix}weight"] + params[f"{prefix}bias"]


def _batch_norm(params: Arrays, state: Arrays, new: dict[str, Array], prefix: str, x: Array) -> Array:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    count = x.size // x.shape[1]
    new[f"{prefix}running_mean"] = 0.9 * state[f"{prefix}running_mean"] + 0.1 * mean
    new[f"{prefix}running_var"] = 0.9 * state[f"{prefix}running_var"] + 0.1 * var * (count / (count - 1))
    new[f"{prefix}num_batches_tracked"] = state[f"{prefix}num_batches_tracked"] + 1
    scale = params[f"{prefix}weight"] * lax.rsqrt(var + 1e-5)
    shift = params[f"{prefix}bias"] - mean * scale
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
