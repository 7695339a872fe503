"""Normalisation by the statistics of a batch or of a sample."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, check_floating
from jaxmodules._typing import Array, ArrayLike, DType, Shape
from jaxmodules.nn.functional._statistics import Names, standardize, standardize_last


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
        return _normalize_channels(*operands, momentum, eps)[0]
    return _normalize_by_running(*operands, eps)


def batch_norm_stats(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    momentum: float | Array = 0.1,
    eps: float = 1e-5,
    axis_names: Names = (),
) -> tuple[Array, Array | None, Array | None]:
    r"""Normalise by the statistics of this batch and move the running ones towards them.

    .. math:: \hat\mu \leftarrow (1 - m)\,\hat\mu + m\,\mu, \qquad
              \hat\sigma^2 \leftarrow (1 - m)\,\hat\sigma^2 + m\,\frac{n}{n - 1}\,\sigma^2

    Arguments are those of :func:`batch_norm`, and ``axis_names``: mapped axes over which the batch is spread.

    Returns:
        The output, the new running mean and the new running variance (``None`` where none were given); no gradient
        flows through the last two.
    """
    spread = lax.axis_size(axis_names)
    operands = _batch_norm_operands(input, running_mean, running_var, weight, bias, True, eps, spread)
    return _normalize_channels(*operands, momentum, eps, axis_names=axis_names)


def instance_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    r"""Normalise every channel of every sample by its own mean and variance (Ulyanov et al., 2016).

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Unlike PyTorch's function this one writes nothing: :func:`instance_norm_stats` returns the new running
    statistics, and the layers store them.

    Args:
        input: ``(N, C, *)``.
        running_mean: the mean of each channel to use without ``use_input_stats``.
        running_var: the variance of each channel to use without ``use_input_stats``.
        weight: the scale :math:`\gamma` of each channel.
        bias: the shift :math:`\beta` of each channel.
        use_input_stats: whether to use the statistics of this input.
        momentum: accepted for PyTorch's sake; it has no part in the output.
        eps: added to the variance.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        ValueError: if the statistics of an input with one element per channel are wanted.
        RuntimeError: if statistics are missing or of a wrong size.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.instance_norm(jnp.array([[[1.0, 3.0], [0.0, 8.0]]]), eps=0.0).tolist()
        [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    operands = _instance_norm_operands(input, running_mean, running_var, weight, bias, use_input_stats)
    if use_input_stats:
        return _normalize_channels(*operands, momentum, eps, per_sample=True)[0]
    return _normalize_by_running(*operands, eps)


def instance_norm_stats(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Normalise by the statistics of every sample and move the running ones towards their average.

    Arguments are those of :func:`instance_norm`, results those of :func:`batch_norm_stats`.
    """
    operands = _instance_norm_operands(input, running_mean, running_var, weight, bias, True)
    return _normalize_channels(*operands, momentum, eps, per_sample=True)


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
    input, weight, bias = cast("layer_norm", input, weight, bias)
    shape = _checked_shape(input, normalized_shape, "layer_norm", weight=weight, bias=bias)
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None:
            _check_mixed(input, operand, name)
    return _layer_norm(input, weight, bias, len(shape), eps)


def rms_norm(
    input: ArrayLike,
    normalized_shape: Sequence[int],
    weight: ArrayLike | None = None,
    eps: float | None = None,
) -> Array:
    r"""Divide every sample by the root of its mean square over the last axes (Zhang and Sennrich, 2019).

    .. math:: y = \gamma\,\frac{x}{\sqrt{\frac1n \sum_i x_i^2 + \epsilon}}

    Args:
        input: leading axes, then ``normalized_shape``.
        normalized_shape: sizes of the trailing axes that the mean runs over.
        weight: the scale :math:`\gamma`, of ``normalized_shape``.
        eps: added to the mean square; by default the machine epsilon of the type that is computed in.

    Shape:
        ``(*, *normalized_shape) -> (*, *normalized_shape)``

    Raises:
        RuntimeError: if shapes do not fit together.
        TypeError: if ``normalized_shape`` is not a sequence of ints.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.rms_norm(jnp.array([[2.0, -2.0]]), (2,), eps=0.0).tolist()
        [[1.0, -1.0]]
    """
    input, weight = as_array(input), as_array_or_none(weight)
    input, weight = cast("rms_norm", input, weight)
    shape = _checked_shape(input, normalized_shape, "rms_norm", weight=weight)
    return _rms_norm(input, weight, len(shape), eps)


def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    r"""Normalise every group of channels of every sample by its mean and variance (Wu and He, 2018).

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Args:
        input: ``(N, C, *)``.
        num_groups: number of groups of consecutive channels; it divides ``C``.
        weight: the scale :math:`\gamma` of each channel.
        bias: the shift :math:`\beta` of each channel.
        eps: added to the variance.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        ValueError: if there is nothing to take statistics of.
        RuntimeError: if shapes or dtypes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.group_norm(jnp.array([[1.0, 3.0, 0.0, 8.0]]), 2, eps=0.0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    input, weight, bias = as_array(input), as_array_or_none(weight), as_array_or_none(bias)
    input, weight, bias = cast("group_norm", input, weight, bias)
    _check_group_norm(input, num_groups, weight, bias)
    return _group_norm(input, weight, bias, num_groups, eps)


def local_response_norm(input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    r"""Divide every element by a power of the mean square of its neighbours in other channels.

    .. math:: y_c = x_c \Bigl(k + \frac{\alpha}{n} \sum_{c' = c - \lfloor n/2 \rfloor}^{c + \lfloor (n-1)/2 \rfloor}
              x_{c'}^2\Bigr)^{-\beta}

    Args:
        input: ``(N, C, *)`` with at least one axis after the channels.
        size: the number :math:`n` of neighbouring channels.
        alpha: factor of the mean square.
        beta: exponent.
        k: added to the mean square.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        ValueError: if ``input`` has fewer than 3 axes.
        RuntimeError: if ``size`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.local_response_norm(jnp.ones((1, 3, 1)), 2, alpha=2.0, beta=1.0).tolist()
        [[[0.5], [0.3333333432674408], [0.3333333432674408]]]
    """
    input = as_array(input)
    (input,) = cast("local_response_norm", input)
    if input.ndim < 3:
        raise ValueError(
            f"Expected 3D or higher dimensionality                          input (got {input.ndim} dimensions)"
        )
    if input.size == 0:
        return input
    if size < 1:
        raise RuntimeError(f"kernel size should be greater than zero, but got {size} channels")
    check_floating(input, "local_response_norm")
    if input.ndim > 3:
        (input,) = cast("avg_pool3d", input)  # which PyTorch does it by
    return _local_response_norm(input, alpha, beta, k, size)


def cross_map_lrn(input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> Array:
    """Divide every element by a power of the mean square around it, with the windows of Torch 7's ``CrossMapLRN2d``.

    Output and gradient are PyTorch's: the first channel stays in the window of all that are more than half a window
    after it, and the gradient is summed over windows that lie one or more channels before those of the output.

    Raises:
        ValueError: if ``input`` is not ``(N, C, H, W)``.
    """
    input = as_array(input)
    if input.ndim != 4:
        raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {input.ndim}D instead.")
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype.name}")
    return _cross_map_lrn(input, alpha / size, beta, k, size)


@partial(jax.jit, static_argnames=("eps", "per_sample", "axis_names"), inline=True)
def _normalize_channels(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: Array,
    eps: float,
    per_sample: bool = False,
    axis_names: Names = (),
) -> tuple[Array, Array | None, Array | None]:
    if not input.size:
        return input, running_mean, running_var
    values = input.astype(accumulation_dtype(input.dtype))
    axes = tuple(range(2, input.ndim)) if per_sample else (0, *range(2, input.ndim))
    scale, shift = _affine(weight, bias, _channels(input), values.dtype)
    output, mean, var = standardize(values, scale, shift, axes, eps, axis_names)
    output = output.astype(input.dtype)
    if running_mean is None or running_var is None:
        return output, None, None
    count = math.prod(input.shape[axis] for axis in axes) * lax.axis_size(axis_names)
    unbiased = var if count == 1 else var * (count / (count - 1))
    new = (statistic.mean(0).reshape(-1) for statistic in (mean, unbiased))
    new_mean, new_var = map(partial(_moving_average, momentum), (running_mean, running_var), new)
    return output, new_mean, new_var


@partial(jax.jit, static_argnames="eps", inline=True)
def _normalize_by_running(
    input: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> Array:
    if not input.size:
        return input
    shape, dtype = _channels(input), accumulation_dtype(input.dtype)
    centred = input.astype(dtype) - running_mean.astype(dtype).reshape(shape)
    inverse = lax.rsqrt(running_var.astype(dtype) + eps).reshape(shape)
    scale, shift = _affine(weight, bias, shape, dtype)
    return (centred * (inverse * scale) + shift).astype(input.dtype)


@partial(jax.jit, static_argnames=("rank", "eps"), inline=True)
def _layer_norm(input: Array, weight: Array | None, bias: Array | None, rank: int, eps: float) -> Array:
    lead, size = input.shape[: input.ndim - rank], math.prod(input.shape[input.ndim - rank :])
    values = input.astype(accumulation_dtype(input.dtype)).reshape(*lead, size)
    scale, shift = _affine(weight, bias, (size,), values.dtype)
    return standardize_last(values, scale, shift, eps).reshape(input.shape).astype(input.dtype)


@partial(jax.jit, static_argnames=("rank", "eps"), inline=True)
def _rms_norm(input: Array, weight: Array | None, rank: int, eps: float | None) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    axes = tuple(range(input.ndim - rank, input.ndim))
    added = float(jnp.finfo(values.dtype).eps) if eps is None else eps
    inverse = lax.rsqrt(jnp.square(values).mean(axes, keepdims=True) + added)
    shape = (1,) * (input.ndim - rank) + input.shape[input.ndim - rank :]
    output = values * inverse
    return (output if weight is None else output * weight.astype(values.dtype).reshape(shape)).astype(input.dtype)


@partial(jax.jit, static_argnames=("num_groups", "eps"), inline=True)
def _group_norm(input: Array, weight: Array | None, bias: Array | None, num_groups: int, eps: float) -> Array:
    count, channels, *rest = input.shape
    grouped = (num_groups, channels // num_groups)
    values = input.astype(accumulation_dtype(input.dtype)).reshape(count, *grouped, *rest)
    scale, shift = _affine(weight, bias, (1, *grouped, *[1] * len(rest)), values.dtype)
    output, _, _ = standardize(values, scale, shift, tuple(range(2, values.ndim)), eps)
    return output.reshape(input.shape).astype(input.dtype)


@partial(jax.jit, static_argnames="size", inline=True)
def _local_response_norm(input: Array, alpha: Array, beta: Array, k: Array, size: int) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    rest = input.ndim - 2
    total = lax.reduce_window(
        jnp.square(values),
        np.zeros((), values.dtype),
        lax.add,
        (1, size) + (1,) * rest,
        (1,) * input.ndim,
        ((0, 0), (size // 2, (size - 1) // 2)) + ((0, 0),) * rest,
    )
    return (values / (total / size * alpha + k) ** beta).astype(input.dtype)


@partial(jax.jit, static_argnames="size", inline=True)
def _cross_map_lrn(input: Array, alpha: Array, beta: Array, k: Array, size: int) -> Array:
    values = input.astype(accumulation_dtype(input.dtype))
    squares = jnp.square(values)
    places = np.arange(input.shape[1])
    distance = places - places[:, None]  # (C_out, C_in)
    half = int((size - 1) / 2 + 1)
    summed = (abs(distance) < half) | ((places == 0) & (places[:, None] >= half))
    total = _contract_channels(squares, summed)
    if size > 1:
        before = int(size - (size - 1) / 2)
        differentiated = _contract_channels(squares, (distance <= before) & (distance > before - size))
        # the value of one sum with the derivative of the other
        total = lax.stop_gradient(total) + (differentiated - lax.stop_gradient(differentiated))
    return (values * (total * alpha + k) ** -beta).astype(input.dtype)


def _contract_channels(values: Array, chosen: np.ndarray) -> Array:
    """Add up, for each row of ``chosen``, the channels that it has."""
    return jnp.einsum("oc,nchw->nohw", chosen.astype(values.dtype), values, precision="highest")


def _affine(weight: Array | None, bias: Array | None, shape: Shape, dtype: DType) -> tuple[Array, Array]:
    """Return scale and shift in the shape that meets the values."""
    scale = jnp.ones(shape, dtype) if weight is None else weight.astype(dtype).reshape(shape)
    return scale, jnp.zeros(shape, dtype) if bias is None else bias.astype(dtype).reshape(shape)


def _moving_average(momentum: Array, running: Array, new: Array) -> Array:
    moved = (1 - momentum) * running.astype(new.dtype) + momentum * lax.stop_gradient(new)
    return moved.astype(running.dtype)


def _channels(input: Array) -> Shape:
    """Return the shape in which one value per channel meets ``(N, C, *)``."""
    return (1, input.shape[1], *[1] * (input.ndim - 2))


def _batch_norm_operands(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    training: bool,
    eps: float,
    spread: int = 1,
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Turn the operands into arrays and check that they fit together."""
    input = as_array(input)
    if training and math.prod(input.shape[:1] + input.shape[2:]) * spread == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(input.shape)}")
    if eps < 0.0 or (training and eps == 0.0):
        wanted = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {wanted}, but got {eps}")
    check_floating(input, "batch_norm")
    if (running_mean is None) != (running_var is None) and training:
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    channels = input.shape[1] if input.ndim > 1 else 0
    return _channel_operands(input, running_mean, running_var, weight, bias, channels, 1, not training)


def _instance_norm_operands(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    use_input_stats: bool,
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Turn the operands into arrays and check that they fit together."""
    input = as_array(input)
    if use_input_stats and math.prod(input.shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {list(input.shape)}")
    if not use_input_stats and (running_mean is None or running_var is None):
        raise RuntimeError("Expected running_mean and running_var to be defined when use_input_stats is false")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if input.ndim < 2:
        raise IndexError(f"Dimension out of range (instance_norm expected (N, C, *), got {list(input.shape)})")
    check_floating(input, "instance_norm")
    return _channel_operands(input, running_mean, running_var, weight, bias, input.shape[1], input.shape[0], False)


def _channel_operands(
    input: Array,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    channels: int,
    repeats: int,
    running_needed: bool,
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Turn what there is one of per channel into arrays; PyTorch counts the elements of ``repeats`` copies."""
    operands = []
    for name, given in (
        ("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)
    ):  # fmt: skip
        operand = as_array_or_none(given)
        if operand is None and name.startswith("running") and running_needed:
            raise RuntimeError(f"{name} must be defined in evaluation mode")
        if operand is not None:
            if operand.size != channels:
                raise RuntimeError(f"{name} should contain {repeats * channels} elements not {repeats * operand.size}")
            _check_mixed(input, operand, name)
        operands.append(operand)
    return input, *operands


def _check_mixed(input: Array, other: Array, name: str) -> None:
    """Let short floating point inputs meet ``float32`` statistics and parameters, and nothing else mix."""
    if other.dtype not in (input.dtype, accumulation_dtype(input.dtype)):
        raise RuntimeError(
            f"mixed dtype: all inputs must share same datatype, got input: {input.dtype} and {name}: {other.dtype}"
        )


def _checked_shape(input: Array, normalized_shape: Sequence[int], name: str, **operands: Array | None) -> Shape:
    """Return ``normalized_shape`` as a tuple if the input ends with it and the operands have it."""
    if not isinstance(normalized_shape, Sequence):
        raise TypeError(
            f"{name}(): argument 'normalized_shape' must be a tuple of ints,"
            f" not {type(normalized_shape).__name__} ({normalized_shape!r})"
        )
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element,"
            " but got normalized_shape = []"
        )
    for key, operand in operands.items():
        if operand is not None and operand.shape != shape:
            raise RuntimeError(
                f"Expected {key} to be of same shape as normalized_shape, but got {key} of shape"
                f" {list(operand.shape)} and normalized_shape = {list(shape)}"
            )
    if input.shape[-len(shape) :] != shape:
        wanted = ", ".join(["*", *map(str, shape)])
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{wanted}],"
            f" but got input of size{list(input.shape)}"
        )
    check_floating(input, name)
    return shape


def _check_group_norm(input: Array, num_groups: int, weight: Array | None, bias: Array | None) -> None:
    if input.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.ndim}")
    count, channels, *rest = input.shape
    sizes = [count * channels // num_groups, num_groups, *rest]
    if sizes[0] * math.prod(rest) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {sizes}")
    if num_groups < 1:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape"
            f" {list(input.shape)} and num_groups={num_groups}"
        )
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None and operand.shape != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got"
                f" {name} of shape {list(operand.shape)} and input of shape {list(input.shape)}"
            )
    check_floating(input, "group_norm")
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None:
            _check_mixed(input, operand, name)
