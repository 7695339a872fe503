"""Losses of classification."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast
from jaxmodules._shapes import (
    accumulation_dtype,
    as_array,
    as_array_or_none,
    check_floating,
    host_value,
    is_floating,
    is_integer,
    scalar_type,
)
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn.functional._reduction import resolve_reduction


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    r"""Measure how far scores are from class labels, or from class probabilities.

    .. math:: l_n = -w_{t_n} \log \frac{e^{x_{n,t_n}}}{\sum_c e^{x_{n,c}}}, \qquad
              l_n = -\sum_c w_c\,t_{n,c} \log \frac{e^{x_{n,c}}}{\sum_j e^{x_{n,j}}}

    Args:
        input: scores (logits), ``(C,)``, ``(N, C)`` or ``(N, C, *)``.
        target: class indices, shaped as ``input`` without the class axis, or probabilities, shaped as ``input``.
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        ignore_index: the target that contributes neither to the loss nor to its mean.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.
        label_smoothing: share of the target that is spread over all classes.

    Shape:
        ``(N, C, *), (N, *) -> ()``, or ``(N, *)`` with ``reduction='none'``

    Raises:
        ValueError: if batch sizes differ or ``reduction`` is unknown.
        RuntimeError: if shapes or dtypes do not fit together.
        IndexError: if a target is not a class; a traced target that is not gives NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.cross_entropy(jnp.array([[0.0, 100.0]]), jnp.array([0])).item()
        100.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("cross_entropy", input, target, weight)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    check_floating(input, "log_softmax")
    if target.shape != input.shape:
        target = check_classes(input, target, weight, ignore_index)
        return class_loss(input, target, weight, ignore_index, reduction, label_smoothing, log_softmax=True)
    if not is_floating(target.dtype):
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index is not supported for floating point target, got {ignore_index}")
    _check_weight(input, weight)
    return _probability_loss(input, target, weight, reduction, label_smoothing)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Pick the negative log-likelihood of each target class.

    .. math:: l_n = -w_{t_n}\,x_{n,t_n}

    Args:
        input: log-probabilities, ``(C,)``, ``(N, C)`` or ``(N, C, *)``.
        target: class indices, shaped as ``input`` without the class axis.
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        ignore_index: the target that contributes neither to the loss nor to its mean.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.

    Shape:
        ``(N, C, *), (N, *) -> ()``, or ``(N, *)`` with ``reduction='none'``

    Raises:
        ValueError: if batch sizes differ or ``reduction`` is unknown.
        RuntimeError: if shapes or dtypes do not fit together.
        IndexError: if a target is not a class; a traced target that is not gives NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.nll_loss(jnp.array([[-1.0, -2.0]]), jnp.array([1])).item()
        2.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("nll_loss", input, target, weight)
    target = check_classes(input, target, weight, ignore_index)
    check_floating(input, "nll_loss")
    return class_loss(input, target, weight, ignore_index, reduction, 0.0, log_softmax=False)


@partial(jax.jit, static_argnames=("ignore_index", "reduction", "label_smoothing", "log_softmax"), inline=True)
def class_loss(
    input: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    log_softmax: bool,
) -> Array:
    """Compute the loss of class indices, of scores or (without ``log_softmax``) log-probabilities."""
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    scores = input.astype(accumulation_dtype(input.dtype))
    if log_softmax and input.size:
        scores = jax.nn.log_softmax(scores, axis)
    valid = target != ignore_index
    index = jnp.where(valid, target, 0)
    # comparing with every class fuses into the softmax, where a gather and its scattering gradient do not
    hit = jax.lax.broadcasted_iota(index.dtype, scores.shape, axis) == jnp.expand_dims(index, axis)
    loss = -jnp.where(hit, scores, 0).sum(axis)
    factors = class_factors(target, weight, ignore_index, scores.dtype)
    if weight is not None:
        loss = loss * factors
    if label_smoothing > 0.0:
        weighted = scores if weight is None else scores * _per_class(weight.astype(scores.dtype), scores.ndim)
        loss = (1 - label_smoothing) * loss - label_smoothing / classes * weighted.sum(axis)
    loss = jnp.where((index >= 0) & (index < classes), loss, jnp.nan)
    loss = jnp.where(valid, loss, 0)
    if reduction == "mean":
        loss = loss.sum() / factors.sum()
    return (loss.sum() if reduction == "sum" else loss).astype(input.dtype)


