"""What a Parameter and its ``.data`` have in common: an array to read, and the in-place methods of a torch tensor."""

import functools
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import beside, is_meta
from jaxmodules._tracing import Tracer, is_tracing
from jaxmodules.nn import _draws
from jaxmodules.nn._tensor import IN_PLACE, METHODS, call
from jaxmodules.nn._tensor_shape import RESHAPING, UNCHANGED, Size
from jaxmodules.random import bernoulli, copy_to_jax, normal_values, to_jax, uniform

_BINARY = ("add sub mul truediv floordiv mod pow matmul and or xor lshift rshift").split()
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")
_NUMBERS = "biufc"
_IN_PLACE = {"__setitem__", *(f"__i{name}__" for name in _BINARY)}


def to_array(data: Any, dtype: Any = None, place: Any = None) -> Any:
    """Return ``data`` (an array of JAX, NumPy or torch, a box, a scalar, a nested list) as a JAX array.

    What is a JAX array already is returned as it is; other memory is copied, never shared. What is still in a file
    (it has a method ``to_jax``) is read to ``place``, which for the rest means nothing.
    """
    if is_meta(data):
        return data if dtype is None or data.dtype == dtype else jax.ShapeDtypeStruct(data.shape, dtype)
    if isinstance(data, jax.Array):
        return data if dtype is None or data.dtype == dtype else data.astype(dtype)
    if hasattr(type(data), "to_jax"):
        return data.to_jax(dtype, place)
    if hasattr(data, "__jax_array__"):
        return to_array(data.__jax_array__(), dtype)
    if hasattr(data, "detach"):  # torch.Tensor
        data = tensor_to_numpy(data)
        if is_meta(data):
            return to_array(data, dtype)
    if type(data) is np.ndarray and data.dtype.kind in _NUMBERS and data.dtype.isnative and not is_tracing():
        return copy_to_jax(data, dtype)
    return jnp.array(data, dtype=dtype if dtype is None else jax.dtypes.canonicalize_dtype(dtype))


def tensor_to_numpy(tensor: Any) -> Any:
    """Return a torch tensor as a NumPy array, of the same memory where it can be; its shape where it has no data."""
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        return jax.ShapeDtypeStruct(tuple(tensor.shape), jax.dtypes.canonicalize_dtype(name))
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if not name.startswith(("bfloat16", "float8")):
        return tensor.numpy()
    torch = sys.modules["torch"]  # NumPy lacks these types: their bits pass as integers
    bits = torch.int16 if name == "bfloat16" else torch.uint8
    return tensor.contiguous().view(bits).numpy().view(jnp.dtype(name))


