"""Activations made of pieces: each bends or jumps somewhere."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, is_integer
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._elementwise import check_real, elementwise
from jaxmodules.random import next_key

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def threshold(input: ArrayLike, threshold: float, value: float, inplace: bool = False) -> Array:
    r"""Replace every element that is not above ``threshold`` by ``value``.

    Args:
        input: an array of any shape.
        threshold: what an element has to exceed to be kept.
        value: what stands in for the others.
        inplace: accepted for PyTorch's sake; arrays are immutable and the result is always new.

    Raises:
        NotImplementedError: if ``input`` is boolean or complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.threshold(jnp.array([0.5, 2.0]), 1.0, 20.0).tolist()
        [20.0, 2.0]
    """
    return _threshold(_real_or_integer(input, "threshold"), threshold, value)


def threshold_(input: ArrayLike, threshold: float, value: float) -> Array:
    """Return what :func:`threshold` does: arrays are immutable."""
    return _threshold(_real_or_integer(input, "threshold"), threshold, value)


def relu(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :math:`\max(0, x)` to every element.

    Args:
        input: an array of any shape.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        RuntimeError: if ``input`` is boolean.
        NotImplementedError: if it is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    input = as_array(input)
    if input.dtype == np.bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    _check_ordered(input)
    return _relu(input)


def relu_(input: ArrayLike) -> Array:
    """Return what :func:`relu` does: arrays are immutable."""
    return relu(input)


def relu6(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :math:`\min(\max(0, x), 6)` to every element; arguments are those of :func:`relu`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.relu6(jnp.array([-1.0, 2.0, 7.0])).tolist()
        [0.0, 2.0, 6.0]
    """
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: ArrayLike, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Array:
    r"""Cut every element off at ``min_val`` and ``max_val``.

    Args:
        input: an array of any shape.
        min_val: the smallest value of the result.
        max_val: the largest value of the result.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        ValueError: if ``min_val`` is above ``max_val``.
        RuntimeError: if ``input`` is boolean, or unsigned and a limit negative.
        NotImplementedError: if it is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.hardtanh(jnp.array([-2.0, 0.5, 2.0])).tolist()
        [-1.0, 0.5, 1.0]
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val: got min_val={min_val} and max_val={max_val}")
    return hardtanh_(input, min_val, max_val)


def hardtanh_(input: ArrayLike, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Return what :func:`hardtanh` does: arrays are immutable."""
    input = as_array(input)
    if input.dtype == np.bool_:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    _check_ordered(input)
    if jnp.issubdtype(input.dtype, jnp.unsignedinteger) and (min_val < 0 or max_val < 0):
        raise RuntimeError(
            "cannot do hardtanh on an unsigned type with negative limits:"
            f" got min_val={min_val} and max_val={max_val} for {input.dtype}"
        )
    return _hardtanh(input, min(min_val, max_val), max_val)


