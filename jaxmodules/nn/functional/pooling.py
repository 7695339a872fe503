"""Max pooling over windows of the trailing axes."""

from functools import partial
from typing import Any

import jax

from jaxmodules._autocast import cast
from jaxmodules._shapes import as_array, is_floating, is_integer, ntuple
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._pooling import (
    Sizes,
    check_axes_1d,
    check_not_empty,
    check_windows,
    largest,
    largest_places,
    pad_pairs,
    typed_max_pool,
    window_of,
)
from jaxmodules.nn.functional._windows import Window


@typed_max_pool
def max_pool1d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Take the largest element of every window of signals, ``(N, C, L) -> (N, C, L_out)``; see :func:`max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.max_pool1d(jnp.arange(6.0).reshape(1, 6), 3, 2, ceil_mode=True).tolist()
        [[2.0, 4.0, 5.0]]
    """
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, rank=1)


@typed_max_pool
def max_pool2d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Take the largest element of every window of images, ``(N, C, H, W) -> (N, C, H_out, W_out)``.

    See :func:`max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> values, indices = F.max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
        >>> values.tolist(), indices.tolist()
        ([[[5.0, 7.0], [13.0, 15.0]]], [[[5, 7], [13, 15]]])
    """
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, rank=2)


@typed_max_pool
def max_pool3d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Take the largest element of every window of volumes, ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)``.

    See :func:`max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.max_pool3d(jnp.ones((2, 3, 5, 6, 7)), 3, padding=1).shape
        (2, 3, 2, 2, 3)
    """
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, rank=3)


def max_pool1d_with_indices(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Array, Array]:
    """Call :func:`max_pool1d` with ``return_indices=True``, whatever is given."""
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, True, rank=1)


def max_pool2d_with_indices(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Array, Array]:
    """Call :func:`max_pool2d` with ``return_indices=True``, whatever is given."""
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, True, rank=2)


def max_pool3d_with_indices(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Array, Array]:
    """Call :func:`max_pool3d` with ``return_indices=True``, whatever is given."""
    return max_pool_nd(input, kernel_size, stride, padding, dilation, ceil_mode, True, rank=3)


def max_pool_nd(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    rank: int,
) -> Any:
    r"""Take the largest element of every window of the last ``rank`` axes; NaN is larger than anything.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: minus infinities at both ends of each axis, at most half a window.
        dilation: distance between the window's elements.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        return_indices: also return where the elements came from, counted through the flattened ``spatial`` axes;
            of equal elements it is the first, as in PyTorch.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *out)`` with
        ``out = (spatial + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1``

    Raises:
        RuntimeError: if shapes or sizes do not fit together.
        NotImplementedError: if ``input`` is boolean or complex; without indices, signals of integers too.
    """
    input, name = as_array(input), f"max_pool{rank}d"
    (input,) = (input,) if return_indices else cast(name, input)
    if rank == 1 and not return_indices:
        _check_signal(input, kernel_size, stride, padding, dilation, ceil_mode)
    if not (is_floating(input.dtype) or is_integer(input.dtype) and (rank > 1 or return_indices)):
        raise NotImplementedError(f'"{name}" not implemented for {input.dtype.name!r}, expected floating point numbers')
    kernel, step, pads, spread = window_of(kernel_size, stride, padding, dilation, rank)
    _check_axes(input, rank)
    check_not_empty(input, rank, name)
    if any(pad > size // 2 for size, pad in zip(kernel, pads, strict=True)):
        raise RuntimeError(
            "pad should be smaller than or equal to half of kernel size, but got"
            f" pad={list(pads)} and kernel_size={list(kernel)}"
        )
    pairs, windows = pad_pairs(input.shape, kernel, step, pads, spread, ceil_mode)
    check_windows(input.shape, windows)
    window = Window(kernel, step, pairs, spread, input.shape[-rank:])
    return (_with_places if return_indices else _values)(input, window)


@partial(jax.jit, static_argnames="window", inline=True)
def _values(input: Array, window: Window) -> Array:
    return largest(input, window)


@partial(jax.jit, static_argnames="window", inline=True)
def _with_places(input: Array, window: Window) -> tuple[Array, Array]:
    return largest(input, window), largest_places(input, window)


def _check_axes(input: Array, rank: int) -> None:
    if rank == 1:
        check_axes_1d(input, "max_pool1d")
    elif input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"non-empty {rank + 1}D or {rank + 2}D (batch mode) tensor expected for input,"
            f" but got size {list(input.shape)}"
        )


def _check_signal(
    input: Array, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> None:
    """Refuse in the words that PyTorch has for signals alone, and only without indices."""
    if input.ndim not in (2, 3) or 0 in input.shape[-2:]:
        raise RuntimeError(
            "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input,"
            f" but got:{list(input.shape)}"
        )
    (kernel,) = kernels = ntuple(kernel_size, 1, "kernel_size")
    (step,) = steps = kernels if stride is None or stride in ((), []) else ntuple(stride, 1, "stride")
    (pad,) = pads = ntuple(padding, 1, "padding")
    (gap,) = gaps = ntuple(dilation, 1, "dilation")
    for size, word in ((kernel, "kernel_size"), (step, "stride"), (gap, "dilation")):
        if size <= 0:
            raise RuntimeError(f"max_pool1d() {word} must be greater than zero, but got {size}")
    if pad < 0:
        raise RuntimeError(f"max_pool1d() padding must be non-negative, but got {pad}")
    if pad > kernel // 2:
        raise RuntimeError(
            "max_pool1d() padding should be at most half of kernel size,"
            f" but got padding={pad} and kernel_size={kernel}"
        )
    (count,) = pad_pairs(input.shape, kernels, steps, pads, gaps, ceil_mode)[1]
    if count < 1:
        raise RuntimeError(f"max_pool1d() Invalid computed output size: {count} (the window is larger than the input)")
