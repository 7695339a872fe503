"""Windows that slide over the trailing axes, as slices: one for each position in the window.

All windows' elements at one position are one slice of the padded input, and all elements of the input that lie at one
place between two steps of the window are in the same few windows. What is written with these two runs at the speed
of elementwise operations, and scatters nothing.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._shapes import accumulation_dtype, is_floating, known
from jaxmodules._typing import Array, Pairs, Shape
from jaxmodules.nn.functional._cpu.kernel import kernel

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """The windows of an input: their sizes, steps, padding (before, after) and dilation, and those of the input."""

    kernel: Shape
    stride: Shape
    pairs: Pairs
    dilation: Shape
    plane: Shape

    @property
    def extent(self) -> Shape:
        """How far the windows reach."""
        return tuple((width - 1) * gap + 1 for width, gap in zip(self.kernel, self.dilation, strict=True))

    @property
    def count(self) -> Shape:
        """How many windows there are along each axis."""
        return tuple(
            (size + sum(pads) - width) // step + 1
            for size, pads, width, step in zip(self.plane, self.pairs, self.extent, self.stride, strict=True)
        )

    @property
    def elements(self) -> float:
        """How many elements a window has, without end where a size is open."""
        return math.prod(self._known_kernel)

    @property
    def lengths(self) -> float:
        """How long a window is along all axes together, without end where a size is open."""
        return sum(self._known_kernel)

    @property
    def _known_kernel(self) -> tuple[float, ...]:
        return self.kernel if len(known(self.kernel)) == len(self.kernel) else (math.inf,)

    @property
    def is_tiling(self) -> bool:
        """Whether every element of the input is in just one window."""
        sizes = zip(self.plane, self.kernel, strict=True)
        return (
            self.kernel == self.stride
            and set(self.dilation) == {1}
            and not any(map(any, self.pairs))
            and all(size % width == 0 for size, width in sizes)
        )

    def axes(self) -> list["Window"]:
        """Split into windows that reach along one axis each, to be applied one after the other."""
        split, plane = [], self.plane
        for axis, count in enumerate(self.count):

            def only(sizes: tuple[T, ...], other: T, axis: int = axis) -> tuple[T, ...]:
                return tuple(size if i == axis else other for i, size in enumerate(sizes))

            one = (only(self.kernel, 1), only(self.stride, 1), only(self.pairs, (0, 0)), only(self.dilation, 1))
            split.append(Window(*one, plane))
            plane = (*plane[:axis], count, *plane[axis + 1 :])
        return split

    def over(self, ndim: int) -> dict[str, Any]:
        """Write the window as the options of ``lax.reduce_window`` over ``ndim`` axes."""
        lead = (1,) * (ndim - len(self.kernel))
        return dict(
            window_dimensions=lead + self.kernel,
            window_strides=lead + self.stride,
            padding=((0, 0),) * len(lead) + self.pairs,
            window_dilation=lead + self.dilation,
        )

    def tiles(self, input: Array) -> tuple[Array, tuple[int, ...]]:
        """Give each tile axes of its own, and return which: ``(*lead, *plane) -> (*lead, count, kernel, ...)``."""
        lead = input.ndim - len(self.kernel)
        sizes = [size for pair in zip(self.count, self.kernel, strict=True) for size in pair]
        return input.reshape(*input.shape[:lead], *sizes), tuple(range(lead + 1, lead + len(sizes), 2))

    def first_places(self, ndim: int) -> list[Array]:
        """Return how far in every window the first element that is no padding is, for each axis."""
        first = []
        for axis, size in enumerate(self.count, ndim - len(self.count)):
            shape = [1] * axis + [size] + [1] * (ndim - axis - 1)
            place = axis - ndim
            missing = self.pairs[place][0] - self.stride[place] * lax.iota(np.int32, size)
            offset = jnp.maximum(-(-missing // self.dilation[place]) * self.dilation[place], 0)
            first.append(offset.astype(self.numbering).reshape(shape))
        return first

    def parts(self, input: Array, fill: np.ndarray, pad_first: bool = True) -> Iterator[tuple[Shape, Array]]:
        """Yield, for every position in the window, its distances from the start and the elements there.

        Args:
            input: ``(*lead, *plane)``.
            fill: what the padding holds.
            pad_first: whether to copy the input with its padding rather than to pad each part.
        """
        lead, pairs = input.ndim - len(self.kernel), self.pairs
        pads_parts = any(map(any, pairs)) and not pad_first
        if any(map(any, pairs)) and not pads_parts:
            input, pairs = _pad(input, fill, pairs), ((0, 0),) * len(pairs)
        for position in np.ndindex(self.kernel):
            offsets = tuple(place * gap for place, gap in zip(position, self.dilation, strict=True))
            starts, ends, missing = [0] * lead, [*input.shape[:lead]], []
            sizes = zip(offsets, pairs, self.stride, self.count, input.shape[lead:], strict=True)
            for offset, (before, _), step, count, size in sizes:
                first, outside, inside = offset - before, 0, count
                if pads_parts:  # the windows whose element here is in the input
                    outside = max(-(first // step), 0)
                    inside = max(min((size - 1 - first) // step + 1, count), outside)
                starts.append(first + outside * step if inside != outside else 0)
                ends.append(first + (inside - 1) * step + 1 if inside != outside else 0)
                missing.append((outside, count - inside))
            part = lax.slice(input, starts, ends, (1,) * lead + self.stride)
            yield offsets, _pad(part, fill, tuple(missing))

    @property
    def reach(self) -> Shape:
        """How many offsets the windows that :meth:`collect` visits are at: those in the window and some about it."""
        return tuple(step * len(visits) for step, visits in zip(self.stride, self._visits(), strict=True))

    @property
    def numbering(self) -> np.dtype:
        """The smallest type that holds every :meth:`number`."""
        count = math.prod(self.reach)
        return np.dtype(next(kind for kind in (np.int8, np.int16, np.int32) if count <= np.iinfo(kind).max))

    def number(self, offsets: Sequence[Any]) -> Any:
        """Number a place in the window; its offsets may also be those of neighbours that are in no window."""
        number = offsets[0]
        for offset, reach in zip(offsets[1:], self.reach[1:], strict=True):
            number = number * reach + offset
        return number

    def offsets(self, number: Array) -> list[Array]:
        """Return what :meth:`number` was made of."""
        offsets = []
        for reach in self.reach[:0:-1]:
            offsets.append(number % reach)
            number = number // reach
        return [number, *reversed(offsets)]

    def _visits(self) -> list[range]:
        """Which windows an element may lie in, counted from that with the number of its place over the stride."""
        return [
            range(-((width - 1 - before) // step), (step - 1 + before) // step + 1)
            for width, step, (before, _) in zip(self.extent, self.stride, self.pairs, strict=True)
        ]

    def collect(
        self, outputs: Sequence[Array], term: Callable[[list[Array], list[Array]], Array], dtype: np.dtype
    ) -> Array:
        """Sum for every element of the input over the windows that it may lie in.

        Args:
            outputs: arrays with an element for each window, ``(*lead, *count)``; zero where there is none.
            term: the summand, of the place in the window, as a list of offsets, and the elements of ``outputs``.
            dtype: of the result.

        Returns:
            ``(*lead, *plane)``.
        """
        lead, visits = outputs[0].ndim - len(self.kernel), self._visits()
        # the input as (steps, stride) for each axis, the last step filled up
        steps = [-(-size // step) for size, step in zip(self.plane, self.stride, strict=True)]
        missing = tuple(
            (-windows[0], total + windows[-1] - count)
            for total, windows, count in zip(steps, visits, self.count, strict=True)
        )
        outputs = [_pad(x, np.zeros((), x.dtype), missing) for x in outputs]
        before = outputs[0].shape[:lead]
        folded = (*before, *(size for pair in zip(steps, self.stride, strict=True) for size in pair))
        places = [lax.broadcasted_iota(self.numbering, folded, lead + 2 * i + 1) for i in range(len(steps))]
        terms = []
        for visit in product(*visits):
            starts = [window - windows[0] for window, windows in zip(visit, visits, strict=True)]
            ends = [start + size for start, size in zip(starts, steps, strict=True)]
            cuts = [
                lax.broadcast_in_dim(
                    lax.slice(x, [0] * lead + starts, [*before, *ends]), folded,
                    [*range(lead), *range(lead, len(folded), 2)],
                )
                for x in outputs
            ]  # fmt: skip
            offsets = [
                place + (pads[0] - step * window)
                for place, pads, step, window in zip(places, self.pairs, self.stride, visit, strict=True)
            ]
            terms.append(term(offsets, cuts))
        whole = tuple(size * step for size, step in zip(steps, self.stride, strict=True))
        total = in_pairs(operator.add, terms).astype(dtype).reshape(*before, *whole)
        return total if whole == self.plane else lax.slice(total, [0] * total.ndim, [*before, *self.plane])


@dataclass(frozen=True)
class Tiles:
    """The linear map that copies spans of an axis, ``(start, end)``, to tiles of one width, zeros at their ends."""

    axis: int
    length: int
    width: int
    spans: Pairs

    def apply(self, operand: Array) -> Array:
        """Copy the spans."""

        def copies(operand: Array) -> Array:
            parts = []
            for start, end in self.spans:
                parts += [_cut(operand, self.axis, start, end), _zeros(operand, self.axis, self.width - (end - start))]
            return lax.concatenate(parts, operand.ndim + self.axis)

        return kernel(copies, operand)

    def transpose(self, cotangent: Array) -> Array:
        """Add up the tiles where they came from."""

        def tile(cotangent: Array, index: int, size: int) -> Array:
            return _cut(cotangent, self.axis, index * self.width, index * self.width + size)

        return kernel(partial(_put_back, self.axis, self.length, self.spans, tile), cotangent)


@dataclass(frozen=True)
class SpanSums:
    """The linear map that sums spans of an axis, ``(start, end)``."""

    axis: int
    length: int
    spans: Pairs

    def apply(self, operand: Array) -> Array:
        """Sum the spans."""
        sums = [_cut(operand, self.axis, *span).sum(self.axis, keepdims=True) for span in self.spans]
        return lax.concatenate(sums, operand.ndim + self.axis)

    def transpose(self, cotangent: Array) -> Array:
        """Give each element the sum over the spans that it is in."""

        def copies(cotangent: Array, index: int, size: int) -> Array:
            one = _cut(cotangent, self.axis, index, index + 1)
            shape = list(one.shape)
            shape[self.axis] = size
            return jnp.broadcast_to(one, shape)

        return kernel(partial(_put_back, self.axis, self.length, self.spans, copies), cotangent)


def _put_back(
    axis: int, length: int, spans: Pairs, part: Callable[[Array, int, int], Array], cotangent: Array
) -> Array:
    """Add up parts, each at its span of an axis: those that do not overlap in one go."""
    rows: list[tuple[int, list[Array]]] = []
    for i, (start, end) in enumerate(spans):
        row = next((row for row, (last, _) in enumerate(rows) if last <= start), len(rows))
        last, parts = rows.pop(row) if row < len(rows) else (0, [])
        piece = part(cotangent, i, end - start)
        rows.insert(row, (end, [*parts, _zeros(piece, axis, start - last), piece]))
    whole = (
        lax.concatenate([*parts, _zeros(cotangent, axis, length - last)], cotangent.ndim + axis) for last, parts in rows
    )
    kind = accumulation_dtype(cotangent.dtype)
    return in_pairs(operator.add, (x.astype(kind) for x in whole)).astype(cotangent.dtype)


def _cut(input: Array, axis: int, start: int, end: int) -> Array:
    return lax.slice_in_dim(input, start, end, axis=axis)


def _zeros(like: Array, axis: int, size: int) -> Array:
    axis += like.ndim
    return jnp.zeros((*like.shape[:axis], size, *like.shape[axis + 1 :]), like.dtype)


def in_pairs(combine: Callable[[T, T], T], items: Iterable[T]) -> T:
    """Combine neighbours, then neighbours of those, and so on: shorter chains than one after the other."""
    left = list(items)
    while len(left) > 1:
        left = [combine(*left[i : i + 2]) if i + 1 < len(left) else left[i] for i in range(0, len(left), 2)]
    return left[0]


def lowest(dtype: np.dtype) -> np.ndarray:
    """Return what nothing is below."""
    return np.array(-np.inf if is_floating(dtype) else jnp.iinfo(dtype).min, dtype)


def _pad(input: Array, fill: np.ndarray, pairs: Pairs) -> Array:
    if not any(map(any, pairs)):
        return input
    return lax.pad(input, fill, [(0, 0, 0)] * (input.ndim - len(pairs)) + [(*pads, 0) for pads in pairs])
