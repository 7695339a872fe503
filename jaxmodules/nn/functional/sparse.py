"""Table look-ups."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array, host_value, is_integer
from jaxmodules._typing import Array, ArrayLike


def embedding(
    input: ArrayLike,
    weight: ArrayLike,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Array:
    """Look up rows of a table.

    Args:
        input: integer indices of any shape. Out of range ones raise where their values are known and give
            NaN rows where they are traced.
        weight: the table, ``(num_embeddings, embedding_dim)``.
        padding_idx: the row that receives no gradient.
        max_norm: rows with a larger norm are scaled down to it. PyTorch writes them back into ``weight``;
            here the result has them and the :class:`~jaxmodules.nn.Embedding` layer writes them back.
        norm_type: the ``p`` of that norm.
        scale_grad_by_freq: divide the gradient of a row by the number of times it was looked up.
        sparse: accepted for PyTorch's sake; gradients are dense.

    Shape:
        ``(*), (num_embeddings, embedding_dim) -> (*, embedding_dim)``

    Raises:
        RuntimeError: if the indices are not integers or ``weight`` is not a matrix.
        IndexError: if an index is out of range.
        AssertionError: if ``padding_idx`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.embedding(jnp.array([2, 0]), jnp.arange(6.0).reshape(3, 2)).tolist()
        [[4.0, 5.0], [0.0, 1.0]]
    """
    input, weight = as_array(input), as_array(weight)
    _check_embedding(input, weight)
    padding_idx = normalize_padding_idx(padding_idx, weight.shape[0])
    if max_norm is not None:
        weight = _renormalise(weight, input, max_norm, float(norm_type))
    return _embedding(input, weight, padding_idx, scale_grad_by_freq)


def embedding_renorm(input: ArrayLike, weight: ArrayLike, max_norm: float, norm_type: float = 2.0) -> Array:
    """Return the table with every looked-up row of a norm above ``max_norm`` scaled down to it.

    The gradient passes as if the rows had been so from the start, as with PyTorch's in-place update.
    """
    input, weight = as_array(input), as_array(weight)
    _check_embedding(input, weight)
    return _renormalise(weight, input, max_norm, float(norm_type))


def normalize_padding_idx(padding_idx: int | None, num_embeddings: int) -> int | None:
    """Count ``padding_idx`` from the front.

    Raises:
        AssertionError: if there is no such row.
    """
    if padding_idx is None:
        return None
    if not -num_embeddings <= padding_idx < max(num_embeddings, 1):
        raise AssertionError(
            "Padding_idx must be within num_embeddings,"
            f" got padding_idx={padding_idx} and num_embeddings={num_embeddings}"
        )
    return padding_idx % num_embeddings if padding_idx < 0 else padding_idx


@partial(jax.jit, static_argnames=("padding_idx", "scale_grad_by_freq"), inline=True)
def _embedding(input: Array, weight: Array, padding_idx: int | None, scale_grad_by_freq: bool) -> Array:
    rows = len(weight)
    # an index below zero would count from the end: send it out of range instead
    index = input if jnp.issubdtype(input.dtype, jnp.unsignedinteger) else jnp.where(input < 0, rows, input)
    output = jnp.take(weight, index, axis=0, mode="fill")
    if scale_grad_by_freq:
        counts = jnp.zeros(rows, jnp.int32).at[index].add(1)
        share = (1 / jnp.take(counts, index, mode="clip")).astype(weight.dtype)
        output = _scale_gradient(output, jnp.broadcast_to(share[..., None], output.shape))
    if padding_idx is not None:
        output = jnp.where((input == padding_idx)[..., None], lax.stop_gradient(output), output)
    return output


@partial(jax.jit, static_argnames="norm_type", inline=True)
def _renormalise(weight: Array, input: Array, max_norm: Array, norm_type: float) -> Array:
    used = jnp.zeros(len(weight), bool).at[input].set(True)
    norms = jnp.linalg.norm(lax.stop_gradient(weight), norm_type, axis=1)
    scales = jnp.where(used & (norms > max_norm), max_norm / (norms + 1e-7), 1.0).astype(weight.dtype)
    return _pass_gradient(weight, lax.stop_gradient(weight) * scales[:, None])


@jax.custom_jvp
def _scale_gradient(value: Array, scale: Array) -> Array:
    """Return ``value``; its gradient is multiplied by ``scale``."""
    return value


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[0] * primals[1]


@jax.custom_jvp
def _pass_gradient(source: Array, value: Array) -> Array:
    """Return ``value``; its gradient goes to ``source`` unchanged."""
    return value


@_pass_gradient.defjvp
def _pass_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _check_embedding(input: Array, weight: Array) -> None:
    if weight.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, but got weight of size {list(weight.shape)}")
    if not is_integer(input.dtype):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int;"
            f" but got {input.dtype} instead (while checking arguments for embedding)"
        )
    values, rows = host_value(input), weight.shape[0]
    if values is not None and values.size and not (0 <= values.min() and values.max() < rows):
        wrong = values[(values < 0) | (values >= rows)]
        raise IndexError(f"index out of range in self: expected indices in [0, {rows - 1}], got {wrong[0]}")
