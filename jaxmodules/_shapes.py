"""Normalisers of sizes, axes, dtypes and arrays, used at the edge of every function and layer."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import Tracer, is_tracing
from jaxmodules._typing import Array, DType


def as_array(value: Any) -> Array:
    """Turn a Parameter, a NumPy array or a number into a JAX array; JAX arrays and tracers pass unchanged."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ndarray) and not is_tracing():
        # jnp.asarray would compile a copy for each new shape, and a device array may share the memory of its source
        return jax.device_put(value.copy())
    if value is None:
        raise TypeError("expected an array, but got None")
    convert = getattr(value, "__jax_array__", None)
    return jnp.asarray(value) if convert is None else convert()


def as_array_or_none(value: Any) -> Array | None:
    """Turn an optional argument into an array, keeping ``None``."""
    return None if value is None else as_array(value)


def host_value(value: Array) -> np.ndarray | None:
    """Return the values of a concrete array on the host, or ``None`` where they can't be known."""
    if isinstance(value, Tracer | jax.ShapeDtypeStruct) or not value.is_fully_addressable:
        return None
    return np.asarray(value)


def known(shape: Sequence[int]) -> list[int]:
    """Return the sizes that are numbers: where a program is exported for all sizes of an axis, that one is a symbol."""
    return [size for size in shape if isinstance(size, int | np.integer)]


def ntuple(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """Repeat an int, or a sequence of one int, ``rank`` times; pass a sequence of ``rank`` ints as a tuple.

    Raises:
        TypeError: if ``value`` holds something that is not an integer.
        RuntimeError: if ``value`` has another length.
    """
    try:
        sizes = tuple(operator.index(size) for size in (value if isinstance(value, Sequence) else (value,)))
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of {rank} ints, but got {name}={value!r}") from None
    if len(sizes) not in (1, rank):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {rank} values to match the"
            f" spatial dimensions, but got {name}={list(sizes)}"
        )
    return sizes if len(sizes) == rank else sizes * rank


def same_padding(kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the padding before and after each axis that keeps its size; the odd element goes after."""
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def normalize_dim(dim: int, ndim: int) -> int:
    """Return ``dim`` counted from the front; an array without axes counts as having one.

    Raises:
        IndexError: if there is no such axis.
    """
    ndim = max(ndim, 1)
    if not -ndim <= dim < ndim:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], but got {dim})")
    return dim % ndim


def is_floating(dtype: DType) -> bool:
    """Tell whether ``dtype`` is a real floating point type."""
    return jnp.issubdtype(dtype, jnp.floating)


def is_integer(dtype: DType) -> bool:
    """Tell whether ``dtype`` is a signed or unsigned integer type."""
    return jnp.issubdtype(dtype, jnp.integer)


def check_floating(value: Array, name: str) -> None:
    """Raise where PyTorch has no kernel for integers.

    Raises:
        NotImplementedError: if ``value`` is not of a floating point type.
    """
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise NotImplementedError(
            f'"{name}" not implemented for {value.dtype.name!r}, expected a floating point array'
            " (convert it first: input.astype(jnp.float32))"
        )


def accumulation_dtype(dtype: DType) -> np.dtype:
    """Return the type that sums of ``dtype`` run in: ``float32`` for the short floating point types."""
    return np.dtype(np.float32) if is_floating(dtype) and np.dtype(dtype).itemsize < 4 else np.dtype(dtype)


_SCALAR_TYPES = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long", "int32": "Int",
    "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool", "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}  # fmt: skip


def scalar_type(dtype: DType) -> str:
    """Name a dtype as PyTorch's kernels do in their messages."""
    name = np.dtype(dtype).name
    return _SCALAR_TYPES.get(name, name)