def hardsigmoid(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :math:`\min(\max(0, x + 3), 6) / 6` to every element.

    Args:
        input: a floating point array of any shape.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.hardsigmoid(jnp.array([-3.0, 0.0, 3.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    input = as_array(input)
    check_real(input, "hardsigmoid")
    return _hardsigmoid(input)


def hardswish(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Multiply every element by its :func:`hardsigmoid` (Howard et al., 2019); arguments are the same.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.hardswish(jnp.array([-3.0, 1.5, 4.0])).tolist()
        [-0.0, 1.125, 4.0]
    """
    input = as_array(input)
    check_real(input, "hardswish")
    return _hardswish(input)


def leaky_relu(input: ArrayLike, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    r"""Apply :math:`\max(0, x) + a \min(0, x)` to every element.

    Args:
        input: a floating point array of any shape.
        negative_slope: the slope :math:`a` left of zero.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.leaky_relu(jnp.array([-2.0, 2.0]), 0.5).tolist()
        [-1.0, 2.0]
    """
    input = as_array(input)
    check_real(input, "leaky_relu")
    return _leaky_relu(input, negative_slope)


def leaky_relu_(input: ArrayLike, negative_slope: float = 0.01) -> Array:
    """Return what :func:`leaky_relu` does: arrays are immutable."""
    return leaky_relu(input, negative_slope)


def rrelu(
    input: ArrayLike, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Array:
    r"""Apply :func:`leaky_relu` with a slope drawn for each element (Xu et al., 2015).

    Args:
        input: a floating point array of any shape.
        lower: the smallest slope.
        upper: the largest slope.
        training: whether to draw slopes from :math:`U(l, u)`; otherwise all are the mean, :math:`(l + u) / 2`.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        RuntimeError: if a bound is not finite, or ``lower`` is above ``upper``.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.rrelu(jnp.array([-4.0, 2.0]), 0.25, 0.75).tolist()
        [-2.0, 2.0]
    """
    input = as_array(input)
    for name, bound in (("lower", lower), ("upper", upper)):
        if not math.isfinite(bound):
            raise RuntimeError(f"rrelu: {name} bound must be finite, got {bound}")
    if lower > upper:
        raise RuntimeError(
            f"Lower bound should be less than or equal to the upper bound, got lower={lower} and upper={upper}"
        )
    check_real(input, "rrelu_with_noise" if training else "leaky_relu")
    if not training:
        return _leaky_relu(input, (lower + upper) / 2)
    return _rrelu(next_key(), input, lower, upper)


def rrelu_(input: ArrayLike, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Array:
    """Return what :func:`rrelu` does: arrays are immutable."""
    return rrelu(input, lower, upper, training)


def prelu(input: ArrayLike, weight: ArrayLike) -> Array:
    r"""Apply :math:`\max(0, x) + w \min(0, x)` with a learnable slope per channel (axis 1).

    Args:
        input: an array of any shape.
        weight: one slope for all, or one per channel.

    Raises:
        RuntimeError: if the number of slopes is neither 1 nor the number of channels, or dtypes differ.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.prelu(jnp.array([[-2.0, -2.0]]), jnp.array([0.5, 0.25])).tolist()
        [[-1.0, -0.5]]
    """
    input, weight = as_array(input), as_array(weight)
    input, weight = cast("prelu", input, weight)
    if input.dtype != weight.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {input.dtype} and {weight.dtype}")
    if weight.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.ndim}")
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.size != 1 and input.ndim == 0:
        raise RuntimeError(f"Not allow zero-dim input tensor with {weight.size} slopes, expected 1 slope.")
    if weight.size not in (1, channels):
        raise RuntimeError(
            "Mismatch of parameter numbers and input channel size."
            f" Found parameter numbers = {weight.size} and channel size = {channels}."
        )
    check_real(input, "prelu")
    return _prelu(input, weight)


def elu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> Array:
    r"""Apply :math:`x` right of zero and :math:`\alpha (e^x - 1)` left of it (Clevert et al., 2016).

    Args:
        input: a floating point array of any shape.
        alpha: the limit far left of zero, negated.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.elu(jnp.array([-jnp.inf, 2.0]), alpha=3.0).tolist()
        [-3.0, 2.0]
    """
    input = as_array(input)
    check_real(input, "elu")
    return _elu(input, alpha, 1.0, 1.0)


def elu_(input: ArrayLike, alpha: float = 1.0) -> Array:
    """Return what :func:`elu` does: arrays are immutable."""
    return elu(input, alpha)


def celu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> Array:
    r"""Apply :math:`x` right of zero and :math:`\alpha (e^{x / \alpha} - 1)` left of it (Barron, 2017).

    Arguments are those of :func:`elu`.

    Raises:
        RuntimeError: if ``alpha`` is zero.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.celu(jnp.array([-jnp.inf, 2.0]), alpha=3.0).tolist()
        [-3.0, 2.0]
    """
    input = as_array(input)
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    check_real(input, "elu")
    return _elu(input, alpha, 1.0, 1.0 / alpha)


def celu_(input: ArrayLike, alpha: float = 1.0) -> Array:
    """Return what :func:`celu` does: arrays are immutable."""
    return celu(input, alpha)


def selu(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :func:`elu` scaled so that deep networks keep mean 0 and variance 1 (Klambauer et al., 2017).

    .. math:: y = 1.0507 \, \mathrm{ELU}(x), \qquad \alpha = 1.6733

    Args:
        input: a floating point array of any shape.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> from jaxmodules.nn import functional as F
        >>> F.selu(0.0).item()
        0.0
    """
    input = as_array(input)
    check_real(input, "elu")
    return _elu(input, _SELU_ALPHA, _SELU_SCALE, 1.0)


def selu_(input: ArrayLike) -> Array:
    """Return what :func:`selu` does: arrays are immutable."""
    return selu(input)


def hardshrink(input: ArrayLike, lambd: float = 0.5) -> Array:
    r"""Replace every element between ``-lambd`` and ``lambd`` by zero.

    Args:
        input: a floating point array of any shape.
        lambd: the largest magnitude that becomes zero.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.hardshrink(jnp.array([-2.0, 0.25, 0.75])).tolist()
        [-2.0, 0.0, 0.75]
    """
    input = as_array(input)
    check_real(input, "hardshrink")
    return _hardshrink(input, lambd)


def softshrink(input: ArrayLike, lambd: float = 0.5) -> Array:
    r"""Move every element by ``lambd`` towards zero, and no further.

    Args:
        input: a floating point array of any shape.
        lambd: how far; not negative.

    Raises:
        NotImplementedError: if ``input`` is not floating point.
        RuntimeError: if ``lambd`` is negative or too large for the type of ``input``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softshrink(jnp.array([-2.0, 0.25, 0.75])).tolist()
        [-1.5, 0.0, 0.25]
    """
    input = as_array(input)
    check_real(input, "softshrink")
    largest = float(jnp.finfo(input.dtype).max)
    if not 0 <= lambd <= largest:
        raise RuntimeError(
            f"lambda must be in range [0, {largest:g}] for input dtype {input.dtype}, but found {lambd:g}"
        )
    return _softshrink(input, lambd)


# dispatched whole: the custom derivative of jax.nn.relu is slow to dispatch eagerly
_relu = jax.jit(jax.nn.relu, inline=True)


@elementwise
def _threshold(input: Array, threshold: Array, value: Array) -> Array:
    return jnp.where(input <= threshold, value, input)


@elementwise
def _hardtanh(input: Array, min_val: Array, max_val: Array) -> Array:
    # at both limits the gradient is 0
    return jnp.where(input >= max_val, max_val, jnp.where(input <= min_val, min_val, input))


def _gate(input: Array) -> Array:
    return jnp.where(input >= 3, 1, jnp.where(input <= -3, 0, (input + 3) / 6)).astype(input.dtype)


_hardsigmoid = elementwise(_gate)


@elementwise
def _hardswish(input: Array) -> Array:
    return input * _gate(input)


@elementwise
def _leaky_relu(input: Array, negative_slope: Array) -> Array:
    # jax.nn.leaky_relu has slope 1 at zero, PyTorch has negative_slope
    return jnp.where(input > 0, input, input * negative_slope)


@partial(jax.jit, inline=True)
def _rrelu(key: Array, input: Array, lower: Array, upper: Array) -> Array:
    dtype = accumulation_dtype(input.dtype)
    slopes = jax.random.uniform(key, input.shape, dtype, lower, upper)
    return jnp.where(input <= 0, (input.astype(dtype) * slopes).astype(input.dtype), input)


@partial(jax.jit, inline=True)
def _prelu(input: Array, weight: Array) -> Array:
    slopes = weight.reshape(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else weight.reshape(())
    return jnp.where(input > 0, input, input * jnp.broadcast_to(slopes, input.shape))


@elementwise
def _elu(input: Array, alpha: Array, scale: Array, input_scale: Array) -> Array:
    # an exponential of what is positive could overflow, and spoil the gradient
    left = alpha * jnp.expm1(jnp.where(input > 0, 0, input) * input_scale)
    return scale * jnp.where(input > 0, input, left)


@elementwise
def _hardshrink(input: Array, lambd: Array) -> Array:
    return jnp.where((input >= -lambd) & (input <= lambd), 0, input)


@elementwise
def _softshrink(input: Array, lambd: Array) -> Array:
    # zero times x keeps NaN
    return jnp.where(input > lambd, input - lambd, jnp.where(input < -lambd, input + lambd, input * 0))


def _check_ordered(input: Array) -> None:
    if jnp.issubdtype(input.dtype, jnp.complexfloating):
        raise NotImplementedError(f"clamp is not supported for complex types, got {input.dtype}")


def _real_or_integer(input: ArrayLike, name: str) -> Array:
    input = as_array(input)
    if not is_integer(input.dtype):
        check_real(input, name)
    return input
