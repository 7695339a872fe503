"""Type aliases shared by the whole package."""

from typing import Any

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray | bool | int | float | complex
DType = Any
Shape = tuple[int, ...]
PyTree = Any
