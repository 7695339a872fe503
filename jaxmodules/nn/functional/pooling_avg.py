"""Average pooling over windows of the trailing axes, and pooling with a power mean."""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, is_floating
from jaxmodules._typing import Array, ArrayLike, Pairs, Shape
from jaxmodules.nn.functional._pooling import (
    Sizes,
    check_axes_1d,
    check_not_empty,
    check_windows,
    pad_pairs,
    window_of,
    window_sums,
)
from jaxmodules.nn.functional._windows import Window
from jaxmodules.nn.functional.pooling import max_pool_nd


def avg_pool1d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Average every window of signals, ``(N, C, L) -> (N, C, L_out)``; see :func:`avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.avg_pool1d(jnp.arange(6.0).reshape(1, 6), 3, 2).tolist()
        [[1.0, 3.0]]
    """
    return avg_pool_nd(input, kernel_size, stride, padding, ceil_mode, count_include_pad, rank=1)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Average every window of images, ``(N, C, H, W) -> (N, C, H_out, W_out)``; see :func:`avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2).tolist()
        [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return avg_pool_nd(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, rank=2)


def avg_pool3d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Average every window of volumes, ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)``; see :func:`avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.avg_pool3d(jnp.ones((2, 3, 5, 6, 7)), 3, 2, padding=1).shape
        (2, 3, 3, 3, 4)
    """
    return avg_pool_nd(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, rank=3)


def avg_pool_nd(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    rank: int,
) -> Array:
    r"""Average every window of the last ``rank`` axes.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: zeros at both ends of each axis, at most half a window.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        count_include_pad: whether the zeros count as elements of the window.
        divisor_override: divide the sum by this instead of the number of elements.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *out)`` with ``out = (spatial + 2 * padding - kernel_size) // stride + 1``

    Raises:
        RuntimeError: if shapes or sizes do not fit together.
        IndexError: if an image has too few axes.
        NotImplementedError: if ``input`` is neither floating point nor ``int64`` (``int32`` where JAX narrows it).
    """
    input = as_array(input)
    (input,) = cast(f"avg_pool{rank}d", input)
    _check_axes(input, rank)
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero, got divisor_override=0")
    if not (is_floating(input.dtype) or input.dtype == jax.dtypes.canonicalize_dtype(np.int64)):
        raise NotImplementedError(
            f'"avg_pool{rank}d" not implemented for {input.dtype.name!r}, expected a floating point array'
        )
    kernel, step, pads, spread = window_of(kernel_size, stride, padding, 1, rank)
    check_not_empty(input, rank, f"avg_pool{rank}d")
    plane = input.shape[-rank:]
    if rank == 3 and any(width > size for width, size in zip(kernel, plane, strict=True)):
        sizes, widths = (
            " ".join(f"{n}{s}" for n, s in zip(names, v, strict=True))
            for names, v in ((("T: ", "H: ", "W: "), plane), (("kT: ", "kH: ", "kW: "), kernel))
        )
        raise RuntimeError(f"input image ({sizes}) smaller than kernel size ({widths})")
    pairs, windows = pad_pairs(input.shape, kernel, step, pads, spread, ceil_mode)
    check_windows(input.shape, windows)
    return _avg_pool(input, kernel, step, pads, pairs, count_include_pad, divisor_override)


def _check_axes(input: Array, rank: int) -> None:
    if rank == 1:
        check_axes_1d(input, "avg_pool1d")
    elif rank == 2 and input.ndim < 3:
        raise IndexError(
            f"Dimension out of range (avg_pool2d expected (N, C, H, W) or (C, H, W), got size {list(input.shape)})"
        )
    elif input.ndim not in (rank + 1, rank + 2):
        words = "non-empty 4D or 5D" if rank == 3 else "Expected 3D or 4D"
        raise RuntimeError(
            f"{words} (batch mode) tensor expected for input, but got size {list(input.shape)}"
            if rank == 3
            else f"{words} (batch mode) tensor with optional 0 dim batch size for input, but got:{list(input.shape)}"
        )


@partial(
    jax.jit,
    static_argnames=("kernel", "stride", "pads", "pairs", "count_include_pad", "divisor_override"),
    inline=True,
)
def _avg_pool(
    input: Array,
    kernel: Shape,
    stride: Shape,
    pads: Shape,
    pairs: Pairs,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    lead, dtype = input.ndim - len(kernel), accumulation_dtype(input.dtype)
    window = Window(kernel, stride, pairs, (1,) * len(kernel), input.shape[lead:])
    total = window_sums(input.astype(dtype), window)
    if divisor_override is None and any(map(any, pairs)):
        axes = zip(input.shape[lead:], total.shape[lead:], kernel, stride, pads, strict=True)
        counts = reduce(np.multiply.outer, [_window_counts(*axis, count_include_pad) for axis in axes])
        divisor = counts.flat[0] if counts.size and (counts == counts.flat[0]).all() else counts
    else:
        divisor = np.array(math.prod(kernel) if divisor_override is None else divisor_override)
    return lax.div(total, jnp.broadcast_to(divisor.astype(dtype), total.shape)).astype(input.dtype)


def _window_counts(size: int, windows: int, kernel: int, stride: int, pad: int, include_pad: bool) -> np.ndarray:
    """Count the elements in each window along one axis; what lies beyond the padding never counts."""
    starts = np.arange(windows) * stride - pad
    ends = np.minimum(starts + kernel, size + pad)
    return ends - starts if include_pad else np.minimum(ends, size) - np.maximum(starts, 0)


def lp_pool1d(
    input: ArrayLike,
    norm_type: int | float,
    kernel_size: int,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Take the p-norm of every window of signals, ``(N, C, L) -> (N, C, L_out)``; see :func:`lp_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.lp_pool1d(jnp.array([[3.0, 4.0, 6.0, 8.0]]), 2, 2).tolist()
        [[5.0, 10.0]]
    """
    return lp_pool_nd(input, norm_type, kernel_size, stride, ceil_mode, rank=1)


def lp_pool2d(
    input: ArrayLike,
    norm_type: int | float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Take the p-norm of every window of images, ``(N, C, H, W) -> (N, C, H_out, W_out)``; see :func:`lp_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.lp_pool2d(jnp.ones((1, 4, 4)), 2, 2).tolist()
        [[[2.0, 2.0], [2.0, 2.0]]]
    """
    return lp_pool_nd(input, norm_type, kernel_size, stride, ceil_mode, rank=2)


