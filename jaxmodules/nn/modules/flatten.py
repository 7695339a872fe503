"""Layers that change the shape."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from jaxmodules._shapes import as_array, normalize_dim
from jaxmodules._typing import Array
from jaxmodules.nn.modules.module import Module


class Flatten(Module):
    """Flatten a range of axes into one.

    Args:
        start_dim: the first axis of the range.
        end_dim: the last axis of the range.

    Shape:
        ``(*, S_start, ..., S_end, *) -> (*, S_start * ... * S_end, *)``

    Raises:
        IndexError: if the input has no such axis.
        RuntimeError: if the range ends before it starts.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Flatten()(jnp.ones((32, 1, 5, 5))).shape
        (32, 25)
    """

    start_dim: int
    end_dim: int

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Array) -> Array:
        """Flatten ``input``."""
        shape = as_array(input).shape
        axes = {"start_dim": self.start_dim, "end_dim": self.end_dim}
        start, end = (_axis(dim, name, "flatten", len(shape)) for name, dim in axes.items())
        if start > end:
            raise RuntimeError(f"flatten() has invalid args: start_dim cannot come after end_dim, got {start} > {end}")
        return as_array(input).reshape(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])

    def extra_repr(self) -> str:
        """Show the range."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split one axis into several.

    Args:
        dim: the axis to split.
        unflattened_size: the sizes to split it into; one of them may be -1 and is then worked out.

    Shape:
        ``(*, S_dim, *) -> (*, *unflattened_size, *)``

    Raises:
        TypeError: if ``unflattened_size`` is not a tuple or list of ints, or ``dim`` not an int: axes have no names.
        IndexError: if the input has no such axis.
        RuntimeError: if the sizes do not multiply up to the axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Unflatten(1, (2, 5, 5))(jnp.ones((2, 50))).shape
        (2, 2, 5, 5)
    """

    dim: int
    unflattened_size: Sequence[int]

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self._require_tuple_int(unflattened_size)
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: Array) -> Array:
        """Split the axis of ``input``."""
        shape = as_array(input).shape
        dim = _axis(self.dim, "dim", "unflatten", len(shape))
        return as_array(input).reshape(*shape[:dim], *self._sizes(shape[dim : dim + 1]), *shape[dim + 1 :])

    def extra_repr(self) -> str:
        """Show the axis and the sizes."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"

    def _require_tuple_int(self, input: Sequence[int]) -> None:
        if not isinstance(input, tuple | list):
            raise TypeError(f"unflattened_size must be a tuple of ints, but found type {type(input).__name__}")
        for position, size in enumerate(input):
            if not isinstance(size, int):
                raise TypeError(
                    "unflattened_size must be tuple of ints, "
                    f"but found element of type {type(size).__name__} at pos {position}"
                )

    def _sizes(self, split: tuple[int, ...]) -> list[int]:
        sizes = list(self.unflattened_size)
        if not sizes:
            raise RuntimeError("unflatten: sizes must be non-empty")
        if not split or min(sizes) < -1:
            raise RuntimeError(f"unflatten got an unexpected error: can't split an axis of {list(split)} into {sizes}")
        if sizes.count(-1) > 1:
            raise RuntimeError(f"unflatten: only one dimension can be inferred, got {sizes}")
        known, total = math.prod(size for size in sizes if size != -1), split[0]
        fits = known > 0 and total % known == 0 if -1 in sizes else known == total
        if not fits:
            raise RuntimeError(
                f"unflatten: Provided sizes {sizes} don't multiply up to the size of dim {self.dim} ({total})"
                " in the input tensor"
            )
        return [total // known if size == -1 else size for size in sizes]


def _axis(dim: Any, name: str, function: str, ndim: int) -> int:
    try:
        return normalize_dim(operator.index(dim), ndim)
    except TypeError:
        raise TypeError(
            f"{function}(): argument '{name}' (position 1) must be int, not {type(dim).__name__}"
            f" (axes have no names: count them, got {name}={dim!r})"
        ) from None
