"""Type aliases shared by the whole package."""

from typing import Any, Protocol

import jax
import numpy as np


class SupportsArray(Protocol):
    """What converts itself to a JAX array: a Parameter, its ``.data``, a Buffer."""

    def __jax_array__(self) -> Any:
        """Return the array."""
        ...


Array = jax.Array
ArrayLike = jax.Array | np.ndarray | SupportsArray | bool | int | float | complex
DType = Any
Shape = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]  # before and after each axis
