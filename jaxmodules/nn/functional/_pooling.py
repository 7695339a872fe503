"""What the pooling functions share: their types, the geometry of windows, and the search for largest elements."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, Literal, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._shapes import is_floating, known, ntuple
from jaxmodules._typing import Array, ArrayLike, Shape

Sizes = int | Sequence[int]
OptionalSizes = int | None | Sequence[int | None]
Ratios = float | Sequence[float]
Pairs = tuple[tuple[int, int], ...]

_LARGE_WINDOW = 32


class MaxPool(Protocol):
    """A max-pooling function: ``return_indices`` decides what it returns."""

    @overload
    def __call__(
        self,
        input: ArrayLike,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: Literal[False] = False,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: ArrayLike,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        *,
        return_indices: Literal[True],
    ) -> tuple[Array, Array]: ...


class AdaptiveMaxPool(Protocol):
    """An adaptive max-pooling function: ``return_indices`` decides what it returns."""

    @overload
    def __call__(
        self, input: ArrayLike, output_size: OptionalSizes, return_indices: Literal[False] = False
    ) -> Array: ...
    @overload
    def __call__(
        self, input: ArrayLike, output_size: OptionalSizes, return_indices: Literal[True]
    ) -> tuple[Array, Array]: ...


class FractionalMaxPool(Protocol):
    """A fractional max-pooling function: ``return_indices`` decides what it returns."""

    @overload
    def __call__(
        self,
        input: ArrayLike,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: Ratios | None = None,
        return_indices: Literal[False] = False,
        _random_samples: ArrayLike | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: ArrayLike,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: Ratios | None = None,
        *,
        return_indices: Literal[True],
        _random_samples: ArrayLike | None = None,
    ) -> tuple[Array, Array]: ...


def typed_max_pool(function: Callable[..., Any]) -> MaxPool:
    """Tell type checkers what ``function`` returns."""
    return function


def typed_adaptive_max_pool(function: Callable[..., Any]) -> AdaptiveMaxPool:
    """Tell type checkers what ``function`` returns."""
    return function


def typed_fractional_max_pool(function: Callable[..., Any]) -> FractionalMaxPool:
    """Tell type checkers what ``function`` returns."""
    return function


def window_of(
    kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, rank: int
) -> tuple[Shape, Shape, Shape, Shape]:
    """Normalise the sizes of a window, one int for each axis.

    Raises:
        RuntimeError: if they do not make a window.
    """
    kernel = ntuple(kernel_size, rank, "kernel_size")
    step = kernel if stride is None or stride in ((), []) else ntuple(stride, rank, "stride")
    pads, spread = ntuple(padding, rank, "padding"), ntuple(dilation, rank, "dilation")
    if 0 in step:
        raise RuntimeError(f"stride should not be zero, but got kernel_size={list(kernel)} and stride={list(step)}")
    for size, pad, gap in zip(kernel, pads, spread, strict=True):
        if pad < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {pad}")
        if pad > ((size - 1) * gap + 1) // 2 and min(size, gap) > 0:
            raise RuntimeError(
                "pad should be at most half of effective kernel size, but got"
                f" pad={pad}, kernel_size={size} and dilation={gap}"
            )
    for name, sizes in (("kernel size", kernel), ("stride", step), ("dilation", spread)):
        if min(sizes) <= 0:
            raise RuntimeError(f"{name} should be greater than zero, but got {name.replace(' ', '_')}={list(sizes)}")
    return kernel, step, pads, spread


def check_axes_1d(input: Array, name: str) -> None:
    """Raise if ``input`` is neither a signal nor a batch of signals.

    Raises:
        RuntimeError: if it has another number of axes.
    """
    if input.ndim not in (2, 3):
        raise RuntimeError(
            f"Expected 2 to 3 dimensions, but got {input.ndim}-dimensional tensor for argument #1 'self'"
            f" (while checking arguments for {name}): got size {list(input.shape)}, expected (N, C, L) or (C, L)"
        )


def check_not_empty(input: Array, rank: int, name: str) -> None:
    """Raise if an axis other than that of the batch is empty.

    Raises:
        RuntimeError: if there is such an axis.
    """
    shape = list(input.shape)
    if 0 not in shape[-rank - 1 :]:
        return
    if rank == 3:
        empty = max(axis for axis, size in enumerate(shape) if size == 0)
        raise RuntimeError(
            f"{name}(): Expected input's non-batch dimensions to have positive length, but input has a shape of"
            f" {shape} and non-batch dimension {empty} has length zero!"
        )
    raise RuntimeError(
        f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim batch size for input,"
        f" but got:{shape}"
    )


def pad_pairs(
    shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil_mode: bool
) -> tuple[Pairs, Shape]:
    """Return the padding that gives PyTorch's windows (with ``ceil_mode``, more at the end), and their number."""
    pairs, windows = [], []
    for size, width, step, pad, gap in zip(shape[-len(kernel) :], kernel, stride, padding, dilation, strict=True):
        span = gap * (width - 1) + 1
        room = size + 2 * pad - span
        count = (room + (step - 1 if ceil_mode else 0)) // step + 1
        if ceil_mode and (count - 1) * step >= size + pad:
            count -= 1
        pairs.append((pad, pad + max((count - 1) * step - room, 0)))
        windows.append(count)
    return tuple(pairs), tuple(windows)


