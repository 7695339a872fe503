"""PyTorch's CPU random bits, from NumPy alone.

The stream is MT19937. What PyTorch makes of its 32-bit words is reproduced to the last bit of float32: which
words an element takes, in which order, and where each product and sum is rounded. Its compiled code contracts
``a * b + c`` into one rounding (a fused multiply-add, *fma* below); here that is a float64 product, which is
exact for float32 factors, and a float64 sum, cast down once.

Everything works on chunks that stay in the cache, with ufuncs that write into scratch arrays. The words
must be drawn one after the other, but large normal draws transform them on a second thread meanwhile.

float16 and bfloat16 are drawn as float32 and cast, as PyTorch does.
"""

import math
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxmodules._typing import DType

DEFAULT_SEED = 67280421310721
STATE_BYTES = 5056
_STATE = np.dtype(
    {
        "names": ["seed", "left", "seeded", "next", "words", "normal", "has_normal"],
        "formats": ["<u8", "<i4", "<i4", "<u8", ("<u8", 624), "<f8", "<i4"],
        "offsets": [0, 8, 12, 16, 24, 5024, 5040],
        "itemsize": STATE_BYTES,
    }
)
_BLOCK = 16
_CHUNK = 1 << 16
_THREADED_SIZE = 1 << 19
_MOST_WORKERS = 4
_WIDE_SPAN = 1 << 28
_SPLITTER = float((1 << 27) + 1)
_ALIGNMENT = 64

_MASK24 = np.uint32((1 << 24) - 1)
_MASK53 = np.uint64((1 << 53) - 1)
_SHIFT32 = np.uint64(32)
_UNIT24 = np.float32(2.0**-24)
_UNIT53 = 2.0**-53


def _float32s(*values: float) -> tuple[float, ...]:
    """Round each value to float32, and give it as a Python float."""
    return tuple(float(np.float32(value)) for value in values)


