"""The walk from a tree of torch modules to ours.

Both libraries keep the same attributes under the same names, so a module of ours is not constructed: it is put
together, the way unpickling does it, from the attributes of the torch module. Everything is converted once, and found
again wherever else it is: that is what keeps parameters tied and modules shared.
"""

import dataclasses
import enum
import functools
import inspect
import types
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodules._device import device, placed
from jaxmodules._handles import add_hook
from jaxmodules.interop import _counterparts
from jaxmodules.interop._live import entries, is_tensor, live_torch
from jaxmodules.nn._writable import to_array
from jaxmodules.nn.modules._attributes import DICTS
from jaxmodules.nn.modules._hooks import Derivation
from jaxmodules.nn.modules._state_dict import loading_error, size_mismatch
from jaxmodules.nn.modules.lazy import LazyModuleMixin
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter
from jaxmodules.nn.utils.parametrizations import WeightNormCompatHook
from jaxmodules.nn.utils.parametrize import become_parametrized
from jaxmodules.nn.utils.spectral_norm import SpectralNorm

_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...))
_FLAGS = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
}
_HOOKS = [name for name in DICTS if name.endswith("_hooks")]
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_HANDLE = "RemovableHandle"
_NOT_TAKEN = ("_compiled_call_impl",)
_LAZY_HOOKS = ("_infer_parameters", "_lazy_load_hook")
_TUPLES = ("_reversed_padding_repeated_twice", "_keys")  # what ours have as tuples, which nothing can change in place


