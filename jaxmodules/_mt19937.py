"""PyTorch's CPU random bits, from NumPy alone.

The stream is MT19937. What PyTorch makes of its 32-bit words is reproduced to the last bit of float32: which
words an element takes, in which order, and where each product and sum is rounded. Its compiled code contracts
``a * b + c`` into one rounding (a fused multiply-add, *fma* below); here that is a float64 product, which is
exact for float32 factors, and a float64 sum, cast down once.

Everything works on chunks that stay in the cache, with ufuncs that write into scratch arrays. The words
must be drawn one after the other, but in large draws several threads make samples of them meanwhile.

float16 and bfloat16 are drawn as float32 and cast, as PyTorch does.
"""

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
_CHUNK = 3 << 16
_LEAST_SHARE = 1 << 16
_MOST_THREADS = min(os.cpu_count() or 1, 4)
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
_COS = _float32s(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_SIN = _float32s(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
# A quarter of the logarithm's polynomial, in 2 x: powers of two change no rounding.
_LOG_OF_TWICE = tuple(coefficient * 2.0 ** (place - 10) for place, coefficient in enumerate(_LOG))
_TWICE_LN2_LOW, _MINUS_TWICE_LN2_HIGH = np.float32(-4.24388880e-4), np.float32(-1.38671875)
_COS_SIN = tuple(np.array(pair).reshape(2, 1) for pair in zip(_COS, _SIN, strict=True))
_COS_SIN_TAIL = np.array([[-0.5], [1.0]])
_EXPONENT = 23
_MANTISSA = np.int32((1 << _EXPONENT) - 1)
_SIGN = np.int32(-(1 << 31))
# The lowest 29 bits of a float64 are those that float32 lacks.
_HALF_UNIT = np.uint64(1 << 28)
_FLOAT32_BITS = np.uint64((1 << 64) - (1 << 29))
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
# Angles are counted in 2**24 parts of a circle, so that a quadrant is 2**22 of them.
_ANGLE_UNIT = np.float32(2 * math.pi) * _UNIT24
_QUADRANTS = np.int32(7 << 22)
_MINUS_QUADRANT = sum(_float32s(-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)) * 2.0**-21


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array aligned so that JAX can adopt it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


class _Scratch:
    """Work arrays for the transformation of chunks of up to ``size`` pairs, handed out as rows."""

    def __init__(self, size: int) -> None:
        self._floats = np.empty(6 * size, np.float32)
        self._doubles = np.empty(4 * size, np.float64)
        self._ints = np.empty(2 * size, np.int32)

    def floats(self, size: int) -> np.ndarray:
        return self._floats[: 6 * size].reshape(6, size)

    def doubles(self, size: int) -> np.ndarray:
        return self._doubles[: 4 * size].reshape(2, 2, size)

    def ints(self, size: int) -> np.ndarray:
        return self._ints[: 2 * size].reshape(2, size)


_scratches: list[_Scratch] = []


def _round(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.copyto(out, values, casting="same_kind")
    return out


def _horner(x: np.ndarray, coefficients: tuple[Any, ...], wide: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Evaluate a polynomial in ``x`` (float32 values held as float64), each step an fma."""
    bits = wide.view(np.uint64)
    np.multiply(x, coefficients[0], out=wide)
    for coefficient in coefficients[1:-1]:
        np.add(wide, coefficient, out=wide)
        # to float32, in place; ties go away from zero, which no argument of the polynomials below can tell
        np.add(bits, _HALF_UNIT, out=bits)
        np.bitwise_and(bits, _FLOAT32_BITS, out=bits)
        np.multiply(wide, x, out=wide)
    np.add(wide, coefficients[-1], out=wide)
    return _round(wide, out)


def _radius(bits: np.ndarray, scratch: _Scratch) -> np.ndarray:
    """Return ``sqrt(-2 log u)`` for ``u = 1 - bits / 2**24``; ``bits`` is overwritten."""
    x, e, y, z = scratch.floats(bits.size)[:4]
    x64, wide = scratch.doubles(bits.size)[0]
    exponents = y.view(np.int32)
    np.subtract(np.int32(1 << 24), bits, out=bits)
    _round(bits, x)
    # u = m * 2**e with m in [sqrt(0.5), sqrt(2)), taken apart through its bits; x = 2 (m - 1)
    np.subtract(x.view(np.int32), _SQRT_HALF_BITS + np.int32(24 << _EXPONENT), out=bits)
    np.right_shift(bits, _EXPONENT, out=exponents)
    _round(exponents, e)
    np.bitwise_and(bits, _MANTISSA, out=bits)
    np.add(bits, _SQRT_HALF_BITS + np.int32(1 << _EXPONENT), out=x.view(np.int32))
    np.subtract(x, np.float32(2), out=x)
    np.copyto(x64, x)
    _horner(x64, _LOG_OF_TWICE, wide, y)
    np.multiply(y, x, out=y)
    np.multiply(x, x, out=z)
    # y = fma(y, z, e * low), twice as large
    np.copyto(wide, y)
    np.copyto(x64, z)
    np.multiply(wide, x64, out=wide)
    np.copyto(x64, np.multiply(e, _TWICE_LN2_LOW, out=y))
    np.add(wide, x64, out=wide)
    _round(wide, y)
    # fma(-z, 0.5, y), whose product is exact
    np.multiply(z, np.float32(0.25), out=z)
    np.subtract(y, z, out=y)
    np.add(x, y, out=x)
    # e has 5 bits and the high part of log 2 has 9: this product is exact too
    np.multiply(e, _MINUS_TWICE_LN2_HIGH, out=e)
    np.subtract(e, x, out=x)
    return np.sqrt(x, out=x)


def _points(turn: np.ndarray, radius: np.ndarray, scratch: _Scratch) -> np.ndarray:
    """Return the two coordinates, ``turn / 2**24`` around circles of ``radius``; overwrite both arguments."""
    _, _, x, z, *_ = rows = scratch.floats(turn.size)
    result = rows[4:]
    factors, wide = scratch.doubles(turn.size)
    z64, x64 = factors
    np.multiply(_round(turn, x), _ANGLE_UNIT, out=x)
    # less the nearest quadrant: its three parts add up exactly, and only the last sum rounds
    np.add(turn, np.int32(1 << 21), out=turn)
    np.copyto(z64, np.bitwise_and(turn, _QUADRANTS, out=z.view(np.int32)))
    np.multiply(z64, _MINUS_QUADRANT, out=z64)
    np.copyto(x64, x)
    np.add(z64, x64, out=z64)
    np.copyto(x64, _round(z64, x))
    np.copyto(z64, np.multiply(x, x, out=z))
    _horner(z64, _COS_SIN, wide, result)
    np.multiply(result, z, out=result)
    # fma(a, z, -z / 2) and fma(b, x, x), as (a - 1 / 2) z and (b + 1) x
    np.copyto(wide, result)
    np.add(wide, _COS_SIN_TAIL, out=wide)
    np.multiply(wide, factors, out=wide)
    _round(wide, result)
    np.add(result[0], np.float32(1), out=result[0])
    _by_quadrant(turn, radius.view(np.int32), result.view(np.int32), x.view(np.int32), z.view(np.int32))
    return np.multiply(result, radius, out=result)


def _by_quadrant(
    turn: np.ndarray, radius: np.ndarray, bits: np.ndarray, mask: np.ndarray, difference: np.ndarray
) -> None:
    """Turn cosine and sine by their quadrant, bits 22 and 23 of ``turn``; the radius takes the common sign."""
    cosine, sine = bits
    np.left_shift(turn, 8, out=mask)
    np.bitwise_and(mask, _SIGN, out=mask)
    np.bitwise_xor(radius, mask, out=radius)
    # in an odd quadrant (cosine, sine) becomes (-sine, cosine)
    np.left_shift(turn, 9, out=mask)
    np.right_shift(mask, 31, out=mask)
    np.bitwise_xor(cosine, sine, out=difference)
    np.bitwise_and(difference, mask, out=difference)
    np.bitwise_xor(bits, difference, out=bits)
    np.bitwise_and(mask, _SIGN, out=mask)
    np.bitwise_xor(cosine, mask, out=cosine)


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split float64 into a high and a low half whose products are exact (Dekker)."""
    high = x * _SPLITTER
    high = high - (high - x)
    return high, x - high


def _wide_fma(x: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Return float64 ``x * factor + offset`` rounded once: the errors of product and sum are added at the end."""
    product = x * factor
    if offset == 0:
        return product + 0.0  # makes 0 of -0
    (x_high, x_low), (f_high, f_low) = _split(x), _split(np.asarray(factor, np.float64))
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


def _quarters(blocks: np.ndarray) -> np.ndarray:
    """View blocks of 16 elements of 4 bytes as four rows: their first, second, third and last quarters."""
    return blocks.view(np.complex128).reshape(-1, 4).T


def _box_muller(words: np.ndarray, out: np.ndarray, mean: float, std: float) -> None:
    """Write the float32 normals that ``words`` (a multiple of 16 of them) stand for; ``words`` is overwritten."""
    try:
        scratch = _scratches.pop()
    except IndexError:
        scratch = _Scratch(_CHUNK // 2)
    np.bitwise_and(words, _MASK24, out=words)
    pairs = scratch.ints(words.size // 2)
    np.copyto(pairs.view(np.complex128).reshape(4, -1), _quarters(words))
    has_zeros = pairs[0].min() == 0
    values = _points(pairs[1], _radius(pairs[0], scratch), scratch)
    if mean != 0:
        wide = values.astype(np.float64)
        np.multiply(wide, float(np.float32(std)), out=wide)
        np.add(wide, float(np.float32(mean)), out=wide)
        _round(wide, values)
    elif std != 1:
        np.multiply(values, np.float32(std), out=values)
    if has_zeros or abs(std) < 1e-30:
        # PyTorch adds the mean even if it is 0, and that makes 0 of -0
        np.add(values, np.float32(0), out=values)
    np.copyto(_quarters(out), values.view(np.complex128).reshape(4, -1))
    _scratches.append(scratch)


def _uniform(words: np.ndarray, out: np.ndarray, low: np.float32, high: np.float32) -> None:
    """Write the float32 uniforms over [low, high) that ``words`` stand for; ``words`` is overwritten."""
    kept = np.bitwise_and(words, _MASK24, out=words).view(np.int32)
    if low == -high:
        # u - 1/2 is exact, so the product is the only rounding, as in the fma
        np.subtract(kept, np.int32(1 << 23), out=kept)
    _round(kept, out)
    if low == 0 or low == -high:
        np.multiply(out, (high - low) * _UNIT24, out=out)
    else:
        wide = out.astype(np.float64)
        np.multiply(wide, float((high - low) * _UNIT24), out=wide)
        np.add(wide, float(low), out=wide)
        _round(wide, out)


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
        self._saved: dict[str, Any] = {}
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
        self._fill(out, _uniform, np.float32(low), np.float32(high))
        return out.reshape(shape).astype(dtype, copy=False)

    def normal(
        self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0, dtype: DType = np.float32
    ) -> np.ndarray:
        """Return normal samples, as ``Tensor.normal_`` writes them."""
        dtype = np.dtype(dtype)
        size = math.prod(shape)
        if size < _BLOCK:
            return _wide_fma(self.scalar_normals(size), std, mean).reshape(shape).astype(dtype)
        if dtype == np.float64:
            return self._wide_normal(size, mean, std).reshape(shape)
        out = empty((size,), np.dtype(np.float32))
        whole = size - size % _BLOCK
        self._fill(out[:whole], _box_muller, mean, std)
        if whole < size:
            # PyTorch fills the remainder with uniforms first, then draws the last block again
            self.words(size - whole)
            _box_muller(self.words(_BLOCK), out[size - _BLOCK :], mean, std)
        return out.reshape(shape).astype(dtype, copy=False)

    def scalar_normals(self, count: int) -> np.ndarray:
        """Return standard normals as doubles, drawn one by one."""
        return np.array([self._scalar_normal() for _ in range(count)], np.float64)

    def _scalar_normal(self) -> float:
        """Return one standard normal; they are made in pairs, and the second is kept."""
        if self._next_normal is not None:
            sample, self._next_normal = self._next_normal, None
            return sample
        u1, u2 = self.doubles(2).tolist()
        radius, angle = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
        self._next_normal = radius * math.sin(angle)
        return radius * math.cos(angle)

    def _fill(self, out: np.ndarray, write: Callable[..., None], *args: Any) -> None:
        """Draw the words of one chunk after the other; ``write`` makes samples of them, on several threads."""
        threads = max(1, min(_MOST_THREADS, out.size // _LEAST_SHARE))
        # equal shares, as large as they may be: threads that call NumPy often stop one another
        shares = threads * -(-out.size // (threads * _CHUNK))
        chunk = -(-out.size // (shares * _BLOCK)) * _BLOCK if shares else _BLOCK
        starts = iter(range(0, out.size, chunk))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    start = next(starts, None)
                    if start is None:
                        return
                    part = out[start : start + chunk]
                    words = self.words(part.size)
                write(words, part, *args)

        if threads == 1:
            return work()
        with ThreadPoolExecutor(threads - 1) as pool:
            pending = [pool.submit(work) for _ in range(threads - 1)]
            work()
        for helper in pending:
            helper.result()

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
        twister = self._twister().get_state(legacy=False)["state"]
        state = np.zeros((), _STATE)
        state["seed"] = self.initial_seed
        state["seeded"] = 1
        state["left"], state["next"] = 625 - twister["pos"], twister["pos"]
        state["words"] = twister["key"]
        if self._next_normal is not None:
            state["normal"], state["has_normal"] = self._next_normal, 1
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: np.ndarray) -> None:
        """Continue from a state that :meth:`get_state` or ``torch.Generator.get_state`` returned."""
        fields = np.frombuffer(state.tobytes(), _STATE)[0]
        self.initial_seed = int(fields["seed"])
        twister = {"key": fields["words"].astype(np.uint32), "pos": 625 - int(fields["left"])}
        self._twister().set_state({"bit_generator": "MT19937", "state": twister})
        self._next_normal = float(fields["normal"]) if fields["has_normal"] else None

    def clone(self) -> "HostStream":
        """Return a stream of its own that draws what this one would draw."""
        twin = HostStream.__new__(HostStream)
        twin._words, twin._saved = None, self._twister().get_state(legacy=False)
        twin.initial_seed, twin._next_normal = self.initial_seed, self._next_normal
        return twin
