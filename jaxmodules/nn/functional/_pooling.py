"""What the pooling functions share: their types, the geometry of windows, and the search for largest elements."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._shapes import accumulation_dtype, known, ntuple
from jaxmodules._typing import Array, ArrayLike, Pairs, Shape
from jaxmodules.nn.functional._cpu.kernel import kernel
from jaxmodules.nn.functional._cpu.rules import MAX_POOLING, SUM_POOLING, choose, on_cpu
from jaxmodules.nn.functional._linear import linear
from jaxmodules.nn.functional._windows import Window, in_pairs, lowest

Sizes = int | Sequence[int]
OptionalSizes = int | None | Sequence[int | None]
Ratios = float | Sequence[float]

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


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(input: Array, window: Window) -> Array:
    """Return the largest element of every window, NaN being larger than anything."""

    def primitive(input: Array) -> Array:
        return lax.reduce_window(input, lowest(input.dtype), lax.max, **window.over(input.ndim))

    algorithm = choose(MAX_POOLING, window)
    return on_cpu(algorithm and partial(algorithm, window), primitive, input)


@largest.defjvp
def _largest_jvp(window: Window, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Let each gradient go to the chosen element: for small windows by comparisons, which scatter nothing."""
    if not is_small(window):
        indices, rank = largest_places(primals[0], window), len(window.kernel)
        return pick(primals[0], indices, rank), pick(tangents[0], indices, rank)
    chosen = kernel(partial(_chosen, window), lax.stop_gradient(primals[0]))
    return largest(primals[0], window), linear(_Routing(window), tangents[0], chosen)


def is_small(window: Window) -> bool:
    """Tell whether to look for the largest elements place by place."""
    return window.is_tiling or window.elements <= _LARGE_WINDOW


def _chosen(window: Window, input: Array) -> Array:
    """Return the number of the place that the largest element of every window is at."""
    if window.is_tiling and window.elements > _LARGE_WINDOW:
        return _chosen_in_tiles(input, window)
    kind = window.numbering

    def larger(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        better = (right[0] > left[0]) | (right[0] != right[0])
        return jnp.maximum(left[0], right[0]), jnp.where(better, right[1], left[1])

    parts = window.parts(input, lowest(input.dtype))
    numbered = ((part, jnp.full(part.shape, window.number(place), kind)) for place, part in parts)
    chosen = in_pairs(larger, numbered)[1]
    if not any(before for before, _ in window.pairs):
        return chosen
    # where everything is as low as the padding, PyTorch takes the first place that is in the input
    first = jnp.broadcast_to(window.number(window.first_places(input.ndim)), chosen.shape)
    return jnp.where(chosen == 0, first, chosen)


def _chosen_in_tiles(input: Array, window: Window) -> Array:
    tiles, axes = window.tiles(input)
    best = jnp.expand_dims(kernel(lambda tiles: tiles.max(axes), tiles), axes)
    number = window.number([lax.broadcasted_iota(np.int32, tiles.shape, axis) for axis in axes])
    # the first of the largest; numbers of NaNs are negative, and the last the lowest
    found = jnp.where(tiles == best, number, jnp.where(tiles != tiles, -1 - number, math.prod(window.kernel))).min(axes)
    return jnp.where(found < 0, -1 - found, found).astype(window.numbering)


@dataclass(frozen=True)
class _Routing:
    """Take from every window the element at the chosen place; transposed, put it back there."""

    window: Window

    def apply(self, operand: Array, chosen: Array) -> Array:
        parts = self.window.parts(operand, np.zeros((), operand.dtype))
        taken = jnp.zeros(chosen.shape, operand.dtype)
        for place, part in parts:
            taken = jnp.where(chosen == self.window.number(place), part, taken)
        return taken

    def transpose(self, cotangent: Array, chosen: Array) -> Array:
        kind = accumulation_dtype(cotangent.dtype)

        def term(place: list[Array], outputs: list[Array]) -> Array:
            gradient, choice = outputs
            return jnp.where(choice == self.window.number(place), gradient.astype(kind), 0)

        def collect(*outputs: Array) -> Array:
            return self.window.collect(outputs, term, cotangent.dtype)

        return kernel(collect, cotangent, chosen)


def window_sums(input: Array, window: Window) -> Array:
    """Return the sum of every window."""

    def primitive(input: Array) -> Array:
        return lax.reduce_window(input, np.zeros((), input.dtype), lax.add, **window.over(input.ndim))

    algorithm = choose(SUM_POOLING, window)
    return on_cpu(algorithm and partial(algorithm, window), primitive, input)


def largest_places(input: Array, window: Window) -> Array:
    """Return where the largest element of every window is, counted through the flattened plane."""
    input, plane, lead = lax.stop_gradient(input), window.plane, input.ndim - len(window.plane)
    if is_small(window):
        return flat_places(largest_coordinates(input, window), plane)
    places = jnp.broadcast_to(_count(plane).reshape((1,) * lead + plane), input.shape)
    return lax.reduce_window((input, places), _nothing(input.dtype, plane), _larger, **window.over(input.ndim))[1]


def largest_coordinates(input: Array, window: Window) -> list[Array]:
    """Return where the largest element of every window is, along each axis."""
    kind, lead = jax.dtypes.canonicalize_dtype(np.int64), input.ndim - len(window.plane)
    chosen = kernel(partial(_chosen, window), lax.stop_gradient(input)).astype(kind)
    return [
        lax.broadcasted_iota(kind, offset.shape, axis) * step - before + offset
        for axis, (offset, step, (before, _)) in enumerate(
            zip(window.offsets(chosen), window.stride, window.pairs, strict=True), lead
        )
    ]


def flat_places(coordinates: Sequence[Array], plane: Shape) -> Array:
    """Count places through the flattened plane."""
    place = coordinates[0]
    for coordinate, size in zip(coordinates[1:], plane[1:], strict=True):
        place = place * size + coordinate
    return place


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
    return lowest(dtype), np.array(math.prod(plane), jax.dtypes.canonicalize_dtype(np.int64))
