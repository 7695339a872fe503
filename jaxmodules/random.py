"""Draw random arrays as PyTorch does.

Eagerly every sample has the bits that PyTorch's CPU generator gives for the same seed; under a JAX
transformation the same functions draw from the generator's device key with ``jax.random``.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import META, current_place, placed
from jaxmodules._generator import Generator as Generator
from jaxmodules._generator import KeyCell as KeyCell
from jaxmodules._generator import bind_generator as bind_generator
from jaxmodules._generator import current_generator as current_generator
from jaxmodules._generator import default_generator as default_generator
from jaxmodules._generator import fork_rng as fork_rng
from jaxmodules._generator import get_rng_state as get_rng_state
from jaxmodules._generator import initial_seed as initial_seed
from jaxmodules._generator import manual_seed as manual_seed
from jaxmodules._generator import next_key as next_key
from jaxmodules._generator import resolve as resolve
from jaxmodules._generator import seed as seed
from jaxmodules._generator import set_rng_state as set_rng_state
from jaxmodules._mt19937 import empty
from jaxmodules._tracing import is_tracing
from jaxmodules._typing import Array, ArrayLike, DType, Shape

_P = ParamSpec("_P")


def _float_dtype(dtype: DType | None, operation: str) -> np.dtype:
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if not jnp.issubdtype(dtype, np.floating):
        raise NotImplementedError(f'"{operation}" not implemented for {dtype.name!r}: expected a floating point dtype')
    return dtype


def _part(dtype: DType) -> np.dtype:
    """Return the dtype of the parts of a complex number."""
    return np.finfo(dtype).dtype


def _complex(parts: Any) -> Any:
    """Return complex numbers, whose real and imaginary parts are along the last axis."""
    return parts[..., 0] + 1j * parts[..., 1]


@functools.cache
def _largest(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).max)


def uniform(
    shape: Shape, low: float = 0.0, high: float = 1.0, *, dtype: DType = np.float32, generator: Generator | None = None
) -> np.ndarray | Array:
    """Draw from [low, high): PyTorch's bits in a NumPy array, or under a trace JAX's.

    Args:
        shape: the shape of the result.
        low: the lower bound.
        high: the upper bound.
        dtype: a floating point dtype, or a complex one, whose two parts are drawn.
        generator: drawn from; the current one when ``None``.

    Raises:
        RuntimeError: if ``low > high``, or if they or their difference exceed the dtype.
        NotImplementedError: if ``dtype`` is not a floating point dtype.
    """
    if jnp.issubdtype(dtype, np.complexfloating):
        return _complex(uniform((*shape, 2), low, high, dtype=_part(dtype), generator=generator))
    dtype = _float_dtype(dtype, "check_uniform_bounds")
    largest = _largest(dtype)
    for name, bound in (("from", low), ("to", high)):
        if not -largest <= bound <= largest:
            raise RuntimeError(f"{name} is out of bounds for {dtype.name}: got {bound:g}")
    if low > high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={high:g}")
    if high - low > largest:
        raise RuntimeError(
            f"uniform_ expects to-from <= {largest:g} ({dtype.name}), but found to={high:g} and from={low:g}"
        )
    generator = resolve(generator)
    if is_tracing():
        return jax.random.uniform(generator.sample_key(), shape, jax.dtypes.canonicalize_dtype(dtype), low, high)
    return generator.host.uniform(shape, low, high, dtype)


def normal_values(
    shape: Shape, mean: float = 0.0, std: float = 1.0, *, dtype: DType = np.float32, generator: Generator | None = None
) -> np.ndarray | Array:
    """Draw from a normal distribution: PyTorch's bits in a NumPy array, or under a trace JAX's.

    Args:
        shape: the shape of the result.
        mean: the mean.
        std: the standard deviation.
        dtype: a floating point dtype, or a complex one, whose two parts are drawn.
        generator: drawn from; the current one when ``None``.

    Raises:
        RuntimeError: if ``std`` is negative.
        NotImplementedError: if ``dtype`` is not a floating point dtype.
    """
    if jnp.issubdtype(dtype, np.complexfloating):  # the two parts share the variance
        return _complex(normal_values((*shape, 2), mean, std / 2**0.5, dtype=_part(dtype), generator=generator))
    dtype = _float_dtype(dtype, "normal_kernel_cpu")
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    generator = resolve(generator)
    if is_tracing():
        return jax.random.normal(generator.sample_key(), shape, jax.dtypes.canonicalize_dtype(dtype)) * std + mean
    return generator.host.normal(shape, mean, std, dtype)


def _shape_of(args: tuple[Any, ...], size: Any, function: str) -> Shape:
    """Return the shape that ``*args`` (ints, or one sequence of ints) or ``size`` asks for."""
    if (size is None) == (not args):
        raise TypeError(
            f"{function}() received an invalid combination of arguments: expected ints, one tuple of ints, or size=,"
            f" got {args!r} and size={size!r}"
        )
    given = args if size is None else (size,)
    if len(given) == 1 and isinstance(given[0], Sequence) and not isinstance(given[0], str):
        given = tuple(given[0])
    elif size is not None:
        raise TypeError(f"{function}(): argument 'size' must be tuple of ints, not {type(size).__name__}")
    for position, extent in enumerate(given, 1):
        if isinstance(extent, bool) or not isinstance(extent, numbers.Integral):
            raise TypeError(
                f"{function}(): argument 'size' (position {position}) must be tuple of ints,"
                f" not {type(extent).__name__}"
            )
        if extent < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {extent}: {list(given)}")
    return tuple(int(extent) for extent in given)


def _integer(value: Any, name: str, function: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{function}(): argument '{name}' must be int, not {type(value).__name__}")
    number = int(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"Overflow when unpacking long long: {function}() got {name}={value}")
    return number


def _may_require_grad(dtype: DType, requires_grad: bool) -> None:
    if requires_grad and not jnp.issubdtype(dtype, np.inexact):
        raise RuntimeError(
            f"Only Tensors of floating point and complex dtype can require gradients, got {np.dtype(dtype).name}"
        )


def to_jax(samples: np.ndarray | Array, dtype: DType | None = None) -> Array:
    """Return samples, which nobody may write to any more, as a JAX array; no copy where memory is aligned for it."""
    narrow = jax.dtypes.canonicalize_dtype(samples.dtype if dtype is None else dtype)
    samples = samples.astype(narrow, copy=False)
    return placed(samples) if isinstance(samples, jax.Array) else jax.device_put(samples, _place())


def _place() -> Any:
    """Return where arrays that are being made go; what has values has them somewhere."""
    place = current_place()
    return None if place is META else place


def blank(shape: Shape, dtype: DType | None = None) -> Any:
    """Make an array, ``float32`` unless told, for an initialiser to replace; its memory is never touched.

    On the meta device it is the shape alone.

    Raises:
        RuntimeError: if a size is negative.
    """
    for size in shape:
        if size < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {size}: {list(shape)}")
    narrow = jax.dtypes.canonicalize_dtype(np.float32 if dtype is None else dtype)
    if current_place() is META:
        return jax.ShapeDtypeStruct(shape, narrow)
    return jax.lax.empty(shape, narrow) if is_tracing() else jax.device_put(empty(tuple(shape), narrow), _place())


def copy_to_jax(values: np.ndarray, dtype: DType | None = None, place: Any = None) -> Array:
    """Return a JAX array of its own with the values of NumPy memory that others may write to; nothing compiles.

    Args:
        values: what to copy. Where ``place`` spreads the array over devices, only the parts that they hold are read.
        dtype: what to cast to; the dtype of ``values`` if ``None``.
        place: a JAX device or a Sharding; where this thread puts new arrays if ``None``.
    """
    dtype = jax.dtypes.canonicalize_dtype(values.dtype if dtype is None else dtype)
    if isinstance(place, jax.sharding.Sharding) and len(place.device_set) > 1:
        parts: dict[Any, np.ndarray] = {}  # one that several devices hold is read once; JAX never writes to it

        def part(index: Any) -> np.ndarray:
            bounds = tuple((axis.start, axis.stop) for axis in index)
            if bounds not in parts:
                parts[bounds] = _copied(values[index], dtype)
            return parts[bounds]

        return jax.make_array_from_callback(values.shape, place, part)
    return jax.device_put(_copied(values, dtype), _place() if place is None else place)


def _copied(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a copy in memory that JAX adopts."""
    own = empty(values.shape, dtype)
    if own.dtype == values.dtype:
        own[...] = values
    else:
        with np.errstate(all="ignore"):
            np.copyto(own, values, casting="unsafe")
    return own


