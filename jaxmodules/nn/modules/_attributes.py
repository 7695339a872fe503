"""Where an attribute of a module lives: parameters, buffers, children, or the plain ``__dict__``."""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxmodules._device import placed
from jaxmodules._keys import Stateful, holds_tracer
from jaxmodules._tracing import (
    LeakError,
    epoch,
    is_tracing,
    leak_message,
    leaks,
    local,
)
from jaxmodules._tracked import MISSING, Attributes, BufferDict, ChildDict, HookDict, NameSet, TrackedDict
from jaxmodules.nn._writable import Writable, to_array
from jaxmodules.nn.modules import _hooks
from jaxmodules.nn.parameter import Buffer, Parameter, is_lazy

DICTS: dict[str, Callable[[], Any]] = {
    "_parameters": TrackedDict,
    "_buffers": BufferDict,
    "_non_persistent_buffers_set": NameSet,
    "_backward_pre_hooks": HookDict,
    "_backward_hooks": HookDict,
    "_is_full_backward_hook": lambda: None,
    "_forward_hooks": HookDict,
    "_forward_hooks_with_kwargs": HookDict,
    "_forward_hooks_always_called": HookDict,
    "_forward_pre_hooks": HookDict,
    "_forward_pre_hooks_with_kwargs": HookDict,
    "_state_dict_hooks": HookDict,
    "_state_dict_pre_hooks": HookDict,
    "_load_state_dict_pre_hooks": HookDict,
    "_load_state_dict_post_hooks": HookDict,
    "_modules": ChildDict,
}


class ModuleAttributes(Attributes):
    """The ``__dict__`` of a module."""

    __slots__ = ()
    quiet = frozenset({"_compiled_call_impl"})

    def admit(self, name: str, value: Any) -> Any:
        """Return a registry as the kind that tells of changes; refuse what would leak a traced value."""
        _refuse_leak(self, name, value, "")
        return self.registry(name, value) if name in DICTS else value

    def registry(self, name: str, value: Any) -> Any:
        """Return a registry as the kind of dict (or set) that tells the state core of changes."""
        make: Any = DICTS[name]
        if type(value) in (dict, OrderedDict, set):
            value = make._of(value) if issubclass(make, TrackedDict) else make(value)
        if self.observed and hasattr(value, "observed"):
            value.observed = True
        return value


def _refuse_leak(own: ModuleAttributes, name: str, value: Any, of: str) -> None:
    """Raise if an attribute would keep a traced value that dies before its module."""
    if is_tracing() and holds_tracer(value):
        born = own["_buffers"]._born if "_buffers" in own else None
        if any(leaks(leaf, (id(own), name), born) for leaf in jax.tree.leaves(value)):
            raise LeakError(leak_message(f"the attribute '{'.'.join([*local.path, name])}'{of}"))


def typename(value: Any) -> str:
    """Return the dotted name of the type of ``value`` (or of ``value``, if it is a type), without ``builtins``."""
    kind = value if isinstance(value, type) else type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def is_module(value: Any) -> bool:
    """Tell whether ``value`` is a Module."""
    return isinstance(value, Stateful) and hasattr(type(value), "named_modules")


def is_array(value: Any) -> bool:
    """Tell whether ``value`` can be a buffer."""
    return isinstance(value, jax.Array | np.ndarray | Buffer | Writable | jax.ShapeDtypeStruct)


