"""What batching rules of primitives share."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp


def in_front(operands: Sequence[Any], axes: Sequence[int | None]) -> tuple[int, list[Any]]:
    """Return the size of the mapped axis, and the operands with it in front, repeated where they lack it."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    return size, [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
