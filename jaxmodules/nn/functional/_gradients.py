"""Values whose gradient is chosen rather than derived."""

import jax
import jax.numpy as jnp

from jaxmodules._typing import Array


@jax.custom_jvp
def scale_gradient(value: Array, scale: Array) -> Array:
    """Return ``value``; its gradient is multiplied by ``scale``."""
    return value


@scale_gradient.defjvp
def _scale_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[0] * primals[1]


@jax.custom_jvp
def pass_gradient(source: Array, value: Array) -> Array:
    """Return ``value``; its gradient goes to ``source`` unchanged."""
    return value


@pass_gradient.defjvp
def _pass_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # by itself, so that second derivatives pass too
    return pass_gradient(*primals), tangents[0]


@jax.custom_jvp
def magnitude(value: Array) -> Array:
    """Return absolute values, with PyTorch's slope of 0 at 0, where ``jnp.abs`` has 1."""
    return jnp.abs(value)


@magnitude.defjvp
def _magnitude_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return magnitude(*primals), jnp.real(jnp.conj(jnp.sign(*primals)) * tangents[0])
