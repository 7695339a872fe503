"""Pooling to a given size: windows are as large as that takes."""

import math
from functools import partial, reduce
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, check_floating, known
from jaxmodules._typing import Array, ArrayLike, Pairs, Shape
from jaxmodules.nn.functional._linear import linear
from jaxmodules.nn.functional._pooling import (
    OptionalSizes,
    check_axes_1d,
    flat_places,
    is_small,
    largest,
    largest_coordinates,
    typed_adaptive_max_pool,
    window_sums,
)
from jaxmodules.nn.functional._windows import SpanSums, Tiles, Window, lowest


def adaptive_avg_pool1d(input: ArrayLike, output_size: int | tuple[int]) -> Array:
    """Average signals to a given length, ``(N, C, L) -> (N, C, output_size)``; see :func:`adaptive_avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_avg_pool1d(jnp.arange(5.0).reshape(1, 5), 2).tolist()
        [[1.0, 3.0]]
    """
    return adaptive_avg_pool_nd(input, output_size, rank=1)


def adaptive_avg_pool2d(input: ArrayLike, output_size: OptionalSizes) -> Array:
    """Average images to a given size, ``(N, C, H, W) -> (N, C, *output_size)``; see :func:`adaptive_avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_avg_pool2d(jnp.ones((2, 3, 7, 5)), (2, None)).shape
        (2, 3, 2, 5)
    """
    return adaptive_avg_pool_nd(input, output_size, rank=2)


def adaptive_avg_pool3d(input: ArrayLike, output_size: OptionalSizes) -> Array:
    """Average volumes to a given size, ``(N, C, D, H, W) -> (N, C, *output_size)``; see :func:`adaptive_avg_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_avg_pool3d(jnp.ones((2, 3, 7, 5, 4)), 2).shape
        (2, 3, 2, 2, 2)
    """
    return adaptive_avg_pool_nd(input, output_size, rank=3)


@typed_adaptive_max_pool
def adaptive_max_pool1d(input: ArrayLike, output_size: int | tuple[int], return_indices: bool = False) -> Any:
    """Take the largest elements of signals, ``(N, C, L) -> (N, C, output_size)``; see :func:`adaptive_max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_max_pool1d(jnp.arange(5.0).reshape(1, 5), 2).tolist()
        [[2.0, 4.0]]
    """
    return adaptive_max_pool_nd(input, output_size, return_indices, rank=1)


@typed_adaptive_max_pool
def adaptive_max_pool2d(input: ArrayLike, output_size: OptionalSizes, return_indices: bool = False) -> Any:
    """Take the largest elements of images, ``(N, C, H, W) -> (N, C, *output_size)``; see :func:`adaptive_max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> values, indices = F.adaptive_max_pool2d(jnp.arange(15.0).reshape(1, 3, 5), (2, 1), return_indices=True)
        >>> values.tolist(), indices.tolist()
        ([[[9.0], [14.0]]], [[[9], [14]]])
    """
    return adaptive_max_pool_nd(input, output_size, return_indices, rank=2)


@typed_adaptive_max_pool
def adaptive_max_pool3d(input: ArrayLike, output_size: OptionalSizes, return_indices: bool = False) -> Any:
    """Take the largest elements of volumes, ``(N, C, D, H, W) -> (N, C, *output_size)``.

    See :func:`adaptive_max_pool_nd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.adaptive_max_pool3d(jnp.ones((2, 3, 7, 5, 4)), (None, 3, 2)).shape
        (2, 3, 7, 3, 2)
    """
    return adaptive_max_pool_nd(input, output_size, return_indices, rank=3)


def adaptive_max_pool1d_with_indices(
    input: ArrayLike, output_size: int | tuple[int], return_indices: bool = False
) -> tuple[Array, Array]:
    """Call :func:`adaptive_max_pool1d` with ``return_indices=True``, whatever is given."""
    return adaptive_max_pool_nd(input, output_size, True, rank=1)


def adaptive_max_pool2d_with_indices(
    input: ArrayLike, output_size: OptionalSizes, return_indices: bool = False
) -> tuple[Array, Array]:
    """Call :func:`adaptive_max_pool2d` with ``return_indices=True``, whatever is given."""
    return adaptive_max_pool_nd(input, output_size, True, rank=2)


def adaptive_max_pool3d_with_indices(
    input: ArrayLike, output_size: OptionalSizes, return_indices: bool = False
) -> tuple[Array, Array]:
    """Call :func:`adaptive_max_pool3d` with ``return_indices=True``, whatever is given."""
    return adaptive_max_pool_nd(input, output_size, True, rank=3)


