"""Initialise parameters as ``torch.nn.init`` does: the same seed gives the same weights.

A tensor argument is one of three things. A ``Parameter`` or its ``.data`` is written in place and returned; so is a
NumPy array. A ``jax.Array`` is immutable, so a new array of its shape and dtype is returned instead.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import beside, lacks_data
from jaxmodules._tracing import is_tracing
from jaxmodules._typing import Array
from jaxmodules.random import Generator, current_generator, normal_values, resolve, to_jax
from jaxmodules.random import uniform as uniform_values

_T = TypeVar("_T")
_P = ParamSpec("_P")

_LINEAR = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)
# Above this share of accepted samples, redrawing normals beats proposing uniforms.
_REDRAW_SHARE = 0.3


def _write(tensor: Any, values: np.ndarray | Array) -> Any:
    """Give ``tensor`` its new ``values``."""
    if isinstance(tensor, np.ndarray):
        tensor[...] = values
        return tensor
    if hasattr(tensor, "copy_"):
        return tensor.copy_(to_jax(values, tensor.dtype))
    return beside(to_jax(values, tensor.dtype), tensor)


def _spec(tensor: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and the dtype of ``tensor``."""
    if not isinstance(tensor, np.ndarray | jax.Array | jax.ShapeDtypeStruct) and not hasattr(tensor, "copy_"):
        raise TypeError(f"expected a Parameter, its .data, a NumPy array or a JAX array, got {type(tensor).__name__}")
    return tuple(tensor.shape), np.dtype(tensor.dtype)


def _real_spec(tensor: Any) -> tuple[tuple[int, ...], np.dtype]:
    shape, dtype = _spec(tensor)
    if np.issubdtype(dtype, np.complexfloating):
        raise NotImplementedError(f"not implemented for {dtype.name!r}: expected a floating point dtype")
    return shape, dtype


def _fill_uniform(tensor: _T, low: float, high: float, generator: Generator | None) -> _T:
    shape, dtype = _spec(tensor)
    if lacks_data(tensor):
        return tensor
    return _write(tensor, uniform_values(shape, low, high, dtype=dtype, generator=generator))


def _fill_normal(tensor: _T, mean: float, std: float, generator: Generator | None) -> _T:
    shape, dtype = _spec(tensor)
    if lacks_data(tensor):
        return tensor
    return _write(tensor, normal_values(shape, mean, std, dtype=dtype, generator=generator))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the gain that keeps the variance of a signal through ``nonlinearity``.

    Args:
        nonlinearity: the name of a function or layer family of ``nn.functional``.
        param: the negative slope of ``"leaky_relu"`` (0.01 when ``None``).

    Raises:
        ValueError: if the nonlinearity is unknown or its parameter no number.

    Examples:
        >>> calculate_gain("selu")
        0.75
    """
    if nonlinearity in _LINEAR:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "selu":
        return 3.0 / 4
    if nonlinearity != "leaky_relu":
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    if param is None:
        param = 0.01
    elif isinstance(param, bool) or not isinstance(param, int | float):
        raise ValueError(f"negative_slope {param} not a valid number")
    return math.sqrt(2.0 / (1 + param**2))


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    """Return the number of inputs and of outputs that one element of the layer's output, or input, meets."""
    shape, _ = _spec(tensor)
    if len(shape) < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
            f" (expected (outputs, inputs, *window), got shape {shape})"
        )
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    mode = mode.lower()
    valid_modes = ["fan_in", "fan_out"]
    if mode not in valid_modes:
        raise ValueError(f"Mode {mode} not supported, please use one of {valid_modes}")
    return _calculate_fan_in_and_fan_out(tensor)[valid_modes.index(mode)]


