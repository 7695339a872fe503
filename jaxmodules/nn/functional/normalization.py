"""Normalisation by the statistics of a batch or of a sample."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, check_floating
from jaxmodules._typing import Array, ArrayLike, Shape


def batch_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    r"""Normalise every channel by its mean and variance over the batch.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Unlike PyTorch's function this one writes nothing: :func:`batch_norm_stats` returns the new running
    statistics, and the layers store them.

    Args:
        input: ``(N, C, *)``.
        running_mean: the mean of each channel to use where not ``training``.
        running_var: the variance of each channel to use where not ``training``.
        weight: the scale :math:`\gamma` of each channel.
        bias: the shift :math:`\beta` of each channel.
        training: whether to use the statistics of this batch.
        momentum: accepted for PyTorch's sake; it has no part in the output.
        eps: added to the variance.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        ValueError: if there is one value per channel in training, or ``eps`` is too small.
        RuntimeError: if statistics are missing or of a wrong size.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.batch_norm(jnp.array([[1.0], [3.0]]), jnp.array([2.0]), jnp.array([1.0]), eps=0.0).tolist()
        [[-1.0], [1.0]]
    """
    operands = _batch_norm_operands(input, running_mean, running_var, weight, bias, training, eps)
    if training:
        return _batch_norm_train(*operands, momentum, eps)[0]
    return _batch_norm_eval(*operands, eps)


def batch_norm_stats(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    momentum: float | Array = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    r"""Normalise by the statistics of this batch and move the running ones towards them.

    .. math:: \hat\mu \leftarrow (1 - m)\,\hat\mu + m\,\mu, \qquad
              \hat\sigma^2 \leftarrow (1 - m)\,\hat\sigma^2 + m\,\frac{n}{n - 1}\,\sigma^2

    Arguments are those of :func:`batch_norm`.

    Returns:
        The output, the new running mean and the new running variance (``None`` where none were given); no gradient
        flows through the last two.
    """
    operands = _batch_norm_operands(input, running_mean, running_var, weight, bias, True, eps)
    return _batch_norm_train(*operands, momentum, eps)


def layer_norm(
    input: ArrayLike,
    normalized_shape: Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    r"""Normalise every sample by its mean and variance over the last axes.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Args:
        input: leading axes, then ``normalized_shape``.
        normalized_shape: sizes of the trailing axes that the statistics run over.
        weight: the scale :math:`\gamma`, of ``normalized_shape``.
        bias: the shift :math:`\beta`, of ``normalized_shape``.
        eps: added to the variance.

    Shape:
        ``(*, *normalized_shape) -> (*, *normalized_shape)``

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.
        TypeError: if ``normalized_shape`` is not a sequence of ints.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.layer_norm(jnp.array([[1.0, 3.0]]), (2,), eps=0.0).tolist()
        [[-1.0, 1.0]]
    """
    input, weight, bias = as_array(input), as_array_or_none(weight), as_array_or_none(bias)
    if not isinstance(normalized_shape, Sequence):
        raise TypeError(
            "layer_norm(): argument 'normalized_shape' must be a tuple of ints,"
            f" not {type(normalized_shape).__name__} ({normalized_shape!r})"
        )
    shape = tuple(normalized_shape)
    _check_layer_norm(input, shape, weight, bias)
    return _layer_norm(input, weight, bias, len(shape), eps)


@partial(jax.jit, static_argnames="eps", inline=True)
def _batch_norm_train(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: Array,
    eps: float,
) -> tuple[Array, Array | None, Array | None]:
    values = input.astype(accumulation_dtype(input.dtype))
    axes = (0, *range(2, input.ndim))
    mean = values.mean(axes, keepdims=True)
    centred = values - mean
    var = jnp.square(centred).mean(axes, keepdims=True)
    output = _scale_and_shift(centred, lax.rsqrt(var + eps), weight, bias, _channels(input.ndim)).astype(input.dtype)
    if running_mean is None or running_var is None:
        return output, None, None
    count = math.prod(input.shape[:1] + input.shape[2:])
    unbiased = var * (count / (count - 1)) if count > 1 else var
    new_mean = _moving_average(running_mean, mean.reshape(-1), momentum)
    return output, new_mean, _moving_average(running_var, unbiased.reshape(-1), momentum)


@partial(jax.jit, static_argnames="eps", inline=True)
def _batch_norm_eval(
    input: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> Array:
    shape, dtype = _channels(input.ndim), accumulation_dtype(input.dtype)
    centred = input.astype(dtype) - running_mean.astype(dtype).reshape(shape)
    inverse = lax.rsqrt(running_var.astype(dtype) + eps).reshape(shape)
    return _scale_and_shift(centred, inverse, weight, bias, shape).astype(input.dtype)


@partial(jax.jit, static_argnames=("rank", "eps"), inline=True)
def _layer_norm(input: Array, weight: Array | None, bias: Array | None, rank: int, eps: float) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    axes = tuple(range(input.ndim - rank, input.ndim))
    centred = values - values.mean(axes, keepdims=True)
    var = jnp.square(centred).mean(axes, keepdims=True)
    shape = (1,) * (input.ndim - rank) + input.shape[input.ndim - rank :]
    return _scale_and_shift(centred, lax.rsqrt(var + eps), weight, bias, shape).astype(input.dtype)


def _scale_and_shift(centred: Array, inverse: Array, weight: Array | None, bias: Array | None, shape: Shape) -> Array:
    output = centred * (inverse if weight is None else inverse * weight.astype(centred.dtype).reshape(shape))
    return output if bias is None else output + bias.astype(centred.dtype).reshape(shape)


def _moving_average(running: Array, new: Array, momentum: Array) -> Array:
    moved = (1 - momentum) * running.astype(new.dtype) + momentum * lax.stop_gradient(new)
    return moved.astype(running.dtype)


def _channels(ndim: int) -> Shape:
    """Return the shape in which one value per channel meets ``(N, C, *)``."""
    return (1, -1, *[1] * (ndim - 2))


def _batch_norm_operands(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    training: bool,
    eps: float,
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Turn the operands into arrays and check that they fit together."""
    input = as_array(input)
    if training and math.prod(input.shape[:1] + input.shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(input.shape)}")
    if eps < 0.0 or (training and eps == 0.0):
        wanted = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {wanted}, but got {eps}")
    check_floating(input, "batch_norm")
    if (running_mean is None) != (running_var is None) and training:
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    channels = input.shape[1] if input.ndim > 1 else 0
    operands = []
    for name, given in (
        ("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)
    ):  # fmt: skip
        operand = as_array_or_none(given)
        if operand is None and name.startswith("running") and not training:
            raise RuntimeError(f"{name} must be defined in evaluation mode")
        if operand is not None:
            if operand.size != channels:
                raise RuntimeError(f"{name} should contain {channels} elements not {operand.size}")
            _check_mixed(input, operand, name)
        operands.append(operand)
    return input, *operands


def _check_mixed(input: Array, other: Array, name: str) -> None:
    """Let short floating point inputs meet ``float32`` statistics and parameters, and nothing else mix."""
    if other.dtype not in (input.dtype, accumulation_dtype(input.dtype)):
        raise RuntimeError(
            f"mixed dtype: all inputs must share same datatype, got input: {input.dtype} and {name}: {other.dtype}"
        )


def _check_layer_norm(input: Array, shape: Shape, weight: Array | None, bias: Array | None) -> None:
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element,"
            " but got normalized_shape = []"
        )
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None and operand.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape"
                f" {list(operand.shape)} and normalized_shape = {list(shape)}"
            )
    if input.shape[-len(shape) :] != shape:
        wanted = ", ".join(["*", *map(str, shape)])
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{wanted}],"
            f" but got input of size{list(input.shape)}"
        )
    check_floating(input, "layer_norm")
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None:
            _check_mixed(input, operand, name)