class Converter:
    """Convert what is in a torch module, each thing once; what a registered function gets as ``convert``.

    Args:
        root: the torch module.
        mapping: what stands for its classes and functions, before the registry.
    """

    def __init__(self, root: Any, mapping: Mapping[Any, Any]) -> None:
        self._mapping = mapping
        self._names = {id(module): name for name, module in root.named_modules()}
        self._made: dict[int, tuple[Any, Any]] = {}  # theirs, kept so that its id stays its own, and ours
        self._path: list[str] = []
        self.unknown: dict[str, list[str]] = {}  # where each class or function without a counterpart is
        self.misfits: list[Exception] = []
        self.lost: list[str] = []  # hooks

    def __call__(self, value: Any) -> Any:
        """Return our counterpart of a module, parameter, tensor, function or plain value."""
        if id(value) in self._made:
            return self._made[id(value)][1]
        torch: Any = live_torch()
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if is_tensor(value):
            return self._keep(value, self._tensor(value))
        if isinstance(value, torch.dtype):
            return jnp.dtype(str(value).removeprefix("torch."))
        if isinstance(value, torch.device):
            return device(value)
        if isinstance(value, enum.Enum) and _counterparts.is_of_torch(type(value)):
            return self._found(_counterparts.twin_member(value), type(value))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, _counterparts.FUNCTIONS):
            return self._function(value)
        return self._container(value)

    def _keep(self, theirs: Any, ours: Any) -> Any:
        self._made[id(theirs)] = theirs, ours
        return ours

    def _at(self, name: Any, value: Any) -> Any:
        """Convert what is found under a name in what is being converted."""
        self._path.append(str(name))
        try:
            return self(value)
        finally:
            self._path.pop()

    def _place(self) -> str:
        return ".".join(filter(None, self._path))

    def _found(self, ours: Any, theirs: Any) -> Any:
        """Return a counterpart, or take note that there is none."""
        if ours is None:
            name = theirs if isinstance(theirs, str) else _counterparts.dotted_name(theirs)
            self.unknown.setdefault(name, []).append(self._place())
        return ours

    def _container(self, value: Any) -> Any:
        kind: Any = type(value)
        if isinstance(value, functools.partial):
            function, *arguments = [self._at(i, item) for i, item in enumerate((value.func, *value.args))]
            return kind(function, *arguments, **self(value.keywords)) if function is not None else None
        if kind in (dict, OrderedDict):
            ours = self._keep(value, kind())
            ours.update({self(key): self._at(key, item) for key, item in value.items()})
            return ours
        if kind is list:
            ours = self._keep(value, [])
            ours.extend(self._at(i, item) for i, item in enumerate(value))
            return ours
        if isinstance(value, tuple | set | frozenset) and (kind in (tuple, set, frozenset) or kind.__name__ == "Size"):
            items = [self._at(i, item) for i, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else kind(items)
        if isinstance(value, tuple) and hasattr(kind, "_fields") and not _counterparts.is_of_torch(kind):
            return kind(*(self._at(name, item) for name, item in zip(kind._fields, value, strict=True)))
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """Convert an object of torch's own by its attributes; anybody else's is taken as it is."""
        kind = type(value)
        if isinstance(value, np.ndarray):
            return self._keep(value, value.copy())
        if not _counterparts.is_of_torch(kind):
            return value
        if kind.__name__ == _HANDLE:  # of a hook, and hooks are told of
            return None
        cls = self._found(_counterparts.twin_class(kind), kind)
        if cls is None:
            return None
        ours = self._keep(value, object.__new__(cls))
        names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else vars(value)
        for name in names:
            object.__setattr__(ours, name, self._at(name, getattr(value, name)))
        return ours

    def _class(self, theirs: type) -> Any:
        ours = _counterparts.registered(theirs, self._mapping)
        ours = ours if isinstance(ours, type) else _counterparts.twin_class(theirs)
        is_foreign = _counterparts.is_of_torch(theirs) or issubclass(theirs, live_torch().nn.Module)
        return theirs if ours is None and not is_foreign else self._found(ours, theirs)

    def _function(self, theirs: Any) -> Any:
        ours = _counterparts.registered(theirs, self._mapping)
        if ours is None and _counterparts.is_plain_function(theirs):
            return theirs
        return self._found(_counterparts.twin_function(theirs) if ours is None else ours, theirs)

    def _method(self, theirs: Any) -> Any:
        owner = self(theirs.__self__)
        return self._found(getattr(owner, theirs.__name__, None), theirs.__func__)

    def _tensor(self, theirs: Any) -> Any:
        torch: Any = live_torch()
        is_parameter = isinstance(theirs, torch.nn.Parameter)
        for kind in _TENSOR_HOOKS:
            self._lose(kind.strip("_"), (getattr(theirs, kind, None) or {}).values() if is_parameter else ())
        if hasattr(theirs, "materialize"):
            kind = UninitializedParameter if is_parameter else UninitializedBuffer
            return kind(theirs.requires_grad, None, self(theirs.data.dtype if is_parameter else theirs.dtype))
        if theirs.layout is not torch.strided or theirs.is_quantized:
            return self._found(None, f"a tensor of layout {theirs.layout} and dtype {theirs.dtype}")
        array = to_array(theirs)
        if not is_parameter:
            return placed(array)
        ours = Parameter(array, theirs.requires_grad)
        for name, value in vars(theirs).items():
            setattr(ours, name, self._at(name, value))
        return ours

    def _module(self, theirs: Any) -> Any:
        outer, self._path = self._path, [self._names[id(theirs)]] if id(theirs) in self._names else self._path
        try:
            kind = type(theirs)
            if _is_parametrized(theirs):
                kind = kind.__bases__[0]
            ours = _counterparts.registered(kind, self._mapping)
            ours = self._found(_counterparts.twin_class(kind) if ours is None else ours, kind)
            if ours is None:
                for child in theirs._modules.values():  # for the sake of what is unknown in there
                    self(child)
                return self._keep(theirs, Module())
            if isinstance(ours, type) and issubclass(ours, Module):
                return self._put_together(theirs, ours)
            return self._made_by(ours, theirs)
        finally:
            self._path = outer

    def _put_together(self, theirs: Any, cls: type[Module]) -> Any:
        """Make a module of ours from the attributes of one of torch's."""
        ours: Any = self._keep(theirs, object.__new__(cls))
        hooks = list(self._hooks(theirs))
        derived = {hook.derived_name for _, hook, _ in hooks if isinstance(hook, Derivation)}
        registries = ("_parameters", "_buffers", "_modules")
        state: dict[str, Any] = {}
        for name, value in vars(theirs).items():
            if name in DICTS or name in derived or isinstance(getattr(cls, name, None), property):
                continue
            if name in _NOT_TAKEN or type(value).__name__ == _HANDLE or _is_weak(value):
                continue
            state[name] = self._at(name, value)
            if name in _TUPLES and _counterparts.is_of_torch(type(theirs)):
                state[name] = tuple(state[name])
        for registry in registries:
            state[registry] = {name: self._at(name, value) for name, value in getattr(theirs, registry).items()}
        state["_non_persistent_buffers_set"] = set(theirs._non_persistent_buffers_set)
        ours.__setstate__(state)
        if issubclass(cls, LazyModuleMixin):
            ours.await_input()
        for registry, hook, flags in hooks:
            if registry == "_load_state_dict_pre_hooks":
                ours._register_load_state_dict_pre_hook(hook)
            else:
                add_hook(getattr(ours, registry), hook, False, **{k: (getattr(ours, k), on) for k, on in flags.items()})
        if _is_parametrized(theirs):
            become_parametrized(ours, cls, frozenset(theirs.parametrizations._modules))
        return ours

    def _hooks(self, theirs: Any) -> Any:
        """Yield the hooks of a module that have counterparts: registry, our hook, flags; take note of the others."""
        for registry in _HOOKS:
            for number, hook in getattr(theirs, registry).items():
                inner = getattr(hook, "hook", hook)
                if getattr(inner, "__self__", None) is theirs and inner.__name__ in _LAZY_HOOKS:
                    continue
                ours = self._hook(theirs, inner)
                if ours is None:
                    self._lose(registry.strip("_"), [inner])
                else:
                    yield registry, ours, {flag: number in getattr(theirs, flag) for flag in _FLAGS.get(registry, ())}

    def _hook(self, theirs: Any, hook: Any) -> Any:
        if isinstance(hook, types.FunctionType | types.MethodType):
            if hook.__module__ == "torch.nn.utils.parametrizations":
                return WeightNormCompatHook(inspect.getclosurevars(hook).nonlocals["name"])
            return _counterparts.registered(hook, self._mapping)
        if _counterparts.twin_class(type(hook)) is None:
            return None
        ours = self(hook)
        if isinstance(ours, SpectralNorm):
            ours.is_called = getattr(theirs, ours.name).data_ptr() != getattr(theirs, f"{ours.name}_orig").data_ptr()
        return ours

    def _lose(self, kind: str, hooks: Any) -> None:
        for hook in hooks:
            name = getattr(hook, "__qualname__", type(hook).__name__)
            self.lost.append(f"{self._place() or 'the module itself'}: {name} ({kind})")

    def _made_by(self, make: Any, theirs: Any) -> Any:
        """Return what a registered function makes of a module, with its weights loaded."""
        try:
            ours = make(theirs, self) if _counterparts.takes_two(make) else make(theirs)
        except Exception:
            if not self.unknown:
                raise
            ours = Module()  # something in there is unknown, which is what the error will be about
        if self.unknown:
            return self._keep(theirs, ours)
        if not isinstance(ours, Module):
            name = getattr(make, "__qualname__", repr(make))
            raise TypeError(
                f"{name}, registered for {_counterparts.dotted_name(type(theirs))}, returned {type(ours).__name__}:"
                " expected a jaxmodules Module"
            )
        self._load(theirs, ours)
        modules = dict(ours.named_modules(remove_duplicate=False))
        for name, module in theirs.named_modules(remove_duplicate=False):
            if name in modules:
                self._keep(module, modules[name])
                modules[name].training = module.training
        return ours

    def _load(self, theirs: Any, ours: Any) -> None:
        """Put the parameters and buffers of a module where they are not yet, by their names."""
        arrived = {id(made) for _, made in self._made.values()}
        places = {entry.name: entry for entry in entries(ours)}
        unexpected, sizes = [], []
        for entry in entries(theirs):
            place = places.pop(entry.name, None)
            known = self._made.get(id(entry.value))
            if place is None or place.is_parameter != entry.is_parameter:
                if known is None and entry.is_persistent:
                    unexpected.append(entry.name)
            elif tuple(place.value.shape) != tuple(entry.value.shape):
                sizes.append(size_mismatch(entry.name, entry.value, place.value))
            elif place.is_parameter and known is None and id(place.value) not in arrived:
                place.value.value = placed(to_array(entry.value))
                place.value.requires_grad = entry.value.requires_grad
                arrived.add(id(self._keep(entry.value, place.value)))
            elif known is None or known[1] is not place.value:
                registry = place.owner._parameters if place.is_parameter else place.owner._buffers
                registry[place.attribute] = self(entry.value)
        missing = [n for n, place in places.items() if place.is_persistent and id(place.value) not in arrived]
        if missing or unexpected or sizes:
            error = loading_error(ours, missing, unexpected, sizes)
            error.add_note(f"(in what was registered for '{_counterparts.dotted_name(type(theirs))}')")
            self.misfits.append(error)


def _is_parametrized(module: Any) -> bool:
    """Tell whether torch has given a module a class of its own, in which some attributes are computed."""
    return type(module).__module__ == "torch.nn.utils.parametrize" and "parametrizations" in module._modules


def _is_weak(value: Any) -> bool:
    """Tell whether a value only refers to others that have a place of their own."""
    if isinstance(value, list):
        return bool(value) and all(item is None or isinstance(item, weakref.ref) for item in value) and any(value)
    return isinstance(value, weakref.ref)
