"""Parameter and Buffer: the boxes that a module's arrays live in.

A :class:`Parameter` is one object for as long as the model lives; the array inside changes. It behaves like
the array in operators, indexing and ``jnp`` functions: it converts itself (``__jax_array__``), is a pytree of
one leaf, and hands on every attribute it does not have. What an array can't do, it can: be written in place,
through itself or through ``.data``, the way PyTorch's initialisation code writes tensors.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import Cell, LeakError, Tracer, epoch, is_tracing, leak_message, leaks, local
from jaxmodules.random import bernoulli, copy_to_jax, normal_values, to_jax, uniform

_BINARY = ("add sub mul truediv floordiv mod pow matmul and or xor lshift rshift").split()
_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")
_NUMBERS = "biufc"


def to_array(data: Any, dtype: Any = None) -> Any:
    """Return ``data`` (an array of JAX, NumPy or torch, a box, a scalar, a nested list) as a JAX array.

    What is a JAX array already is returned as it is; other memory is copied, never shared.
    """
    if isinstance(data, jax.Array):
        return data if dtype is None or data.dtype == dtype else data.astype(dtype)
    if hasattr(data, "__jax_array__"):
        return to_array(data.__jax_array__(), dtype)
    if hasattr(data, "detach"):  # torch.Tensor
        data = data.detach().cpu().resolve_conj()
        if str(data.dtype) == "torch.bfloat16":
            return jnp.array(data.float().numpy(), dtype=dtype or jnp.bfloat16)
        data = data.numpy()
    if type(data) is np.ndarray and data.dtype.kind in _NUMBERS and data.dtype.isnative and not is_tracing():
        return copy_to_jax(data, dtype)
    return jnp.array(data, dtype=dtype if dtype is None else jax.dtypes.canonicalize_dtype(dtype))


def copy_array(array: Any) -> Any:
    """Return a copy in memory of its own, so that donating one leaves the other alone."""
    if isinstance(array, jax.Array) and not isinstance(array, Tracer) and not array.is_deleted():
        return jax.device_put(array, array.sharding, may_alias=False)
    return array


def is_differentiable(array: Any) -> bool:
    """Tell whether gradients can flow through ``array`` (floating point or complex)."""
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


def unbox(value: Any) -> Any:
    """Return the array inside a box, and anything else as it is."""
    return value.__jax_array__() if isinstance(value, _Writable) else value


class _Writable:
    """The in-place surface shared by a Parameter and its ``.data``; a subclass reads and writes one array."""

    __slots__ = ()
    __array_priority__ = 100
    _read: Callable[[], Any]
    _write: Callable[[Any], None]

    def __jax_array__(self) -> Any:
        return self._read()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._read(), dtype=dtype, copy=copy)

    def __getitem__(self, index: Any) -> Any:
        return self._read()[unbox(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        array = self._read()
        value = jnp.asarray(unbox(value)).astype(array.dtype)
        self._write(array.at[unbox(index)].set(value))

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

    def t(self) -> Any:
        """Return the transposed matrix."""
        return self._read().T

    def abs(self) -> Any:
        """Return the absolute values."""
        return jnp.abs(self._read())

    def view(self, *shape: Any) -> Any:
        """Return the array in another shape."""
        return self._read().reshape(*shape)

    def detach(self) -> Any:
        """Return the array cut off from gradients."""
        return jax.lax.stop_gradient(self._read())

    def clone(self) -> Any:
        """Return a copy of the array."""
        return copy_array(self._read())

    def numpy(self) -> np.ndarray:
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
        self._write(_like(source, self._read()))
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

    def add_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Add ``alpha * other`` in place."""
        other = unbox(other)
        return self.copy_(self._read() + (other if alpha == 1 else alpha * other))

    def sub_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Subtract ``alpha * other`` in place."""
        other = unbox(other)
        return self.copy_(self._read() - (other if alpha == 1 else alpha * other))

    def clamp_(self, min: Any = None, max: Any = None) -> Self:
        """Bound every element in place."""
        return self.copy_(jnp.clip(self._read(), unbox(min), unbox(max)))

    def clip_(self, min: Any = None, max: Any = None) -> Self:
        """Bound every element in place."""
        return self.clamp_(min, max)

    def clamp_min_(self, min: Any) -> Self:
        """Bound every element from below in place."""
        return self.clamp_(min=min)

    def clamp_max_(self, max: Any) -> Self:
        """Bound every element from above in place."""
        return self.clamp_(max=max)

    def bernoulli_(self, p: float = 0.5, *, generator: Any = None) -> Self:
        """Draw ones with probability ``p``, and zeros."""
        return self.copy_(bernoulli(self._read(), p, generator=generator))

    def fill_diagonal_(self, value: Any) -> Self:
        """Write ``value`` onto the diagonal."""
        array = self._read()
        diagonal = jnp.arange(min(array.shape))
        return self.copy_(array.at[(diagonal,) * array.ndim].set(value))

    def lerp_(self, end: Any, weight: Any) -> Self:
        """Move in place towards ``end`` by the fraction ``weight``."""
        here = self._read()
        return self.copy_(here + unbox(weight) * (unbox(end) - here))

    def addcmul_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Self:
        """Add ``value * tensor1 * tensor2`` in place."""
        return self.copy_(self._read() + value * unbox(tensor1) * unbox(tensor2))

    def addcdiv_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Self:
        """Add ``value * tensor1 / tensor2`` in place."""
        return self.copy_(self._read() + value * unbox(tensor1) / unbox(tensor2))

    def masked_fill_(self, mask: Any, value: Any) -> Self:
        """Write ``value`` where ``mask`` is true."""
        return self.copy_(jnp.where(unbox(mask), unbox(value), self._read()))


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

    def forward(self: _Writable, other: Any) -> Any:
        return function(self._read(), unbox(other))

    def reflected(self: _Writable, other: Any) -> Any:
        return function(jnp.asarray(unbox(other)), self._read())

    def in_place(self: _Writable, other: Any) -> Any:
        return self.copy_(function(self._read(), unbox(other)))

    setattr(_Writable, f"__{name}__", forward)
    setattr(_Writable, f"__r{name}__", reflected)
    setattr(_Writable, f"__i{name}__", in_place)


def _compare(name: str) -> None:
    function = getattr(operator, name)
    setattr(_Writable, f"__{name}__", lambda self, other: function(self._read(), unbox(other)))


def _unary(name: str) -> None:
    function = getattr(operator, name)
    setattr(_Writable, f"__{name}__", lambda self: function(self._read()))


def _elementwise_in_place(name: str, function: Callable[..., Any]) -> None:
    def method(self: _Writable, *args: Any) -> Any:
        return self.copy_(function(self._read(), *map(unbox, args)))

    method.__name__ = f"{name}_"
    method.__doc__ = f"Apply ``{name}`` in place."
    setattr(_Writable, f"{name}_", method)


for _name in _BINARY:
    _binary(_name)
for _name in _COMPARE:
    _compare(_name)
for _name in _UNARY:
    _unary(_name)
for _name, _function in {
    "mul": operator.mul, "div": operator.truediv, "pow": operator.pow, "neg": operator.neg, "abs": jnp.abs,
    "sqrt": jnp.sqrt, "rsqrt": jax.lax.rsqrt, "exp": jnp.exp, "log": jnp.log, "sign": jnp.sign, "round": jnp.round,
    "floor": jnp.floor, "ceil": jnp.ceil, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu,
    "sin": jnp.sin, "cos": jnp.cos, "square": jnp.square, "reciprocal": jnp.reciprocal,
    "erfinv": jax.scipy.special.erfinv, "log1p": jnp.log1p, "expm1": jnp.expm1, "trunc": jnp.trunc,
}.items():  # fmt: skip
    _elementwise_in_place(_name, _function)


_OWN_ATTRIBUTES = frozenset("_store _index _born _value value _grad grad _requires_grad requires_grad data".split())


class Parameter(_Writable, Cell):
    r"""Box one trainable array of a module.

    Assigned to an attribute of a :class:`~jaxmodules.nn.Module` it is listed by ``parameters()``. The counterpart
    of :class:`torch.nn.Parameter`; ``.value`` is the array, and gradients flow through it.
    Passed by itself to one of JAX's own transforms it arrives there as its array; in a module it stays a Parameter.

    Args:
        data: the array; NumPy arrays, torch tensors and nested lists are copied into a JAX array.
        requires_grad: whether ``jm.grad`` and the optimizers treat it as trainable.

    Raises:
        RuntimeError: if ``requires_grad`` is asked for an array of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> weight = Parameter(jnp.ones((2, 3)))
        >>> weight.data[0, 0] = 42
        >>> (weight @ jnp.ones(3)).tolist()
        [44.0, 3.0]
    """

    _labels: dict[str, int]  # the names that gradients came under, newest last

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        array = jnp.zeros(0) if data is None else to_array(data)
        if requires_grad and not is_differentiable(array):
            raise RuntimeError(
                f"only arrays of floating point or complex dtype can require gradients, got {array.dtype}:"
                " pass requires_grad=False"
            )
        Cell.__init__(self, array)
        self._grad: Any = None
        self._requires_grad = bool(requires_grad)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _register(cls)

    def _check_grad(self, new: Any) -> None:
        if leaks(new, ("grad", id(self)), self._born):
            raise LeakError(leak_message(f".grad of the {self._what()}"))

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name not in _OWN_ATTRIBUTES:
            epoch.count += 1

    def _as_array(self, new: Any) -> Any:
        return to_array(new)

    def _read(self) -> Any:
        return self.value

    def _write(self, array: Any) -> None:
        self.value = array

    @property
    def data(self) -> Any:
        """The array detached from gradients; writing into it (``p.data[0] = 1``) writes the parameter."""
        return _Data(self)

    @data.setter
    def data(self, new: Any) -> None:
        if not (isinstance(new, _Data) and new._box is self):  # p.data *= 2 assigns the view back
            self.value = new

    @property
    def grad(self) -> Any:
        """The gradient that ``jm.backward`` has accumulated, or ``None``."""
        if local.frames:
            self._check_read()
            _touch_grad(self)
        return self._grad

    @grad.setter
    def grad(self, new: Any) -> None:
        if new is not None:
            new = to_array(new)
            if tuple(new.shape) != tuple(self._value.shape):
                raise RuntimeError(
                    f"assigned grad has data of a different size: expected shape {tuple(self._value.shape)},"
                    f" got {tuple(new.shape)}"
                )
        if local.frames:
            _touch_grad(self)
        self._check_grad(new)
        self._grad = new

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are computed for this parameter."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if flag and not is_differentiable(self._value):
            raise RuntimeError(
                f"only arrays of floating point or complex dtype can require gradients, got {self._value.dtype}"
            )
        if bool(flag) != self._requires_grad:
            self._requires_grad = bool(flag)
            epoch.count += 1

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set ``requires_grad`` and return the parameter."""
        self.requires_grad = requires_grad
        return self

    is_leaf = True
    grad_fn = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self._value.shape

    @property
    def dtype(self) -> Any:
        """The type of the elements."""
        return self._value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._value.ndim

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} containing:\n{self._value!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameter":
        if id(self) not in memo:
            memo[id(self)] = self._with(copy_array(self._value), copy_array(self._grad))
        return memo[id(self)]

    def _with(self, value: Any, grad: Any = None) -> "Parameter":
        """Return a box like this one, of its own, around ``value``."""
        twin = object.__new__(type(self))
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_labels"})
        Cell.__init__(twin, value)
        twin._grad = grad
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        extras = {k: v for k, v in self.__dict__.items() if k not in ("_grad", "_requires_grad", "_labels")}
        value = np.asarray(self._value) if isinstance(self._value, jax.Array) else self._value
        grad = None if self._grad is None else np.asarray(self._grad)
        return _rebuild, (type(self), value, grad, self._requires_grad, extras)


def _rebuild(cls: type[Parameter], value: Any, grad: Any, requires_grad: bool, extras: dict[str, Any]) -> Parameter:
    parameter = object.__new__(cls)
    Cell.__init__(parameter, jnp.array(value) if isinstance(value, np.ndarray) else value)
    parameter._grad = None if grad is None else jnp.array(grad)
    parameter._requires_grad = requires_grad
    parameter.__dict__.update(extras)
    return parameter


def _touch_grad(parameter: Parameter) -> None:
    """Tell the frames that bind the parameter that its ``.grad`` takes part in the computation."""
    for frame in local.frames:
        if id(parameter) in frame.owned:
            frame.touch_grads()


class _Data(_Writable):
    """The detached, writable view that ``Parameter.data`` returns."""

    __slots__ = ("_box",)

    def __init__(self, box: Parameter) -> None:
        self._box = box

    def _read(self) -> Any:
        value = self._box.value
        return jax.lax.stop_gradient(value) if isinstance(value, Tracer) else value

    def _write(self, array: Any) -> None:
        self._box.value = array

    @property
    def data(self) -> Any:
        """This view."""
        return self

    requires_grad = False
    grad = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._read(), name)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> Any:
        return jnp.array, (np.asarray(self._read()),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy_array(self._read())


class Buffer:
    """Mark an array as a buffer when it is assigned to an attribute of a module.

    The counterpart of :class:`torch.nn.Buffer`. The module keeps the bare array: reading the attribute gives a
    ``jax.Array``.

    Args:
        data: the array; NumPy arrays and torch tensors are copied into a JAX array.
        persistent: whether it is part of the module's ``state_dict``.

    Examples:
        >>> import jax.numpy as jnp
        >>> Buffer(jnp.zeros(3), persistent=False)
        Buffer(Array([0., 0., 0.], dtype=float32), persistent=False)
    """

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        self.data = jnp.zeros(0) if data is None else to_array(data)
        self.persistent = persistent

    def __jax_array__(self) -> Any:
        return self.data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.data, name)

    def __repr__(self) -> str:
        return f"Buffer({self.data!r}, persistent={self.persistent})"


def _unflatten(cls: type[Parameter]) -> Callable[[Any, Any], Any]:
    def unflatten(requires_grad: bool, children: tuple[Any]) -> Any:
        if isinstance(children[0], Tracer):  # functions that JAX has jitted hand their argument to raw lax
            return children[0]
        parameter = object.__new__(cls)
        Cell.__init__(parameter, children[0])
        parameter._grad = None
        parameter._requires_grad = requires_grad
        return parameter

    return unflatten


def _register(cls: type[Parameter]) -> None:
    jax.tree_util.register_pytree_node(cls, lambda p: ((p.value,), p._requires_grad), _unflatten(cls))


_register(Parameter)
jax.tree_util.register_pytree_node(_Data, lambda d: ((d._read(),), None), lambda _, children: children[0])
