"""Methods of a torch tensor that give the same elements in another shape, type or place, as functions of a JAX array.

``UNCHANGED`` lists those that give the box itself where there is nothing to do, ``RESHAPING`` those whose form with an
underscore changes the shape.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import parse_device
from jaxmodules._tracing import Tracer


class Size(int):
    """The number of elements, as JAX has it; called, the shape or the size of an axis, as PyTorch has it."""

    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> "Size":
        """Count the elements of an array of ``shape``."""
        self = super().__new__(cls, math.prod(shape))
        self.shape = shape
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[axis_of(dim, len(self.shape))]


def axis_of(dim: int, ndim: int) -> int:
    """Return ``dim`` counted from the front."""
    span = max(ndim, 1)
    if not -span <= dim < span:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")
    return dim % span if ndim else 0


def axes_of(dim: Any, ndim: int) -> Any:
    """Return the ``axis`` argument that ``dim`` (an int, several, or ``None``) stands for."""
    if dim is None or (not isinstance(dim, int) and not dim):
        return None
    axes = tuple(axis_of(d, ndim) for d in ((dim,) if isinstance(dim, int) else dim))
    return axes if ndim else None


def _sizes(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Return sizes given one by one or as one sequence."""
    given = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
    return tuple(_size(size) for size in given)


def _size(given: Any) -> Any:
    return given if jax.export.is_symbolic_dim(given) else int(given)


def narrow_dtype(dtype: Any) -> Any:
    """Return the dtype that JAX has for ``dtype`` without ``jax_enable_x64``, or with it."""
    return jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))


def _squeeze(array: Any, dim: Any = None) -> Any:
    axes = range(array.ndim) if dim is None else axes_of(dim, array.ndim) or ()
    return jnp.squeeze(array, tuple(axis for axis in axes if array.shape[axis] == 1))


def _transpose(array: Any, *axes: Any) -> Any:
    if len(axes) != 2 or axes == (None, None):
        return array.transpose(*axes)
    return _swap(array, *axes)


def _swap(array: Any, dim0: int, dim1: int) -> Any:
    return jnp.swapaxes(array, axis_of(dim0, array.ndim), axis_of(dim1, array.ndim)) if array.ndim else array


def _permute(array: Any, *args: Any, dims: Any = None) -> Any:
    return jnp.transpose(array, axes_of(_sizes(args if dims is None else dims), array.ndim))


def _flip(array: Any, *args: Any, dims: Any = None) -> Any:
    return jnp.flip(array, axes_of(_sizes(args if dims is None else dims), array.ndim))


def _t(array: Any) -> Any:
    if array.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {array.ndim}D")
    return array.T


def _flatten(array: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if array.ndim == 0:
        return array.reshape(1)
    start, end = axis_of(start_dim, array.ndim), axis_of(end_dim, array.ndim)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    return array.reshape(*array.shape[:start], math.prod(array.shape[start : end + 1]), *array.shape[end + 1 :])


def _unflatten(array: Any, dim: int, sizes: Sequence[int]) -> Any:
    axis = axis_of(dim, array.ndim)
    inferred = np.empty(array.shape[axis], bool).reshape(sizes).shape
    return array.reshape(*array.shape[:axis], *inferred, *array.shape[axis + 1 :])


def _view(array: Any, *shape: Any) -> Any:
    if len(shape) == 1 and not isinstance(shape[0], int | Sequence | np.integer):
        return array.view(shape[0])
    return _reshape(array, *shape)


def _reshape(array: Any, *shape: Any) -> Any:
    sizes = _sizes(shape)
    known = math.prod(size for size in sizes if size != -1)
    if known != array.size if -1 not in sizes else known == 0 or array.size % known or sizes.count(-1) > 1:
        raise RuntimeError(f"shape '{list(sizes)}' is invalid for input of size {array.size}")
    return array.reshape(sizes)


def _expand(array: Any, *sizes: Any) -> Any:
    wanted = _sizes(sizes)
    extra = len(wanted) - array.ndim
    if extra < 0 or -1 in wanted[:extra]:
        raise RuntimeError(f"expand({list(wanted)}): the sizes must cover the shape {tuple(array.shape)} on the right")
    old = (1,) * extra + array.shape
    return jnp.broadcast_to(array, [had if size == -1 else size for size, had in zip(wanted, old, strict=True)])


def _repeat(array: Any, *sizes: Any) -> Any:
    if len(_sizes(sizes)) < array.ndim:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor:"
            f" got {_sizes(sizes)} for the shape {tuple(array.shape)}"
        )
    return jnp.tile(array, _sizes(sizes))