def lp_pool3d(
    input: ArrayLike,
    norm_type: int | float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Array:
    """Take the p-norm of every window of volumes, ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)``.

    See :func:`lp_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.lp_pool3d(jnp.ones((2, 3, 5, 6, 7)), 1, 2).shape
        (2, 3, 2, 3, 3)
    """
    return lp_pool_nd(input, norm_type, kernel_size, stride, ceil_mode, rank=3)


def lp_pool_nd(
    input: ArrayLike,
    norm_type: int | float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
    *,
    rank: int,
) -> Array:
    r"""Take the p-norm of every window of the last ``rank`` axes.

    .. math:: y = \Bigl(\sum_{x \in X} x^p\Bigr)^{1/p}

    The powers keep their signs, and where they sum to zero the gradient is zero. A window that ``ceil_mode`` lets
    reach out of the input is scaled as if it were whole.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        norm_type: the power; infinities take the largest and the smallest magnitude.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *out)`` with ``out = (spatial - kernel_size) // stride + 1``

    Raises:
        RuntimeError: if shapes or sizes do not fit together.
        ZeroDivisionError: if ``norm_type`` is zero.
    """
    input = as_array(input)
    (input,) = cast(f"lp_pool{rank}d", input)
    kernel, step, *_ = window_of(kernel_size, stride, 0, 1, rank)
    if math.isinf(norm_type):
        return _extreme_pool(input, norm_type > 0, kernel, step, ceil_mode)
    return _lp_pool(input, norm_type, 1.0 / norm_type, kernel, step, ceil_mode)


@partial(jax.jit, static_argnames=("largest", "kernel", "stride", "ceil_mode"), inline=True)
def _extreme_pool(input: Array, largest: bool, kernel: Shape, stride: Shape, ceil_mode: bool) -> Array:
    # unlike jnp.abs, this has no slope at zero
    signed = input * jnp.sign(input) if largest else -input * jnp.sign(input)
    extremes = max_pool_nd(signed, kernel, stride, ceil_mode=ceil_mode, rank=len(kernel))
    return extremes if largest else -extremes


@partial(jax.jit, static_argnames=("power", "root", "kernel", "stride", "ceil_mode"), inline=True)
def _lp_pool(input: Array, power: float, root: float, kernel: Shape, stride: Shape, ceil_mode: bool) -> Array:
    powers = _power(input.astype(accumulation_dtype(input.dtype)), power)
    means = avg_pool_nd(powers, kernel, stride, ceil_mode=ceil_mode, rank=len(kernel))
    # the root has no slope at zero, PyTorch gives it the slope 0
    zero = means == 0
    norms = _power(jnp.where(zero, 1, means) * math.prod(kernel), root)
    norms = jnp.where(zero, 0.0 if root > 0 else math.inf, norms)
    return norms.astype(input.dtype) if is_floating(input.dtype) else norms


def _power(input: Array, exponent: float) -> Array:
    """Raise to a constant power, by multiplications or a square root where that is the same."""
    if isinstance(exponent, float) and not is_floating(input.dtype):
        input = input.astype(np.float32)
    if exponent == 0.5:
        return jnp.sqrt(input)
    return input ** (int(exponent) if is_floating(input.dtype) and exponent == int(exponent) else exponent)
