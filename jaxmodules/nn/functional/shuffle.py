"""Rearrangements between channels and space, and among channels."""

import math
from functools import partial
from typing import Any

import jax

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike


def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> Array:
    """Spread channels over blocks of pixels (Shi et al., 2016, `arXiv:1609.05158`).

    Args:
        input: any number of leading axes, then channels, height and width.
        upscale_factor: side of the blocks, ``r``.

    Shape:
        ``(*, C * r * r, H, W) -> (*, C, H * r, W * r)``

    Raises:
        RuntimeError: if the input has no three axes, or its channels are not a multiple of ``r * r``.
        TypeError: if ``upscale_factor`` is not an int.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pixel_shuffle(jnp.arange(4).reshape(4, 1, 1), 2).tolist()
        [[[0, 1], [2, 3]]]
    """
    input = as_array(input)
    _check_factor(input, upscale_factor, "pixel_shuffle", "upscale_factor")
    channels = input.shape[-3]
    if channels % upscale_factor**2:
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor,"
            f" but input.size(-3)={channels} is not divisible by {upscale_factor**2}"
        )
    return _pixel_shuffle(input, upscale_factor)


def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> Array:
    """Gather blocks of pixels in channels: the inverse of :func:`pixel_shuffle`.

    Args:
        input: any number of leading axes, then channels, height and width.
        downscale_factor: side of the blocks, ``r``.

    Shape:
        ``(*, C, H * r, W * r) -> (*, C * r * r, H, W)``

    Raises:
        RuntimeError: if the input has no three axes, or its height or width is not a multiple of ``r``.
        TypeError: if ``downscale_factor`` is not an int.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.pixel_unshuffle(jnp.arange(4).reshape(1, 2, 2), 2).ravel().tolist()
        [0, 1, 2, 3]
    """
    input = as_array(input)
    _check_factor(input, downscale_factor, "pixel_unshuffle", "downscale_factor")
    for axis, name in ((-2, "height"), (-1, "width")):
        if input.shape[axis] % downscale_factor:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor,"
                f" but input.size({axis})={input.shape[axis]} is not divisible by {downscale_factor}"
            )
    # PyTorch returns an empty input as it is
    return _pixel_unshuffle(input, downscale_factor) if input.size else input


def channel_shuffle(input: ArrayLike, groups: int) -> Array:
    """Deal the channels out like cards to interleave groups (Zhang et al., 2017, `arXiv:1707.01083`).

    Args:
        input: ``(N, C, *)`` with at least one more axis.
        groups: number of blocks that the channels are split into.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        RuntimeError: if the input has fewer than three axes, or ``groups`` does not divide the channels.
        TypeError: if ``groups`` is not an int.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.channel_shuffle(jnp.arange(6).reshape(1, 6, 1), 2).ravel().tolist()
        [0, 3, 1, 4, 2, 5]
    """
    input = as_array(input)
    _check_int(groups, "channel_shuffle", "groups")
    if input.ndim < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(input.shape)}")
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    if input.shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {input.shape[1]} channels and {groups} groups."
        )
    return _channel_shuffle(input, groups)


def native_channel_shuffle(input: ArrayLike, groups: int) -> Array:
    """Do what :func:`channel_shuffle` does, under the name of PyTorch's CPU kernel.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.native_channel_shuffle(jnp.arange(4).reshape(1, 4, 1), 2).ravel().tolist()
        [0, 2, 1, 3]
    """
    return channel_shuffle(input, groups)


@partial(jax.jit, static_argnames="factor", inline=True)
def _pixel_shuffle(input: Array, factor: int) -> Array:
    *leading, channels, height, width = input.shape
    channels //= factor * factor
    blocks = input.reshape(math.prod(leading), channels, factor, factor, height, width)
    pixels = blocks.transpose(0, 1, 4, 2, 5, 3)  # (N, C, H, r, W, r)
    return pixels.reshape(*leading, channels, height * factor, width * factor)


@partial(jax.jit, static_argnames="factor", inline=True)
def _pixel_unshuffle(input: Array, factor: int) -> Array:
    *leading, channels, height, width = input.shape
    high, wide = height // factor, width // factor
    pixels = input.reshape(math.prod(leading), channels, high, factor, wide, factor)
    blocks = pixels.transpose(0, 1, 3, 5, 2, 4)  # (N, C, r, r, H, W)
    return blocks.reshape(*leading, channels * factor * factor, high, wide)


@partial(jax.jit, static_argnames="groups", inline=True)
def _channel_shuffle(input: Array, groups: int) -> Array:
    count, channels, *rest = input.shape
    return input.reshape(count, groups, channels // groups, *rest).swapaxes(1, 2).reshape(input.shape)


def _check_factor(input: Array, factor: Any, function: str, name: str) -> None:
    _check_int(factor, function, name)
    if input.ndim < 3:
        raise RuntimeError(
            f"{function} expects input to have at least 3 dimensions, but got input with {input.ndim} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{function} expects a positive {name}, but got {factor}")


def _check_int(value: Any, function: str, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{function}(): argument '{name}' (position 2) must be int, not {type(value).__name__}")