def check_windows(shape: Shape, windows: Shape) -> None:
    """Raise if the windows do not fit into the input.

    Raises:
        RuntimeError: if there is an axis without a window.
    """
    if any(count < 1 for count in known(windows)):
        channels, *plane = shape[-len(windows) - 1 :]
        before, after = ("x".join(map(str, (channels, *sizes))) for sizes in (plane, windows))
        raise RuntimeError(f"Given input size: ({before}). Calculated output size: ({after}). Output size is too small")


def pick(input: Array, indices: Array, rank: int) -> Array:
    """Return the elements at ``indices``, which count through the plane of the last ``rank`` axes."""
    lead = input.ndim - rank
    flat = input.reshape(*input.shape[:lead], math.prod(input.shape[lead:]))
    chosen = indices.reshape(*indices.shape[:lead], math.prod(indices.shape[lead:]))
    return jnp.take_along_axis(flat, chosen, axis=-1, mode="clip").reshape(indices.shape)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def largest(input: Array, kernel: Shape, stride: Shape, pairs: Pairs, dilation: Shape) -> Array:
    """Return the largest element of every window, NaN being larger than anything."""
    return lax.reduce_window(
        input, _lowest(input.dtype), lax.max, **_spread(input.ndim, kernel, stride, pairs, dilation)
    )


@largest.defjvp
def _largest_jvp(
    kernel: Shape,
    stride: Shape,
    pairs: Pairs,
    dilation: Shape,
    primals: tuple[Array],
    tangents: tuple[Array],
) -> tuple[Array, Array]:
    """Let each gradient go to the chosen element: for small windows by shifted sums, which scatter nothing.

    The rule of ``reduce_window`` itself takes several times as long, and can't be dilated.
    """
    rank = len(kernel)
    if math.prod(kernel) > _LARGE_WINDOW:
        indices = largest_places(primals[0], kernel, stride, pairs, dilation)
        return pick(primals[0], indices, rank), pick(tangents[0], indices, rank)
    values = largest(primals[0], kernel, stride, pairs, dilation)
    window = (kernel, stride, pairs, dilation, values.shape[-rank:])
    candidates = _shifted(lax.stop_gradient(primals[0]), _lowest(values.dtype), *window)
    best, chosen = next(candidates), jnp.zeros(values.shape, jnp.int8)
    for number, part in enumerate(candidates, 1):
        better = (part > best) | (part != part)
        best, chosen = jnp.where(better, part, best), jnp.where(better, jnp.int8(number), chosen)
    parts = _shifted(tangents[0], np.zeros((), values.dtype), *window)
    return values, reduce(jnp.add, (jnp.where(chosen == number, part, 0) for number, part in enumerate(parts)))