def uniform_(tensor: _T, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> _T:
    """Fill with samples of the uniform distribution over [a, b).

    Args:
        tensor: what is filled.
        a: the lower bound.
        b: the upper bound.
        generator: drawn from; the current one when ``None``.

    Raises:
        RuntimeError: if ``a > b``.

    Examples:
        >>> uniform_(np.empty((3, 5), np.float32)).shape
        (3, 5)
    """
    return _fill_uniform(tensor, a, b, generator)


def normal_(tensor: _T, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> _T:
    """Fill with samples of a normal distribution.

    Args:
        tensor: what is filled.
        mean: the mean.
        std: the standard deviation.
        generator: drawn from; the current one when ``None``.

    Raises:
        RuntimeError: if ``std`` is negative.

    Examples:
        >>> normal_(np.empty((3, 5), np.float32), std=0.0).max().item()
        0.0
    """
    return _fill_normal(tensor, mean, std, generator)


def trunc_normal_(
    tensor: _T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> _T:
    """Fill with samples of a normal distribution that are redrawn until they lie in [a, b].

    Args:
        tensor: what is filled.
        mean: the mean before truncation.
        std: the standard deviation before truncation.
        a: the smallest value.
        b: the largest value.
        generator: drawn from; the current one when ``None``.

    Examples:
        >>> bool(trunc_normal_(np.empty(100, np.float32), a=-1.0, b=1.0).max() <= 1)
        True
    """
    shape, dtype = _real_spec(tensor)
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    if lacks_data(tensor):
        return tensor
    if is_tracing():
        key = resolve(generator).sample_key()
        standard = jax.random.truncated_normal(key, (a - mean) / std, (b - mean) / std, shape, dtype)
        return _write(tensor, jnp.clip(standard * std + mean, a, b))
    inside = _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std)
    sample = _redraw_outside if inside > _REDRAW_SHARE else _reject
    return _write(tensor, sample(shape, mean, std, a, b, dtype, generator))


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _redraw_outside(
    shape: tuple[int, ...], mean: float, std: float, a: float, b: float, dtype: np.dtype, generator: Generator | None
) -> np.ndarray:
    """Draw normals, and draw all again for those outside [a, b], as often as it takes."""
    low, high = dtype.type(a), dtype.type(b)
    draw = functools.partial(normal_values, shape, mean, std, dtype=dtype, generator=generator)
    result = np.asarray(draw())  # not a copy: outside of a trace it is a NumPy array
    while (outside := (result < low) | (result > high)).any():
        np.copyto(result, draw(), where=outside)
    return result


def _reject(
    shape: tuple[int, ...], mean: float, std: float, a: float, b: float, dtype: np.dtype, generator: Generator | None
) -> np.ndarray:
    """Propose uniforms, and accept each with its density relative to the highest in [a, b]."""
    log_peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
    pending = np.ones(shape, bool)
    result = np.empty(shape, dtype)
    while pending.any():
        candidates = uniform_values(shape, a, b, dtype=dtype, generator=generator)
        np.copyto(result, candidates, where=pending)
        log_density = np.square((candidates - mean) / std) * -0.5 - log_peak
        with np.errstate(divide="ignore"):
            pending &= np.log(uniform_values(shape, dtype=dtype, generator=generator)) > log_density
    return result


def constant_(tensor: _T, val: float) -> _T:
    """Fill with the value ``val``.

    Examples:
        >>> constant_(np.empty(2), 0.5).tolist()
        [0.5, 0.5]
    """
    shape, dtype = _spec(tensor)
    if lacks_data(tensor):
        return tensor
    return _write(tensor, (jnp if is_tracing() else np).full(shape, val, dtype))


def ones_(tensor: _T) -> _T:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: _T) -> _T:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def eye_(tensor: _T) -> _T:
    """Fill a matrix with ones on the diagonal and zeros elsewhere.

    Raises:
        ValueError: if ``tensor`` is no matrix.

    Examples:
        >>> eye_(np.empty((2, 3))).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    shape, dtype = _spec(tensor)
    if len(shape) != 2:
        raise ValueError(f"Only tensors with 2 dimensions are supported, got shape {shape}")
    if lacks_data(tensor):
        return tensor
    return _write(tensor, np.eye(*shape, dtype=dtype))


def dirac_(tensor: _T, groups: int = 1) -> _T:
    """Fill a convolution's weight so that it hands its input on, as many channels as there are.

    Args:
        tensor: what is filled, of shape ``(C_out, C_in / groups, *window)`` with 1 to 3 window axes.
        groups: the number of groups of the convolution; each hands its own channels on.

    Raises:
        ValueError: if the shape is no convolution weight's, or ``groups`` does not divide ``C_out``.

    Examples:
        >>> dirac_(np.empty((1, 1, 3))).tolist()
        [[[0.0, 1.0, 0.0]]]
    """
    shape, dtype = _spec(tensor)
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"Only tensors with 3, 4, or 5 dimensions are supported, got shape {shape}")
    if shape[0] % groups != 0:
        raise ValueError(f"dim 0 must be divisible by groups, got shape {shape} and {groups} groups")
    if lacks_data(tensor):
        return tensor
    values = np.zeros(shape, dtype)
    share = shape[0] // groups
    channels = np.arange(min(share, shape[1]))
    centre = tuple(extent // 2 for extent in shape[2:])
    for group in range(groups):
        values[(group * share + channels, channels, *centre)] = 1
    return _write(tensor, values)


def xavier_uniform_(tensor: _T, gain: float = 1.0, generator: Generator | None = None) -> _T:
    r"""Fill uniformly so that signals and gradients keep their variance (Glorot & Bengio, 2010).

    .. math:: U(-a, a), \quad a = \text{gain} \sqrt{\frac{6}{\text{fan\_in} + \text{fan\_out}}}

    Args:
        tensor: what is filled, of at least 2 axes.
        gain: a factor, see :func:`calculate_gain`.
        generator: drawn from; the current one when ``None``.

    Raises:
        ValueError: if ``tensor`` has fewer than 2 axes.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    std = gain * math.sqrt(2.0 / float(fan_in + fan_out))
    a = math.sqrt(3.0) * std
    return _fill_uniform(tensor, -a, a, generator)


def xavier_normal_(tensor: _T, gain: float = 1.0, generator: Generator | None = None) -> _T:
    r"""Fill normally so that signals and gradients keep their variance (Glorot & Bengio, 2010).

    .. math:: N(0, \sigma^2), \quad \sigma = \text{gain} \sqrt{\frac{2}{\text{fan\_in} + \text{fan\_out}}}

    The arguments are :func:`xavier_uniform_`'s.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return _fill_normal(tensor, 0.0, gain * math.sqrt(2.0 / float(fan_in + fan_out)), generator)


def _kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str) -> float | None:
    """Return the standard deviation, or ``None`` with a warning where there is nothing to fill."""
    if 0 in _spec(tensor)[0]:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    fan = _calculate_correct_fan(tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: _T,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> _T:
    r"""Fill uniformly so that signals keep their variance through rectifiers (He et al., 2015).

    .. math:: U(-b, b), \quad b = \text{gain} \sqrt{\frac{3}{\text{fan}}}

    Args:
        tensor: what is filled, of at least 2 axes.
        a: the negative slope of the rectifier, used with ``"leaky_relu"`` only.
        mode: ``"fan_in"`` keeps the variance of the forward pass, ``"fan_out"`` that of the backward pass.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
        generator: drawn from; the current one when ``None``.

    Raises:
        ValueError: if ``tensor`` has fewer than 2 axes, or the mode or nonlinearity is unknown.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return _fill_uniform(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: _T,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> _T:
    r"""Fill normally so that signals keep their variance through rectifiers (He et al., 2015).

    .. math:: N(0, \sigma^2), \quad \sigma = \frac{\text{gain}}{\sqrt{\text{fan}}}

    The arguments are :func:`kaiming_uniform_`'s.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else _fill_normal(tensor, 0.0, std, generator)


def orthogonal_(tensor: _T, gain: float = 1, generator: Generator | None = None) -> _T:
    """Fill with a matrix of orthonormal rows or columns, whichever are fewer (Saxe et al., 2013).

    Args:
        tensor: what is filled, of at least 2 axes; those after the first are taken as one.
        gain: a factor.
        generator: drawn from; the current one when ``None``.

    Raises:
        ValueError: if ``tensor`` has fewer than 2 axes.

    Examples:
        >>> w = orthogonal_(np.empty((2, 3)))
        >>> bool(np.allclose(w @ w.T, np.eye(2)))
        True
    """
    shape, dtype = _real_spec(tensor)
    if len(shape) < 2:
        raise ValueError(f"Only tensors with 2 or more dimensions are supported, got shape {shape}")
    if 0 in shape or lacks_data(tensor):
        return tensor
    rows, columns = shape[0], math.prod(shape[1:])
    values = normal_values((rows, columns), dtype=dtype, generator=generator)
    values = values.astype(np.promote_types(dtype, np.float32), copy=False)
    xp = jnp if is_tracing() else np
    q, r = xp.linalg.qr(values.T if rows < columns else values)
    q = q * xp.sign(xp.diag(r))[None]
    return _write(tensor, (q.T if rows < columns else q).reshape(shape) * gain)


def sparse_(tensor: _T, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> _T:
    """Fill a matrix normally, with the share ``sparsity`` of every column set to zero (Martens, 2010).

    Args:
        tensor: what is filled, a matrix.
        sparsity: the share of zeros in each column.
        std: the standard deviation of the others.
        generator: drawn from for the values; the places of the zeros come from the current one, as in PyTorch.

    Raises:
        ValueError: if ``tensor`` is no matrix.

    Examples:
        >>> np.count_nonzero(sparse_(np.empty((4, 3)), 0.5), axis=0).tolist()
        [2, 2, 2]
    """
    shape, dtype = _spec(tensor)
    if len(shape) != 2:
        raise ValueError(f"Only tensors with 2 dimensions are supported, got shape {shape}")
    if lacks_data(tensor):
        return tensor
    rows, columns = shape
    zeros = math.ceil(sparsity * rows)
    values = normal_values(shape, 0.0, std, dtype=dtype, generator=generator)
    if is_tracing():
        order = jnp.broadcast_to(jnp.arange(rows)[:, None], shape)
        places = jax.random.permutation(resolve(None).sample_key(), order, axis=0, independent=True)[:zeros]
        return _write(tensor, jnp.asarray(values).at[places, jnp.arange(columns)[None]].set(0))
    host = current_generator().host
    for column in range(columns):
        values[host.randperm(rows)[:zeros], column] = 0
    return _write(tensor, values)


def _deprecated(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make PyTorch's old spelling of an initialiser, without the underscore."""
    new_name = function.__name__
    old_name = new_name[:-1]

    @functools.wraps(function)
    def alias(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        warnings.warn(
            f"`nn.init.{old_name}` is now deprecated in favor of `nn.init.{new_name}`.", FutureWarning, stacklevel=2
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old_name
    alias.__doc__ = f"Call :func:`{new_name}`, the new name of this function, with a ``FutureWarning``."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
