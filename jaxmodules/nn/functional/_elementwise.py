"""What the functions that work element by element share."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodules._shapes import accumulation_dtype, is_floating
from jaxmodules._typing import Array


def elementwise(function: Callable[..., Array]) -> Callable[..., Array]:
    """Compile ``function(x, *settings)``; short floats are computed in ``float32`` and returned as they came."""

    @wraps(function)
    def run(input: Array, *settings: Any) -> Array:
        values = input.astype(accumulation_dtype(input.dtype))
        return function(values, *(jnp.asarray(setting, values.dtype) for setting in settings)).astype(input.dtype)

    return jax.jit(run, inline=True)


def check_real(value: Array, name: str) -> None:
    """Raise where PyTorch has a kernel for real floating point numbers alone.

    Raises:
        NotImplementedError: if ``value`` is of another type.
    """
    if not is_floating(value.dtype):
        raise NotImplementedError(
            f'"{name}" not implemented for {value.dtype.name!r}, expected a real floating point array'
            " (convert it first: input.astype(jnp.float32))"
        )