def _shapes_on_meta(sample: Callable[_P, Any]) -> Callable[_P, Any]:
    """Make a function that draws an array give its shape alone, and draw nothing, where new arrays have no data."""

    @functools.wraps(sample)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        if current_place() is not META:
            return sample(*args, **kwargs)
        return jax.eval_shape(lambda: sample(*args, **kwargs))

    return draw


@_shapes_on_meta
def rand(
    *shape: int | Sequence[int],
    size: Sequence[int] | None = None,
    generator: Generator | None = None,
    dtype: DType | None = None,
    requires_grad: bool = False,
) -> Array:
    """Draw from [0, 1), like ``torch.rand``.

    Args:
        *shape: the shape, as ints or one sequence; or give it as ``size``.
        size: the shape.
        generator: drawn from; the current one when ``None``.
        dtype: a floating point dtype; float32 when ``None``.
        requires_grad: accepted for PyTorch's sake; a transformation says what is differentiated.

    Examples:
        >>> rand(2, 3).shape
        (2, 3)
    """
    return to_jax(uniform(_shape_of(shape, size, "rand"), dtype=dtype, generator=generator))


@_shapes_on_meta
def randn(
    *shape: int | Sequence[int],
    size: Sequence[int] | None = None,
    generator: Generator | None = None,
    dtype: DType | None = None,
    requires_grad: bool = False,
) -> Array:
    """Draw from the standard normal distribution, like ``torch.randn``; the arguments are :func:`rand`'s.

    Examples:
        >>> randn(2, 3).shape
        (2, 3)
    """
    return to_jax(normal_values(_shape_of(shape, size, "randn"), dtype=dtype, generator=generator))


