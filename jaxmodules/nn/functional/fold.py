"""Sliding blocks of images, as columns."""

import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, is_integer
from jaxmodules._typing import Array, ArrayLike

_Pair = tuple[int, int]


def unfold(
    input: ArrayLike,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Array:
    """Copy every block that a sliding kernel sees into a column (``im2col``).

    Args:
        input: ``(N, C, H, W)``, or one image, ``(C, H, W)``.
        kernel_size: size of the blocks, per axis or one for both.
        dilation: distance between a block's elements.
        padding: zeros at both ends of each axis.
        stride: distance between blocks.

    Shape:
        ``(N, C, H, W) -> (N, C * prod(kernel_size), L)``, ``L`` the number of blocks, the last axis fastest

    Raises:
        RuntimeError: if the sizes do not fit together or the input has an empty axis besides the batch.
        IndexError: if the input has fewer than three axes.
        NotImplementedError: if the input is of an integer type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.unfold(jnp.arange(6.0).reshape(1, 2, 3), (1, 2)).tolist()
        [[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]
    """
    input = as_array(input)
    kernel, dilation, padding, stride = _settings(kernel_size, dilation, padding, stride)
    if input.ndim < 3:
        raise IndexError(
            "Dimension out of range: expected 3D or 4D (batch mode) tensor for input,"
            f" but got: {list(input.shape)} (add an axis for the channels)"
        )
    if input.ndim > 4 or 0 in input.shape[-3:]:
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input,"
            f" but got: {list(input.shape)}"
        )
    spatial = (input.shape[-2], input.shape[-1])
    blocks = _count_blocks(spatial, kernel, dilation, padding, stride)
    if min(blocks) < 1:
        raise RuntimeError(
            f"Given input with spatial size {spatial}, kernel_size={kernel}, dilation={dilation}, padding={padding},"
            f" calculated shape of the array of sliding blocks as {blocks}, but its components must be at least one."
        )
    _check_dtype(input, "im2col_out_cpu")
    return _unfold(input, kernel, dilation, padding, stride)


