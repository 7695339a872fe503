"""Pooling over windows of the trailing axes; the bodies count spatial axes with ``rank``."""

import math
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, ntuple
from jaxmodules._typing import Array, ArrayLike, Shape

_Sizes = int | Sequence[int]
_Pairs = tuple[tuple[int, int], ...]

_LARGE_WINDOW = 32


@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Array: ...
@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Array, Array]: ...
def max_pool2d(
    input: ArrayLike,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    r"""Take the largest element of every window; NaN is larger than anything.

    Args:
        input: ``(N, C, H, W)``, or one sample, ``(C, H, W)``.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: minus infinities at both ends of each axis, at most half a window.
        dilation: distance between the window's elements.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        return_indices: also return where the elements came from, counted through the flattened ``(H, W)``
            plane; of equal elements it is the first, as in PyTorch.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` with
        ``out = (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1``

    Raises:
        RuntimeError: if shapes or sizes do not fit together.
        NotImplementedError: if ``input`` is boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> values, indices = F.max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
        >>> values.tolist(), indices.tolist()
        ([[[5.0, 7.0], [13.0, 15.0]]], [[[5, 7], [13, 15]]])
    """
    sizes = (kernel_size, stride, padding, dilation)
    values, indices = _max_pool(as_array(input), *sizes, ceil_mode, return_indices, rank=2)
    return values if indices is None else (values, indices)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    r"""Average every window.

    Args:
        input: ``(N, C, H, W)``, or one sample, ``(C, H, W)``.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: zeros at both ends of each axis, at most half a window.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        count_include_pad: whether the zeros count as elements of the window.
        divisor_override: divide the sum by this instead of the number of elements.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` with ``out = (size + 2 * padding - kernel_size) // stride + 1``

    Raises:
        RuntimeError: if shapes or sizes do not fit together.
        IndexError: if ``input`` has too few axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2).tolist()
        [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return _avg_pool(
        as_array(input), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, rank=2
    )


def adaptive_avg_pool2d(input: ArrayLike, output_size: int | None | Sequence[int | None]) -> Array:
    r"""Average windows that are sized so that the output is ``output_size``.

    Along each axis, output element :math:`i` averages the elements from :math:`\lfloor i\,in/out \rfloor`
    to :math:`\lceil (i + 1)\,in/out \rceil`.

    Args:
        input: ``(N, C, H, W)``, or one sample, ``(C, H, W)``.
        output_size: per axis or one for all; ``None`` keeps an axis as it is.

    Shape:
        ``(N, C, H, W) -> (N, C, *output_size)``

    Raises:
        RuntimeError: if ``input`` or ``output_size`` has a wrong number of axes.
        NotImplementedError: if ``input`` is not floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_avg_pool2d(jnp.ones((2, 3, 7, 5)), (2, None)).shape
        (2, 3, 2, 5)
    """
    return _adaptive_avg_pool(as_array(input), output_size, rank=2)


def _max_pool(
    input: Array,
    kernel_size: _Sizes,
    stride: _Sizes | None,
    padding: _Sizes,
    dilation: _Sizes,
    ceil_mode: bool,
    return_indices: bool,
    rank: int,
) -> tuple[Array, Array | None]:
    name = f"max_pool{rank}d"
    if input.dtype == np.bool_:
        raise NotImplementedError(f'"{name}" not implemented for {input.dtype.name!r}, expected numbers')
    kernel, step, pads, spread = _window(kernel_size, stride, padding, dilation, rank)
    _check_input(input, rank)
    for size, pad in zip(kernel, pads, strict=True):
        if pad > size // 2:
            raise RuntimeError(
                "pad should be smaller than or equal to half of kernel size, but got"
                f" pad={list(pads)} and kernel_size={list(kernel)}"
            )
    pairs = _pad_pairs(input.shape, kernel, step, pads, spread, ceil_mode)
    if return_indices:
        return _max_pool_indices(input, kernel, step, pairs, spread)
    return _max_pool_values(input, kernel, step, pairs, spread), None


def _avg_pool(
    input: Array,
    kernel_size: _Sizes,
    stride: _Sizes | None,
    padding: _Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    rank: int,
) -> Array:
    if input.ndim <= rank:
        raise IndexError(
            f"Dimension out of range (avg_pool{rank}d expected {rank + 1} or {rank + 2} axes, but got"
            f" an input of size {list(input.shape)})"
        )
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero, got divisor_override=0")
    kernel, step, pads, spread = _window(kernel_size, stride, padding, 1, rank)
    _check_input(input, rank)
    pairs = _pad_pairs(input.shape, kernel, step, pads, spread, ceil_mode)
    return _avg_pool_body(input, kernel, step, pads, pairs, count_include_pad, divisor_override)


def _adaptive_avg_pool(input: Array, output_size: int | None | Sequence[int | None], rank: int) -> Array:
    name = f"adaptive_avg_pool{rank}d"
    if output_size is None:
        raise TypeError(f"{name}: output_size must be an int or {rank} values of int or None, got None")
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"{name}(): Expected {rank + 1}D or {rank + 2}D tensor, but got {list(input.shape)}")
    wanted = (output_size,) * rank if isinstance(output_size, int) else tuple(output_size)
    if len(wanted) != rank:
        raise RuntimeError(f"{name}: output_size must be {rank} values, got {output_size!r}")
    sizes = tuple(size if want is None else int(want) for want, size in zip(wanted, input.shape[-rank:], strict=True))
    if min(sizes) < 0:
        raise RuntimeError(
            f"{name}: elements of output_size must be greater than or equal to 0 but received {list(sizes)}"
        )
    if 0 in input.shape[-rank - 1 :]:
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions,"
            f" but input has sizes {list(input.shape)}"
        )
    check_floating(input, name)
    return _adaptive_avg_pool_body(input, sizes)


@partial(jax.jit, static_argnames=("kernel", "stride", "pairs", "dilation"), inline=True)
def _max_pool_values(input: Array, kernel: Shape, stride: Shape, pairs: _Pairs, dilation: Shape) -> Array:
    return _largest(input, kernel, stride, pairs, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _largest(input: Array, kernel: Shape, stride: Shape, pairs: _Pairs, dilation: Shape) -> Array:
    lead = input.ndim - len(kernel)
    return lax.reduce_window(
        input,
        _lowest(input.dtype),
        lax.max,
        (1,) * lead + kernel,
        (1,) * lead + stride,
        ((0, 0),) * lead + pairs,
        window_dilation=(1,) * lead + dilation,
    )


@_largest.defjvp
def _largest_jvp(
    kernel: Shape,
    stride: Shape,
    pairs: _Pairs,
    dilation: Shape,
    primals: tuple[Array],
    tangents: tuple[Array],
) -> tuple[Array, Array]:
    """Let each gradient go to the chosen element: for small windows by shifted sums, which scatter nothing.

    The rule of ``reduce_window`` itself takes several times as long, and can't be dilated.
    """
    if math.prod(kernel) > _LARGE_WINDOW:
        values, indices = _max_pool_indices(primals[0], kernel, stride, pairs, dilation)
        return values, _pick(tangents[0], indices, values.ndim - len(kernel))
    values = _largest(primals[0], kernel, stride, pairs, dilation)
    out = values.shape[values.ndim - len(kernel) :]
    window = (kernel, stride, pairs, dilation, out)
    candidates = _shifted(lax.stop_gradient(primals[0]), _lowest(values.dtype), *window)
    best, chosen = next(candidates), jnp.zeros(values.shape, jnp.int8)
    for number, part in enumerate(candidates, 1):
        better = (part > best) | (part != part)
        best, chosen = jnp.where(better, part, best), jnp.where(better, jnp.int8(number), chosen)
    parts = _shifted(tangents[0], np.zeros((), values.dtype), *window)
    return values, reduce(jnp.add, (jnp.where(chosen == number, part, 0) for number, part in enumerate(parts)))


def _shifted(
    input: Array, fill: np.ndarray, kernel: Shape, stride: Shape, pairs: _Pairs, dilation: Shape, out: Shape
) -> Iterator[Array]:
    """Yield, for every position in the window, the elements that all windows have there."""
    lead = input.ndim - len(kernel)
    padded = lax.pad(input, fill, [(0, 0, 0)] * lead + [(before, after, 0) for before, after in pairs])
    for position in np.ndindex(kernel):
        starts = [place * gap for place, gap in zip(position, dilation, strict=True)]
        ends = [start + (size - 1) * step + 1 for start, size, step in zip(starts, out, stride, strict=True)]
        yield lax.slice(padded, (0,) * lead + tuple(starts), (*padded.shape[:lead], *ends), (1,) * lead + stride)


def _pick(input: Array, indices: Array, lead: int) -> Array:
    """Return the elements at ``indices``, which count through the plane that follows the ``lead`` first axes."""
    flat = input.reshape(*input.shape[:lead], math.prod(input.shape[lead:]))
    chosen = indices.reshape(*indices.shape[:lead], math.prod(indices.shape[lead:]))
    return jnp.take_along_axis(flat, chosen, axis=-1, mode="clip").reshape(indices.shape)


@partial(jax.jit, static_argnames=("kernel", "stride", "pairs", "dilation"), inline=True)
def _max_pool_indices(
    input: Array, kernel: Shape, stride: Shape, pairs: _Pairs, dilation: Shape
) -> tuple[Array, Array]:
    lead, plane = input.ndim - len(kernel), input.shape[input.ndim - len(kernel) :]
    count = math.prod(plane)
    dtype = jax.dtypes.canonicalize_dtype(np.int64)
    places = jnp.broadcast_to(jnp.arange(count, dtype=dtype).reshape((1,) * lead + plane), input.shape)
    _, indices = lax.reduce_window(
        (lax.stop_gradient(input), places),
        (_lowest(input.dtype), np.array(count, dtype)),
        _larger,
        (1,) * lead + kernel,
        (1,) * lead + stride,
        ((0, 0),) * lead + pairs,
        window_dilation=(1,) * lead + dilation,
    )
    # reading the elements again is what makes the gradient go to the chosen ones alone
    return _pick(input, indices, lead), indices


@partial(
    jax.jit,
    static_argnames=("kernel", "stride", "pads", "pairs", "count_include_pad", "divisor_override"),
    inline=True,
)
def _avg_pool_body(
    input: Array,
    kernel: Shape,
    stride: Shape,
    pads: Shape,
    pairs: _Pairs,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    lead, dtype = input.ndim - len(kernel), accumulation_dtype(input.dtype)
    total = lax.reduce_window(
        input.astype(dtype),
        np.zeros((), dtype),
        lax.add,
        (1,) * lead + kernel,
        (1,) * lead + stride,
        ((0, 0),) * lead + pairs,
    )
    if divisor_override is None:
        axes = zip(input.shape[lead:], total.shape[lead:], kernel, stride, pads, strict=True)
        counts = reduce(np.multiply.outer, [_window_counts(*axis, count_include_pad) for axis in axes])
        divisor = counts.flat[0] if counts.size and (counts == counts.flat[0]).all() else counts
    else:
        divisor = np.array(divisor_override)
    return lax.div(total, jnp.broadcast_to(divisor.astype(dtype), total.shape)).astype(input.dtype)


@partial(jax.jit, static_argnames="sizes", inline=True)
def _adaptive_avg_pool_body(input: Array, sizes: Shape) -> Array:
    output = input.astype(accumulation_dtype(input.dtype))
    lead = input.ndim - len(sizes)
    for axis, size in enumerate(sizes, lead):
        if size != output.shape[axis]:
            output = _average_axis(output, axis, size)
    return output.astype(input.dtype)


def _average_axis(input: Array, axis: int, size: int) -> Array:
    """Average ``input`` along one axis down (or up) to ``size`` elements."""
    length, before, after = input.shape[axis], input.shape[:axis], input.shape[axis + 1 :]
    if size and length % size == 0:
        return input.reshape(*before, size, length // size, *after).mean(axis + 1)
    steps = np.arange(size)
    starts, ends = steps * length // max(size, 1), -(-(steps + 1) * length // max(size, 1))
    places = starts[:, None] + np.arange(np.max(ends - starts, initial=1))  # (size, longest window)
    inside = (places < ends[:, None]).reshape(-1, *[1] * len(after))
    windows = jnp.take(input, np.minimum(places, length - 1).reshape(-1), axis=axis, mode="clip")
    windows = jnp.where(jnp.broadcast_to(inside, windows.shape), windows, 0)
    total = windows.reshape(*before, *places.shape, *after).sum(axis + 1)
    counts = (ends - starts).astype(input.dtype).reshape(-1, *[1] * len(after))
    return total / jnp.broadcast_to(counts, total.shape)


def _larger(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """Choose as PyTorch's loop does: the first of equal elements, the last of NaNs."""
    (value, place), (other, there) = left, right
    nan, other_nan = lax.ne(value, value), lax.ne(other, other)
    earlier, both_nan = lax.lt(there, place), lax.bitwise_and(nan, other_nan)
    beats = lax.bitwise_or(lax.gt(other, value), lax.bitwise_and(other_nan, lax.bitwise_not(nan)))
    ties = lax.bitwise_or(
        lax.bitwise_and(lax.eq(other, value), earlier), lax.bitwise_and(both_nan, lax.bitwise_not(earlier))
    )
    takes = lax.bitwise_or(beats, ties)
    return lax.select(takes, other, value), lax.select(takes, there, place)


def _lowest(dtype: np.dtype) -> np.ndarray:
    info = jnp.finfo(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype)
    return np.array(-np.inf if jnp.issubdtype(dtype, jnp.floating) else info.min, dtype)


def _window_counts(size: int, windows: int, kernel: int, stride: int, pad: int, include_pad: bool) -> np.ndarray:
    """Count the elements in each window along one axis; what lies beyond the padding never counts."""
    starts = np.arange(windows) * stride - pad
    ends = np.minimum(starts + kernel, size + pad)
    return ends - starts if include_pad else np.minimum(ends, size) - np.maximum(starts, 0)


def _window(
    kernel_size: _Sizes, stride: _Sizes | None, padding: _Sizes, dilation: _Sizes, rank: int
) -> tuple[Shape, Shape, Shape, Shape]:
    kernel = ntuple(kernel_size, rank, "kernel_size")
    step = kernel if stride is None or stride in ((), []) else ntuple(stride, rank, "stride")
    pads, spread = ntuple(padding, rank, "padding"), ntuple(dilation, rank, "dilation")
    for name, sizes in (("kernel_size", kernel), ("stride", step), ("dilation", spread)):
        if min(sizes) <= 0:
            wrong = "should not be zero" if min(sizes) == 0 and name != "dilation" else "should be greater than zero"
            raise RuntimeError(f"{name} {wrong}, but got {name}={list(sizes)}")
    for size, pad, gap in zip(kernel, pads, spread, strict=True):
        if pad < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {pad}")
        if pad > ((size - 1) * gap + 1) // 2:
            raise RuntimeError(
                "pad should be at most half of effective kernel size, but got"
                f" pad={pad}, kernel_size={size} and dilation={gap}"
            )
    return kernel, step, pads, spread


def _check_input(input: Array, rank: int) -> None:
    if input.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"non-empty {rank + 1}D or {rank + 2}D (batch mode) tensor expected for input,"
            f" but got size {list(input.shape)}"
        )
    if 0 in input.shape[-rank - 1 :]:
        raise RuntimeError(
            f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim batch size for input,"
            f" but got: {list(input.shape)}"
        )


def _pad_pairs(shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil_mode: bool) -> _Pairs:
    """Return the padding that gives PyTorch's number of windows: with ``ceil_mode``, more at the end."""
    plane = shape[-len(kernel) :]
    pairs, windows = [], []
    for size, width, step, pad, gap in zip(plane, kernel, stride, padding, dilation, strict=True):
        span = gap * (width - 1) + 1
        room = size + 2 * pad - span
        count = (room + (step - 1 if ceil_mode else 0)) // step + 1
        if ceil_mode and (count - 1) * step >= size + pad:
            count -= 1
        pairs.append((pad, pad + max((count - 1) * step - room, 0)))
        windows.append(count)
    if min(windows) < 1:
        channels = shape[-len(kernel) - 1]
        before, after = ("x".join(map(str, (channels, *sizes))) for sizes in (plane, windows))
        raise RuntimeError(f"Given input size: ({before}). Calculated output size: ({after}). Output size is too small")
    return tuple(pairs)
