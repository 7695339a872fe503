"""Activations without a bend, and softmax in its variants."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, normalize_dim
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn.functional._elementwise import check_real, elementwise
from jaxmodules.nn.functional._gradients import magnitude, pass_gradient
from jaxmodules.random import next_key


def sigmoid(input: ArrayLike) -> Array:
    r"""Apply :math:`1 / (1 + e^{-x})` to every element.

    Examples:
        >>> from jaxmodules.nn import functional as F
        >>> F.sigmoid(0.0).item()
        0.5
    """
    return jax.nn.sigmoid(_floating(as_array(input)))


def tanh(input: ArrayLike) -> Array:
    r"""Apply :math:`\tanh x` to every element.

    Examples:
        >>> from jaxmodules.nn import functional as F
        >>> F.tanh(0.0).item()
        0.0
    """
    return jnp.tanh(_floating(as_array(input)))


def silu(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Multiply every element by its :func:`sigmoid` (Hendrycks and Gimpel, 2016; Elfwing et al., 2017).

    Args:
        input: a floating point array of any shape.
        inplace: accepted for PyTorch's sake; arrays are immutable and the result is always new.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.silu(jnp.array([-200.0, 0.0, 200.0])).tolist()
        [-0.0, 0.0, 200.0]
    """
    input = as_array(input)
    check_floating(input, "silu")
    return _silu(input)


def mish(input: ArrayLike, inplace: bool = False) -> Array:
    r"""Apply :math:`x \tanh(\mathrm{softplus}(x))` to every element (Misra, 2019); arguments are those of :func:`silu`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.mish(jnp.array([0.0, 200.0])).tolist()
        [0.0, 200.0]
    """
    input = as_array(input)
    check_real(input, "mish")
    return _mish(input)


def gelu(input: ArrayLike, *, approximate: str = "none") -> Array:
    r"""Multiply every element by the probability that a normal variable is below it (Hendrycks and Gimpel, 2016).

    .. math:: y = x \, \Phi(x) \approx \tfrac{x}{2}
              \left(1 + \tanh\left(\sqrt{2 / \pi} \, (x + 0.044715 \, x^3)\right)\right)

    Args:
        input: a floating point array of any shape.
        approximate: ``'none'``, or ``'tanh'`` for the formula on the right.

    Raises:
        RuntimeError: if ``approximate`` is anything else.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.gelu(jnp.array([0.0, 200.0])).tolist()
        [0.0, 200.0]
    """
    input = as_array(input)
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, got {approximate!r}")
    check_real(input, "gelu")
    return _gelu_tanh(input) if approximate == "tanh" else _gelu(input)


def logsigmoid(input: ArrayLike) -> Array:
    r"""Apply :math:`\log(1 / (1 + e^{-x}))` to every element, without overflow.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.logsigmoid(jnp.array([-1000.0, 1000.0])).tolist()
        [-1000.0, -0.0]
    """
    input = as_array(input)
    check_real(input, "log_sigmoid")
    return _logsigmoid(input)


def softplus(input: ArrayLike, beta: float = 1, threshold: float = 20) -> Array:
    r"""Apply :math:`\log(1 + e^{\beta x}) / \beta` to every element, a smooth :func:`relu`.

    Args:
        input: a floating point array of any shape.
        beta: how sharp the turn at zero is.
        threshold: where :math:`\beta x` is above it, the result is :math:`x`.

    Raises:
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softplus(jnp.array([-200.0, 200.0])).tolist()
        [0.0, 200.0]
    """
    input = as_array(input)
    (input,) = cast("softplus", input)
    check_real(input, "softplus")
    return _softplus(input, beta, threshold)


def softsign(input: ArrayLike) -> Array:
    r"""Apply :math:`x / (1 + |x|)` to every element.

    Raises:
        NotImplementedError: if ``input`` is boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softsign(jnp.array([-1, 0, 3])).tolist()
        [-0.5, 0.0, 0.75]
    """
    input = as_array(input)
    if input.dtype == np.bool_:
        raise NotImplementedError("\"abs\" not implemented for 'bool', expected numbers")
    return _softsign(_floating(input))


def tanhshrink(input: ArrayLike) -> Array:
    r"""Apply :math:`x - \tanh x` to every element.

    Raises:
        RuntimeError: if ``input`` is boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.tanhshrink(jnp.array([0.0, 200.0])).tolist()
        [0.0, 199.0]
    """
    input = as_array(input)
    if input.dtype == np.bool_:
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported, expected numbers")
    return _tanhshrink(_floating(input))


def glu(input: ArrayLike, dim: int = -1) -> Array:
    r"""Split an axis in two halves and multiply the first by the :func:`sigmoid` of the second (Dauphin et al., 2017).

    .. math:: \mathrm{GLU}(a, b) = a \, \sigma(b)

    Args:
        input: a floating point array.
        dim: the axis to split, of even size.

    Shape:
        ``(*, N, *) -> (*, N / 2, *)``

    Raises:
        RuntimeError: if ``input`` has no axes, or the size of the axis is odd.
        IndexError: if there is no axis ``dim``.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.glu(jnp.array([2.0, 4.0, 0.0, 0.0])).tolist()
        [1.0, 2.0]
    """
    input = as_array(input)
    if input.ndim == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    axis = normalize_dim(dim, input.ndim)
    if input.shape[axis] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {axis} is size {input.shape[axis]}")
    check_real(input, "glu")
    return _glu(input, axis)


