"""Normalisation on the CPU."""

from jax import lax

from jaxmodules._typing import Array


def outer_by_dot(column: Array, row: Array) -> Array:
    """Multiply ``(*, 1)`` by ``(D,)``, so that what comes back is summed over the last axis by matrix products."""
    dimensions = (((column.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(column, row[None], dimensions, precision=lax.Precision.HIGHEST)
