"""The arithmetic that weight norm and spectral norm share between their old and new forms."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import accumulation_dtype, as_array, normalize_dim
from jaxmodules._typing import Array, ArrayLike

WHOLE = -1  # PyTorch's mark for one norm of the whole array; its last axis has no negative number


def norm_except_dim(v: ArrayLike, dim: int) -> Array:
    """Return the norm of each slice along ``dim``, in a shape that broadcasts, or the norm of the whole array."""
    v = as_array(v)
    return _norm_except_dim(v, dim if dim == WHOLE else normalize_dim(dim, v.ndim))


def scale_to_norm(v: ArrayLike, g: ArrayLike, dim: int) -> Array:
    """Return ``v`` with the norms ``g`` in place of its own."""
    v = as_array(v)
    return _scale_to_norm(v, as_array(g), dim if dim == WHOLE else normalize_dim(dim, v.ndim))


def as_matrix(weight: Array, dim: int) -> Array:
    """Return ``weight`` as a matrix whose rows are the slices along ``dim``."""
    return jnp.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


@partial(jax.jit, inline=True)
def unit_vector(x: Array, eps: float) -> Array:
    """Return ``x`` divided by its norm, or by ``eps`` if that is larger."""
    return _unit(x.astype(accumulation_dtype(x.dtype)), eps).astype(x.dtype)


@partial(jax.jit, static_argnames=("dim", "iterations", "starts_with_u"), inline=True)
def power_iteration(
    weight: Array, u: Array, v: Array, *, dim: int, iterations: int, eps: float, starts_with_u: bool
) -> tuple[Array, Array]:
    """Improve the estimates ``u`` and ``v`` of the first singular vectors of ``weight``; no gradient flows."""
    dtype = accumulation_dtype(weight.dtype)
    matrix = lax.stop_gradient(as_matrix(weight, dim)).astype(dtype)

    def step(_: int, vectors: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = vectors
        if starts_with_u:
            u = _unit(matrix @ v, eps)
        v = _unit(matrix.conj().T @ u, eps)
        return (u if starts_with_u else _unit(matrix @ v, eps)), v

    start = lax.stop_gradient((u.astype(dtype), v.astype(dtype)))
    new_u, new_v = lax.fori_loop(0, iterations, step, start)
    return new_u.astype(u.dtype), new_v.astype(v.dtype)


@partial(jax.jit, static_argnames=("dim",), inline=True)
def divide_by_sigma(weight: Array, u: Array, v: Array, *, dim: int) -> Array:
    """Return ``weight`` divided by the singular value that belongs to ``u`` and ``v``."""
    dtype = accumulation_dtype(weight.dtype)
    wide = weight.astype(dtype)
    sigma = jnp.vdot(u.astype(dtype), as_matrix(wide, dim) @ v.astype(dtype))
    return (wide / sigma).astype(weight.dtype)


def _unit(x: Array, eps: float) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), eps)


@partial(jax.jit, static_argnames=("dim",), inline=True)
def _norm_except_dim(v: Array, dim: int) -> Array:
    squares = jnp.square(jnp.abs(v.astype(accumulation_dtype(v.dtype))))
    if dim == WHOLE:
        return jnp.sqrt(squares.sum()).astype(v.dtype)
    return jnp.sqrt(squares.sum([axis for axis in range(v.ndim) if axis != dim], keepdims=True)).astype(v.dtype)


@partial(jax.jit, static_argnames=("dim",), inline=True)
def _scale_to_norm(v: Array, g: Array, dim: int) -> Array:
    wide = v.astype(accumulation_dtype(v.dtype))
    return (wide * (g.astype(wide.dtype) / _norm_except_dim(wide, dim))).astype(v.dtype)
