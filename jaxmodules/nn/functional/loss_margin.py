"""Losses that ask for a margin."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast
from jaxmodules._shapes import (
    accumulation_dtype,
    as_array,
    as_array_or_none,
    check_floating,
    host_value,
    is_integer,
    scalar_type,
)
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._reduction import (
    check_broadcast,
    check_mean,
    check_plain_reduction,
    clamp_at_zero,
    floating_dtype,
    pointwise_loss,
    reduce_loss,
    resolve_reduction,
)


def hinge_embedding_loss(
    input: ArrayLike,
    target: ArrayLike,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask for small distances where the target is 1, and distances above a margin where it is -1.

    .. math:: l_n = \begin{cases} x_n & \text{if } y_n = 1 \\ \max(0, m - x_n) & \text{if } y_n = -1 \end{cases}

    Args:
        input: distances, of any shape.
        target: the labels 1 and -1, of a shape that broadcasts with ``input``.
        margin: the distance :math:`m` from which on unlike pairs cost nothing.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes can't be broadcast, or for the mean of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.hinge_embedding_loss(jnp.array([0.5, 0.5]), jnp.array([1.0, -1.0]), reduction="none").tolist()
        [0.5, 0.5]
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target = as_array(input), as_array(target)
    input, target = cast("hinge_embedding_loss", input, target)
    check_broadcast(target, input)
    check_mean(input.dtype, reduction)
    return pointwise_loss(_hinge, (input, target), reduction, input.dtype, (margin,))


def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask that the first input be larger where the target is 1, and the second where it is -1.

    .. math:: l_n = \max(0, -y_n (x_{1,n} - x_{2,n}) + m)

    Args:
        input1: an array of any shape.
        input2: an array with as many axes.
        target: the labels 1 and -1, with as many axes.
        margin: how much larger it has to be.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the numbers of axes differ or the shapes can't be broadcast.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.margin_ranking_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])).item()
        2.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input1, input2, target = as_array(input1), as_array(input2), as_array(target)
    input1, input2, target = cast("margin_ranking_loss", input1, input2, target)
    if not input1.ndim == input2.ndim == target.ndim:
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes:"
            f" input1: {list(input1.shape)}, input2: {list(input2.shape)}, target: {list(target.shape)} "
        )
    check_broadcast(input1, input2)
    check_broadcast(target, input1)
    check_broadcast(target, input2)
    dtype = floating_dtype(input1, input2, target)
    return pointwise_loss(_ranking, (input1, input2, target), reduction, dtype, (margin,))


def soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Measure how far scores are from the labels 1 and -1.

    .. math:: l_n = \log(1 + e^{-y_n x_n})

    Args:
        input: scores, of any shape.
        target: the labels 1 and -1, of a shape that broadcasts with ``input``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes can't be broadcast, or for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.soft_margin_loss(jnp.array([40.0]), jnp.array([1.0])).item() < 1e-6
        True
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target = as_array(input), as_array(target)
    input, target = cast("soft_margin_loss", input, target)
    check_broadcast(input, target)
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        raise RuntimeError(
            f"result type float32 can't be cast to the desired output type {input.dtype}:"
            " expected a floating point input (convert it first: input.astype(jnp.float32))"
        )
    return pointwise_loss(_soft_margin, (input, target), reduction, input.dtype)


def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask that the score of the right class exceed all others by a margin.

    .. math:: l_n = \frac{w_{y_n}}{C} \sum_{c \ne y_n} \max(0, m - x_{n,y_n} + x_{n,c})^p

    Args:
        input: scores, ``(N, C)`` or ``(C,)``.
        target: class indices, ``(N,)`` or ``()``.
        p: 1 or 2.
        margin: by how much it has to exceed them.
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(N, C), (N,) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``p``, ``reduction`` or the rank of ``weight`` is wrong.
        RuntimeError: if shapes or dtypes do not fit together, or a target is not a class (NaN where it is traced).
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.multi_margin_loss(jnp.array([[1.0, 0.5]]), jnp.array([0])).item()
        0.25
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    if p != 1 and p != 2:
        raise ValueError(f"only p == 1 and p == 2 supported, got p={p}")
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("multi_margin_loss", input, target, weight)
    if weight is not None and weight.ndim != 1:
        raise ValueError(f"weight must be one-dimensional, got shape {list(weight.shape)}")
    _check_scores(input)
    batch, classes = (1, input.size) if input.ndim < 2 else input.shape
    if target.ndim > 1 or target.size != batch:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch"
            f" size). Expected target size [{batch}], but got {list(target.shape)}. Input has shape"
            f" {list(input.shape)}."
        )
    if weight is not None and weight.size != classes:
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(weight.shape)}")
    check_floating(input, "multi_margin_loss_cpu_kernel")
    _check_labels(target)
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(
            f"expected scalar type {scalar_type(input.dtype)} but found {scalar_type(weight.dtype)} in weight"
        )
    values = host_value(target)
    if values is not None and ((values < 0) | (values >= classes)).any():
        raise RuntimeError(f"target out of range: expected classes in [0, {classes - 1}], got {values.tolist()}")
    return _multi_margin_loss(input, target, weight, margin, int(p), reduction)


def multilabel_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Ask that the scores of all right classes exceed those of all wrong ones by 1.

    .. math:: l_n = \frac{1}{C} \sum_j \sum_{c \notin y_n} \max(0, 1 - x_{n,y_{n,j}} + x_{n,c})

    Args:
        input: scores, ``(N, C)`` or ``(C,)``.
        target: the right classes of each sample, followed by -1 up to the shape of ``input``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(N, C), (N, C) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if shapes or dtypes do not fit together, or a target is not a class (NaN where it is traced).
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.multilabel_margin_loss(jnp.array([0.0, 0.0]), jnp.array([1, -1])).item()
        0.5
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target = as_array(input), as_array(target)
    input, target = cast("multilabel_margin_loss", input, target)
    _check_scores(input)
    if target.shape != input.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    check_floating(input, "multilabel_margin_loss_forward_out_frame")
    _check_labels(target)
    values, classes = host_value(target), input.shape[-1] if input.ndim else 1
    if values is not None and ((values < -1) | (values >= classes)).any():
        raise RuntimeError(f"argument #2 'target' is out of range: expected -1 or classes in [0, {classes - 1}]")
    return _multilabel_margin_loss(input, target, reduction)


def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Measure how far the scores of each class are from its label 0 or 1.

    .. math:: l_n = -\frac{1}{C} \sum_c w_c \left(y_{n,c} \log \sigma(x_{n,c}) + (1 - y_{n,c}) \log \sigma(-x_{n,c})
              \right)

    Args:
        input: scores, ``(N, C)``, or any shape with the classes last.
        target: labels, of the same shape.
        weight: one factor per class, ``(C,)``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(N, C), (N, C) -> ()``, or ``(N,)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes can't be broadcast.
        NotImplementedError: for integers.
        IndexError: if ``input`` has no axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.multilabel_soft_margin_loss(jnp.array([[100.0, -100.0]]), jnp.zeros((1, 2))).item()
        50.0
    """
    if size_average is not None or reduce is not None:
        reduction = resolve_reduction(size_average, reduce, reduction)
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("multilabel_soft_margin_loss", input, target, weight)
    check_floating(input, "log_sigmoid_cpu")
    check_broadcast(target, input)
    if weight is not None:
        check_broadcast(input, weight)
    if input.ndim == 0:
        raise IndexError("Dimension specified as -1 but tensor has no dimensions: expected input of shape (*, C)")
    check_plain_reduction(reduction)
    return _multilabel_soft_margin_loss(input, target, weight, reduction)


