"""Table look-ups."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxmodules._shapes import as_array, host_value, is_integer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._gradients import pass_gradient, scale_gradient


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


def normalize_padding_idx(padding_idx: int | None, num_embeddings: int, name: str = "Padding_idx") -> int | None:
    """Count ``padding_idx`` from the front.

    Raises:
        AssertionError: if there is no such row.
    """
    if padding_idx is None:
        return None
    if not -num_embeddings <= padding_idx < max(num_embeddings, 1):
        raise AssertionError(
            f"{name} must be within num_embeddings, got padding_idx={padding_idx} and num_embeddings={num_embeddings}"
        )
    return padding_idx % num_embeddings if padding_idx < 0 else padding_idx


def one_hot(input: ArrayLike, num_classes: int = -1) -> Array:
    """Write every class as a row of zeros with a one in its place.

    Args:
        input: the classes, integers from 0 on. Where their values are traced, one that is out of range gives zeros.
        num_classes: how many there are. The default, -1, is one more than the largest, which has to be known: give
            the number in a function that is compiled.

    Shape:
        ``(*) -> (*, num_classes)``

    Raises:
        RuntimeError: if ``input`` is not of integers, or a class is out of range, or their number can't be known.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.one_hot(jnp.array([0, 2])).tolist()
        [[1, 0, 0], [0, 0, 1]]
    """
    input = as_array(input)
    if not is_integer(input.dtype):
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor, got {input.dtype}")
    return _one_hot(input, _number_of_classes(input, num_classes))


@partial(jax.jit, static_argnames=("padding_idx", "scale_grad_by_freq"), inline=True)
def _embedding(input: Array, weight: Array, padding_idx: int | None, scale_grad_by_freq: bool) -> Array:
    rows = len(weight)
    # an index below zero would count from the end: send it out of range instead
    index = input if jnp.issubdtype(input.dtype, jnp.unsignedinteger) else jnp.where(input < 0, rows, input)
    output = weight.at[index].get(mode="fill", out_sharding=_beside(index, weight))
    if scale_grad_by_freq:
        output = share_gradient(output, index, rows)
    if padding_idx is not None:
        output = jnp.where((input == padding_idx)[..., None], lax.stop_gradient(output), output)
    return output


def _beside(index: Array, weight: Array) -> NamedSharding | None:
    """Return where rows lie that were looked up: over a mesh of explicit axes as the indices do; else JAX decides."""
    index_sharding, weight_sharding = jax.typeof(index).sharding, jax.typeof(weight).sharding
    mesh = weight_sharding.mesh if index_sharding.mesh.empty else index_sharding.mesh
    if not mesh.explicit_axes:
        return None
    feature = weight_sharding.spec[-1]
    return NamedSharding(mesh, PartitionSpec(*index_sharding.spec, None if feature in index_sharding.spec else feature))


def share_gradient(output: Array, index: Array, rows: int) -> Array:
    """Return what was looked up at ``index``; its gradient is divided by how often each row was."""
    counts = jnp.zeros(rows, jnp.int32).at[index].add(1)
    share = (1 / jnp.take(counts, index, mode="clip")).astype(output.dtype)
    return scale_gradient(output, jnp.broadcast_to(share[..., None], output.shape))


@partial(jax.jit, static_argnames="norm_type", inline=True)
def _renormalise(weight: Array, input: Array, max_norm: Array, norm_type: float) -> Array:
    used = jnp.zeros(len(weight), bool).at[input].set(True)
    norms = jnp.linalg.norm(lax.stop_gradient(weight), norm_type, axis=1)
    scales = jnp.where(used & (norms > max_norm), max_norm / (norms + 1e-7), 1.0).astype(weight.dtype)
    return pass_gradient(weight, lax.stop_gradient(weight) * scales[:, None])


def _check_embedding(input: Array, weight: Array) -> None:
    if weight.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, but got weight of size {list(weight.shape)}")
    if not is_integer(input.dtype):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int;"
            f" but got {input.dtype} instead (while checking arguments for embedding)"
        )
    wrong = wrong_index(input, weight.shape[0])
    if wrong is not None:
        raise IndexError(f"index out of range in self: expected indices in [0, {weight.shape[0] - 1}], got {wrong[1]}")


def wrong_index(input: Array, rows: int) -> tuple[int, int] | None:
    """Return the place and the value of the first index that is known and out of range."""
    values = host_value(input)
    if values is None or not values.size or (0 <= values.min() and values.max() < rows):
        return None
    values = values.reshape(-1)
    place = int(np.argmax((values < 0) | (values >= rows)))
    return place, int(values[place])


@partial(jax.jit, static_argnames="classes", inline=True)
def _one_hot(input: Array, classes: int) -> Array:
    return jax.nn.one_hot(input, classes, dtype=jax.dtypes.canonicalize_dtype(np.int64))


def _number_of_classes(input: Array, num_classes: int) -> int:
    """Return how many classes there are, having checked those that are known."""
    values = host_value(input)
    if input.size == 0:
        if num_classes <= 0:
            raise RuntimeError(
                f"Can not infer total number of classes from empty tensor. Got num_classes={num_classes}"
            )
        return num_classes
    if values is None:
        if num_classes < 0:
            raise RuntimeError(
                "one_hot has to know its input to count the classes, but the input is traced:"
                " give num_classes, for example one_hot(input, num_classes=10)"
            )
        return num_classes
    if values.min() < 0:
        raise RuntimeError(f"Class values must be non-negative. Got {values.min()}")
    if num_classes == -1:
        return int(values.max()) + 1
    if values.max() >= num_classes:
        raise RuntimeError(
            f"Class values must be smaller than num_classes. Got {values.max()} and num_classes={num_classes}"
        )
    return num_classes