def check_name(module: Any, kind: str, name: Any, registry: Mapping[str, Any]) -> None:
    """Raise unless ``name`` can be the name of a ``kind`` (buffer, parameter or module)."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
    is_taken = hasattr(module, name) and name not in registry
    if kind == "module" and is_taken:
        raise KeyError(f"attribute '{name}' already exists")
    if "." in name:
        raise KeyError(f'{kind} name can\'t contain "."' + (f", got: {name}" if kind == "module" else ""))
    if name == "":
        raise KeyError(f'{kind} name can\'t be empty string ""')
    if is_taken:
        raise KeyError(f"attribute '{name}' already exists")


def get_attribute(module: Any, name: str) -> Any:
    """Return a parameter, buffer or child by its name, or what a pre-hook derives under it."""
    own = module.__dict__
    if "_parameters" in own and name in own["_parameters"]:
        return own["_parameters"][name]
    if "_buffers" in own and name in own["_buffers"]:
        return own["_buffers"][name]
    if "_modules" in own and name in own["_modules"]:
        return own["_modules"][name]
    for hook in own["_forward_pre_hooks"].values() if "_forward_pre_hooks" in own else ():
        if isinstance(hook, _hooks.Derivation) and hook.derived_name == name:
            return hook.derive(module)
    raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'")


def set_attribute(module: Any, name: str, value: Any) -> None:
    """Put ``value`` where a value of its kind, or the one it replaces, belongs."""
    own = module.__dict__
    parameters = own.get("_parameters")
    if isinstance(value, Parameter):
        if parameters is None:
            raise AttributeError("cannot assign parameters before Module.__init__() call")
        parameters._check(name, value)
        _forget(own, name, "_buffers", "_modules")
        module.register_parameter(name, value)
    elif parameters is not None and name in parameters:
        if value is not None:
            raise TypeError(f"cannot assign '{typename(value)}' as parameter '{name}' (nn.Parameter or None expected)")
        module.register_parameter(name, value)
    elif is_module(value) or (parameters is not None and name in own["_modules"]):
        _set_module(module, name, value)
    elif isinstance(value, Buffer) or (parameters is not None and name in own["_buffers"]):
        _set_buffer(module, name, value)
    else:
        _set_static(module, name, value)


def _set_module(module: Any, name: str, value: Any) -> None:
    own = module.__dict__
    if "_modules" not in own:
        raise AttributeError("cannot assign module before Module.__init__() call")
    if is_module(value):
        own["_modules"]._check(name, value)
        _forget(own, name, "_parameters", "_buffers")
    elif value is not None:
        raise TypeError(f"cannot assign '{typename(value)}' as child module '{name}' (nn.Module or None expected)")
    own["_modules"][name] = _hooks.registered(_hooks.module_registration_hooks, module, name, value)


def _set_buffer(module: Any, name: str, value: Any) -> None:
    if value is not None and not is_array(value):
        raise TypeError(f"cannot assign '{typename(value)}' as buffer '{name}' (nn.Buffer, jax.Array or None expected)")
    non_persistent = module.__dict__.get("_non_persistent_buffers_set", ())
    persistent = value.persistent if isinstance(value, Buffer) else name not in non_persistent
    if _takes_persistent(type(module).register_buffer):
        module.register_buffer(name, value, persistent)
    elif persistent:
        module.register_buffer(name, value)
    else:
        raise RuntimeError(
            "Registering a non-persistent buffer on a Module subclass that implements register_buffer() without the"
            " persistent argument is not allowed."
        )


@functools.cache
def _takes_persistent(register_buffer: Callable[..., None]) -> bool:
    return "persistent" in inspect.signature(register_buffer).parameters


def buffers_of(module: Any) -> Any:
    """Return the buffers of one module as pairs; in a compiled function they must have been given to it."""
    buffers = module.__dict__["_buffers"]
    return [(name, buffers[name]) for name in buffers]


def register_buffer(module: Any, name: str, tensor: Any, persistent: bool) -> None:
    """Put an array, or ``None``, into the buffers."""
    own = module.__dict__
    if "_buffers" not in own:
        raise AttributeError("cannot assign buffer before Module.__init__() call")
    buffers = own["_buffers"]
    check_name(module, "buffer", name, buffers)
    if tensor is not None and not is_array(tensor):
        raise TypeError(
            f"cannot assign '{typename(tensor)}' object to buffer '{name}' (jax.Array, NumPy array or None required)"
        )
    tensor = _hooks.registered(_hooks.buffer_registration_hooks, module, name, tensor)
    buffers[name] = tensor if tensor is None or is_lazy(tensor) else placed(to_array(tensor))
    (own["_non_persistent_buffers_set"].discard if persistent else own["_non_persistent_buffers_set"].add)(name)


def _set_static(module: Any, name: str, value: Any) -> None:
    if isinstance(getattr(type(module), name, None), property):  # what its setter writes is checked there
        return object.__setattr__(module, name, value)
    if name == "__dict__":
        return _set_dict(module, value)
    own = ModuleAttributes.of(module)
    _refuse_leak(own, name, value, f" of {type(module).__name__}")
    if name in DICTS:
        value = own.registry(name, value)
    if own.observed:
        own.note(name, own.get(name, MISSING), value)
    object.__setattr__(module, name, value)


def _set_dict(module: Any, value: dict[str, Any]) -> None:
    """Give a module another ``__dict__``."""
    was_observed = ModuleAttributes.of(module).observed
    object.__setattr__(module, "__dict__", value)
    now = ModuleAttributes.of(module)
    now.observed |= was_observed
    epoch.count += now.observed


def _forget(own: dict[str, Any], name: str, *registries: str) -> None:
    for registry in (own, *(own[r] for r in registries)):
        if name in registry:
            del registry[name]
    own["_non_persistent_buffers_set"].discard(name)
