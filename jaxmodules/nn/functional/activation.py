"""Functions applied element by element, and softmax."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, normalize_dim
from jaxmodules._typing import Array, ArrayLike, DType


def relu(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :math:`\max(0, x)` to every element.

    Args:
        input: an array of any shape.
        inplace: accepted for PyTorch's sake; arrays are immutable and the result is always new.

    Raises:
        RuntimeError: if ``input`` is boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    input = as_array(input)
    if input.dtype == np.bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    return _relu(input)


def sigmoid(input: ArrayLike) -> Array:
    r"""Apply :math:`1 / (1 + e^{-x})` to every element.

    Examples:
        >>> from jaxmodules.nn import functional as F
        >>> F.sigmoid(0.0).item()
        0.5
    """
    return jax.nn.sigmoid(_floating(as_array(input)))


def tanh(input: ArrayLike) -> Array:
    r"""Apply :math:`\tanh x` to every element.

    Examples:
        >>> from jaxmodules.nn import functional as F
        >>> F.tanh(0.0).item()
        0.0
    """
    return jnp.tanh(_floating(as_array(input)))


def leaky_relu(input: ArrayLike, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    r"""Apply :math:`\max(0, x) + a \min(0, x)` to every element.

    Args:
        input: a floating point array of any shape.
        negative_slope: the slope :math:`a` left of zero.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.leaky_relu(jnp.array([-2.0, 2.0]), 0.5).tolist()
        [-1.0, 2.0]
    """
    input = as_array(input)
    check_floating(input, "leaky_relu")
    return _leaky_relu(input, negative_slope)


def prelu(input: ArrayLike, weight: ArrayLike) -> Array:
    r"""Apply :math:`\max(0, x) + w \min(0, x)` with a learnable slope per channel (axis 1).

    Args:
        input: an array of any shape.
        weight: one slope for all, or one per channel.

    Raises:
        RuntimeError: if the number of slopes is neither 1 nor the number of channels, or dtypes differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.prelu(jnp.array([[-2.0, -2.0]]), jnp.array([0.5, 0.25])).tolist()
        [[-1.0, -0.5]]
    """
    input, weight = as_array(input), as_array(weight)
    if input.dtype != weight.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {input.dtype} and {weight.dtype}")
    if weight.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.ndim}")
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.size != 1 and input.ndim == 0:
        raise RuntimeError(f"Not allow zero-dim input tensor with {weight.size} slopes, expected 1 slope.")
    if weight.size not in (1, channels):
        raise RuntimeError(
            "Mismatch of parameter numbers and input channel size."
            f" Found parameter numbers = {weight.size} and channel size = {channels}."
        )
    return _prelu(input, weight)


def softmax(input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Array:
    r"""Turn scores into probabilities that sum to 1 along ``dim``.

    .. math:: y_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    Args:
        input: scores of any shape.
        dim: the axis that sums to 1. Leaving it out is deprecated, as in PyTorch.
        dtype: convert the scores to this type first.

    Shape:
        ``(*) -> (*)``

    Raises:
        IndexError: if there is no axis ``dim``.
        NotImplementedError: if the scores are not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softmax(jnp.zeros((1, 4)), dim=1).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    input, axis = _softmax_arguments("softmax", input, dim, _stacklevel, dtype)
    return _softmax(input, axis)


def log_softmax(input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Array:
    r"""Compute :math:`\log \mathrm{softmax}(x)` without overflow; arguments are those of :func:`softmax`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.log_softmax(jnp.array([[1000.0, 0.0]]), dim=1).tolist()
        [[0.0, -1000.0]]
    """
    input, axis = _softmax_arguments("log_softmax", input, dim, _stacklevel, dtype)
    return _log_softmax(input, axis)


# dispatched whole: the custom derivative of jax.nn.relu is slow to dispatch eagerly
_relu = jax.jit(jax.nn.relu, inline=True)


@partial(jax.jit, inline=True)
def _leaky_relu(input: Array, negative_slope: Array) -> Array:
    # jax.nn.leaky_relu has slope 1 at zero, PyTorch has negative_slope
    return jnp.where(input > 0, input, input * jnp.asarray(negative_slope, input.dtype))


@partial(jax.jit, inline=True)
def _prelu(input: Array, weight: Array) -> Array:
    slopes = weight.reshape(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else weight.reshape(())
    return jnp.where(input > 0, input, input * jnp.broadcast_to(slopes, input.shape))


@partial(jax.jit, static_argnames="axis", inline=True)
def _softmax(input: Array, axis: int) -> Array:
    if input.ndim == 0 or input.size == 0:
        return jnp.ones_like(input) if input.ndim == 0 else input
    return jax.nn.softmax(input.astype(accumulation_dtype(input.dtype)), axis).astype(input.dtype)


@partial(jax.jit, static_argnames="axis", inline=True)
def _log_softmax(input: Array, axis: int) -> Array:
    if input.ndim == 0 or input.size == 0:
        return jnp.zeros_like(input) if input.ndim == 0 else input
    return jax.nn.log_softmax(input.astype(accumulation_dtype(input.dtype)), axis).astype(input.dtype)


def _softmax_arguments(
    name: str, input: ArrayLike, dim: int | None, stacklevel: int, dtype: DType | None
) -> tuple[Array, int]:
    input = as_array(input)
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated."
            " Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
        dim = 0 if input.ndim in (0, 1, 3) else 1
    if dtype is not None:
        input = input.astype(dtype)
    check_floating(input, name)
    return input, normalize_dim(dim, input.ndim)


def _floating(input: Array) -> Array:
    return input if jnp.issubdtype(input.dtype, jnp.inexact) else input.astype(np.float32)