@_shapes_on_meta
def randint(
    *bounds: Any,
    low: int | None = None,
    high: int | None = None,
    size: Sequence[int] | None = None,
    generator: Generator | None = None,
    dtype: DType | None = None,
    requires_grad: bool = False,
) -> Array:
    """Draw integers from [low, high): ``randint(high, size)`` or ``randint(low, high, size)``, like ``torch.randint``.

    Args:
        *bounds: ``low`` (0 when left out), ``high`` and ``size``, in this order.
        low: the smallest value.
        high: one more than the largest value.
        size: the shape.
        generator: drawn from; the current one when ``None``.
        dtype: int64 when ``None``, which JAX narrows to int32 unless x64 is enabled.
        requires_grad: accepted for PyTorch's sake; an error for integers.

    Raises:
        RuntimeError: if ``low >= high``, or if the dtype cannot hold them.

    Examples:
        >>> randint(10, (2, 3)).shape
        (2, 3)
    """
    given = list(bounds)
    if size is None and len(given) > 1 - (high is not None):
        size = given.pop()
    if high is None and given:
        high = given.pop()
    if low is None:
        low = given.pop() if given else 0
    if size is None or high is None or given:
        raise TypeError(
            "randint() received an invalid combination of arguments:"
            f" expected (high, size) or (low, high, size), got {bounds!r}"
        )
    low, high = _integer(low, "low", "randint"), _integer(high, "high", "randint")
    shape = _shape_of((), size, "randint")
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    dtype = np.dtype(np.int64 if dtype is None else dtype)
    _may_require_grad(dtype, requires_grad)
    limits = jnp.iinfo(dtype) if jnp.issubdtype(dtype, np.integer) else None
    for name, bound in (("from", low), ("to - 1", high - 1)):
        if limits is not None and not limits.min <= bound <= limits.max:
            raise RuntimeError(f"{name} is out of bounds for {dtype.name}: got {bound}")
    generator = resolve(generator)
    if is_tracing():
        return jax.random.randint(generator.sample_key(), shape, low, high).astype(jax.dtypes.canonicalize_dtype(dtype))
    return to_jax(generator.host.randint(low, high, shape), dtype)