def _shifted(
    input: Array, fill: np.ndarray, kernel: Shape, stride: Shape, pairs: Pairs, dilation: Shape, out: Shape
) -> Iterator[Array]:
    """Yield, for every position in the window, the elements that all windows have there."""
    lead = input.ndim - len(kernel)
    padded = lax.pad(input, fill, [(0, 0, 0)] * lead + [(before, after, 0) for before, after in pairs])
    for position in np.ndindex(kernel):
        starts = [place * gap for place, gap in zip(position, dilation, strict=True)]
        ends = [start + (size - 1) * step + 1 for start, size, step in zip(starts, out, stride, strict=True)]
        yield lax.slice(padded, (0,) * lead + tuple(starts), (*padded.shape[:lead], *ends), (1,) * lead + stride)


def largest_places(input: Array, kernel: Shape, stride: Shape, pairs: Pairs, dilation: Shape) -> Array:
    """Return where the largest element of every window is, counted through the flattened plane."""
    plane = input.shape[-len(kernel) :]
    places = jnp.broadcast_to(_count(plane).reshape((1,) * (input.ndim - len(kernel)) + plane), input.shape)
    return lax.reduce_window(
        (lax.stop_gradient(input), places),
        _nothing(input.dtype, plane),
        _larger,
        **_spread(input.ndim, kernel, stride, pairs, dilation),
    )[1]


def largest_among(input: Array, members: Sequence[Array | np.ndarray], vary: bool) -> Array:
    """Return where the largest element of every window is, for windows that list their members along each axis.

    Args:
        input: ``(*lead, *plane)``.
        members: for each axis of the plane, integers ``(windows, width)``; where they ``vary`` from plane to plane,
            ``(product of lead, windows, width)``. Repetitions do no harm.
        vary: whether they do.
    """
    lead, plane = input.shape[: -len(members)], input.shape[-len(members) :]

    def search(values: Array, members: Sequence[Array]) -> Array:
        places = _count(plane)
        for axis, wanted in enumerate(members):
            before, after = values.shape[:axis], values.shape[axis + 1 :]
            pair = (
                jnp.take(part, wanted.reshape(-1), axis=axis, mode="clip").reshape(*before, *wanted.shape, *after)
                for part in (values, places)
            )
            values, places = lax.reduce(tuple(pair), _nothing(input.dtype, plane), _larger, (axis + 1,))
        return places

    planes = lax.stop_gradient(input).reshape(math.prod(lead), *plane)
    found = jax.vmap(search, in_axes=(0, 0 if vary else None))(planes, [jnp.asarray(wanted) for wanted in members])
    return found.reshape(*lead, *found.shape[1:])


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


def _count(plane: Shape) -> Array:
    """Number the places of a plane."""
    return jnp.arange(math.prod(plane), dtype=jax.dtypes.canonicalize_dtype(np.int64)).reshape(plane)


def _nothing(dtype: np.dtype, plane: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Return a value and a place that every element of a plane is preferred to."""
    return _lowest(dtype), np.array(math.prod(plane), jax.dtypes.canonicalize_dtype(np.int64))


def _lowest(dtype: np.dtype) -> np.ndarray:
    return np.array(-np.inf if is_floating(dtype) else jnp.iinfo(dtype).min, dtype)


def _spread(ndim: int, kernel: Shape, stride: Shape, pairs: Pairs, dilation: Shape) -> dict[str, Any]:
    """Write a window over the last axes as one over all."""
    lead = (1,) * (ndim - len(kernel))
    return dict(
        window_dimensions=lead + kernel,
        window_strides=lead + stride,
        padding=((0, 0),) * len(lead) + pairs,
        window_dilation=lead + dilation,
    )