def _repeat_interleave(array: Any, repeats: Any, dim: int | None = None) -> Any:
    return jnp.repeat(array, repeats, axis=None if dim is None else axis_of(dim, array.ndim))


def _split(array: Any, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
    axis = axis_of(dim, array.ndim)
    length = array.shape[axis]
    if isinstance(split_size, int):
        if split_size < 0 or (split_size == 0 and length):
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={split_size}")
        return tuple(jnp.split(array, [*range(split_size, length, split_size or 1)], axis))
    if sum(split_size) != length:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {length} (input tensor's size at dimension {dim}),"
            f" but got split_sizes={list(split_size)}"
        )
    return tuple(jnp.split(array, np.cumsum(split_size)[:-1].tolist(), axis))


def _chunk(array: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    return _split(array, max(-(-array.shape[axis_of(dim, array.ndim)] // chunks), 1), dim)


def _unbind(array: Any, dim: int = 0) -> tuple[Any, ...]:
    return tuple(jnp.moveaxis(array, axis_of(dim, array.ndim), 0))


def _narrowed(array: Any, dim: int, start: int, length: int) -> Any:
    axis = axis_of(dim, array.ndim)
    size = array.shape[axis]
    if length < 0 or not -size <= start <= size or start % max(size, 1) + length > size:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return jax.lax.slice_in_dim(array, start % max(size, 1), start % max(size, 1) + length, axis=axis)


def _select(array: Any, dim: int, index: int) -> Any:
    axis = axis_of(dim, array.ndim)
    if not -array.shape[axis] <= index < array.shape[axis]:
        raise IndexError(f"select(): index {index} out of range for the shape {list(array.shape)} at dimension {dim}")
    return jax.lax.index_in_dim(array, index, axis, keepdims=False)


def _unfold(array: Any, dimension: int, size: int, step: int) -> Any:
    axis = axis_of(dimension, array.ndim)
    if size > array.shape[axis]:
        raise RuntimeError(f"maximum size for tensor at dimension {axis} is {array.shape[axis]} but size is {size}")
    windows = np.arange(0, array.shape[axis] - size + 1, step)[:, None] + np.arange(size)
    return jnp.moveaxis(jnp.take(array, windows, axis=axis), axis + 1, -1)


def _roll(array: Any, shifts: Any, dims: Any = None) -> Any:
    return jnp.roll(array, shifts, dims)


def _to(array: Any, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False, **ignored: Any) -> Any:
    for value in args:
        if isinstance(value, jax.Array | np.ndarray):
            dtype, device = value.dtype, getattr(value, "sharding", None)
        elif _is_dtype(value):
            dtype = value
        elif value is not None and not isinstance(value, bool):
            device = value
    array = array if dtype is None else array.astype(dtype)
    target = parse_device(device)
    is_there = isinstance(target, jax.Device) and not isinstance(array, Tracer) and array.devices() == {target}
    return array if target is None or is_there else jax.device_put(array, target)


def _is_dtype(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, int) and jnp.dtype(value) is not None
    except TypeError:
        return False


def _caster(dtype: Any) -> Callable[..., Any]:
    return lambda array, memory_format=None: array.astype(dtype)


def _new(fill: Any) -> Callable[..., Any]:
    def new(array: Any, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        return _new_full(array, _sizes(size), fill, dtype, device)

    return new


def _new_full(array: Any, size: Any, fill_value: Any, dtype: Any = None, device: Any = None, **ignored: Any) -> Any:
    return jnp.full(_sizes((size,)), fill_value, narrow_dtype(dtype or array.dtype), device=parse_device(device))


def _new_tensor(array: Any, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
    return jax.device_put(jnp.array(data, narrow_dtype(dtype or array.dtype)), parse_device(device))


def _stride(array: Any, dim: int | None = None) -> Any:
    strides = tuple(math.prod(max(size, 1) for size in array.shape[i + 1 :]) for i in range(array.ndim))
    return strides if dim is None else strides[axis_of(dim, array.ndim)]


_RESHAPES: dict[str, Callable[..., Any]] = {
    "squeeze": _squeeze, "unsqueeze": lambda array, dim: jnp.expand_dims(array, axis_of(dim, array.ndim + 1)),
    "swapaxes": lambda array, axis0, axis1: _swap(array, axis0, axis1), "swapdims": _swap, "t": _t,
    "transpose": _transpose,
}  # fmt: skip
_CASTS: dict[str, Callable[..., Any]] = {
    name: _caster(narrow_dtype(dtype) if name == "long" else dtype)
    for name, dtype in {
        "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "int": "int32",
        "long": "int64", "short": "int16", "char": "int8", "byte": "uint8", "bool": "bool", "cfloat": "complex64",
        "cdouble": "complex128",
    }.items()
}  # fmt: skip
SHAPE_METHODS: dict[str, Callable[..., Any]] = {
    **_RESHAPES, **_CASTS,
    "adjoint": lambda array: jnp.conj(array.mT), "chunk": _chunk,
    "contiguous": lambda array, memory_format=None: array, "cpu": lambda array: _to(array, "cpu"),
    "cuda": lambda array, device="cuda": _to(array, device=device),
    "data_ptr": lambda array: array.unsafe_buffer_pointer(),
    "diagonal": lambda array, offset=0, dim1=0, dim2=1: jnp.diagonal(array, offset, dim1, dim2),
    "element_size": lambda array: array.dtype.itemsize, "expand": _expand,
    "expand_as": lambda array, other: _expand(array, *other.shape), "flatten": _flatten, "flip": _flip,
    "is_contiguous": lambda array, memory_format=None: True,
    "is_same_size": lambda array, other: array.shape == other.shape,
    "is_signed": lambda array: not jnp.issubdtype(array.dtype, jnp.unsignedinteger) and array.dtype != bool,
    "movedim": jnp.moveaxis, "moveaxis": jnp.moveaxis, "narrow": _narrowed, "ndimension": lambda array: array.ndim,
    "nelement": lambda array: array.size, "new_empty": _new(0), "new_full": _new_full, "new_ones": _new(1),
    "new_tensor": _new_tensor, "new_zeros": _new(0), "permute": _permute,     "repeat": _repeat,
    "repeat_interleave": _repeat_interleave, "reshape": _reshape,
    "reshape_as": lambda array, other: _reshape(array, *other.shape), "roll": _roll,
    "rot90": lambda array, k=1, dims=(0, 1): jnp.rot90(array, k, tuple(dims)), "select": _select, "split": _split,
    "stride": _stride, "tensor_split": lambda array, sections, dim=0: tuple(jnp.array_split(array, sections, dim)),
    "tile": lambda array, *dims: jnp.tile(array, _sizes(dims)), "to": _to,
    "type": lambda array, dtype: array.astype(dtype), "type_as": lambda array, other: array.astype(other.dtype),
    "unbind": _unbind, "unflatten": _unflatten, "unfold": _unfold, "view": _view,
    "view_as": lambda array, other: _reshape(array, *other.shape),
}  # fmt: skip
UNCHANGED = frozenset({*_CASTS, "contiguous", "cpu", "cuda", "to", "type", "type_as"})
RESHAPING = frozenset(_RESHAPES)
