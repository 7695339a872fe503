"""Norms of vectors with PyTorch's gradients, which are finite everywhere."""

import math

import jax.numpy as jnp

from jaxmodules._shapes import accumulation_dtype
from jaxmodules._typing import Array
from jaxmodules.nn.functional._gradients import magnitude


def vector_norm(input: Array, p: float, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    r"""Compute :math:`(\sum |x|^p)^{1/p}` along ``axis``; the gradient at zero is zero.

    Args:
        input: a real floating point array.
        p: the exponent; 0 counts what is not zero, and infinity takes the largest magnitude.
        axis: the axes that the sum runs over.
        keepdims: whether to leave them in place with size 1.
    """
    values = input.astype(accumulation_dtype(input.dtype))
    if p == 0:
        result = (values != 0).astype(values.dtype).sum(axis, keepdims=keepdims)
    elif p == 1:
        result = magnitude(values).sum(axis, keepdims=keepdims)
    elif p == math.inf:
        result = magnitude(values).max(axis, keepdims=keepdims)
    elif p == -math.inf:
        result = magnitude(values).min(axis, keepdims=keepdims)
    elif p == 2:
        squares = jnp.square(values).sum(axis, keepdims=keepdims)
        result = jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
    else:
        result = _general_norm(values, p, axis, keepdims)
    return result.astype(input.dtype)


def _general_norm(values: Array, p: float, axis: int | tuple[int, ...], keepdims: bool) -> Array:
    at_zero = values == 0
    powers = jnp.where(at_zero, 0 if p > 0 else math.inf, jnp.where(at_zero, 1, jnp.abs(values)) ** p)
    total = powers.sum(axis, keepdims=keepdims)
    flat = (total == 0) | (total == math.inf) if p < 0 else total == 0
    return jnp.where(flat, 0, jnp.where(flat, 1, total) ** (1 / p))