def _hinge(input: Array, target: Array, margin: Array) -> Array:
    return jnp.where(target != 1, clamp_at_zero(margin - input), 0) + jnp.where(target != -1, input, 0)


def _ranking(input1: Array, input2: Array, target: Array, margin: Array) -> Array:
    return clamp_at_zero(-target * (input1 - input2) + margin)


def _soft_margin(input: Array, target: Array) -> Array:
    return jnp.log1p(jnp.exp(-target * input))


@partial(jax.jit, static_argnames=("p", "reduction"), inline=True)
def _multi_margin_loss(
    input: Array, target: Array, weight: Array | None, margin: Array, p: int, reduction: str
) -> Array:
    wide = accumulation_dtype(input.dtype)
    classes = input.shape[-1] if input.ndim else 1
    scores, labels = input.astype(wide).reshape(-1, classes), target.reshape(-1, 1)
    hit = jax.lax.broadcasted_iota(labels.dtype, scores.shape, 1) == labels
    right = jnp.where(hit, scores, 0).sum(1, keepdims=True)
    excess = margin - right + scores
    excess = jnp.where((excess > 0) & ~hit, excess, 0)
    loss = (excess if p == 1 else jnp.square(excess)).sum(1) / classes
    if weight is not None:
        loss = loss * jnp.take(weight.astype(wide), labels[:, 0], mode="clip")
    loss = jnp.where(hit.any(1), loss, jnp.nan).reshape(target.shape)
    return reduce_loss(loss, reduction).astype(input.dtype)


@partial(jax.jit, static_argnames="reduction", inline=True)
def _multilabel_margin_loss(input: Array, target: Array, reduction: str) -> Array:
    classes = input.shape[-1] if input.ndim else 1
    scores, labels = input.astype(accumulation_dtype(input.dtype)).reshape(-1, classes), target.reshape(-1, classes)
    listed = jnp.cumsum(labels < 0, 1) == 0
    hit = (labels[:, :, None] == jax.lax.broadcasted_iota(labels.dtype, (1, 1, classes), 2)) & listed[:, :, None]
    right = jnp.take_along_axis(scores, jnp.clip(labels, 0, classes - 1), 1)
    excess = 1 - right[:, :, None] + scores[:, None, :]  # (N, listed class, other class)
    wanted = listed[:, :, None] & ~hit.any(1)[:, None, :] & (excess > 0)
    loss = jnp.where(wanted, excess, 0).sum((1, 2)) / classes
    loss = jnp.where((labels < classes).all(1), loss, jnp.nan).reshape(input.shape[:-1])
    return reduce_loss(loss, reduction).astype(input.dtype)


@partial(jax.jit, static_argnames="reduction", inline=True)
def _multilabel_soft_margin_loss(input: Array, target: Array, weight: Array | None, reduction: str) -> Array:
    dtype = floating_dtype(input, target) if weight is None else floating_dtype(input, target, weight)
    factors = () if weight is None else (weight,)
    loss = pointwise_loss(_two_sided, (input, target, *factors), "none", accumulation_dtype(dtype))
    axis = input.ndim - 1
    return reduce_loss(loss.sum(axis) / input.shape[axis], reduction).astype(dtype)


def _two_sided(input: Array, target: Array, weight: Array | None = None) -> Array:
    loss = -(target * jax.nn.log_sigmoid(input) + (1 - target) * jax.nn.log_sigmoid(-input))
    return loss if weight is None else loss * weight


def _check_scores(input: Array) -> None:
    if input.ndim > 2 or 0 in input.shape[-1:]:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(input.shape)}"
        )


def _check_labels(target: Array) -> None:
    if not is_integer(target.dtype):
        raise RuntimeError(f"expected scalar type Long but found {scalar_type(target.dtype)}: labels are integers")
