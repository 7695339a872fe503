"""Random zeroing."""

import math
import warnings
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._shapes import accumulation_dtype, as_array
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.random import next_key

# where SELU ends on the left, negated
_ALPHA = 1.7580993408473766


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
    check_probability(p)
    input = as_array(input)
    return _zero(input, p, training, input.shape)


def dropout1d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    r"""Zero whole channels of one spatial axis, and scale the others (Tompson et al., 2015).

    Arguments are those of :func:`dropout`.

    Shape:
        ``(N, C, L) -> (N, C, L)``, or without ``N``

    Raises:
        RuntimeError: if ``input`` has another number of axes, or is not floating point.
        ValueError: if ``p`` is not a probability.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.dropout1d(jnp.ones((3, 2)), training=False).shape
        (3, 2)
    """
    check_probability(p)
    input = as_array(input)
    if input.ndim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.ndim}D input."
            " Note that dropout1d exists to provide channel-wise dropout on inputs with 1 spatial dimension,"
            " a channel dimension, and an optional batch dimension (i.e. 2D or 3D inputs)."
        )
    return _zero(input, p, training, _channels(input, 2 if input.ndim == 3 else 1))


def dropout2d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    r"""Zero whole channels of two spatial axes, and scale the others; see :func:`dropout1d`.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``; ``(N, C, L)`` is taken for a batch, with a warning

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.dropout2d(jnp.ones((1, 3, 2, 2)), training=False).shape
        (1, 3, 2, 2)
    """
    check_probability(p)
    input = as_array(input)
    if input.ndim not in (3, 4):
        warnings.warn(_rank_warning(2, input.ndim), stacklevel=2)
    if input.ndim == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is"
            " desired - input is interpreted as shape (N, C, L), where C is the channel dim. This behavior will"
            " change in a future release to interpret the input as one without a batch dimension, i.e. shape"
            " (C, H, W). To maintain the 1D channel-wise dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    return _zero(input, p, training, _channels(input, 2))


def dropout3d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    r"""Zero whole channels of three spatial axes, and scale the others; see :func:`dropout1d`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)``, or without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.dropout3d(jnp.ones((3, 2, 2, 2)), training=False).shape
        (3, 2, 2, 2)
    """
    check_probability(p)
    input = as_array(input)
    if input.ndim not in (4, 5):
        warnings.warn(_rank_warning(3, input.ndim), stacklevel=2)
    return _zero(input, p, training, _channels(input, 2 if input.ndim == 5 else 1))


def alpha_dropout(input: ArrayLike, p: float = 0.5, training: bool = False, inplace: bool = False) -> Array:
    r"""Set elements to where SELU saturates, and keep mean 0 and variance 1 (Klambauer et al., 2017).

    .. math:: y = a \, (x m - \alpha' (1 - m)) + a \, \alpha' p, \qquad
              a = \left((\alpha'^2 p + 1) (1 - p)\right)^{-1/2}, \qquad \alpha' = 1.7581

    where :math:`m` is 0 with probability ``p`` and 1 otherwise. Arguments are those of :func:`dropout`.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.alpha_dropout(jnp.ones(3), p=1.0, training=True).tolist()
        [0.0, 0.0, 0.0]
    """
    check_probability(p)
    input = as_array(input)
    return _saturate(input, p, training, input.shape)


def feature_alpha_dropout(input: ArrayLike, p: float = 0.5, training: bool = False, inplace: bool = False) -> Array:
    r"""Set whole channels to where SELU saturates, as :func:`alpha_dropout` does with elements.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        ValueError: if ``p`` is not a probability.
        RuntimeError: if ``input`` has no axis of channels, or is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.feature_alpha_dropout(jnp.ones((1, 3, 2)), training=False).shape
        (1, 3, 2)
    """
    check_probability(p)
    input = as_array(input)
    return _saturate(input, p, training, _channels(input, 2))


@partial(jax.jit, static_argnames="shape", inline=True)
def _drop(
    key: Array, input: Array, keep: Array, scale: Array, shift: tuple[Array, Array] | None, shape: Shape
) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    kept = jnp.broadcast_to(jax.random.bernoulli(key, keep.astype(jnp.float32), shape), input.shape)
    # zero times x, because PyTorch keeps NaN and infinity visible
    output = jnp.where(kept, values * scale.astype(values.dtype), values * 0)
    if shift is not None:
        output += jnp.where(kept, *(part.astype(values.dtype) for part in shift))
    return output.astype(input.dtype)


def _zero(input: Array, p: float, training: bool, shape: Shape | None) -> Array:
    """Zero with probability ``p`` what shares an element of ``shape``."""
    if (known := _known(input, p, training)) is not None:
        return known
    return _drop(next_key(), input, 1.0 - p, 1.0 / (1.0 - p), None, _checked(input, shape))


def _known(input: Array, p: float, training: bool) -> Array | None:
    """Return the output where it is no matter of chance, so that no key is drawn."""
    if not training or p == 0 or input.size == 0:
        return input
    return input * jnp.zeros((), input.dtype) if p == 1 else None


def _saturate(input: Array, p: float, training: bool, shape: Shape | None) -> Array:
    """Set to the saturated value with probability ``p`` what shares an element of ``shape``."""
    if (known := _known(input, p, training)) is not None:
        return known
    scale = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    shift = (_ALPHA * scale * p, _ALPHA * scale * (p - 1))
    return _drop(next_key(), input, 1.0 - p, scale, shift, _checked(input, shape))


def _channels(input: Array, axes: int) -> Shape | None:
    """Return the shape in which a value for each of the leading axes meets the input; ``None`` if they are missing."""
    return (*input.shape[:axes], *[1] * (input.ndim - axes)) if input.ndim >= axes else None


def _checked(input: Array, shape: Shape | None) -> Shape:
    if shape is None:
        raise RuntimeError(f"Feature dropout requires at least 2 dimensions in the input, got {input.ndim}")
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype.name}")
    return shape


def check_probability(p: float) -> None:
    """Check the probability of an element to be zeroed.

    Raises:
        ValueError: if ``p`` is no probability.
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _rank_warning(rank: int, ndim: int) -> str:
    name = f"dropout{rank}d"
    return (
        f"{name}: Received a {ndim}-D input to {name}, which is deprecated and will result in an error in a future"
        " release. To retain the behavior and silence this warning, please use dropout instead. Note that"
        f" {name} exists to provide channel-wise dropout on inputs with {rank} spatial dimensions, a channel"
        f" dimension, and an optional batch dimension (i.e. {rank + 1}D or {rank + 2}D inputs)."
    )
