"""Mean and variance, and normalisation by them, with few passes over the values."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._typing import Array, Shape
from jaxmodules.nn.functional._cpu.rules import NORMALISATION, choose, on_cpu

Names = tuple[str, ...]
_Triple = tuple[Array, Array, Array]
_LONG = 256


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def standardize(
    values: Array, scale: Array, shift: Array, axes: Shape, eps: float, axis_names: Names = ()
) -> tuple[Array, Array, Array]:
    """Return the values normalised over some axes, scaled and shifted, and their mean and variance.

    The barrier keeps the difference from the mean from being shared, here and in the tangent: it is computed within
    each sum and each result instead of being written to memory and read again.
    """
    mean = _mean(values, axes, axis_names)
    var = _mean(jnp.square(values - mean), axes, axis_names)
    mean = lax.optimization_barrier(mean)
    return (values - mean) * (lax.rsqrt(var + eps) * scale) + shift, mean, var


@standardize.defjvp
def _standardize_jvp(axes: Shape, eps: float, axis_names: Names, primals: _Triple, tangents: _Triple) -> Any:
    """Move what each channel is multiplied by and what is added to it: transposed, it takes two sums of each."""
    (values, scale, shift), (moved, moved_scale, moved_shift) = primals, tangents
    output, mean, var = standardize(values, scale, shift, axes, eps, axis_names)
    inverse = lax.rsqrt(var + eps)
    moved_mean = _mean(moved, axes, axis_names)
    covariance = _mean((values - mean) * moved, axes, axis_names)
    factor = inverse * scale
    turned = inverse * moved_scale - factor * (inverse * (inverse * covariance))
    centred = values - lax.optimization_barrier(mean)
    moved_output = factor * moved + centred * turned + (moved_shift - factor * moved_mean)
    return (output, mean, var), (moved_output, moved_mean, 2 * covariance)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def standardize_last(values: Array, scale: Array, shift: Array, eps: float) -> Array:
    """Return the values normalised over the last axis, scaled and shifted by one number for each of its places."""
    mean = values.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(values - mean).mean(-1, keepdims=True) + eps)
    # short rows are one kernel, statistics and all; long ones are read again rather than written out centred
    mean = lax.optimization_barrier(mean) if values.shape[-1] >= _LONG else mean
    return (values - mean) * (inverse * _last(scale, values)) + _last(shift, values)


@standardize_last.defjvp
def _standardize_last_jvp(eps: float, primals: _Triple, tangents: _Triple) -> Any:
    """Move scale and shift place by place: transposed, what comes back meets the normalised values once."""
    (values, scale, shift), (moved, moved_scale, moved_shift) = primals, tangents
    mean = values.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(values - mean).mean(-1, keepdims=True) + eps)
    centred = values - lax.optimization_barrier(mean)
    factor = inverse * _last(scale, values)
    output = centred * factor + _last(shift, values)
    covariance = inverse * (inverse * (centred * moved).mean(-1, keepdims=True))
    moved_mean = inverse * moved.mean(-1, keepdims=True)
    # the signs are those of the short operands: the long one would be written out to be negated
    turned = _last(moved_scale, values) + _outer(-covariance, scale)
    moved_output = factor * moved + (centred * inverse) * turned
    return output, moved_output + (_last(moved_shift, values) + _outer(-moved_mean, scale))


def _last(row: Array, values: Array) -> Array:
    return row.reshape((1,) * (values.ndim - 1) + row.shape)


def _outer(column: Array, row: Array) -> Array:
    def multiply(column: Array, row: Array) -> Array:
        return column * _last(row, column)

    return on_cpu(choose(NORMALISATION, row.size), multiply, column, row)


def _mean(values: Array, axes: Shape, axis_names: Names) -> Array:
    """Average over some axes, and over mapped ones, along which all parts are of one size."""
    local = values.mean(axes, keepdims=True)
    return lax.pmean(local, axis_names) if axis_names else local