def adaptive_avg_pool_nd(input: ArrayLike, output_size: OptionalSizes, *, rank: int) -> Array:
    r"""Average windows that are sized so that the output is ``output_size``.

    Along each axis, output element :math:`i` averages the elements from :math:`\lfloor i\,in/out \rfloor`
    to :math:`\lceil (i + 1)\,in/out \rceil`.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        output_size: per axis or one for all; ``None`` keeps an axis of an image or a volume as it is.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *output_size)``

    Raises:
        RuntimeError: if ``input`` or ``output_size`` has a wrong number of axes, or an empty one.
        ValueError: if ``output_size`` has more axes than ``input``.
        NotImplementedError: if ``input`` is not floating point.
    """
    input, name = as_array(input), f"adaptive_avg_pool{rank}d"
    (input,) = cast(name, input)
    sizes = _output_sizes(input, output_size, rank, name)
    if min(sizes) < 0:
        raise RuntimeError(
            f"adaptive_avg_pool{max(rank, 2)}d: elements of output_size must be greater than or equal to 0"
            f" but received {list(sizes)}"
        )
    if set(sizes) != {1}:  # one average of everything may be one of nothing
        _check_not_empty(input, -rank if rank < 3 else 1, name)
    check_floating(input, name)
    return _avg(input, sizes)


def adaptive_max_pool_nd(
    input: ArrayLike, output_size: OptionalSizes, return_indices: bool = False, *, rank: int
) -> Any:
    r"""Take the largest elements of windows that are sized so that the output is ``output_size``.

    The windows are those of :func:`adaptive_avg_pool_nd`; NaN is larger than anything.

    Args:
        input: ``(N, C, *spatial)``, or one sample, ``(C, *spatial)``.
        output_size: per axis or one for all; ``None`` keeps an axis of an image or a volume as it is.
        return_indices: also return where the elements came from, counted through the flattened ``spatial`` axes;
            of equal elements it is the first, as in PyTorch.
        rank: number of spatial axes.

    Shape:
        ``(N, C, *spatial) -> (N, C, *output_size)``

    Raises:
        RuntimeError: if ``input`` or ``output_size`` has a wrong number of axes, or an empty one.
        ValueError: if ``output_size`` has more axes than ``input``.
        NotImplementedError: if ``input`` is not floating point.
    """
    input, name = as_array(input), f"adaptive_max_pool{rank}d"
    (input,) = cast(name, input)
    sizes = _output_sizes(input, output_size, rank, name)
    _check_not_empty(input, 1, name)
    if min(sizes) < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(sizes)}: output_size={list(sizes)}")
    check_floating(input, name)
    values, places = _max(input, sizes, return_indices)
    return (values, places) if return_indices else values


def _output_sizes(input: Array, output_size: OptionalSizes, rank: int, name: str) -> Shape:
    """Check the axes of ``input``; fill in the sizes that are to stay."""
    wanted = (output_size,) * rank if isinstance(output_size, int) else output_size
    if isinstance(output_size, bool) or wanted is None or not np.iterable(wanted):
        raise TypeError(f"{name}: output_size must be an int or {rank} values of int or None, got {output_size!r}")
    wanted = tuple(wanted)
    if rank == 1:
        check_axes_1d(input, name)
        if len(wanted) != 1:
            raise RuntimeError(f"{name}() argument 'output_size' should contain one int (got {len(wanted)})")
    elif wanted and input.ndim <= len(wanted) and not isinstance(output_size, int):
        raise ValueError(
            f"Input dimension should be at least {len(wanted) + 1} for output_size={output_size!r},"
            f" but got an input of size {list(input.shape)}"
        )
    elif input.ndim not in (rank + 1, rank + 2):
        got = "but got:" if "max" in name else "but got"
        raise RuntimeError(f"{name}(): Expected {rank + 1}D or {rank + 2}D tensor, {got} {list(input.shape)}")
    if len(wanted) != rank:
        internal = "(): internal error: output_size.size()" if "max" in name else ": output_size"
        raise RuntimeError(f"{name}{internal} must be {rank} (one value for each axis), got {output_size!r}")
    if any(isinstance(want, bool) or not isinstance(want, int | np.integer | None) for want in wanted) or (
        rank == 1 and wanted[0] is None
    ):
        allowed = "ints" if rank == 1 else "ints or None"
        raise TypeError(
            f"{name}(): argument 'output_size' (position 2) must be tuple of {allowed}, got {output_size!r}"
        )
    sizes = tuple(size if want is None else int(want) for want, size in zip(wanted, input.shape[-rank:], strict=True))
    shape = [*input.shape[:-rank], *sizes]
    if math.prod(known(shape)) >= 2**63:
        raise RuntimeError(f"Storage size calculation overflowed with sizes={shape}")
    return sizes


def _check_not_empty(input: Array, first: int, name: str) -> None:
    """Raise if an axis from ``first`` on is empty."""
    shape = list(input.shape)
    if 0 in shape[first:]:
        empty = shape.index(0, first % len(shape))
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions,"
            f" but input has sizes {shape} with dimension {empty} being empty"
        )


