"""Distances, similarities and lengths of vectors."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, is_floating, normalize_dim
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.nn.functional._gradients import magnitude, pass_gradient
from jaxmodules.nn.functional._norms import vector_norm


def cosine_similarity(x1: ArrayLike, x2: ArrayLike, dim: int = 1, eps: float = 1e-8) -> Array:
    r"""Compute the cosine of the angle between vectors along ``dim``.

    .. math:: s = \frac{x_1 \cdot x_2}{\max(\lVert x_1 \rVert_2, \epsilon) \, \max(\lVert x_2 \rVert_2, \epsilon)}

    Args:
        x1: the first vectors.
        x2: the second vectors; their shapes are broadcast.
        dim: the axis of the vectors, in the broadcast shape.
        eps: the smallest length to divide by.

    Shape:
        ``(*, D, *), (*, D, *) -> (*, *)``

    Raises:
        RuntimeError: if neither is floating point, or their shapes can't be broadcast.
        IndexError: if there is no axis ``dim``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.cosine_similarity(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])).tolist()
        [0.800000011920929]
    """
    x1, x2 = as_array(x1), as_array(x2)
    x1, x2 = cast("cosine_similarity", x1, x2)
    dtype = jnp.promote_types(x1.dtype, x2.dtype)
    if not is_floating(dtype):
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {dtype}")
    shape = _broadcast(x1, x2)
    return _cosine_similarity(x1.astype(dtype), x2.astype(dtype), shape, normalize_dim(dim, len(shape)), eps)


def pairwise_distance(x1: ArrayLike, x2: ArrayLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Array:
    r"""Compute the distance between vectors along the last axis.

    .. math:: d = \left(\sum_i |x_{1,i} - x_{2,i} + \epsilon|^p\right)^{1/p}

    Args:
        x1: the first vectors.
        x2: the second vectors; their shapes are broadcast.
        p: the exponent of the norm.
        eps: added to every difference.
        keepdim: whether to keep the last axis, with size 1.

    Shape:
        ``(*, D), (*, D) -> (*)``, or ``(*, 1)`` with ``keepdim``

    Raises:
        RuntimeError: if shapes can't be broadcast, an array is boolean, or there is nothing to take a maximum of.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pairwise_distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)), eps=0.0).tolist()
        [5.0]
    """
    x1, x2 = as_array(x1), as_array(x2)
    x1, x2 = cast("pairwise_distance", x1, x2)
    if np.bool_ in (x1.dtype, x2.dtype):
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported, expected numbers")
    shape, dtype = _broadcast(x1, x2), jnp.promote_types(x1.dtype, x2.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = np.dtype(np.float32)
    _check_not_empty(shape, p, max(len(shape) - 1, 0))
    return _pairwise_distance(x1.astype(dtype), x2.astype(dtype), shape, float(p), eps, keepdim)


def pdist(input: ArrayLike, p: float = 2) -> Array:
    r"""Compute the distances between all pairs of rows: 0 and 1, 0 and 2, ..., 1 and 2, ...

    Args:
        input: the rows.
        p: the exponent of the norm; 0 counts differences, and infinity takes the largest.

    Shape:
        ``(N, M) -> (N (N - 1) / 2)``

    Raises:
        RuntimeError: if ``input`` is no floating point matrix, or ``p`` is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pdist(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])).tolist()
        [5.0, 1.0, 4.242640495300293]
    """
    input = as_array(input)
    (input,) = cast("pdist", input)
    if input.ndim != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.ndim}D")
    if not is_floating(input.dtype):
        raise RuntimeError(f"pdist only supports floating-point dtypes, got {input.dtype}")
    if p < 0:
        raise RuntimeError(f"pdist only supports non-negative p values, got {p}")
    return _pdist(input, float(p))


def normalize(
    input: ArrayLike,
    p: float = 2.0,
    dim: int | tuple[int, ...] | None = 1,
    eps: float = 1e-12,
    out: ArrayLike | None = None,
) -> Array:
    r"""Divide vectors by their norms, :math:`v / \max(\lVert v \rVert_p, \epsilon)`.

    Args:
        input: the vectors.
        p: the exponent of the norm.
        dim: the axis of the vectors, or axes.
        eps: the smallest number to divide by.
        out: accepted for PyTorch's sake; arrays are immutable and the result is always new.

    Shape:
        ``(*) -> (*)``

    Raises:
        RuntimeError: if ``input`` is not floating point, or there is nothing to take a maximum of.
        IndexError: if there is no axis ``dim``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.normalize(jnp.array([[2.0, 6.0]]), p=1.0).tolist()
        [[0.25, 0.75]]
    """
    input = as_array(input)
    (input,) = cast("normalize", input)
    if not is_floating(input.dtype):
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {input.dtype}"
        )
    given = (dim,) if isinstance(dim, int) else dim or range(input.ndim)
    axes = tuple(normalize_dim(axis, input.ndim) for axis in given)
    for axis in axes:
        _check_not_empty(input.shape, p, axis)
    return _normalize(input, float(p), axes, eps)


@partial(jax.jit, static_argnames=("shape", "axis"), inline=True)
def _cosine_similarity(x1: Array, x2: Array, shape: Shape, axis: int, eps: Array) -> Array:
    wide = accumulation_dtype(x1.dtype)
    unit1, unit2 = (_unit(jnp.broadcast_to(x, shape).astype(wide), axis, eps) for x in (x1, x2))
    product = unit1 * unit2
    return (product.sum(axis) if shape else product).astype(x1.dtype)


def _unit(vectors: Array, axis: int, eps: Array) -> Array:
    norms = vector_norm(vectors, 2, axis if vectors.ndim else (), keepdims=True)
    # PyTorch clamps behind the gradient's back
    return vectors / pass_gradient(norms, lax.stop_gradient(jnp.maximum(norms, eps)))


@partial(jax.jit, static_argnames=("shape", "p", "keepdim"), inline=True)
def _pairwise_distance(x1: Array, x2: Array, shape: Shape, p: float, eps: Array, keepdim: bool) -> Array:
    difference = jnp.broadcast_to(x1, shape) - jnp.broadcast_to(x2, shape) + eps.astype(x1.dtype)
    return vector_norm(difference, p, -1 if shape else (), keepdim)


@partial(jax.jit, static_argnames="p", inline=True)
def _pdist(input: Array, p: float) -> Array:
    rows, columns = input.shape
    if rows < 2 or columns == 0:
        return jnp.zeros(rows * (rows - 1) // 2, input.dtype)
    # all N x N differences melt into the sum over the columns; gathering pairs of rows would store them
    differences = jnp.expand_dims(input, 1) - jnp.expand_dims(input, 0)
    distances = _largest(differences) if p == math.inf else vector_norm(differences, p, -1)
    return distances[np.triu_indices(rows, 1)]


def _largest(differences: Array) -> Array:
    """Return the largest magnitudes along the last axis; each of equal ones has the whole gradient."""
    sizes = magnitude(differences)
    largest = lax.stop_gradient(sizes.max(-1))
    chosen = lax.stop_gradient(sizes) == largest[..., None]
    return pass_gradient(jnp.where(chosen, sizes, 0).sum(-1), largest)


@partial(jax.jit, static_argnames=("p", "axes"), inline=True)
def _normalize(input: Array, p: float, axes: Shape, eps: Array) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    norms = vector_norm(values, p, axes if input.ndim else (), keepdims=True)
    return (values / jnp.where(norms < eps, eps.astype(values.dtype), norms)).astype(input.dtype)


def _broadcast(x1: Array, x2: Array) -> Shape:
    for axis, (size1, size2) in enumerate(zip(reversed(x1.shape), reversed(x2.shape), strict=False), 1):
        if size1 != size2 and 1 not in (size1, size2):
            raise RuntimeError(
                f"The size of tensor a ({size1}) must match the size of tensor b ({size2})"
                f" at non-singleton dimension {max(x1.ndim, x2.ndim) - axis}"
            )
    return jnp.broadcast_shapes(x1.shape, x2.shape)


def _check_not_empty(shape: Shape, p: float, axis: int) -> None:
    if abs(p) == math.inf and shape and shape[axis] == 0:
        raise RuntimeError(
            f"linalg.vector_norm cannot compute the {p} norm on the dimension {axis}"
            " because this dimension is empty and the operation does not have an identity"
        )
