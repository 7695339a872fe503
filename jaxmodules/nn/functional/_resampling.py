"""Which elements of an axis the elements of a resampled axis are made of, as PyTorch's CPU kernels round it."""

import math
from typing import NamedTuple

import numpy as np


class Taps(NamedTuple):
    """What the elements of an axis are weighted sums of.

    ``places`` and ``weights`` have a row for each element of the output; ``length`` is the size of the input.
    """

    places: np.ndarray
    weights: np.ndarray
    length: int

    def matrix(self, dtype: np.dtype) -> np.ndarray:
        """Return the linear map as a matrix, ``(output, input)``."""
        dense = np.zeros((len(self.places), self.length), self.weights.dtype)
        np.add.at(dense, (np.arange(len(self.places))[:, None], self.places), self.weights)
        return dense.astype(dtype)

    def fixed_point(self) -> tuple[np.ndarray, int]:
        """Return the weights as integers of at most 16 bits, and the number of bits after the point.

        An element that is at several places of a row, at the ends of the axis, is counted once, at the first.
        """
        again = np.pad(self.places[:, 1:] == self.places[:, :-1], ((0, 0), (1, 0)))
        weights = np.where(again, 0, np.take_along_axis(self.matrix(self.weights.dtype), self.places, 1))
        largest = max(weights.max(), 0)
        bits = next((bits for bits in range(22) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15), 22)
        scaled = weights * (1 << bits)
        return np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), bits


def nearest_places(length: int, size: int, scale: float | None, exact: bool, real: np.dtype) -> np.ndarray:
    """Return the element nearest to each position of a resampled axis."""
    step = _step(length, size, scale, False, real)
    positions = _positions(size, step, real) if exact else np.arange(size).astype(real) * step
    rounded = np.floor((positions + real.type(0.5) if exact else positions).astype(np.float32))
    return np.minimum(rounded.astype(np.int64), length - 1)


def linear_taps(length: int, size: int, scale: float | None, align_corners: bool, real: np.dtype) -> Taps:
    """Return the two neighbours of each position and their shares."""
    first, share = _split(length, size, scale, align_corners, real, clip=True)
    second = np.minimum(first + 1, length - 1)
    return Taps(np.stack([first, second], 1), np.stack([1 - share, share], 1), length)


def cubic_taps(length: int, size: int, scale: float | None, align_corners: bool, real: np.dtype) -> Taps:
    """Return the four neighbours of each position and the values of the cubic convolution kernel there."""
    place, share = _split(length, size, scale, align_corners, real, clip=False)
    places = np.clip(place[:, None] + np.arange(-1, 3), 0, length - 1)
    return Taps(places, cubic_weights(share), length)


def cubic_weights(share: np.ndarray) -> np.ndarray:
    """Return the weights of the four elements around a position that is ``share`` past the second."""
    a = share.dtype.type(-0.75)
    distances = np.stack([share + 1, share, 1 - share, 2 - share], 1)
    near = ((a + 2) * distances - (a + 3)) * distances * distances + 1
    far = ((a * distances - 5 * a) * distances + 8 * a) * distances - 4 * a
    return np.where(np.array([False, True, True, False]), near, far)


def antialiased_taps(
    mode: str, length: int, size: int, scale: float | None, align_corners: bool, real: np.dtype
) -> Taps:
    """Return the elements that a filter as wide as the step covers, and their shares."""
    step = _step(length, size, scale, align_corners, real)
    radius = {"bilinear": 1, "bicubic": 2, "lanczos": 3}[mode]
    widening = max(step, real.type(1))
    support = real.type(radius) * widening
    centre = step * (np.arange(size).astype(real) + real.type(0.5))
    first = np.maximum(np.trunc(centre - support + real.type(0.5)), 0).astype(np.int64)
    last = np.minimum(np.trunc(centre + support + real.type(0.5)), length).astype(np.int64)
    count = np.clip(last - first, 0, 2 * math.ceil(support) + 1)[:, None]
    offsets = np.arange(count.max())
    distances = (offsets + first[:, None] - centre[:, None] + real.type(0.5)) * (real.type(1) / widening)
    weights = np.where(offsets < count, _FILTERS[mode](distances.astype(real)), 0)
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=weights, where=total != 0)
    # what is past the window counts nothing, and is not read from outside it
    return Taps(first[:, None] + np.minimum(offsets, np.maximum(count - 1, 0)), weights, length)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - abs(x), 0)


def _pillow_cubic(x: np.ndarray) -> np.ndarray:
    x = abs(x)
    near = (x.dtype.type(1.5) * x - x.dtype.type(2.5)) * x * x + 1
    far = ((x.dtype.type(-0.5) * x + x.dtype.type(2.5)) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS = {"bilinear": _triangle, "bicubic": _pillow_cubic, "lanczos": _lanczos}


def _step(length: int, size: int, scale: float | None, align_corners: bool, real: np.dtype) -> np.floating:
    """Return the distance of two elements of the output, in elements of the input."""
    if align_corners:
        return real.type(length - 1) / real.type(size - 1) if size > 1 else real.type(0)
    return real.type(1 / scale) if scale is not None and scale > 0 else real.type(length) / real.type(size)


def _positions(size: int, step: np.floating, real: np.dtype) -> np.ndarray:
    """Return where the centres of the output's elements lie between those of the input's."""
    return step * (np.arange(size).astype(real) + real.type(0.5)) - real.type(0.5)


def _split(
    length: int, size: int, scale: float | None, align_corners: bool, real: np.dtype, clip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the element before each position, and how far past it the position is."""
    if length == size and clip:
        return np.arange(size), np.zeros(size, real)
    step = _step(length, size, scale, align_corners, real)
    positions = np.arange(size).astype(real) * step if align_corners else _positions(size, step, real)
    if clip:
        positions = np.maximum(positions, 0)
    places = np.minimum(np.floor(positions).astype(np.int64), length - 1)
    return places, np.clip(positions - places.astype(real), 0, 1)
