"""Table look-ups, reduced over bags."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, host_value, is_floating, is_integer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional.sparse import embedding_renorm, share_gradient, wrong_index


def embedding_bag(
    input: ArrayLike,
    weight: ArrayLike,
    offsets: ArrayLike | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: ArrayLike | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Array:
    """Look up rows of a table, and reduce each bag of them to one.

    Args:
        input: integer indices, a bag in each row, or all bags one after another. Out of range ones raise where their
            values are known and give NaN where they are traced.
        weight: the table, ``(num_embeddings, embedding_dim)``.
        offsets: where each bag starts, if ``input`` has one axis. An empty bag gives zeros.
        max_norm: rows with a larger norm are scaled down to it. PyTorch writes them back into ``weight``;
            here the result has them and the :class:`~jaxmodules.nn.EmbeddingBag` layer writes them back.
        norm_type: the ``p`` of that norm.
        scale_grad_by_freq: divide the gradient of a row by the number of times it was looked up.
        mode: ``'sum'``, ``'mean'`` or ``'max'``.
        sparse: accepted for PyTorch's sake; gradients are dense.
        per_sample_weights: a factor for each index, of the same shape; for ``'sum'`` alone.
        include_last_offset: whether ``offsets`` has one entry more, where the last bag ends.
        padding_idx: the row that counts for nothing, and receives no gradient.

    Shape:
        ``(B, N), (num_embeddings, embedding_dim) -> (B, embedding_dim)``, or ``(N)`` with offsets ``(B)``

    Raises:
        ValueError: if a shape, or ``mode``, or a combination of options is none of these.
        NotImplementedError: if there are ``per_sample_weights`` for another mode than ``'sum'``.
        RuntimeError: if types don't fit together, an index, an offset or ``padding_idx`` is out of range, or bags of a
            matrix are empty.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> table = jnp.arange(6.0).reshape(3, 2)
        >>> F.embedding_bag(jnp.array([2, 0, 1]), table, jnp.array([0, 2]), mode="sum").tolist()
        [[4.0, 6.0], [2.0, 3.0]]
    """
    input, weight = as_array(input), as_array(weight)
    offsets, factors = as_array_or_none(offsets), as_array_or_none(per_sample_weights)
    if is_integer(weight.dtype) and is_floating(input.dtype):
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)`"
            " is deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=2,
        )
        weight, input = input, weight
    _check_shapes(input, weight, offsets, factors)
    _check_mode(mode, scale_grad_by_freq, sparse, factors)
    _check_dtypes(input, weight, offsets, factors)
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise RuntimeError(
                f"padding_idx must be within the number of embeddings, {-rows} through {rows - 1},"
                f" but got {padding_idx}"
            )
        padding_idx %= rows
    _check_offsets(input, offsets, include_last_offset)
    fast = padding_idx is None and mode != "max" and weight.dtype != jnp.float64
    _check_indices(input, rows, fast)
    if max_norm is not None:
        weight = embedding_renorm(input, weight, max_norm, norm_type)
    last = include_last_offset and offsets is not None
    if offsets is not None and last and not fast:
        offsets, last = offsets[:-1], False  # PyTorch's kernel for these ends the last bag with the indices
    return _embedding_bag(input, weight, offsets, factors, mode, last, padding_idx, scale_grad_by_freq)


@partial(jax.jit, static_argnames=("mode", "last", "padding_idx", "scale_grad_by_freq"), inline=True)
def _embedding_bag(
    input: Array,
    weight: Array,
    offsets: Array | None,
    factors: Array | None,
    mode: str,
    last: bool,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
) -> Array:
    rows = len(weight)
    # an index below zero would count from the end: send it out of range instead
    index = input if jnp.issubdtype(input.dtype, jnp.unsignedinteger) else jnp.where(input < 0, rows, input)
    counted = jnp.ones(input.shape, bool) if padding_idx is None else input != padding_idx
    bags = input.shape[0] if offsets is None else offsets.shape[0] - last
    owners = None if offsets is None else jnp.where(counted, _owners(offsets, input.shape[0]), bags)
    values = jnp.take(weight, index, axis=0, mode="fill").astype(accumulation_dtype(weight.dtype))
    if mode == "max":
        return _largest(index, weight, values, counted, owners, bags)
    if scale_grad_by_freq:
        values = share_gradient(values, index, rows)
    if factors is not None:
        values = values * factors.astype(values.dtype)[..., None]
    if owners is None:
        total = jnp.where(counted[..., None], values, 0).sum(1)
    else:
        total = jax.ops.segment_sum(values, owners, bags, indices_are_sorted=padding_idx is None)
    if mode == "mean":
        sizes = counted.sum(1) if owners is None else jax.ops.segment_sum(counted.astype(jnp.int32), owners, bags)
        total = total / jnp.maximum(sizes, 1).astype(total.dtype)[:, None]
    return total.astype(weight.dtype)


def _owners(offsets: Array, count: int) -> Array:
    """Return the bag that each of ``count`` indices is in."""
    starts = jnp.zeros(count + 1, jnp.int32).at[offsets].add(1)
    return jnp.cumsum(starts)[:count] - 1


def _largest(index: Array, weight: Array, values: Array, counted: Array, owners: Array | None, bags: int) -> Array:
    """Pick the largest value of each bag and column; the first of equal ones has the gradient."""
    values = jax.lax.stop_gradient(values)
    if owners is None:
        first = jnp.where(counted[..., None], values, -jnp.inf).argmax(1)  # (B, D)
        # a bag of nothing but padding picks its first index
        rows = jnp.take_along_axis(index, first, 1)
        filled = counted.any(1)
    else:
        count = len(index)
        largest = jax.ops.segment_max(values, owners, bags)
        hits = (values == jnp.take(largest, owners, axis=0, mode="clip")) | jnp.isnan(values)
        places = jnp.where(hits, jnp.arange(count)[:, None], count)
        first = jax.ops.segment_min(places, owners, bags)
        rows = jnp.take(index, first, mode="clip") if count else jnp.zeros(first.shape, index.dtype)
        filled = jax.ops.segment_max(counted.astype(jnp.int32), owners, bags) > 0
    chosen = jnp.take_along_axis(weight, rows.astype(jnp.int32), 0, mode="fill")
    return jnp.where(filled[:, None], chosen, 0)


def _check_shapes(input: Array, weight: Array, offsets: Array | None, factors: Array | None) -> None:
    if factors is not None and factors.shape != input.shape:
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({list(factors.shape)}) is not None,"
            f" then it must have the same shape as the input ({list(input.shape)})"
        )
    if weight.ndim != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.ndim}")
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length"
                f" sequences. However, found offsets of shape {list(offsets.shape)}"
            )
        if input.shape[1] == 0:
            raise RuntimeError(f"step must be nonzero: expected bags of at least one index, got {list(input.shape)}")
    elif input.ndim == 1:
        if offsets is None:
            raise ValueError("offsets has to be a 1D Tensor but got None")
        if offsets.ndim != 1:
            raise ValueError(f"offsets has to be a 1D Tensor, got shape {list(offsets.shape)}")
    else:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.ndim}")


def _check_mode(mode: str, scale_grad_by_freq: bool, sparse: bool, factors: Array | None) -> None:
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode has to be one of sum, mean or max, got {mode!r}")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if mode == "max" and sparse:
        raise ValueError("max mode does not support sparse weights")
    if mode != "sum" and factors is not None:
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum'"
            f" (got mode='{mode}')"
        )


def _check_dtypes(input: Array, weight: Array, offsets: Array | None, factors: Array | None) -> None:
    for array in (input, input if offsets is None else offsets):
        if not is_integer(array.dtype):
            raise RuntimeError(
                "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int;"
                f" but got {array.dtype} instead (while checking arguments for embedding_bag)"
            )
    if not is_floating(weight.dtype):
        raise RuntimeError(
            "Expected tensor for argument #1 'weight' to have one of the following scalar types: Half, BFloat16,"
            f" Float, Double; but got {weight.dtype} instead (while checking arguments for embedding_bag)"
        )
    if factors is not None and factors.dtype != weight.dtype:
        raise RuntimeError(
            "Expected tensor for argument #1 'weight' to have the same type as tensor for argument #1"
            f" 'per_sample_weights'; but type {weight.dtype} does not equal {factors.dtype}"
            " (while checking arguments for embedding_bag)"
        )


def _check_indices(input: Array, rows: int, fast: bool) -> None:
    wrong = wrong_index(input, rows)
    if wrong is not None and fast:
        raise RuntimeError(
            f"Index {wrong[0]} of input takes value {wrong[1]} which is not in the valid range [0, {rows})"
        )
    if wrong is not None:
        raise RuntimeError(
            f"embedding_bag: Expected idx >= 0 && idx < num_embeddings but found idx to be {wrong[1]}"
            f" (num_embeddings is {rows})"
        )


def _check_offsets(input: Array, offsets: Array | None, include_last_offset: bool) -> None:
    if offsets is None:
        return
    if include_last_offset and len(offsets) == 0:
        raise RuntimeError("include_last_offset: number of offset should be at least 1")
    values = host_value(offsets)
    if values is None or len(values) == 0:
        return
    if values[0] != 0:
        raise RuntimeError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0."
            f" However, got {values[0]}"
        )
    if values[-1] > len(input):
        raise RuntimeError(
            f"offsets[-1] can not be greater than input's length {len(input)} but got offsets[-1] of {values[-1]}"
        )