@partial(jax.jit, static_argnames="sizes", inline=True)
def _avg(input: Array, sizes: Shape) -> Array:
    lead, dtype = input.ndim - len(sizes), input.dtype
    if 0 in sizes:
        return jnp.zeros((*input.shape[:lead], *sizes), dtype)
    input = input.astype(accumulation_dtype(dtype))
    whole = [axis for axis, size in enumerate(sizes, lead) if size == 1]
    input = input.mean(whole, keepdims=True) if whole else input
    axes = [_Axis.of(size, length) for size, length in zip(sizes, input.shape[lead:], strict=True)]
    counts = reduce(np.multiply.outer, [axis.ends - axis.starts for axis in axes])
    if _small(axes, input.shape[lead:]) is None:
        for i, axis in enumerate(axes):
            if axis.starts.size * axis.width != input.shape[lead + i]:
                input = linear(SpanSums(i - len(axes), input.shape[lead + i], axis.spans), input)
                axes[i] = _Axis.of(sizes[i], sizes[i])
    window, input = _window(axes, input)
    counts = counts.flat[0] if counts.size and (counts == counts.flat[0]).all() else counts
    total = window_sums(input, window) if window.kernel != (1,) * len(axes) else input
    return (total / jnp.broadcast_to(counts.astype(total.dtype), total.shape)).astype(dtype)


@partial(jax.jit, static_argnames=("sizes", "return_indices"), inline=True)
def _max(input: Array, sizes: Shape, return_indices: bool) -> tuple[Array, Array | None]:
    lead, plane = input.shape[: -len(sizes)], input.shape[-len(sizes) :]
    if 0 in sizes:
        shape = (*lead, *sizes)
        return jnp.zeros(shape, input.dtype), jnp.zeros(shape, jax.dtypes.canonicalize_dtype(np.int64))
    axes = [_Axis.of(size, length) for size, length in zip(sizes, plane, strict=True)]
    window, input = _window(axes, input)
    if not return_indices:
        return largest(input, window), None
    coordinates = largest_coordinates(input, window)
    for i, (axis, place, laid) in enumerate(zip(axes, coordinates, window.plane, strict=True)):
        if laid != plane[i]:
            width = window.kernel[i]
            starts = jnp.asarray(axis.starts, place.dtype)
            coordinates[i] = starts[place // width] + place % width
    return largest(input, window), flat_places(coordinates, plane)


class _Axis(NamedTuple):
    """The windows along an axis: where they start and end, and their size, step and padding if those are all equal."""

    starts: np.ndarray
    ends: np.ndarray
    window: tuple[int, int, tuple[int, int]] | None

    @property
    def width(self) -> int:
        """Return the size of the largest window."""
        return int(np.max(self.ends - self.starts))

    @property
    def spans(self) -> Pairs:
        """Return start and end of every window."""
        return tuple((int(start), int(end)) for start, end in zip(self.starts, self.ends, strict=True))

    @classmethod
    def of(cls, size: int, length: int) -> Self:
        """Return the windows that divide ``length`` elements into ``size``."""
        steps = np.arange(size)
        starts, ends = steps * length // size, -(-(steps + 1) * length // size)
        if size == 1:
            return cls(starts, ends, (length, length, (0, 0)))
        step = int(starts[-1] - starts[-2])
        before = step * (size - 1) - int(starts[-1])
        width = before + int(ends[0])
        first = steps * step - before
        after = int(first[-1]) + width - length
        is_regular = (
            step > 0
            and before >= 0
            and after >= 0
            and (np.maximum(first, 0) == starts).all()
            and (np.minimum(first + width, length) == ends).all()
        )
        return cls(starts, ends, (width, step, (before, after)) if is_regular else None)


def _small(axes: list[_Axis], plane: Shape) -> Window | None:
    """Return the windows of an input if they are alike, and few elements each or side by side."""
    regular = [axis.window for axis in axes if axis.window is not None]
    if len(regular) < len(axes):
        return None
    kernel, stride, pairs = zip(*regular, strict=True)
    window = Window(kernel, stride, pairs, (1,) * len(axes), plane)
    return window if is_small(window) else None


def _window(axes: list[_Axis], input: Array) -> tuple[Window, Array]:
    """Return windows of one size; where those of the input are not small, its elements are laid out to be tiles."""
    rank = len(axes)
    window = _small(axes, input.shape[-rank:])
    if window is not None:
        return window, input
    for place, axis in enumerate(axes, -rank):
        length, width = input.shape[place], axis.width
        if axis.starts.size * width != length:
            input = linear(Tiles(place, length, width, axis.spans), input)
            inside = axis.starts[:, None] + np.arange(width) < axis.ends[:, None]
            if not inside.all():
                inside = inside.reshape([1] * (input.ndim + place) + [-1] + [1] * (-place - 1))
                input = jnp.where(inside, input, lowest(input.dtype))
    tile = tuple(axis.width for axis in axes)
    return Window(tile, tile, ((0, 0),) * rank, (1,) * rank, input.shape[-rank:]), input