# Cephes single precision polynomials, highest power first.
_LOG = _float32s(
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_SIN = _float32s(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = _float32s(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_LN2_LOW, _LN2_HIGH = np.float32(-2.12194440e-4), np.float32(0.693359375)
_PI4_HIGH, _PI4_MIDDLE = np.float32(-0.78515625), np.float32(-2.4187564849853515625e-4)
(_PI4_LOW,) = _float32s(-3.77489497744594108e-8)
_FOUR_OVER_PI = np.float32(1.27323954473516)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_TWO_PI = np.float32(2 * math.pi)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array aligned so that JAX can adopt it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


class _Scratch:
    """Work arrays for the transformation of one chunk of ``size`` pairs."""

    def __init__(self, size: int) -> None:
        self.inputs = [np.empty(size, np.float32) for _ in range(2)]
        self.floats = [np.empty(size, np.float32) for _ in range(5)]
        self.doubles = [np.empty(size, np.float64) for _ in range(3)]
        self.ints = [np.empty(size, np.int32) for _ in range(2)]
        self.size = size

    def views(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Return the float32, float64 and int32 arrays, cut to ``size``."""
        if size == self.size:
            return self.floats, self.doubles, self.ints
        return [a[:size] for a in self.floats], [a[:size] for a in self.doubles], [a[:size] for a in self.ints]


def _round(wide: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.copyto(out, wide, casting="same_kind")
    return out


def _horner(x: np.ndarray, coefficients: tuple[float, ...], wide: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Evaluate a polynomial in ``x`` (float32 values held as float64), each step an fma."""
    np.multiply(x, coefficients[0], out=wide)
    for coefficient in coefficients[1:-1]:
        np.add(wide, coefficient, out=wide)
        np.copyto(wide, _round(wide, out))
        np.multiply(wide, x, out=wide)
    np.add(wide, coefficients[-1], out=wide)
    return _round(wide, out)


def _fma(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, wide: np.ndarray, other: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Write ``a * b + c``, rounded once; ``wide`` and ``other`` are float64 scratch."""
    np.copyto(wide, a)
    np.copyto(other, b)
    np.multiply(wide, other, out=wide)
    np.copyto(other, c)
    np.add(wide, other, out=wide)
    return _round(wide, out)


def _radius(u: np.ndarray, scratch: _Scratch) -> np.ndarray:
    """Turn float32 ``u`` in (0, 1] into ``sqrt(-2 log u)``, in place."""
    (y, z, e, low, _), (x64, wide, _), (bits, high) = scratch.views(u.size)
    # u = m * 2**e with m in [sqrt(0.5), sqrt(2)), taken apart through its bits
    np.subtract(u.view(np.int32), _SQRT_HALF_BITS, out=bits)
    np.right_shift(bits, 23, out=high)
    np.copyto(e, high, casting="same_kind")
    np.bitwise_and(bits, np.int32(0x7FFFFF), out=bits)
    np.add(bits, _SQRT_HALF_BITS, out=u.view(np.int32))
    np.subtract(u, np.float32(1), out=u)
    np.copyto(x64, u)
    _horner(x64, _LOG, wide, y)
    np.multiply(y, u, out=y)
    np.multiply(u, u, out=z)
    # y = fma(y, z, e * low); then fma(-z, 0.5, y), whose product is exact
    np.multiply(e, _LN2_LOW, out=low)
    _fma(y, z, low, x64, wide, y)
    np.multiply(z, np.float32(0.5), out=z)
    np.subtract(y, z, out=y)
    np.add(u, y, out=u)
    # e has 5 bits and the high part of log 2 has 9: this product is exact as well
    np.multiply(e, _LN2_HIGH, out=e)
    np.add(u, e, out=u)
    np.multiply(u, np.float32(-2), out=u)
    return np.sqrt(u, out=u)


def _cos_sin(x: np.ndarray, scratch: _Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine and the sine of float32 angles in [0, 2 pi]; ``x`` is overwritten."""
    (t, z, octant, cosine, sine), (z64, wide, other), (j, mask) = scratch.views(x.size)
    np.multiply(x, _FOUR_OVER_PI, out=t)
    np.copyto(j, t, casting="unsafe")
    np.add(j, 1, out=j)
    np.bitwise_and(j, np.int32(~1), out=j)
    np.copyto(octant, j, casting="same_kind")
    # the first two products are exact in float32, the third is not
    for part in (_PI4_HIGH, _PI4_MIDDLE):
        np.multiply(octant, part, out=t)
        np.add(x, t, out=x)
    np.copyto(wide, octant)
    np.multiply(wide, _PI4_LOW, out=wide)
    np.add(wide, x, out=wide)
    _round(wide, x)
    np.multiply(x, x, out=z)
    np.copyto(z64, z)
    _horner(z64, _COS, wide, t)
    np.multiply(t, z, out=t)
    np.multiply(z, np.float32(-0.5), out=octant)
    _fma(t, z, octant, wide, other, cosine)
    np.add(cosine, np.float32(1), out=cosine)
    _horner(z64, _SIN, wide, t)
    np.multiply(t, z, out=t)
    _fma(t, x, x, wide, other, sine)
    return _by_octant(j, mask, cosine, sine, t)


def _by_octant(
    j: np.ndarray, mask: np.ndarray, cosine: np.ndarray, sine: np.ndarray, difference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exchange the two, in place, where bit 1 of ``j`` is set, and give each its sign."""
    cosine_bits, sine_bits, difference = cosine.view(np.int32), sine.view(np.int32), difference.view(np.int32)
    np.left_shift(j, 30, out=mask)
    np.right_shift(mask, 31, out=mask)
    np.bitwise_xor(cosine_bits, sine_bits, out=difference)
    np.bitwise_and(difference, mask, out=difference)
    # cosine is negative in quadrants 1 and 2 (bit 2 of j + 2), sine in 2 and 3 (bit 2 of j)
    for bits, offset in ((sine_bits, 0), (cosine_bits, 2)):
        np.bitwise_xor(bits, difference, out=bits)
        np.add(j, offset, out=j)
        np.bitwise_and(j, 4, out=mask)
        np.left_shift(mask, 29, out=mask)
        np.bitwise_xor(bits, mask, out=bits)
    return cosine, sine


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split float64 into a high and a low half whose products are exact (Dekker)."""
    high = x * _SPLITTER
    high = high - (high - x)
    return high, x - high


def _wide_fma(x: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Return float64 ``x * factor + offset`` rounded once: the errors of product and sum are added at the end."""
    product = x * factor
    if offset == 0:
        return product
    (x_high, x_low), (f_high, f_low) = _split(x), _split(np.float64(factor))
    error = ((x_high * f_high - product) + x_high * f_low + x_low * f_high) + x_low * f_low
    total = product + offset
    virtual = total - product
    return total + ((product - (total - virtual)) + (offset - virtual) + error)


def _wide_box_muller(values: np.ndarray, mean: float, std: float) -> None:
    """Turn float64 uniforms into normals, in place and in blocks of 16."""
    blocks = values.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - blocks[:, 0]))
    angle = 2.0 * math.pi * blocks[:, 1]
    blocks[:, 0] = _wide_fma(radius * np.cos(angle), std, mean)
    blocks[:, 1] = _wide_fma(radius * np.sin(angle), std, mean)


class _Local(threading.local):
    def __init__(self) -> None:
        self.scratch: _Scratch | None = None


_local = _Local()


def _box_muller(words: np.ndarray, out: np.ndarray, mean: float, std: float) -> None:
    """Write the float32 normals that ``words`` (a multiple of 16 of them) stand for; ``words`` is overwritten."""
    scratch = _local.scratch
    if scratch is None:
        scratch = _local.scratch = _Scratch(_CHUNK // 2)
    half = words.size // 2
    np.bitwise_and(words, _MASK24, out=words)
    # (rows, 4 quarters of a block) of 16 bytes each: the first two hold u1, the last two the angle
    quarters = words.view(np.complex128).reshape(-1, 4).T
    (bits, _), (u, angle) = scratch.views(half)[2], (a[:half] for a in scratch.inputs)
    np.copyto(bits.view(np.complex128).reshape(2, -1), quarters[:2])
    np.subtract(np.int32(1 << 24), bits, out=bits)
    np.copyto(u, bits, casting="same_kind")
    np.multiply(u, _UNIT24, out=u)
    np.copyto(bits.view(np.complex128).reshape(2, -1), quarters[2:])
    np.copyto(angle, bits, casting="same_kind")
    np.multiply(angle, _TWO_PI * _UNIT24, out=angle)
    radius = _radius(u, scratch)
    target = out.view(np.complex128).reshape(-1, 4).T
    for index, values in enumerate(_cos_sin(angle, scratch)):
        np.multiply(values, radius, out=values)
        if mean != 0:
            wide = values.astype(np.float64)
            np.multiply(wide, float(np.float32(std)), out=wide)
            np.add(wide, float(np.float32(mean)), out=wide)
            _round(wide, values)
        elif std != 1:
            np.multiply(values, np.float32(std), out=values)
        np.copyto(target[2 * index : 2 * index + 2], values.view(np.complex128).reshape(2, -1))


class HostStream:
    """Draw what ``torch.Generator(device="cpu")`` draws, bit for bit.

    Args:
        seed: the seed, taken modulo 2**64; its low 32 bits start the stream.

    Examples:
        >>> HostStream(0).uniform((2,)).dtype
        dtype('float32')
        >>> HostStream(0).randperm(4).tolist()
        [0, 1, 3, 2]
    """

    def __init__(self, seed: int = DEFAULT_SEED) -> None:
        self._words: np.random.RandomState | None = None
        self._saved: tuple[Any, ...] = ()
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        """Start the stream over from ``seed``."""
        self.initial_seed = seed % (1 << 64)
        self._next_normal: float | None = None
        self._twister().seed(self.initial_seed & 0xFFFFFFFF)

    def _twister(self) -> np.random.RandomState:
        """Return the word source, made when first needed: a copy of a stream is mostly never drawn from."""
        if self._words is None:
            self._words = np.random.RandomState(0)
            if self._saved:
                self._words.set_state(self._saved)
        return self._words

    def words(self, count: int) -> np.ndarray:
        """Return the next ``count`` words as uint32."""
        return self._twister().randint(0, 1 << 32, count, dtype=np.uint32)

    def words64(self, count: int) -> np.ndarray:
        """Return ``count`` 64-bit words, each made of two, the first high."""
        pairs = self.words(2 * count).astype(np.uint64)
        return (pairs[0::2] << _SHIFT32) | pairs[1::2]

    def doubles(self, count: int) -> np.ndarray:
        """Return ``count`` uniform doubles in [0, 1)."""
        return (self.words64(count) & _MASK53) * _UNIT53

    def uniform(
        self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: DType = np.float32
    ) -> np.ndarray:
        """Return uniform samples from [low, high), as ``Tensor.uniform_`` writes them."""
        dtype = np.dtype(dtype)
        size = math.prod(shape)
        if dtype == np.float64:
            return _wide_fma(self.doubles(size), high - low, low).reshape(shape)
        out = empty((size,), np.dtype(np.float32))
        for start in range(0, size, _CHUNK):
            self._uniform_chunk(out[start : start + _CHUNK], np.float32(low), np.float32(high))
        return out.reshape(shape).astype(dtype, copy=False)

    def _uniform_chunk(self, out: np.ndarray, low: np.float32, high: np.float32) -> None:
        words = self.words(out.size)
        kept = np.bitwise_and(words, _MASK24, out=words).view(np.int32)
        if low == -high:
            # u - 1/2 is exact, so the product is the only rounding, as in the fma
            np.subtract(kept, np.int32(1 << 23), out=kept)
        np.copyto(out, kept, casting="same_kind")
        if low == 0 or low == -high:
            np.multiply(out, (high - low) * _UNIT24, out=out)
        else:
            wide = out.astype(np.float64)
            np.multiply(wide, float((high - low) * _UNIT24), out=wide)
            np.add(wide, float(low), out=wide)
            _round(wide, out)

    def normal(
        self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0, dtype: DType = np.float32
    ) -> np.ndarray:
        """Return normal samples, as ``Tensor.normal_`` writes them."""
        dtype = np.dtype(dtype)
        size = math.prod(shape)
        if size < _BLOCK:
            samples = np.array([self._scalar_normal() for _ in range(size)])
            return _wide_fma(samples, std, mean).reshape(shape).astype(dtype)
        if dtype == np.float64:
            return self._wide_normal(size, mean, std).reshape(shape)
        out = empty((size,), np.dtype(np.float32))
        whole = size - size % _BLOCK
        if whole >= _THREADED_SIZE:
            self._threaded_normal(out[:whole], mean, std)
        else:
            for start in range(0, whole, _CHUNK):
                part = out[start : min(start + _CHUNK, whole)]
                _box_muller(self.words(part.size), part, mean, std)
        if whole < size:
            # PyTorch fills the remainder with uniforms first, then draws the last block again
            self.words(size - whole)
            _box_muller(self.words(_BLOCK), out[size - _BLOCK :], mean, std)
        return out.reshape(shape).astype(dtype, copy=False)

    def _scalar_normal(self) -> float:
        """Return one standard normal; they are made in pairs, and the second is kept."""
        if self._next_normal is not None:
            sample, self._next_normal = self._next_normal, None
            return sample
        u1, u2 = self.doubles(2).tolist()
        radius, angle = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
        self._next_normal = radius * math.sin(angle)
        return radius * math.cos(angle)

    def _threaded_normal(self, out: np.ndarray, mean: float, std: float) -> None:
        """Draw the words on this thread while others transform the chunks before."""
        workers = min(os.cpu_count() or 1, _MOST_WORKERS)
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, out.size, _CHUNK):
                part = out[start : start + _CHUNK]
                if len(pending) > workers:
                    pending.popleft().result()
                pending.append(pool.submit(_box_muller, self.words(part.size), part, mean, std))
            for future in pending:
                future.result()

    def _wide_normal(self, size: int, mean: float, std: float) -> np.ndarray:
        """Draw float64 normals in blocks of 16."""
        whole = size - size % _BLOCK
        out = self.doubles(size)
        _wide_box_muller(out[:whole], mean, std)
        if whole < size:
            out[size - _BLOCK :] = self.doubles(_BLOCK)
            _wide_box_muller(out[size - _BLOCK :], mean, std)
        return out

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return int64 samples from [low, high), as ``torch.randint`` draws them."""
        size = math.prod(shape)
        span = high - low
        words = self.words(size).astype(np.uint64) if span < _WIDE_SPAN else self.words64(size)
        # the sum wraps around in 64 bits, which is right for every pair of int64 bounds
        samples = (words % np.uint64(span)).view(np.int64) + np.int64(low)
        return samples.reshape(shape)

    def randperm(self, count: int) -> np.ndarray:
        """Return a permutation of ``0 .. count - 1`` as int64, as ``torch.randperm`` shuffles it."""
        order = list(range(count))
        steps = self.words(max(count - 1, 0)) % np.arange(count, 1, -1, dtype=np.uint32)
        for here, step in enumerate(steps.tolist()):
            there = here + step
            order[here], order[there] = order[there], order[here]
        return np.array(order, np.int64)

    def mask(self, probability: float, shape: tuple[int, ...]) -> np.ndarray:
        """Return a mask that is true with ``probability``, as ``Tensor.bernoulli_`` and dropout draw it."""
        return (self.doubles(math.prod(shape)) < probability).reshape(shape)

    def bernoulli(self, probabilities: np.ndarray) -> np.ndarray:
        """Return a mask that is true with each element's own probability, as ``torch.bernoulli`` draws it."""
        wide = np.float64 if probabilities.dtype == np.float64 else np.float32
        return self.uniform(probabilities.shape, dtype=wide) < probabilities.astype(wide, copy=False)

    def get_state(self) -> np.ndarray:
        """Return the state as the 5056 bytes of ``torch.Generator.get_state``."""
        _, key, position, *_ = self._twister().get_state()
        state = np.zeros((), _STATE)
        state["seed"] = self.initial_seed
        state["seeded"] = 1
        state["left"], state["next"] = 625 - position, position
        state["words"] = key
        if self._next_normal is not None:
            state["normal"], state["has_normal"] = self._next_normal, 1
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: np.ndarray) -> None:
        """Continue from a state that :meth:`get_state` or ``torch.Generator.get_state`` returned."""
        fields = np.frombuffer(state.tobytes(), _STATE)[0]
        self.initial_seed = int(fields["seed"])
        words = ("MT19937", fields["words"].astype(np.uint32), 625 - int(fields["left"]))
        self._twister().set_state(words)
        self._next_normal = float(fields["normal"]) if fields["has_normal"] else None

    def clone(self) -> "HostStream":
        """Return a stream of its own that draws what this one would draw."""
        twin = HostStream.__new__(HostStream)
        twin._words, twin._saved = None, self._twister().get_state()
        twin.initial_seed, twin._next_normal = self.initial_seed, self._next_normal
        return twin
