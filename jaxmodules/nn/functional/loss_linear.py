"""The cross entropy of a linear map's scores."""

import math
import warnings
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._autocast import cast, is_autocast_enabled
from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, is_integer
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn.functional._reduction import resolve_reduction
from jaxmodules.nn.functional.linear import linear
from jaxmodules.nn.functional.linear_cross_entropy_options import LinearCrossEntropyOptions
from jaxmodules.nn.functional.loss import check_classes, class_factors, class_loss, cross_entropy


def linear_cross_entropy(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> Array:
    """Map features to scores and compare these with a target: ``cross_entropy(linear(input, ...), target, ...)``.

    Args:
        input: features, ``(N, F)`` or ``(F,)``.
        linear_weight: ``(C, F)``, or ``(C, *, F)`` for scores of shape ``(N, C, *)``.
        target: class indices or probabilities, see :func:`~jaxmodules.nn.functional.cross_entropy`.
        linear_bias: of the shape of ``linear_weight`` without its last axis.
        weight: one factor per class, ``(C,)``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.
        ignore_index: the target that contributes nothing, -100 when ``None``; for class indices only.
        label_smoothing: share of the target that is spread over all classes.
        options: how to cut the batch into chunks; ``None`` computes all scores at once. Chunks need class indices,
            no smoothing and scores of shape ``(N, C)``; without these the options are ignored, with a warning.

    Shape:
        ``(N, F), (C, *, F), (N, *) -> ()``, or ``(N, *)`` with ``reduction='none'``

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.
        ValueError: if ``reduction`` is unknown.
        IndexError: if a target is not a class; a traced target that is not gives NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> weight = jnp.array([[0.0], [100.0]])
        >>> F.linear_cross_entropy(jnp.ones((1, 1)), weight, jnp.array([0])).item()
        100.0
    """
    input, linear_weight, target = as_array(input), as_array(linear_weight), as_array(target)
    linear_bias, weight = as_array_or_none(linear_bias), as_array_or_none(weight)
    input, linear_weight, linear_bias = cast("linear", input, linear_weight, linear_bias)
    _check_linear(input, linear_weight, linear_bias)
    classes, *outputs = linear_weight.shape[:-1]
    shape = (*input.shape[:-1], classes, *outputs)
    if target.shape == shape and ignore_index is not None:
        raise RuntimeError(
            f"ignore_index cannot be specified when target contains probabilities, got ignore_index={ignore_index}"
        )
    ignore_index = -100 if ignore_index is None else ignore_index
    if options is not None:
        if not outputs and reduction in ("mean", "sum", "none") and label_smoothing == 0 and is_integer(target.dtype):
            return _in_chunks(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, options)
        warnings.warn(
            "linear_cross_entropy: ``options`` ignored; chunked path needs reduction in {'mean','sum','none'},"
            " label_smoothing == 0, integer targets, out_features == ()."
            f" Got reduction={reduction!r}, label_smoothing={label_smoothing}, target.dtype={target.dtype},"
            f" out_features={tuple(outputs)}.",
            stacklevel=2,
        )
    size = math.prod(shape[input.ndim - 1 :])
    flat_bias = None if linear_bias is None else linear_bias.reshape(size)
    scores = linear(input, linear_weight.reshape(size, linear_weight.shape[-1]), flat_bias).reshape(shape)
    return cross_entropy(
        scores, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


def _in_chunks(
    input: Array,
    linear_weight: Array,
    target: Array,
    linear_bias: Array | None,
    weight: Array | None,
    reduction: str,
    ignore_index: int,
    options: LinearCrossEntropyOptions,
) -> Array:
    reduction = resolve_reduction(None, None, reduction)
    single = input.ndim == 1
    if single:
        input, target = input.reshape(1, -1), target.reshape(1, *target.shape)
    rows, features = input.shape
    scores = jax.ShapeDtypeStruct((rows, linear_weight.shape[0]), input.dtype)
    target = check_classes(scores, target, weight, ignore_index)
    size = options.chunk_size(rows, features, linear_weight.shape[0], input.dtype)
    dtype = accumulation_dtype(input.dtype) if is_autocast_enabled() else input.dtype
    loss = _chunked_loss(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, size, dtype)
    return loss.reshape(()) if single else loss


@partial(jax.jit, static_argnames=("reduction", "ignore_index", "size", "dtype"), inline=True)
def _chunked_loss(
    input: Array,
    linear_weight: Array,
    target: Array,
    linear_bias: Array | None,
    weight: Array | None,
    reduction: str,
    ignore_index: int,
    size: int,
    dtype: DType,
) -> Array:
    rows, features = input.shape
    wide = accumulation_dtype(input.dtype)
    weight = None if weight is None else weight.astype(wide)

    @jax.checkpoint
    def chunk_loss(chunk: tuple[Array, Array]) -> Array:
        scores = lax.dot_general(chunk[0], linear_weight, (((1,), (1,)), ((), ())), preferred_element_type=wide)
        if linear_bias is not None:
            scores = scores + jnp.broadcast_to(linear_bias.astype(wide), scores.shape)
        return class_loss(scores, chunk[1], weight, ignore_index, "none", 0.0, log_softmax=True)

    chunks = -(-rows // size)
    more = chunks * size - rows
    padded = jnp.pad(input, ((0, more), (0, 0))), jnp.pad(target, (0, more), constant_values=ignore_index)
    loss = lax.map(chunk_loss, (padded[0].reshape(chunks, size, features), padded[1].reshape(chunks, size)))
    loss = loss.reshape(-1)[:rows]
    if reduction == "mean":
        loss = loss.sum() / class_factors(target, weight, ignore_index, wide).sum()
    return (loss.sum() if reduction == "sum" else loss).astype(dtype)


def _check_linear(input: Array, linear_weight: Array, linear_bias: Array | None) -> None:
    if input.ndim not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.ndim}")
    if linear_weight.ndim < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.ndim}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), got"
            f" {input.shape[-1]} and {linear_weight.shape[-1]}, respectively"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {linear_weight.shape[:-1]}, got {linear_bias.shape}")
    if linear_weight.ndim > 2 and input.ndim == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {linear_weight.shape} requires batched input,"
            f" (N, {input.shape[-1]}), got unbatched input with shape {input.shape}"
        )
    if input.dtype != linear_weight.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {input.dtype} != {linear_weight.dtype}"
        )
