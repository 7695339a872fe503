"""Values whose gradient is chosen rather than derived."""

import jax

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
    return primals[1], tangents[0]
