"""Losses of embeddings, by their angles and distances."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._reduction import (
    broadcast,
    check_broadcast,
    clamp_at_zero,
    common_dtype,
    floating_dtype,
    reduce_loss,
    resolve_reduction,
)
from jaxmodules.nn.functional.distance import pairwise_distance


def cosine_embedding_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask for vectors in one direction where the target is 1, and in others where it is -1.

    .. math:: l_n = \begin{cases} 1 - \cos(x_{1,n}, x_{2,n}) & \text{if } y_n = 1 \\
              \max(0, \cos(x_{1,n}, x_{2,n}) - m) & \text{if } y_n = -1 \end{cases}

    Args:
        input1: vectors, ``(N, D)`` or ``(D,)``.
        input2: vectors of the same shape.
        target: the labels 1 and -1, ``(N,)`` or ``()``.
        margin: the cosine :math:`m` up to which unlike vectors cost nothing.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(N, D), (N, D), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if shapes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.cosine_embedding_loss(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array(1)).item()
        1.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input1, input2, target = as_array(input1), as_array(input2), as_array(target)
    input1, input2, target = cast("cosine_embedding_loss", input1, input2, target)
    if target.ndim > 1:
        raise RuntimeError(
            f"0D or 1D target tensor expected, multi-target not supported, got target size {list(target.shape)}"
        )
    if (input1.ndim, input2.ndim) != (target.ndim + 1, target.ndim + 1):
        raise RuntimeError(
            f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors,"
            f" but found inputs with sizes {list(input1.shape)} and {list(input2.shape)}."
        )
    check_broadcast(input1, input2)
    if target.ndim:
        rows = jnp.broadcast_shapes(input1.shape, input2.shape)[:-1]
        check_broadcast(target, jax.ShapeDtypeStruct(rows, target.dtype))
    dtype = floating_dtype(input1, input2)
    return _cosine_embedding_loss(input1, input2, target, margin, reduction, dtype)


def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask that anchors be nearer to positives than to negatives, by a margin (Balntas et al., 2016).

    .. math:: l_n = \max(0, m + \lVert a_n - p_n \rVert_p - \lVert a_n - n_n \rVert_p)

    Args:
        anchor: vectors, ``(*, D)``.
        positive: vectors that should be near.
        negative: vectors that should be far.
        margin: how much nearer the positive has to be.
        p: the degree of the norm.
        eps: added to the differences.
        swap: whether a negative counts as being as near as it is to the positive, if that is nearer.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*, D), (*, D), (*, D) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``margin`` is not positive or ``reduction`` is unknown.
        RuntimeError: if shapes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.triplet_margin_loss(jnp.zeros(2), jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])).item()
        1.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)

    def distance(first: Array, second: Array) -> Array:
        return pairwise_distance(first, second, p, eps)

    arrays = cast("triplet_margin_loss", as_array(anchor), as_array(positive), as_array(negative))
    return _triplet_loss(*arrays, distance, margin, swap, reduction)


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[Array, Array], Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """Ask that anchors be nearer to positives than to negatives, by a distance of one's own.

    Args:
        anchor: arrays that ``distance_function`` takes.
        positive: arrays that should be near.
        negative: arrays that should be far.
        distance_function: measures the distance of two arrays;
            :func:`~jaxmodules.nn.functional.pairwise_distance` when ``None``.
        margin: how much nearer the positive has to be.
        swap: whether a negative counts as being as near as it is to the positive, if that is nearer.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*, D), (*, D), (*, D) -> ()``, or what distances have with ``reduction='none'``

    Raises:
        ValueError: if ``margin`` is not positive or ``reduction`` is unknown.
        RuntimeError: if the arrays differ in their numbers of axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> def distance(a, b):
        ...     return abs(a - b).max(-1)
        >>> near, far = jnp.array([1.0]), jnp.array([1.5])
        >>> F.triplet_margin_with_distance_loss(jnp.zeros(1), near, far, distance_function=distance).item()
        0.5
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction, expected 'none', 'mean' or 'sum'")
    distance = pairwise_distance if distance_function is None else distance_function
    return _triplet_loss(as_array(anchor), as_array(positive), as_array(negative), distance, margin, swap, reduction)


def _triplet_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    distance: Callable[[Array, Array], Array],
    margin: float,
    swap: bool,
    reduction: str,
) -> Array:
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got:"
            f" anchor {anchor.ndim}D, positive {positive.ndim}D, and negative {negative.ndim}D inputs"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    other = distance(positive, negative) if swap else None
    return _triplet_distances(as_array(near), as_array(far), other, margin, reduction)


@partial(jax.jit, static_argnames="reduction", inline=True)
def _triplet_distances(near: Array, far: Array, other: Array | None, margin: Array, reduction: str) -> Array:
    dtype = common_dtype(near, far)
    near, far, other = broadcast((near, far, other), accumulation_dtype(dtype))
    far = far if other is None else jnp.minimum(far, other)
    return reduce_loss(clamp_at_zero(margin + near - far), reduction).astype(dtype)


@partial(jax.jit, static_argnames=("reduction", "dtype"), inline=True)
def _cosine_embedding_loss(
    input1: Array, input2: Array, target: Array, margin: Array, reduction: str, dtype: jnp.dtype
) -> Array:
    first, second = broadcast((input1, input2), accumulation_dtype(dtype))
    lengths = (jnp.square(first).sum(-1) + 1e-12) * (jnp.square(second).sum(-1) + 1e-12)
    cosine = (first * second).sum(-1) / jnp.sqrt(lengths)
    shape = jnp.broadcast_shapes(cosine.shape, target.shape)
    cosine, target = jnp.broadcast_to(cosine, shape), jnp.broadcast_to(target, shape)
    loss = jnp.where(target == 1, 1 - cosine, 0) + jnp.where(target == -1, clamp_at_zero(cosine - margin), 0)
    return reduce_loss(loss, reduction).astype(dtype)