class _Given(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[int, Any] = {}


_given = _Given()


@contextmanager
def given(arrays: Iterable[Any]) -> Iterator[None]:
    """Let what is loaded in the block keep these arrays, which nobody else holds: the first copy of one is itself."""
    before, _given.arrays = _given.arrays, {id(array): array for array in arrays}
    try:
        yield
    finally:
        _given.arrays = before


def take(array: Any) -> bool:
    """Tell whether an array may be kept as it is, which from then on it may not be by others."""
    return bool(_given.arrays) and _given.arrays.pop(id(array), None) is not None


def copy_array(array: Any) -> Any:
    """Return a copy in memory of its own, in the same place, so that donating one leaves the other alone."""
    if take(array):
        return array
    if isinstance(array, jax.Array) and not isinstance(array, Tracer) and not array.is_deleted():
        return jax.device_put(array, may_alias=False)
    return array


def is_differentiable(array: Any) -> bool:
    """Tell whether gradients can flow through ``array`` (floating point or complex)."""
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


def unbox(value: Any) -> Any:
    """Return the array inside a box, and anything else as it is."""
    return value.__jax_array__() if isinstance(value, Writable) else value


class Writable:
    """The in-place surface shared by a Parameter and its ``.data``; a subclass reads and writes one array."""

    __slots__ = ()
    __array_priority__ = 100
    _read: Callable[[], Any]
    _write: Callable[[Any], None]
    is_meta: bool
    _replace: Callable[[Any], Any]  # takes an array of another shape

    def __jax_array__(self) -> Any:
        return self._read()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._read(), dtype=dtype, copy=copy)

    def __getitem__(self, index: Any) -> Any:
        return self._read()[_index(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        array = self._read()
        value = jnp.asarray(unbox(value)).astype(array.dtype)
        self._write(array.at[_index(index)].set(value))

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())

    def __bool__(self) -> bool:
        return bool(self._read())

    def __int__(self) -> int:
        return int(self._read())

    def __float__(self) -> float:
        return float(self._read())

    def __complex__(self) -> complex:
        return complex(self._read())

    def __index__(self) -> int:
        return operator.index(self._read())

    def __divmod__(self, other: Any) -> Any:
        return divmod(self._read(), unbox(other))

    def __round__(self, digits: int = 0) -> Any:
        return round(self._read(), digits)

    def __format__(self, spec: str) -> str:
        return format(self._read(), spec) if spec else str(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self._read().shape

    @property
    def dtype(self) -> Any:
        """The type of the elements."""
        return self._read().dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._read().ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def detach(self) -> Any:
        """Return the array cut off from gradients."""
        return jax.lax.stop_gradient(self._read())

    def clone(self, *, memory_format: Any = None) -> Any:
        """Return a copy of the array."""
        return copy_array(self._read())

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Return the array as a NumPy array."""
        return np.asarray(self._read())

    def is_floating_point(self) -> bool:
        """Tell whether the elements are floating point numbers."""
        return bool(jnp.issubdtype(self.dtype, jnp.floating))

    def is_complex(self) -> bool:
        """Tell whether the elements are complex numbers."""
        return bool(jnp.issubdtype(self.dtype, jnp.complexfloating))

    def copy_(self, source: Any) -> Self:
        """Write ``source``, broadcast to the shape and cast to the dtype of the box.

        Raises:
            RuntimeError: if the shapes can't be broadcast.
        """
        source = unbox(source)
        if hasattr(source, "detach") or not hasattr(source, "shape"):
            source = to_array(source)
        target = self._read()
        self._write(beside(_like(source, target), target))
        return self

    def fill_(self, value: Any) -> Self:
        """Write ``value`` into every element."""
        return self.copy_(np.asarray(value, self.dtype) if isinstance(value, bool | int | float | complex) else value)

    def zero_(self) -> Self:
        """Write zeros."""
        return self.fill_(0)

    def normal_(self, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Self:
        """Draw every element from a normal distribution."""
        return self.copy_(to_jax(normal_values(self.shape, mean, std, dtype=self.dtype, generator=generator)))

    def uniform_(self, from_: float = 0.0, to: float = 1.0, *, generator: Any = None) -> Self:
        """Draw every element from a uniform distribution."""
        return self.copy_(to_jax(uniform(self.shape, from_, to, dtype=self.dtype, generator=generator)))

    def bernoulli_(self, p: float = 0.5, *, generator: Any = None) -> Self:
        """Draw ones with probability ``p``, and zeros."""
        return self.copy_(bernoulli(self._read(), p, generator=generator))

    def fill_diagonal_(self, value: Any) -> Self:
        """Write ``value`` onto the diagonal."""
        array = self._read()
        diagonal = jnp.arange(min(array.shape))
        return self.copy_(array.at[(diagonal,) * array.ndim].set(value))

    def resize_(self, *sizes: Any) -> Any:
        """Take another shape; elements that are new are zero."""
        array = self._read()
        shape = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
        return self._replace(jnp.resize(jnp.pad(array.ravel(), (0, max(0, int(np.prod(shape)) - array.size))), shape))

    def resize_as_(self, tensor: Any) -> Any:
        """Take the shape of ``tensor``; elements that are new are zero."""
        return self.resize_(*tensor.shape)

    def set_(self, source: Any) -> Any:
        """Hold ``source`` itself, whatever its shape."""
        return self._replace(to_array(unbox(source)))

    def apply_(self, callable: Callable[[Any], Any]) -> Self:
        """Replace every element ``x`` by ``callable(x)``, one after the other."""
        array = np.asarray(self._read())
        return self.copy_(np.array([callable(x.item()) for x in array.ravel()], array.dtype).reshape(array.shape))

    def detach_(self) -> Self:
        """Return the box: what it holds was computed from nothing."""
        return self

    def share_memory_(self) -> Self:
        """Return the box: JAX arrays are shared as they are."""
        return self

    @property
    def size(self) -> Size:
        """The number of elements; ``size()`` is the shape and ``size(dim)`` the size of an axis."""
        return Size(tuple(self.shape))

    @property
    def mT(self) -> Any:
        """The array with its last two axes swapped."""
        return self._read().mT

    @property
    def H(self) -> Any:
        """The conjugate transposed matrix."""
        return jnp.conj(self._read().T)

    @property
    def mH(self) -> Any:
        """The conjugate of the array with its last two axes swapped."""
        return jnp.conj(self._read().mT)

    @property
    def is_cuda(self) -> bool:
        """Whether the array lies on a GPU."""
        return any(device.platform == "gpu" for device in self._read().devices())

    is_sparse = False
    is_quantized = False
    is_leaf = True
    grad_fn = None


def _nothing_on_meta(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that writes do nothing where there is no data to write."""

    @functools.wraps(method)
    def write(self: Writable, *args: Any, **kwargs: Any) -> Any:
        return self if self.is_meta else method(self, *args, **kwargs)

    return write


def _index(index: Any) -> Any:
    """Return an index as JAX takes it: without boxes, with arrays for lists."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return np.asarray(index, np.int32 if index == [] else None) if isinstance(index, list) else unbox(index)


def _like(source: Any, target: Any) -> Any:
    """Return ``source`` in the shape and dtype of ``target``."""
    shape, dtype = tuple(target.shape), target.dtype
    if tuple(source.shape) != shape:
        try:
            np.broadcast_shapes(source.shape, shape)
            source = (np if isinstance(source, np.ndarray) else jnp).broadcast_to(source, shape)
        except ValueError:
            raise RuntimeError(
                f"expected an array that broadcasts to the shape {shape}, got one of shape {tuple(source.shape)}:"
                " reshape it first"
            ) from None
    if isinstance(source, np.ndarray | np.generic):
        return to_array(source, dtype)
    return source if source.dtype == dtype else source.astype(dtype)


def _binary(name: str) -> None:
    function = getattr(operator, f"{name}_" if name in ("and", "or") else name)

    def forward(self: Writable, other: Any) -> Any:
        return function(self._read(), unbox(other))

    def reflected(self: Writable, other: Any) -> Any:
        return function(jnp.asarray(unbox(other)), self._read())

    def in_place(self: Writable, other: Any) -> Any:
        return self.copy_(function(self._read(), unbox(other)))

    setattr(Writable, f"__{name}__", forward)
    setattr(Writable, f"__r{name}__", reflected)
    setattr(Writable, f"__i{name}__", in_place)


def _compare(name: str) -> None:
    function = getattr(operator, name)
    setattr(Writable, f"__{name}__", lambda self, other: function(self._read(), unbox(other)))


def _unary(name: str) -> None:
    function = getattr(operator, name)
    setattr(Writable, f"__{name}__", lambda self: function(self._read()))


def _method(name: str) -> None:
    def method(self: Writable, *args: Any, **kwargs: Any) -> Any:
        array = self._read()
        result = _call(name, array, args, kwargs)
        return self if result is array and name in UNCHANGED else result

    _install(name, method, f"Do what ``torch.Tensor.{name}`` does.")


def _in_place(name: str) -> None:
    def method(self: Writable, *args: Any, **kwargs: Any) -> Any:
        new, old = _call(name, self._read(), args, kwargs), self.dtype
        if is_differentiable(new) and not jnp.issubdtype(old, jnp.inexact):
            raise RuntimeError(
                f"result type {new.dtype} can't be cast to the desired output type {old}: cast the parameter first"
            )
        return self.copy_(new)

    _install(f"{name}_", method, f"Do what ``torch.Tensor.{name}_`` does, in place.")


def _reshaping(name: str) -> None:
    def method(self: Writable, *args: Any, **kwargs: Any) -> Any:
        return self._replace(_call(name, self._read(), args, kwargs))

    _install(f"{name}_", method, f"Do what ``torch.Tensor.{name}_`` does, in place.")


def _draw(name: str, function: Callable[..., Any]) -> None:
    def method(self: Writable, *args: Any, **kwargs: Any) -> Any:
        return self.copy_(function(self._read(), *args, **kwargs))

    _install(f"{name}_", method, function.__doc__)


def _call(name: str, array: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return call(name, array, tuple(map(unbox, args)), {key: unbox(value) for key, value in kwargs.items()})


def _install(name: str, method: Callable[..., Any], doc: str | None) -> None:
    method.__name__ = name
    method.__qualname__ = f"Writable.{name}"
    method.__doc__ = doc
    setattr(Writable, name, method)


for _names, _make in (
    (_BINARY, _binary),
    (_COMPARE, _compare),
    (_UNARY, _unary),
    (METHODS, _method),
    (IN_PLACE, _in_place),
    (RESHAPING, _reshaping),
):
    for _name in _names:
        _make(_name)
for _name, _function in {
    "cauchy": _draws.cauchy, "exponential": _draws.exponential, "geometric": _draws.geometric,
    "log_normal": _draws.log_normal, "random": _draws.integers,
}.items():  # fmt: skip
    _draw(_name, _function)
for _name, _function in dict(vars(Writable)).items():
    if _name in _IN_PLACE or (_name.endswith("_") and not _name.endswith("__")):
        setattr(Writable, _name, _nothing_on_meta(_function))