def class_factors(target: Array, weight: Array | None, ignore_index: int, dtype: DType) -> Array:
    """Return by how much each target counts in the mean."""
    valid = target != ignore_index
    if weight is None:
        return valid.astype(dtype)
    return jnp.where(valid, jnp.take(weight.astype(dtype), jnp.where(valid, target, 0), mode="clip"), 0)


@partial(jax.jit, static_argnames=("reduction", "label_smoothing"), inline=True)
def _probability_loss(
    input: Array, target: Array, weight: Array | None, reduction: str, label_smoothing: float
) -> Array:
    axis = 0 if input.ndim <= 1 else 1
    classes = input.shape[axis] if input.ndim else 1
    result = jnp.promote_types(input.dtype, target.dtype)
    dtype = accumulation_dtype(result)
    scores, shares = input.astype(accumulation_dtype(input.dtype)), target.astype(dtype)
    scores = jax.nn.log_softmax(scores, axis) if input.ndim and input.size else jnp.zeros_like(scores)
    if label_smoothing > 0.0:
        shares = shares * (1 - label_smoothing) + label_smoothing / max(classes, 1)
    loss = -scores.astype(dtype) * shares
    if weight is not None:
        loss = loss * _per_class(weight.astype(dtype), loss.ndim)
    if reduction == "none":
        return (loss.sum(axis) if input.ndim else loss).astype(result)
    mean = classes / input.size if input.size else np.nan
    return (loss.sum() * (mean if reduction == "mean" else 1)).astype(result)


def _per_class(weight: Array, ndim: int) -> Array:
    return weight.reshape(-1) if ndim <= 1 else weight.reshape(1, -1, *[1] * (ndim - 2))


def check_classes(input: Array | jax.ShapeDtypeStruct, target: Array, weight: Array | None, ignore_index: int) -> Array:
    """Check class targets and return them as 32 or 64 bit integers of the shape of the loss."""
    if input.ndim < 1:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    batch = target.shape[0] if target.ndim else 0
    if input.ndim > 1 and input.shape[0] != batch:
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({batch}).")
    expected = () if input.ndim == 1 else (input.shape[0], *input.shape[2:])
    if input.ndim == 1 and target.ndim == 1:
        if target.size != 1:
            raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {target.size}")
        target = target.reshape(())
    if input.ndim <= 2 and target.ndim > 1:
        raise RuntimeError(
            f"0D or 1D target tensor expected, multi-target not supported, got target size {list(target.shape)}"
        )
    if input.ndim > 2 and target.ndim != len(expected):
        raise RuntimeError(
            f"only batches of spatial targets supported ({len(expected)}D tensors)"
            f" but got targets of dimension: {target.ndim}"
        )
    if target.shape != expected:
        raise RuntimeError(
            f"Expected target size {list(expected)}, got {list(target.shape)}"
            f" (size mismatch with input {list(input.shape)})"
        )
    if not is_integer(target.dtype):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype} (use an integer type)")
    classes = input.shape[0 if input.ndim == 1 else 1]
    _check_weight(input, weight)
    values = host_value(target)
    if values is not None:
        wrong = values[(values != ignore_index) & ((values < 0) | (values >= classes))]
        if wrong.size:
            raise IndexError(f"Target {wrong.flat[0]} is out of bounds, expected a class in [0, {classes - 1}].")
    wide = jnp.issubdtype(target.dtype, jnp.signedinteger) and np.dtype(target.dtype).itemsize >= 4
    return target if wide else target.astype(np.int32)


def _check_weight(input: Array | jax.ShapeDtypeStruct, weight: Array | None) -> None:
    classes = input.shape[1] if input.ndim > 1 else input.size
    if weight is None:
        return
    if weight.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes"
            f" but got weight tensor of shape: {list(weight.shape)}"
        )
    if weight.dtype != input.dtype:
        raise RuntimeError(
            f"expected scalar type {scalar_type(input.dtype)} but found {scalar_type(weight.dtype)} in weight"
        )
