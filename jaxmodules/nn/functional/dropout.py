"""Random zeroing."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.random import next_key


def dropout(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    r"""Zero every element with probability ``p`` and scale the others by :math:`1 / (1 - p)`.

    Args:
        input: an array of any shape.
        p: probability of an element to be zeroed.
        training: where false, return the input as it is; no random number is drawn.
        inplace: accepted for PyTorch's sake; the result is always new.

    Shape:
        ``(*) -> (*)``

    Raises:
        ValueError: if ``p`` is not a probability.
        RuntimeError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.dropout(jnp.ones(3), p=1.0).tolist()
        [0.0, 0.0, 0.0]
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    input = as_array(input)
    if not training or p == 0:
        return input
    if p == 1:
        return jnp.zeros_like(input)
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype.name}")
    return _dropout(next_key(), input, 1.0 - p)


@partial(jax.jit, inline=True)
def _dropout(key: Array, input: Array, keep: Array) -> Array:
    kept = jax.random.bernoulli(key, keep.astype(jnp.float32), input.shape)
    return jnp.where(kept, input * (1.0 / keep).astype(input.dtype), jnp.zeros_like(input))
