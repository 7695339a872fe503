"""Parameter and Buffer: the boxes that a module's arrays live in.

A :class:`Parameter` is one object for as long as the model lives; the array inside changes. It behaves like
the array in operators, indexing and ``jnp`` functions: it converts itself (``__jax_array__``), is a pytree of
one leaf, and hands on every attribute it does not have. What an array can't do, it can: be written in place,
through itself or through ``.data``, the way PyTorch's initialisation code writes tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import META, NO_DATA, NO_USE, is_meta, move, parse_device, placed
from jaxmodules._device import device as Device
from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._tracing import (
    Cell,
    LeakError,
    Tracer,
    epoch,
    is_foreign,
    leak_message,
    leaks,
    local,
    lock,
    nothing,
    swapped,
)
from jaxmodules._tracked import Awaited, HookDict
from jaxmodules.nn._writable import Writable, copy_array, is_differentiable, to_array
from jaxmodules.random import blank, to_jax

GRADIENT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_NO_HOOKS = HookDict()
_OWN_ATTRIBUTES = frozenset("_store _index _born _value value _grad grad _requires_grad requires_grad data".split())


class Parameter(Writable, Cell):
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

    _labels: dict[str, Any]  # the names that gradients came under, newest last
    _backward_hooks: HookDict | None = None
    _post_accumulate_grad_hooks: HookDict | None = None

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        array = placed(jnp.zeros(0, jnp.float32) if data is None else to_array(data))
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
        value = self.value
        if is_meta(value):
            raise NotImplementedError(f"{NO_DATA} A {type(self).__name__} of shape {value.shape} {NO_USE}")
        return value

    def _write(self, array: Any) -> None:
        self.value = array

    def _replace(self, array: Any) -> Self:
        self.value = array
        return self

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
        if not swapped:
            return self._grad
        self._check_read()
        if local.frames:
            _touch_grad(self)
        with lock if is_foreign(id(self)) else nothing:
            return self._grad

    @grad.setter
    def grad(self, new: Any) -> None:
        new = None if new is None else self._as_gradient(new)
        if local.frames:
            _touch_grad(self)
        self._check_grad(new)
        with lock if swapped and is_foreign(id(self)) else nothing:
            self._grad = new

    def _as_gradient(self, new: Any) -> Any:
        if not (isinstance(new, jax.Array | np.ndarray) or hasattr(new, "__jax_array__") or hasattr(new, "detach")):
            raise TypeError(f"assigned grad expected to be an array or None but got grad of type {type(new).__name__}")
        new = to_array(new)
        if tuple(new.shape) != tuple(self._value.shape):
            raise RuntimeError(
                f"assigned grad has data of a different size: expected shape {tuple(self._value.shape)},"
                f" got {tuple(new.shape)}"
            )
        if new.dtype != self._value.dtype:
            raise RuntimeError(
                f"assigned grad has data of a different type: attempting to assign a gradient with dtype {new.dtype}"
                f" to a parameter of dtype {self._value.dtype}"
            )
        return new

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

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Register ``hook(grad)`` to run when the gradient of this parameter is computed.

        Each of our transforms that differentiates calls it with the total gradient, once; hooks run in the order of
        their registration, and an array that one returns replaces the gradient.

        Raises:
            RuntimeError: if the parameter requires no gradient.

        Examples:
            >>> import jax.numpy as jnp
            >>> import jaxmodules as jm
            >>> weight = Parameter(jnp.ones(2))
            >>> handle = weight.register_hook(lambda grad: grad * 10)
            >>> jm.grad(lambda w: w.sum())(weight).tolist()
            [10.0, 10.0]
        """
        return self._add_hook(GRADIENT_HOOKS[0], hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> RemovableHandle:
        """Register ``hook(param)`` to run in ``jm.backward`` when ``.grad`` has been added to.

        Raises:
            RuntimeError: if the parameter requires no gradient.
        """
        return self._add_hook(GRADIENT_HOOKS[1], hook)

    def _add_hook(self, kind: str, hook: Callable[..., Any]) -> RemovableHandle:
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if getattr(self, kind) is None:
            setattr(self, kind, HookDict())
            getattr(self, kind).observed = True
        return add_hook(getattr(self, kind), hook)

    def _observed_hooks(self) -> list[HookDict]:
        """Return the hooks of both kinds, which from now on tell of changes; nothing if there never were any."""
        own = self.__dict__
        if GRADIENT_HOOKS[0] not in own and GRADIENT_HOOKS[1] not in own:
            return []
        kinds = [_NO_HOOKS if hooks is None else hooks for hooks in (getattr(self, name) for name in GRADIENT_HOOKS)]
        for hooks in kinds:
            hooks.observed = True
        return kinds

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

    @property
    def is_meta(self) -> bool:
        """Whether there is only a shape and a dtype, and no data."""
        return is_meta(self._value)

    @property
    def device(self) -> Any:
        """Where the array is: a JAX device, a Sharding, or ``jm.device("meta")``."""
        return Device(META) if self.is_meta else self.value.device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} containing:\n{_shown(self._value)}"

    def __copy__(self) -> "Parameter":
        return self._with(self._value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameter":
        if id(self) not in memo:
            twin = memo[id(self)] = self._with(copy_array(self._value), copy_array(self._grad))
            for name in GRADIENT_HOOKS:
                twin.__dict__.pop(name, None)
        return memo[id(self)]

    def _with(self, value: Any, grad: Any = None) -> "Parameter":
        """Return a box like this one, of its own, around ``value``."""
        twin = object.__new__(type(self))
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_labels"})
        Cell.__init__(twin, value)
        twin._grad = grad
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        own = ("_grad", "_requires_grad", "_labels", *GRADIENT_HOOKS)
        extras = {k: v for k, v in self.__dict__.items() if k not in own}
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


def _shown(value: Any) -> str:
    """Return how an array prints, or the shape of one on the meta device."""
    if not is_meta(value):
        return repr(value)
    return f"Array(..., device='meta', size={value.shape}, dtype={value.dtype.name})"


def _touch_grad(parameter: Parameter) -> None:
    """Tell the frames that bind the parameter that its ``.grad`` takes part in the computation."""
    for frame in local.frames:
        if id(parameter) in frame.owned:
            frame.touch_grads()


class _Data(Writable):
    """The detached, writable view that ``Parameter.data`` returns."""

    __slots__ = ("_box",)

    def __init__(self, box: Parameter) -> None:
        self._box = box

    def _read(self) -> Any:
        value = self._box._read()
        return jax.lax.stop_gradient(value) if isinstance(value, Tracer) else value

    def _write(self, array: Any) -> None:
        self._box.value = array

    def _replace(self, array: Any) -> Any:
        return array  # PyTorch's ``.data`` shares the parameter's elements, not its shape

    @property
    def data(self) -> Any:
        """This view."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self._box.shape

    @property
    def dtype(self) -> Any:
        """The type of the elements."""
        return self._box.dtype

    @property
    def is_meta(self) -> bool:
        """Whether there is only a shape and a dtype, and no data."""
        return self._box.is_meta

    @property
    def device(self) -> Any:
        """Where the array is."""
        return self._box.device

    requires_grad = False
    grad = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._read(), name)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return _shown(self._box.value)

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
        self.data = placed(jnp.zeros(0, jnp.float32) if data is None else to_array(data))
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


class UninitializedParameter(Parameter):
    """A parameter whose shape is not known yet; :meth:`materialize` makes it an ordinary one, the same object.

    The counterpart of :class:`torch.nn.UninitializedParameter`, used by the lazy modules. Until then it has a dtype
    and a device, and reading its value or its shape raises.

    Args:
        requires_grad: whether it is trainable.
        device: where the array will live.
        dtype: type of the array, ``float32`` by default.

    Examples:
        >>> weight = UninitializedParameter()
        >>> weight.materialize((2, 3))
        >>> type(weight).__name__, weight.shape
        ('Parameter', (2, 3))
    """

    cls_to_become: Any = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(_placeholder(device, dtype), requires_grad)

    def materialize(self, shape: int | Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary parameter: zeros of ``shape``, of its own dtype and device unless others are given."""
        self._value = _materialized(self._value, shape, device, dtype)
        self.__class__ = self.cls_to_become
        epoch.count += 1

    @property
    def value(self) -> Any:
        """Nothing yet: reading raises ``ValueError``."""
        raise ValueError(_UNINITIALIZED_VALUE.format(type(self).__name__))

    @value.setter
    def value(self, new: Any) -> None:
        raise ValueError(_UNINITIALIZED_VALUE.format(type(self).__name__))

    @property
    def shape(self) -> tuple[int, ...]:
        """Nothing yet: reading raises ``RuntimeError``."""
        raise RuntimeError(_UNINITIALIZED_SHAPE)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedBuffer(Buffer, Awaited):
    """A buffer whose shape is not known yet; :meth:`materialize` puts an array in its place.

    The counterpart of :class:`torch.nn.UninitializedBuffer`, used by the lazy modules.

    Args:
        requires_grad: accepted for PyTorch's sake; buffers have no gradients.
        device: where the array will live.
        dtype: type of the array, ``float32`` by default.
        persistent: whether it is part of the module's ``state_dict``.
    """

    cls_to_become: Any = jax.Array

    def __init__(
        self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> None:
        super().__init__(_placeholder(device, dtype), persistent=persistent)
        self._places = []

    def materialize(self, shape: int | Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Put an array of zeros of ``shape`` in the place of this buffer, in every module that has it."""
        array = _materialized(self.data, shape, device, dtype)
        for ref, name in self._places:
            buffers = ref()
            if buffers is not None and buffers.get(name) is self:
                buffers[name] = array
        epoch.count += 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Nothing yet: reading raises ``RuntimeError``."""
        raise RuntimeError(_UNINITIALIZED_SHAPE)

    def __jax_array__(self) -> Any:
        raise ValueError(_UNINITIALIZED_VALUE.format(type(self).__name__))

    def __getattr__(self, name: str) -> Any:
        if name == "dtype":
            return self.data.dtype
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r} before it is materialized")

    def __reduce__(self) -> Any:
        return type(self), (False, None, self.data.dtype, self.persistent)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


_UNINITIALIZED_SHAPE = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in `load_state_dict`"
    " when trying to load an uninitialized parameter into an initialized one. Call `forward` to initialize the"
    " parameters before accessing their attributes."
)
_UNINITIALIZED_VALUE = (
    "Attempted to use an uninitialized parameter. This error happens when you are using a `LazyModule` or explicitly"
    " manipulating `nn.parameter.{}` objects. When using LazyModules call `forward` with a dummy batch, or"
    " `jm.eval_shape(net, batch)`, to initialize the parameters first"
)


def is_lazy(param: Any) -> bool:
    """Tell whether ``param`` is an ``UninitializedParameter`` or ``UninitializedBuffer``."""
    return isinstance(param, UninitializedParameter | UninitializedBuffer)


def _placeholder(device: Any, dtype: Any) -> Any:
    return move(blank((0,), dtype), parse_device(device))


def _materialized(placeholder: Any, shape: int | Sequence[int], device: Any, dtype: Any) -> Any:
    dtype = placeholder.dtype if dtype is None else dtype
    if is_meta(placeholder) and device in (None, META):
        return jax.ShapeDtypeStruct((shape,) if isinstance(shape, int) else tuple(shape), dtype)
    keeps_place = device is None and placeholder.committed
    return move(to_jax(np.zeros(shape, dtype)), placeholder.sharding if keeps_place else parse_device(device))