def fold(
    input: ArrayLike,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Array:
    """Add the blocks in columns up at the places that they were unfolded from (``col2im``).

    The transpose of :func:`unfold`: elements of blocks that overlap are summed.

    Args:
        input: ``(N, C * prod(kernel_size), L)``, or the columns of one image, without ``N``.
        output_size: height and width of the images, or one for both.
        kernel_size: size of the blocks.
        dilation: distance between a block's elements.
        padding: elements at both ends of each axis that are dropped.
        stride: distance between blocks.

    Shape:
        ``(N, C * prod(kernel_size), L) -> (N, C, *output_size)``

    Raises:
        RuntimeError: if the sizes do not fit together or the input has an empty axis besides the batch.
        NotImplementedError: if the input is of an integer type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.fold(jnp.ones((2, 4)), (2, 3), (1, 2)).tolist()
        [[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]
    """
    input, size = as_array(input), _pair(output_size, "output_size")
    settings = _settings(kernel_size, dilation, padding, stride)
    _check_columns(input, size, *settings)
    _check_dtype(input, "col2im_out_cpu")
    if input.dtype == bool:
        return _fold(input.astype(jnp.float32), size, *settings) != 0
    return _fold(input, size, *settings)


@partial(jax.jit, static_argnames=("kernel", "dilation", "padding", "stride"), inline=True)
def _unfold(input: Array, kernel: _Pair, dilation: _Pair, padding: _Pair, stride: _Pair) -> Array:
    *leading, channels, _, _ = input.shape
    edges = [(0, 0, 0)] * (input.ndim - 2) + [(size, size, 0) for size in padding]
    columns = lax.pad(input, lax.convert_element_type(0, input.dtype), edges)
    # one axis after the other: kernel height + width slices instead of height * width
    columns = _windows(columns, -2, kernel[0], dilation[0], stride[0])  # (*, C, kh, H_out, W)
    columns = _windows(columns, -1, kernel[1], dilation[1], stride[1])  # (*, C, kh, H_out, kw, W_out)
    columns = columns.swapaxes(-3, -2)
    return columns.reshape(*leading, channels * kernel[0] * kernel[1], columns.shape[-2] * columns.shape[-1])


@partial(jax.jit, static_argnames=("size", "kernel", "dilation", "padding", "stride"), inline=True)
def _fold(input: Array, size: _Pair, kernel: _Pair, dilation: _Pair, padding: _Pair, stride: _Pair) -> Array:
    *leading, rows, _ = input.shape
    image = jax.ShapeDtypeStruct((*leading, rows // (kernel[0] * kernel[1]), *size), accumulation_dtype(input.dtype))
    transpose = jax.linear_transpose(lambda image: _unfold(image, kernel, dilation, padding, stride), image)
    return transpose(input.astype(image.dtype))[0].astype(input.dtype)


def _windows(input: Array, axis: int, kernel: int, dilation: int, stride: int) -> Array:
    """Put the windows over an axis on two: the place in the window, then the window."""
    axis %= input.ndim
    count = (input.shape[axis] - dilation * (kernel - 1) - 1) // stride + 1
    starts = range(0, kernel * dilation, dilation)
    shifted = [lax.slice_in_dim(input, at, at + (count - 1) * stride + 1, stride, axis) for at in starts]
    return jnp.stack(shifted, axis)


def _settings(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple[_Pair, _Pair, _Pair, _Pair]:
    kernel, dilation = _pair(kernel_size, "kernel_size"), _pair(dilation, "dilation")
    padding, stride = _pair(padding, "padding"), _pair(stride, "stride")
    for name, short, sizes in (
        ("kernel size", "kernel", kernel),
        ("dilation", "dilation", dilation),
        ("padding", "pad", padding),
        ("stride", "stride", stride),
    ):
        wanted, lowest = ("non-negative", 0) if name == "padding" else ("greater than zero", 1)
        if min(sizes) < lowest:
            height, width = sizes
            raise RuntimeError(f"{name} should be {wanted}, but got {short}_height: {height} {short}_width: {width}")
    return kernel, dilation, padding, stride


def _pair(value: Any, name: str) -> _Pair:
    given = tuple(value) if isinstance(value, Iterable) else (value, value)
    try:
        sizes = tuple(operator.index(size) for size in given)
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of 2 ints, but got {name}={value!r}") from None
    if len(sizes) != 2:
        raise RuntimeError(f"It is expected {name} equals to 2, but got size {len(sizes)}")
    return sizes


def _count_blocks(size: _Pair, kernel: _Pair, dilation: _Pair, padding: _Pair, stride: _Pair) -> _Pair:
    axes = zip(size, kernel, dilation, padding, stride, strict=True)
    high, wide = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in axes)
    return high, wide


def _check_columns(input: Array, size: _Pair, kernel: _Pair, dilation: _Pair, padding: _Pair, stride: _Pair) -> None:
    if input.ndim not in (2, 3) or 0 in input.shape[-2:]:
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for"
            f" input, but got: {list(input.shape)}"
        )
    rows, columns = input.shape[-2:]
    if rows % (kernel[0] * kernel[1]):
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size,"
            f" but got input.size(1)={rows} and kernel_size={kernel}."
        )
    blocks = _count_blocks(size, kernel, dilation, padding, stride)
    if blocks[0] * blocks[1] != columns:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={dilation}, padding={padding},"
            f" stride={stride}, expected size of input's dimension 2 to match the calculated number of sliding blocks"
            f" {blocks[0]} * {blocks[1]} = {blocks[0] * blocks[1]}, but got input.size(2)={columns}."
        )
    if min(blocks) < 1:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={dilation}, padding={padding}, stride={stride},"
            f" calculated shape of the array of sliding blocks as {blocks}, which is too small (non-positive)"
        )


def _check_dtype(input: Array, name: str) -> None:
    if is_integer(input.dtype):
        check_floating(input, name)
