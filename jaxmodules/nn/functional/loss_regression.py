"""Losses between two arrays of numbers."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array, as_array_or_none, check_floating, host_value
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._gradients import magnitude
from jaxmodules.nn.functional._reduction import (
    check_broadcast,
    check_mean,
    check_plain_reduction,
    check_sizes,
    check_weights,
    common_dtype,
    floating_dtype,
    pointwise_loss,
    resolve_reduction,
)


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Array:
    r"""Average the absolute difference of two arrays.

    .. math:: l_n = w_n |x_n - y_n|

    Args:
        input: an array of any shape.
        target: an array of the same shape; another shape is broadcast, with a warning.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` (weighted by ``weight``) or ``'sum'``.
        weight: one factor per element, of the shape of ``input``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown or ``weight`` has another shape.
        RuntimeError: if the shapes can't be broadcast, or for the mean of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        1.0
    """
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("l1_loss", input, target, weight)
    check_sizes(input, target)
    reduction = resolve_reduction(size_average, reduce, reduction)
    check_weights(input, weight)
    dtype = common_dtype(input, target)
    check_mean(dtype, reduction)
    return pointwise_loss(_absolute, (input, target), reduction, dtype, weight=weight)


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Array:
    r"""Average the squared difference of two arrays; arguments are those of :func:`l1_loss`.

    .. math:: l_n = w_n (x_n - y_n)^2

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown or ``weight`` has another shape.
        RuntimeError: if the shapes can't be broadcast.
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("mse_loss", input, target, weight)
    check_sizes(input, target)
    reduction = resolve_reduction(size_average, reduce, reduction)
    check_weights(input, weight)
    dtype = common_dtype(input, target)
    if not jnp.issubdtype(dtype, jnp.inexact):
        check_floating(input, "mse_cpu")
    return pointwise_loss(_squared, (input, target), reduction, dtype, weight=weight)


def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Array:
    r"""Average the absolute difference of two arrays, rounded off near zero (Girshick, 2015).

    .. math:: l_n = \begin{cases}
              (x_n - y_n)^2 / (2 \beta) & \text{if } |x_n - y_n| < \beta \\ |x_n - y_n| - \beta / 2 & \text{otherwise}
              \end{cases}

    Args:
        input: an array of any shape.
        target: an array of the same shape; another shape is broadcast, with a warning.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        beta: the difference at which the parabola meets the line; 0 gives :func:`l1_loss`.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if ``beta`` is negative or the shapes can't be broadcast.
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.smooth_l1_loss(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])).item()
        1.0
    """
    input, target = as_array(input), as_array(target)
    input, target = cast("smooth_l1_loss", input, target)
    check_sizes(input, target)
    reduction = resolve_reduction(size_average, reduce, reduction)
    dtype = common_dtype(input, target)
    if beta == 0:
        check_mean(dtype, reduction)
        return pointwise_loss(_absolute, (input, target), reduction, dtype)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta. Got: {beta}")
    if not jnp.issubdtype(dtype, jnp.inexact):
        check_floating(input, "smooth_l1_cpu")
    return pointwise_loss(_smooth, (input, target), reduction, dtype, (beta,))


def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
) -> Array:
    r"""Average the squared difference of two arrays, its growth cut off (Huber, 1964).

    .. math:: l_n = w_n \begin{cases}
              (x_n - y_n)^2 / 2 & \text{if } |x_n - y_n| \le \delta \\
              \delta\,(|x_n - y_n| - \delta / 2) & \text{otherwise}
              \end{cases}

    Args:
        input: an array of any shape.
        target: an array of the same shape; another shape is broadcast, with a warning.
        reduction: ``'none'``, ``'mean'`` (over elements, whatever their weights) or ``'sum'``.
        delta: the difference at which the parabola meets the line.
        weight: one factor per element, of the shape of ``input``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown or ``weight`` has another shape.
        RuntimeError: if ``delta`` is not positive or the shapes can't be broadcast.
        NotImplementedError: for integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.huber_loss(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])).item()
        1.0
    """
    input, target, weight = as_array(input), as_array(target), as_array_or_none(weight)
    input, target, weight = cast("huber_loss", input, target, weight)
    check_sizes(input, target)
    check_weights(input, weight)
    reduction = resolve_reduction(None, None, reduction)
    if not delta > 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta. Got: {delta}")
    check_floating(input, "huber_cpu")
    if weight is None:
        return pointwise_loss(_huber, (input, target), reduction, input.dtype, (delta,))
    dtype = common_dtype(input, weight)
    return pointwise_loss(_weighted_huber, (input, target, weight), reduction, dtype, (delta,))


def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    r"""Measure the negative log-likelihood of counts under Poisson distributions.

    .. math:: l_n = e^{x_n} - y_n x_n \qquad\text{or}\qquad l_n = x_n - y_n \log(x_n + \epsilon)

    Args:
        input: the logarithms of the expected counts, or the expected counts.
        target: the counts, of a shape that broadcasts with ``input``.
        log_input: whether ``input`` holds logarithms.
        full: whether to add Stirling's approximation of :math:`\log y_n!` for targets above 1.
        size_average: deprecated, see ``reduction``.
        eps: keeps the logarithm of a count of 0 finite.
        reduce: deprecated, see ``reduction``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes can't be broadcast.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.poisson_nll_loss(jnp.zeros(3), jnp.array([0.0, 1.0, 2.0])).item()
        1.0
    """
    reduction = resolve_reduction(size_average, reduce, reduction)
    input, target = as_array(input), as_array(target)
    input, target = cast("poisson_nll_loss", input, target)
    check_broadcast(target, input)
    dtype = floating_dtype(input, target)
    return pointwise_loss(_poisson, (input, target), reduction, dtype, (eps,), (bool(log_input), bool(full)))


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Array:
    r"""Measure the negative log-likelihood of samples under normal distributions (Nix and Weigend, 1994).

    .. math:: l_n = \frac{1}{2} \left( \log \max(v_n, \epsilon) + \frac{(x_n - y_n)^2}{\max(v_n, \epsilon)} \right)

    Args:
        input: the means.
        target: the samples, of a shape that broadcasts with ``input``.
        var: the variances: a number, the shape of ``input``, that shape with one axis of size 1, or without its last.
        full: whether to add the constant :math:`\log(2 \pi) / 2`.
        eps: the smallest variance; the gradient passes as if there were none.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Shape:
        ``(*), (*), (*) -> ()``, or ``(*)`` with ``reduction='none'``

    Raises:
        ValueError: if ``reduction`` is unknown, or ``var`` is negative (where its values are known) or misshapen.
        RuntimeError: if ``input`` and ``target`` can't be broadcast.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.gaussian_nll_loss(jnp.zeros(3), jnp.ones(3), jnp.ones(3)).item()
        0.5
    """
    input, target = as_array(input), as_array(target)
    number = isinstance(var, int | float)
    var = jnp.full(input.shape, var, floating_dtype(input)) if number else as_array(var)
    input, target, var = cast("gaussian_nll_loss", input, target, var)
    values = host_value(var)
    if values is not None and (values < 0).any():
        raise ValueError(f"var has negative entry/entries, expected variances, got {values.min()}")
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.reshape(*var.shape, 1)
        elif input.ndim != var.ndim or sum(b for a, b in zip(input.shape, var.shape, strict=True) if a != b) != 1:
            raise ValueError(
                f"var is of incorrect size: expected {list(input.shape)}, the same with one axis of size 1,"
                f" or {list(input.shape[:-1])}, got {list(var.shape)}"
            )
    check_plain_reduction(reduction)
    check_broadcast(input, target)
    dtype = floating_dtype(input, target, var)
    return pointwise_loss(_gaussian, (input, target, var), reduction, dtype, (eps,), (bool(full),))


def _absolute(input: Array, target: Array) -> Array:
    return magnitude(input - target)


def _squared(input: Array, target: Array) -> Array:
    return jnp.square(input - target)


def _smooth(input: Array, target: Array, beta: Array) -> Array:
    return _huber(input, target, beta) / beta


def _huber(input: Array, target: Array, delta: Array) -> Array:
    difference = input - target
    size = jnp.abs(difference)
    near = size < delta
    # squaring only what is near keeps the gradient of an infinite difference finite
    square = jnp.square(jnp.where(near, difference, 0))
    return jnp.where(near, 0.5 * square, delta * (size - 0.5 * delta))


def _weighted_huber(input: Array, target: Array, weight: Array, delta: Array) -> Array:
    return weight * _huber(input, target, delta)


def _poisson(input: Array, target: Array, eps: Array, log_input: bool, full: bool) -> Array:
    loss = jnp.exp(input) - target * input if log_input else input - target * jnp.log(input + eps)
    if not full:
        return loss
    large = target > 1
    count = jnp.where(large, target, 1)
    return loss + jnp.where(large, count * jnp.log(count) - count + 0.5 * jnp.log(2 * np.pi * count), 0)


def _gaussian(input: Array, target: Array, var: Array, eps: Array, full: bool) -> Array:
    # the difference is zero and carries the gradient past the bound
    var = jnp.where(var < eps, eps + (var - lax.stop_gradient(var)), var)
    loss = 0.5 * (jnp.log(var) + jnp.square(input - target) / var)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss
