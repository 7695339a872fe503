"""Parametrizations: attributes of modules computed from parameters whenever they are read.

A parametrized module is of a subclass of its class in which the attribute is a property. There is one such class for
each class and set of attributes, so that modules of equal structure share what is compiled for them.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._tracing import Tracer, birth
from jaxmodules._tracked import HookDict, global_hooks
from jaxmodules._typing import Array
from jaxmodules.nn.modules.container import ModuleDict, ModuleList
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter

_M = TypeVar("_M", bound=Module)
_ONLY_STATE_DICT = (
    "Serialization of parametrized modules is only supported through state_dict(). See:\n"
    "https://pytorch.org/tutorials/beginner/saving_loading_models.html"
    "#saving-loading-a-general-checkpoint-for-inference-and-or-resuming-training"
)

_depth = 0
_cache: dict[Any, Any] = {}  # by module, name and trace
_cached = HookDict()  # not empty inside cached(), which is part of what a function is compiled for
_cached.observed = True
global_hooks.append((_cached, ()))


@contextmanager
def cached() -> Iterator[None]:
    """Compute each parametrized attribute only once inside the ``with`` block.

    Values are kept from the first read to the end of the block. It may stand in a compiled function or around its
    call; a value computed in one trace is not used in another.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> with cached():
        ...     net.weight is net.weight
        True
    """
    global _depth
    if _depth == 0:
        _cached[0] = "cached"
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            _cached.clear()
            _cache.clear()


class ParametrizationList(ModuleList):
    """Hold the parametrizations of one attribute, and what it is computed from.

    It is made by :func:`register_parametrization`, and found as ``module.parametrizations.weight``. What the attribute
    was is ``original``; or ``original0``, ``original1``, ... if the first parametrization's ``right_inverse`` returns
    several arrays.

    Args:
        modules: the parametrizations, in the order they are applied.
        original: the parameter or buffer.
        unsafe: whether they may change its shape and dtype; it is not checked then.

    Raises:
        ValueError: if there are no modules, a ``right_inverse`` returns no arrays or changes the dtype, or the
            parametrization changes shape or dtype and is not ``unsafe``.

    Examples:
        >>> from jaxmodules import nn
        >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        >>> [name for name, _ in net.parametrizations.weight.named_parameters()]
        ['original0', 'original1']
    """

    unsafe: bool
    is_tensor: bool
    ntensors: int

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        if len(modules) == 0:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        shape, dtype = tuple(original.shape), original.dtype
        new: Any = as_array(original)
        for module in reversed(self._steps()):
            if hasattr(module, "right_inverse"):
                try:
                    new = module.right_inverse(new)
                except NotImplementedError:  # taken to be the identity, as a missing one
                    pass
        if not _is_array(new) and not isinstance(new, Sequence):
            raise ValueError(
                "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...)."
                f" Got {type(new).__name__}"
            )
        self.is_tensor = _is_array(new)
        self.ntensors = 1 if self.is_tensor else len(new)
        if self.is_tensor:
            self._register_one(original, new)
        else:
            self._register_several(original, new)
        if not unsafe:
            _check_result(
                self(),
                "A parametrization must return a tensor. Got {}.",
                "Registering a parametrization may not change the {} of the tensor, unless `unsafe` flag is enabled.",
                ("unparametrized {}", shape, dtype),
                "parametrized {}",
            )

    def right_inverse(self, value: Any) -> None:
        """Set the originals such that the attribute becomes ``value``, by the inverses in reverse order.

        Raises:
            RuntimeError: if a parametrization has no ``right_inverse``.
            ValueError: if one returns another number of arrays, or other dtypes, than at first.
        """
        value = as_array(value) if _is_array(value) else value
        for module in reversed(self._steps()):
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
            value = module.right_inverse(value)
        if self.is_tensor:
            if not _is_array(value):
                raise ValueError(f"`right_inverse` should return a tensor. Got {type(value).__name__}")
            if value.dtype != self.original.dtype:
                raise ValueError(
                    f"The tensor returned by `right_inverse` has dtype {value.dtype}"
                    f" while `original` has dtype {self.original.dtype}"
                )
            _put(self, "original", value)
            return
        if not isinstance(value, Sequence):
            raise ValueError(f"'right_inverse' must return a sequence of tensors. Got {type(value).__name__}.")
        if len(value) != self.ntensors:
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors of length {self.ntensors}."
                f" Got a sequence of length {len(value)}."
            )
        for i, array in enumerate(value):
            if not _is_array(array):
                raise ValueError(
                    "'right_inverse' must return a sequence of tensors or reference-type opaques."
                    f" Got element {i} of type {type(array).__name__}."
                )
            dtype = getattr(self, f"original{i}").dtype
            if array.dtype != dtype:
                raise ValueError(
                    f"Tensor {i} returned by `right_inverse` has dtype {array.dtype} while `original{i}` has dtype"
                    f" {dtype}"
                )
            _put(self, f"original{i}", array)

    def forward(self) -> Any:
        """Compute the attribute."""
        first, *others = self._steps()
        x = first(*map(as_array, self._originals()))
        for module in others:
            x = module(x)
        return x

    def _steps(self) -> list[Module]:
        # `original` may be parametrized itself, and `parametrizations` is a child then
        return [module for name, module in self._modules.items() if module is not None and name.isdigit()]

    def _originals(self) -> list[Any]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def _register_one(self, original: Any, new: Any) -> None:
        kept = ("dtype", original.dtype, new.dtype), ("device", _devices(original), _devices(new))
        for what, before, after in kept:
            if before != after:
                raise ValueError(
                    f"When `right_inverse` outputs one tensor, it may not change the {what}.\n"
                    f"original.{what}: {before}\n"
                    f"right_inverse(original).{what}: {after}"
                )
        if isinstance(original, Parameter):  # it stays the same box: optimizers know it
            original.value = _detached(new)
            self.register_parameter("original", original)
        else:
            self.register_buffer("original", _detached(new))

    def _register_several(self, original: Any, new: Sequence[Any]) -> None:
        for i, array in enumerate(new):
            if not _is_array(array):
                raise ValueError(
                    "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...)."
                    f" Got element {i} of the sequence with type {type(array).__name__}."
                )
            if isinstance(original, Parameter):
                box = Parameter(_detached(array), original.requires_grad)
                self.register_parameter(f"original{i}", box)
            else:
                self.register_buffer(f"original{i}", _detached(array))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | Parameter)


def _detached(value: Any) -> Array:
    return lax.stop_gradient(as_array(value))


def _devices(value: Any) -> Any:
    array = as_array(value)
    return None if isinstance(array, Tracer) else sorted(map(str, array.devices()))


def _put(module: Module, name: str, value: Any) -> None:
    """Write a value into a parameter or buffer, cut off from gradients."""
    if name in module._parameters:
        getattr(module, name).value = _detached(value)
    else:
        setattr(module, name, _detached(value))


def _check_result(result: Any, not_array: str, changed: str, expected: tuple[str, Any, Any], got: str) -> None:
    """Raise unless ``result`` is an array of the expected shape and dtype."""
    if not _is_array(result):
        raise ValueError(not_array.format(type(result).__name__))
    name, shape, dtype = expected
    for what, before, after in (
        ("dtype", dtype, result.dtype),
        ("shape", f"torch.Size({list(shape)})", f"torch.Size({list(result.shape)})"),
    ):
        if before != after:
            raise ValueError(f"{changed.format(what)}\n{name.format(what)}: {before}\n{got.format(what)}: {after}")


def _get_state(module: Module) -> NoReturn:
    raise RuntimeError(_ONLY_STATE_DICT)


def _deep_copy(module: Module, memo: dict[int, Any]) -> Module:
    replica = object.__new__(type(module))
    memo[id(module)] = replica
    Module.__setstate__(replica, copy.deepcopy(Module.__getstate__(module), memo))
    return replica


@functools.cache
def _parametrized_class(base: type[Module], names: frozenset[str]) -> type[Module]:
    """Return the subclass of ``base`` in which ``names`` are properties."""
    members: dict[str, Any] = {"__getstate__": _get_state}
    if not hasattr(base, "__deepcopy__"):
        members["__deepcopy__"] = _deep_copy
    members.update({name: _property(name) for name in names})
    metaclass: Any = type(base)
    return metaclass(f"Parametrized{base.__name__}", (base,), members)


def _property(name: str) -> property:
    def get(self: Any) -> Any:
        parametrization = self.parametrizations[name]
        if not _depth:
            return parametrization()
        key = id(self), name, birth()
        if key not in _cache:
            _cache[key] = parametrization()
        return _cache[key]

    def set(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, set)


def become_parametrized(module: Module, base: type[Module], names: frozenset[str]) -> None:
    """Give a module the subclass of ``base`` in which ``names`` are computed, or ``base`` where there are none."""
    module.__class__ = _parametrized_class(base, names) if names else base


def register_parametrization(module: _M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> _M:
    """Compute a parameter or buffer of a module by another module from now on, whenever it is read.

    The attribute becomes a property, the module's class ``Parametrized...``. What the attribute was moves to
    ``module.parametrizations.<name>.original``: a parameter stays the same Parameter, which an optimizer goes on
    updating. Several parametrizations of one attribute are applied one after the other.

    Args:
        module: the module.
        tensor_name: the parameter or buffer.
        parametrization: called with the original and returns the value. Its ``right_inverse``, if there is one, gives
            the first original, and takes what is assigned to the attribute; the first parametrization's may return
            several arrays, which its ``forward`` then takes.
        unsafe: whether the parametrization may change shape and dtype. Nothing is checked then.

    Returns:
        The module.

    Raises:
        ValueError: if there is no such parameter or buffer, or what the parametrization returns does not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> class Symmetric(nn.Module):
        ...     def forward(self, X):
        ...         return jnp.triu(X) + jnp.triu(X, 1).T
        ...     def right_inverse(self, A):
        ...         return jnp.triu(A)
        >>> net = register_parametrization(nn.Linear(2, 2), "weight", Symmetric())
        >>> net.weight = jnp.array([[1.0, 2.0], [2.0, 3.0]])
        >>> net.parametrizations.weight.original.tolist(), net.weight.tolist()
        ([[1.0, 2.0], [0.0, 3.0]], [[1.0, 2.0], [2.0, 3.0]])
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            _check_next(module, tensor_name, parametrization)
        parametrizations: Any = module.parametrizations
        parametrizations[tensor_name].append(parametrization)
        parametrizations[tensor_name].unsafe |= unsafe
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        listed = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe=unsafe)
        delattr(module, tensor_name)
        if hasattr(module, tensor_name):
            raise AssertionError(f"Module already has an attribute named '{tensor_name}'")
        base = type_before_parametrizations(module)
        if not is_parametrized(module):
            module.parametrizations = ModuleDict()
        parametrizations = module.parametrizations
        become_parametrized(module, base, frozenset([*parametrizations, tensor_name]))
        parametrizations[tensor_name] = listed
    else:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name"
            f" '{tensor_name}'"
        )
    return module


def _check_next(module: Module, name: str, parametrization: Module) -> None:
    """Raise unless a further parametrization, and its inverse, keep shape and dtype."""
    now = getattr(module, name)
    expected = f"module.{name}.{{}}", tuple(now.shape), now.dtype
    result = parametrization(now)
    _check_result(
        result,
        "A parametrization must return a tensor. Got {}.",
        "Registering a parametrization may not change the {} of the tensor, unless the `unsafe` flag is enabled.",
        expected,
        f"parametrization(module.{name}).{{}}",
    )
    if not hasattr(parametrization, "right_inverse"):
        return
    try:
        inverse = parametrization.right_inverse(result)
    except NotImplementedError:
        return
    _check_result(
        inverse,
        "parametrization.right_inverse must return a tensor. Got: {}",
        f"The tensor returned by parametrization.right_inverse must have the same {{}} as module.{name},"
        " unless the `unsafe` flag is enabled.",
        expected,
        "returned {}",
    )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Tell whether an attribute of a module is parametrized, or without a name any.

    Examples:
        >>> from jaxmodules import nn
        >>> is_parametrized(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "bias")
        False
    """
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: _M, tensor_name: str, leave_parametrized: bool = True) -> _M:
    """Make a parametrized attribute a parameter or buffer again.

    Args:
        module: the module.
        tensor_name: the attribute.
        leave_parametrized: whether it keeps its present value, or becomes the original again.

    Returns:
        The module, of its former class if this was the last parametrization.

    Raises:
        ValueError: if the attribute is not parametrized, or is to become the original where there are several.

    Examples:
        >>> from jaxmodules import nn
        >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        >>> remove_parametrizations(net, "weight")
        Linear(in_features=3, out_features=2, bias=True)
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    parametrizations: Any = module.parametrizations
    listed = parametrizations[tensor_name]
    if not listed.is_tensor and not leave_parametrized:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a"
            " sequence of tensors."
        )
    if leave_parametrized:
        value = as_array(getattr(module, tensor_name))
        if listed.is_tensor:
            _put(listed, "original", value)
    if listed.is_tensor:
        original = listed.original
    else:
        needs_grad = any(parameter.requires_grad for parameter in listed.parameters())
        original = Parameter(_detached(value)) if needs_grad else value
    base = type_before_parametrizations(module)
    del parametrizations[tensor_name]
    become_parametrized(module, base, frozenset(parametrizations))
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    if not is_parametrized(module):
        del module.parametrizations
    return module


def type_before_parametrizations(module: Module) -> type:
    """Return the class of a module, or if it is parametrized the one that it had before.

    Examples:
        >>> from jaxmodules import nn
        >>> type_before_parametrizations(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))).__name__
        'Linear'
    """
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(from_module: Module, to_module: _M, tensor_name: str | None = None) -> _M:
    """Parametrize a module as another one is, with the same parametrizations and the same originals.

    Args:
        from_module: the module whose parametrizations are taken; without any, nothing happens.
        to_module: the module that gets them, and parameters that it does not have.
        tensor_name: the one attribute to transfer; by default all that are parametrized.

    Returns:
        ``to_module``.

    Examples:
        >>> from jaxmodules import nn
        >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> twin = transfer_parametrizations_and_params(net, nn.Linear(2, 2))
        >>> bool((twin.weight == net.weight).all())
        True
    """
    if not is_parametrized(from_module):
        return to_module
    sources: Any = from_module.parametrizations
    for name in list(sources) if tensor_name is None else [tensor_name]:
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in sources[name]:
            register_parametrization(to_module, name, parametrization)
        target: Any = to_module.parametrizations
        for original in [*sources[name]._parameters, *sources[name]._buffers]:
            setattr(target[name], original, getattr(sources[name], original))
    return to_module
