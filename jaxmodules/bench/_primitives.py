"""The kernels of the sweep by hand: XLA's primitives as a JAX expert would call them, differentiated by JAX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def conv(x: Array, weight: Array, stride: int, padding: int, dilation: int, groups: int) -> Array:
    """Call XLA's convolution."""
    rank = x.ndim - 2
    return lax.conv_general_dilated(
        x, weight, [stride] * rank, [(padding, padding)] * rank,
        rhs_dilation=[dilation] * rank, dimension_numbers=_layout(rank), feature_group_count=groups,
    )  # fmt: skip


def conv_transpose(x: Array, weight: Array, stride: int, padding: int) -> Array:
    """Convolve an input with zeros between its elements by the mirrored kernel."""
    rank = x.ndim - 2
    mirrored = jnp.flip(weight, range(2, weight.ndim)).swapaxes(0, 1)
    pads = [(size - 1 - padding, size - 1 - padding) for size in weight.shape[2:]]
    return lax.conv_general_dilated(
        x, mirrored, [1] * rank, pads, lhs_dilation=[stride] * rank, dimension_numbers=_layout(rank)
    )


def max_pool(x: Array, kernel_size: int, stride: int, padding: int) -> Array:
    """Take the maximum of windows."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(x, kernel_size, stride, padding))


def avg_pool(x: Array, kernel_size: int, stride: int, padding: int) -> Array:
    """Add up windows, the zeros around included, and divide."""
    total = lax.reduce_window(x, 0.0, lax.add, *_windows(x, kernel_size, stride, padding))
    return total / kernel_size ** (x.ndim - 2)


def adaptive_avg_pool(x: Array, output_size: int) -> Array:
    """Average the parts of each axis."""
    return _adaptive(x, output_size, avg_pool, jnp.mean)


def adaptive_max_pool(x: Array, output_size: int) -> Array:
    """Take the maximum of the parts of each axis."""
    return _adaptive(x, output_size, max_pool, jnp.max)


def batch_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalise every channel over the batch."""
    return _normalize(x, weight, bias, (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2)))


def instance_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalise every channel of every sample."""
    return _normalize(x, weight, bias, range(2, x.ndim), (1, -1, *[1] * (x.ndim - 2)))


def group_norm(x: Array, weight: Array, bias: Array, num_groups: int) -> Array:
    """Normalise every group of channels of every sample."""
    groups = x.reshape(len(x), num_groups, -1, *x.shape[2:])
    shape = (1, num_groups, -1, *[1] * (x.ndim - 2))
    return _normalize(groups, weight, bias, range(2, groups.ndim), shape).reshape(x.shape)


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalise over the last axis."""
    return _normalize(x, weight, bias, [-1], (-1,))


def rms_norm(x: Array, weight: Array) -> Array:
    """Divide by the root of the mean square over the last axis."""
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + jnp.finfo(x.dtype).eps) * weight


def recurrence(x: Array, w_input: Array, w_hidden: Array, b_input: Array, b_hidden: Array, mode: str) -> Array:
    """Scan over time, with the input projected before the loop."""
    zeros = jnp.zeros((x.shape[1], w_hidden.shape[1]), x.dtype)
    initial = (zeros, zeros) if mode == "LSTM" else zeros
    return lax.scan(_STEPS[mode](w_hidden, b_hidden), initial, x @ w_input.T + b_input)[1]


FUNCTIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (
        conv, conv_transpose, max_pool, avg_pool, adaptive_max_pool, adaptive_avg_pool,
        batch_norm, instance_norm, group_norm, layer_norm, rms_norm, recurrence,
    )
}  # fmt: skip


def _layout(rank: int) -> tuple[str, str, str]:
    spatial = "DHW"[-rank:]
    return f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"


def _windows(x: Array, kernel_size: int, stride: int, padding: int) -> tuple[Sequence[Any], ...]:
    rank = x.ndim - 2
    return (1, 1, *[kernel_size] * rank), (1, 1, *[stride] * rank), [(0, 0)] * 2 + [(padding, padding)] * rank


def _adaptive(x: Array, count: int, pool: Callable[..., Array], reduce: Callable[..., Array]) -> Array:
    if x.shape[-1] % count == 0:
        size = x.shape[-1] // count
        return pool(x, size, size, 0) if count > 1 else reduce(x, range(2, x.ndim), keepdims=True)
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        parts = [(i * size // count, math.ceil((i + 1) * size / count)) for i in range(count)]
        x = jnp.stack([reduce(lax.slice_in_dim(x, *part, axis=axis), axis) for part in parts], axis)
    return x


def _normalize(x: Array, weight: Array, bias: Array, axes: Sequence[int], shape: Sequence[int]) -> Array:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * weight.reshape(shape) + bias.reshape(shape)


def _lstm(w_hidden: Array, b_hidden: Array) -> Callable[..., Any]:
    def step(state: tuple[Array, Array], projected: Array) -> Any:
        h, c = state
        i, f, g, o = jnp.split(projected + h @ w_hidden.T + b_hidden, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return step


def _gru(w_hidden: Array, b_hidden: Array) -> Callable[..., Any]:
    def step(h: Array, projected: Array) -> Any:
        r, z, n = jnp.split(projected, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(h @ w_hidden.T + b_hidden, 3, axis=-1)
        new = jnp.tanh(n + jax.nn.sigmoid(r + h_r) * h_n)
        z = jax.nn.sigmoid(z + h_z)
        h = (1 - z) * new + z * h
        return h, h

    return step


def _rnn(w_hidden: Array, b_hidden: Array) -> Callable[..., Any]:
    def step(h: Array, projected: Array) -> Any:
        h = jnp.tanh(projected + h @ w_hidden.T + b_hidden)
        return h, h

    return step


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn}
