"""Pooling on CPU: elementwise operations on slices, one for each position in the window."""

import operator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import is_floating
from jaxmodules._typing import Array
from jaxmodules.nn.functional._cpu.kernel import kernel
from jaxmodules.nn.functional._linear import linear
from jaxmodules.nn.functional._windows import Window, in_pairs, lowest


def largest_of_slices(window: Window, input: Array) -> Array:
    """Take the largest of the slices."""
    parts = window.parts(input, lowest(input.dtype), pad_first=set(window.stride) == {1})
    return in_pairs(jnp.maximum, (part for _, part in parts))


def largest_of_tiles(window: Window, input: Array) -> Array:
    """Reduce tiles that are axes of their own."""
    tiles, axes = window.tiles(input)
    largest = tiles.max(axes)
    if not is_floating(input.dtype):
        return largest
    # XLA's library for reductions loses NaN (jaxlib 0.10.2)
    return jnp.where((tiles != tiles).any(axes), np.asarray(np.nan, input.dtype), largest)


def largest_by_axes(window: Window, input: Array) -> Array:
    """Take the largest of the slices along one axis after the other."""
    for axis in window.axes():
        input = largest_of_slices(axis, input)
    return input


def sum_of_slices(window: Window, input: Array) -> Array:
    """Add the slices."""
    return linear(_Sum(window), input)


def sum_of_tiles(window: Window, input: Array) -> Array:
    """Add up tiles that are axes of their own."""
    tiles, axes = window.tiles(input)
    return tiles.sum(axes)


def sum_by_axes(window: Window, input: Array) -> Array:
    """Add the slices along one axis after the other."""
    for axis in window.axes():
        input = sum_of_slices(axis, input)
    return input


@dataclass(frozen=True)
class _Sum:
    """Add up every window, without dilation; transposed, give each element the sum over the windows it is in."""

    window: Window

    def apply(self, operand: Array) -> Array:
        parts = self.window.parts(operand, np.zeros((), operand.dtype), pad_first=set(self.window.stride) == {1})
        return in_pairs(operator.add, (part for _, part in parts))

    def transpose(self, cotangent: Array) -> Array:
        def term(place: list[Array], outputs: list[Array]) -> Array:
            (gradient,) = outputs
            for offset, width, reach in zip(place, self.window.kernel, self.window.reach, strict=True):
                if reach != width:  # else all that is visited are windows of the element
                    gradient = jnp.where((offset >= 0) & (offset < width), gradient, 0)
            return gradient

        return kernel(lambda gradient: self.window.collect([gradient], term, gradient.dtype), cotangent)