def softmax(input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Array:
    r"""Turn scores into probabilities that sum to 1 along ``dim``.

    .. math:: y_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    Args:
        input: scores of any shape.
        dim: the axis that sums to 1. Leaving it out is deprecated, as in PyTorch.
        dtype: convert the scores to this type first.

    Shape:
        ``(*) -> (*)``

    Raises:
        IndexError: if there is no axis ``dim``.
        NotImplementedError: if the scores are not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softmax(jnp.zeros((1, 4)), dim=1).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    input, axis = _softmax_arguments("softmax", as_array(input), dim, _stacklevel, dtype)
    return _softmax(input, axis)


def softmin(input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Array:
    r"""Apply :func:`softmax` to the negated scores; arguments are the same.

    Raises:
        RuntimeError: if the scores are boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.softmin(jnp.array([[0.0, 1000.0]]), dim=1).tolist()
        [[1.0, 0.0]]
    """
    input = as_array(input)
    if input.dtype == np.bool_:
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported, expected numbers")
    input, axis = _softmax_arguments("softmin", -input, dim, _stacklevel, dtype)
    return _softmax(input, axis)


def log_softmax(input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Array:
    r"""Compute :math:`\log \mathrm{softmax}(x)` without overflow; arguments are those of :func:`softmax`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.log_softmax(jnp.array([[1000.0, 0.0]]), dim=1).tolist()
        [[0.0, -1000.0]]
    """
    input, axis = _softmax_arguments("log_softmax", as_array(input), dim, _stacklevel, dtype)
    return _log_softmax(input, axis)


def gumbel_softmax(logits: ArrayLike, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Array:
    r"""Draw from a categorical distribution in a way that has a gradient (Jang et al., 2017; Maddison et al., 2017).

    .. math:: y = \mathrm{softmax}\left(\frac{x + g}{\tau}\right), \qquad g \sim \mathrm{Gumbel}(0, 1)

    Args:
        logits: unnormalised log probabilities of any shape.
        tau: the temperature; the lower, the nearer the result is to one class.
        hard: whether to return the class in one-hot form; the gradient is that of :math:`y` all the same.
        eps: deprecated, without effect.
        dim: the axis of the classes.

    Shape:
        ``(*) -> (*)``

    Raises:
        IndexError: if there is no axis ``dim``, or no class for ``hard``.
        RuntimeError: if the logits are not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.gumbel_softmax(jnp.array([0.0, 1000.0]), hard=True).tolist()
        [0.0, 1.0]
    """
    (logits,) = cast("gumbel_softmax", as_array(logits))
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise RuntimeError(
            "Exponential distribution is a continuous probability distribution."
            f" dtype must be a floating point but you specified {logits.dtype}"
        )
    axis = normalize_dim(dim, logits.ndim)
    if hard and logits.ndim and logits.shape[axis] == 0:
        raise IndexError(f"max(): Expected reduction dim {axis} to have non-zero size.")
    return _gumbel_softmax(next_key(), logits, tau, hard, axis)


@elementwise
def _silu(input: Array) -> Array:
    return input * jax.nn.sigmoid(input)


_mish = elementwise(jax.nn.mish)
_gelu = elementwise(partial(jax.nn.gelu, approximate=False))
_gelu_tanh = elementwise(partial(jax.nn.gelu, approximate=True))
_logsigmoid = elementwise(jax.nn.log_sigmoid)


@elementwise
def _softplus(input: Array, beta: Array, threshold: Array) -> Array:
    linear = input * beta > threshold
    # an exponential that is not used must not overflow: it would spoil the gradient
    return jnp.where(linear, input, jnp.log1p(jnp.exp(jnp.where(linear, 0, input * beta))) / beta)


@elementwise
def _softsign(input: Array) -> Array:
    return input / (magnitude(input) + 1)


@elementwise
def _tanhshrink(input: Array) -> Array:
    return input - jnp.tanh(input)


@partial(jax.jit, static_argnames="axis", inline=True)
def _glu(input: Array, axis: int) -> Array:
    value, gate = jnp.split(input.astype(accumulation_dtype(input.dtype)), 2, axis)
    return (value * jax.nn.sigmoid(gate)).astype(input.dtype)


@partial(jax.jit, static_argnames="axis", inline=True)
def _softmax(input: Array, axis: int) -> Array:
    if input.ndim == 0 or input.size == 0:
        return jnp.ones_like(input) if input.ndim == 0 else input
    return jax.nn.softmax(input.astype(accumulation_dtype(input.dtype)), axis).astype(input.dtype)


@partial(jax.jit, static_argnames="axis", inline=True)
def _log_softmax(input: Array, axis: int) -> Array:
    if input.ndim == 0 or input.size == 0:
        return jnp.zeros_like(input) if input.ndim == 0 else input
    return jax.nn.log_softmax(input.astype(accumulation_dtype(input.dtype)), axis).astype(input.dtype)


@partial(jax.jit, static_argnames=("hard", "axis"), inline=True)
def _gumbel_softmax(key: Array, logits: Array, tau: Array, hard: bool, axis: int) -> Array:
    dtype = accumulation_dtype(logits.dtype)
    noise = jax.random.gumbel(key, logits.shape, dtype)
    soft = _softmax((logits.astype(dtype) + noise) / jnp.asarray(tau, dtype), axis)
    if hard and logits.ndim:
        chosen = jax.nn.one_hot(jnp.argmax(soft, axis), logits.shape[axis], dtype=dtype, axis=axis)
        soft = pass_gradient(soft, chosen)
    return soft.astype(logits.dtype)


def _softmax_arguments(
    name: str, input: Array, dim: int | None, stacklevel: int, dtype: DType | None
) -> tuple[Array, int]:
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated."
            " Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
        dim = 0 if input.ndim in (0, 1, 3) else 1
    (input,) = cast(name, input) if dtype is None else (input.astype(dtype),)
    check_real(input, name)
    return input, normalize_dim(dim, input.ndim)


def _floating(input: Array) -> Array:
    return input if jnp.issubdtype(input.dtype, jnp.inexact) else input.astype(np.float32)