@_shapes_on_meta
def randperm(
    n: int, *, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False
) -> Array:
    """Shuffle ``0 .. n - 1``, like ``torch.randperm``; the other arguments are :func:`randint`'s.

    Examples:
        >>> randperm(4, generator=Generator().manual_seed(0)).tolist()
        [0, 1, 3, 2]
    """
    n = _integer(n, "n", "randperm")
    if n < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {n}: [{n}]")
    dtype = np.dtype(np.int64 if dtype is None else dtype)
    _may_require_grad(dtype, requires_grad)
    generator = resolve(generator)
    traced = is_tracing()
    return to_jax(jax.random.permutation(generator.sample_key(), n) if traced else generator.host.randperm(n), dtype)


def _like(input: Any, dtype: DType | None, function: str) -> tuple[Shape, DType]:
    if not hasattr(input, "shape") or not hasattr(input, "dtype"):
        raise TypeError(f"{function}(): argument 'input' (position 1) must be an array, not {type(input).__name__}")
    return tuple(input.shape), input.dtype if dtype is None else dtype


def rand_like(
    input: ArrayLike, *, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False
) -> Array:
    """Draw from [0, 1) with the shape, and unless given the dtype, of ``input``."""
    shape, dtype = _like(input, dtype, "rand_like")
    return to_jax(uniform(shape, dtype=dtype, generator=generator))


def randn_like(
    input: ArrayLike, *, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False
) -> Array:
    """Draw from the standard normal distribution with the shape, and unless given the dtype, of ``input``."""
    shape, dtype = _like(input, dtype, "randn_like")
    return to_jax(normal_values(shape, dtype=dtype, generator=generator))


def bernoulli(input: ArrayLike, p: float | None = None, *, generator: Generator | None = None) -> Array:
    """Draw ones with the probabilities in ``input`` (or ``p`` everywhere) and zeros, in the dtype of ``input``.

    Raises:
        RuntimeError: if a probability lies outside [0, 1].
        NotImplementedError: if ``p`` is not given and ``input`` holds no floating point numbers.

    Examples:
        >>> bernoulli(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    shape, dtype = _like(input, None, "bernoulli")
    generator = resolve(generator)
    if p is None:
        _float_dtype(dtype, "bernoulli_tensor_cpu_p_")
    elif not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    if is_tracing():
        return jax.random.bernoulli(generator.sample_key(), jnp.asarray(input) if p is None else p, shape).astype(dtype)
    if p is not None:
        return to_jax(generator.host.mask(p, shape), dtype)
    probabilities = np.asarray(input)
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true: every probability must lie in [0, 1]")
    return to_jax(generator.host.bernoulli(probabilities), dtype)


def _unboxed(value: ArrayLike) -> Any:
    """Return the array in a Parameter, and anything else as it is."""
    convert = getattr(value, "__jax_array__", None)
    return value if convert is None else convert()


@_shapes_on_meta
def normal(
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    requires_grad: bool = False,
) -> Array:
    """Draw from normal distributions: of ``size`` with one ``mean`` and ``std``, or one sample for each in an array.

    Raises:
        TypeError: if both are numbers and there is no ``size``.
        RuntimeError: if a standard deviation is negative.

    Examples:
        >>> normal(2.0, jnp.zeros(3)).tolist()
        [2.0, 2.0, 2.0]
    """
    centre, spread = _unboxed(mean), _unboxed(std)
    means, stds = (np.ndim(x) > 0 or hasattr(x, "dtype") for x in (centre, spread))
    if not means and not stds:
        if size is None:
            raise TypeError("normal() received an invalid combination of arguments: a mean, a std and no size")
        shape = _shape_of((), size, "normal")
        return to_jax(normal_values(shape, centre, spread, dtype=dtype, generator=generator))
    if size is not None:
        raise TypeError("normal() received an invalid combination of arguments: arrays and a size")
    shape = np.broadcast_shapes(np.shape(centre), np.shape(spread))
    dtype = jnp.result_type(*(x for x, given in ((centre, means), (spread, stds)) if given))
    if is_tracing():
        centre, spread = (jnp.broadcast_to(jnp.asarray(x), shape) for x in (centre, spread))
        return to_jax(normal_values(shape, dtype=dtype, generator=generator) * spread + centre, dtype)
    if not stds:
        return to_jax(normal_values(shape, 0.0, spread, dtype=dtype, generator=generator) + np.asarray(centre), dtype)
    if np.any(np.asarray(spread) < 0):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    return to_jax(
        normal_values(shape, dtype=dtype, generator=generator) * np.asarray(spread) + np.asarray(centre), dtype
    )
