"""Losses between probabilities."""

import warnings

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array, as_array_or_none, check_floating, host_value, is_floating
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._reduction import (
    check_broadcast,
    check_fits,
    common_dtype,
    pointwise_loss,
    resolve_reduction,
)


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Array:
    r"""Measure the Kullback-Leibler divergence of a distribution from a target distribution.

    .. math:: l_n = y_n (\log y_n - x_n)

    Args:
        input: log-probabilities, of any shape.
        target: probabilities, of a shape that broadcasts with ``input``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'batchmean'`` (the sum divided by the size of the first axis, which is the
            divergence), ``'sum'`` or ``'mean'`` (divided by the number of elements).
        log_target: whether ``target`` holds log-probabilities too.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes can't be broadcast, or for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.kl_div(jnp.zeros((2, 1)), jnp.ones((2, 1)), reduction="batchmean").item()
        0.0
    """
    input, target = as_array(input), as_array(target)
    input, target = cast("kl_div", input, target)
    legacy = size_average is not None or reduce is not None
    if not legacy and reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' divides"
            " only by the batch size, and aligns with the KL div math definition.",
            stacklevel=2,
        )
    total = "sum" if not legacy and reduction == "batchmean" else reduction
    resolved = resolve_reduction(size_average, reduce, total)
    if not is_floating(input.dtype) or not is_floating(target.dtype):
        raise RuntimeError(
            "kl_div: Integral inputs not supported."
            f" Expected floating point arrays, got input: {input.dtype}, target: {target.dtype}"
        )
    check_broadcast(target, input)
    dtype = common_dtype(input, target)
    loss = pointwise_loss(_divergence, (input, target), resolved, dtype, (), (bool(log_target),))
    return loss / jnp.asarray(input.shape[0], dtype) if reduction == "batchmean" and input.ndim else loss


def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Measure how far probabilities are from the labels 0 and 1.

    .. math:: l_n = -w_n \left( y_n \log x_n + (1 - y_n) \log (1 - x_n) \right)

    Logarithms below -100 count as -100.

    Args:
        input: probabilities, of any shape.
        target: probabilities or labels, of the same shape.
        weight: factors, of a shape that broadcasts to that of ``input``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if the shapes differ or ``reduction`` is unknown.
        RuntimeError: if an element lies outside [0, 1] (where the values are known), or dtypes differ.
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.binary_cross_entropy(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0])).item()
        50.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("binary_cross_entropy", input, target, weight)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({list(target.shape)}) that is different to the input size ({list(input.shape)}) is"
            " deprecated. Please ensure they have the same size."
        )
    if target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}: target must be of the input's type")
    check_floating(input, "binary_cross_entropy")
    if weight is not None:
        _check_factor(input, weight, "weight")
    for name, array in (("input", input), ("target", target)):
        values = host_value(array)
        if values is not None and not ((values >= 0) & (values <= 1)).all():
            raise RuntimeError(
                f"all elements of {name} should be between 0 and 1, got values in [{values.min()}, {values.max()}]"
                " (apply a sigmoid first, or use binary_cross_entropy_with_logits)"
            )
    return pointwise_loss(_binary, (input, target, weight), reduction, input.dtype)


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Array:
    r"""Measure how far scores are from the labels 0 and 1, without overflow.

    .. math:: l_n = -w_n \left( p_n y_n \log \sigma(x_n) + (1 - y_n) \log (1 - \sigma(x_n)) \right)

    Args:
        input: scores (logits), of any shape.
        target: probabilities or labels, of the same shape.
        weight: factors, of a shape that broadcasts to that of ``input``.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        pos_weight: factors of positive labels, of a shape that broadcasts to that of ``input``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if the shapes differ or ``reduction`` is unknown.
        RuntimeError: if a weight does not broadcast, or the target holds integers.
        NotImplementedError: if the input holds integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.binary_cross_entropy_with_logits(jnp.array([100.0, -100.0]), jnp.zeros(2)).item()
        50.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target = as_array(input), as_array(target)
    weight, pos_weight = as_array_or_none(weight), as_array_or_none(pos_weight)
    input, target, weight, pos_weight = cast("binary_cross_entropy_with_logits", input, target, weight, pos_weight)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({list(target.shape)}) must be the same as input size ({list(input.shape)})")
    check_floating(input, "log_sigmoid_cpu")
    if not is_floating(target.dtype):
        raise RuntimeError(
            f"result type {input.dtype} can't be cast to the desired output type {target.dtype}:"
            " expected a floating point target (convert it first: target.astype(input.dtype))"
        )
    dtype = common_dtype(input, target)
    for name, factor in (("pos_weight", pos_weight), ("weight", weight)):
        if factor is not None:
            _check_factor(input, factor, name)
            dtype = jnp.promote_types(dtype, factor.dtype)
    return pointwise_loss(_binary_logits, (input, target, weight, pos_weight), reduction, dtype)


def _check_factor(input: Array, factor: Array, name: str) -> None:
    check_broadcast(input, factor)
    check_fits(factor, input.shape, name)


def _divergence(input: Array, target: Array, log_target: bool) -> Array:
    if log_target:
        return jnp.exp(target) * (target - input)
    return jax.scipy.special.xlogy(target, target) - target * input


@jax.custom_jvp
def _binary_entropy(input: Array, target: Array) -> Array:
    return (target - 1) * jnp.maximum(jnp.log1p(-input), -100) - target * jnp.maximum(jnp.log(input), -100)


@_binary_entropy.defjvp
def _binary_entropy_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    input, target = primals
    # PyTorch's own slope, which stays finite at 0 and 1
    slope = (input - target) / jnp.maximum((1 - input) * input, 1e-12)
    odds = jnp.maximum(jnp.log1p(-input), -100) - jnp.maximum(jnp.log(input), -100)
    return _binary_entropy(input, target), slope * tangents[0] + odds * tangents[1]


def _binary(input: Array, target: Array, weight: Array | None) -> Array:
    loss = _binary_entropy(input, target)
    return loss if weight is None else loss * weight


def _binary_logits(input: Array, target: Array, weight: Array | None, pos_weight: Array | None) -> Array:
    log_sigmoid = jax.nn.log_sigmoid(input)
    if pos_weight is not None:
        log_sigmoid = ((pos_weight - 1) * target + 1) * log_sigmoid
    loss = (1 - target) * input - log_sigmoid
    return loss if weight is None else loss * weight
