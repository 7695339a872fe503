"""The base class of all modules: PyTorch's object model over JAX arrays.

This file is the table of contents. A Module is ordered dicts (parameters, buffers, children, hooks) and ordinary
attributes. The engines live beside it: where an assigned value belongs in ``_attributes``, traversal in ``_walk``,
hooks and the call in ``_hooks``, (de)serialisation in ``_state_dict``, conversion in ``_convert``, printing in
``_repr``, the pytree form in ``_pytree``.

Two things are JAX's. The dicts and ``__setattr__`` tell the state core when the structure changes, so that compiled
functions know it without looking. And a write that would leave a traced value behind is refused where it happens.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

import jax
import jax.numpy as jnp

from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._keys import Stateful
from jaxmodules._tracing import epoch, is_tracing
from jaxmodules.nn.modules import _attributes, _backward_hooks, _convert, _hooks, _pytree, _state_dict, _walk
from jaxmodules.nn.modules._attributes import DICTS, ModuleAttributes, typename
from jaxmodules.nn.modules._backward_hooks import (
    register_module_backward_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from jaxmodules.nn.modules._calls import call_traced
from jaxmodules.nn.modules._hooks import (
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
    registered,
)
from jaxmodules.nn.modules._located import locate
from jaxmodules.nn.modules._repr import module_repr
from jaxmodules.nn.parameter import Parameter

__all__ = [
    "Module",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]


class Module(Stateful):
    """Base class of all models and layers; subclass it, assign layers in ``__init__``, write ``forward``.

    Parameters, buffers and child modules assigned to attributes are registered, and follow ``to``, ``train``,
    ``state_dict`` and every transform. Names, order and messages are those of :class:`torch.nn.Module`.

    Attributes:
        training: whether the module is in training mode.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(3, 2)
        ...     def forward(self, x):
        ...         return self.fc(x)
        >>> [name for name, _ in Net().named_parameters()]
        ['fc.weight', 'fc.bias']
        >>> Net()(jnp.ones((5, 3))).shape
        (5, 2)
    """

    T_destination = TypeVar("T_destination", bound=dict[str, Any])
    dump_patches: bool = False
    _version: int = 1
    call_super_init: bool = False
    _compiled_call_impl: Callable[..., Any] | None = None
    _jm_compiler: ClassVar[Callable[..., Any]]  # set by transforms.jit, which is a level above
    _jm_call_block: ClassVar[Callable[..., Any]]  # set by transforms._share, likewise

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, jax.Array | None]
    _modules: dict[str, "Module | None"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init and (args or kwargs):
            unexpected = f"got an unexpected keyword argument '{next(iter(kwargs), None)}'"
            what = unexpected if kwargs else f"takes 1 positional argument but {len(args) + 1} were given"
            raise TypeError(f"{type(self).__name__}.__init__() {what}")
        own = {"training": True, **{name: make() for name, make in DICTS.items()}}
        dict.update(ModuleAttributes.of(self), own)
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _pytree.register(cls)
        epoch.count += 1  # autoreload gives live objects the new class behind their back

    def forward(self, *input: Any) -> Any:
        """Compute the output; every subclass overrides this, or gets a NotImplementedError."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add an array that is state but no parameter, such as a running mean.

        Args:
            name: the attribute it is read by.
            tensor: the array, or ``None`` for a buffer that is not there.
            persistent: whether it is part of the ``state_dict``.

        Raises:
            AttributeError: before ``Module.__init__()``.
            TypeError: if the name is no string or the value no array.
            KeyError: if the name is taken, empty or has a dot.
        """
        _attributes.register_buffer(self, name, tensor, persistent)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter.

        Args:
            name: the attribute it is read by.
            param: the parameter, or ``None`` for one that is not there.

        Raises:
            AttributeError: before ``Module.__init__()``.
            TypeError: if the name is no string or the value no Parameter.
            KeyError: if the name is taken, empty or has a dot.
        """
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        _attributes.check_name(self, "parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{typename(param)}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        if param is not None:
            param = registered(_hooks.parameter_registration_hooks, self, name, param)
        self._parameters[name] = param

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a child module.

        Args:
            name: the attribute it is read by.
            module: the child, or ``None`` for one that is not there.

        Raises:
            TypeError: if the name is no string or the value no Module.
            KeyError: if the name is taken, empty or has a dot.
        """
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{typename(module)} is not a Module subclass")
        _attributes.check_name(self, "module", name, self._modules)
        self._modules[name] = registered(_hooks.module_registration_hooks, self, name, module)

    def register_module(self, name: str, module: "Module | None") -> None:
        """Add a child module, as :meth:`add_module` does."""
        self.add_module(name, module)

    def __getattr__(self, name: str) -> Any:
        return _attributes.get_attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _attributes.set_attribute(self, name, value)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)
        epoch.count += 1

    def __dir__(self) -> list[str]:
        own = self.__dict__
        names = {*dir(type(self)), *own, *own["_parameters"], *own["_modules"], *own["_buffers"]}
        return sorted(name for name in names - {*Stateful.__slots__} if not name[:1].isdigit())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._compiled_call_impl is not None and not _hooks.recorders:
                return self._compiled_call_impl(*args, **kwargs)
            return self._call_impl(*args, **kwargs)
        except Exception as error:
            locate(error, self)
            raise

    _wrapped_call_impl = __call__

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return call_traced(self, args, kwargs) if is_tracing() else _hooks.run(self, args, kwargs)

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        return self.forward(*input, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Make calls of this module run compiled; the arguments are those of ``jm.jit``."""
        self._compiled_call_impl = Module._jm_compiler(self._call_impl, *args, **kwargs)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Register ``hook(module, args)`` to run before ``forward``; what it returns replaces the arguments.

        Args:
            hook: the function; with ``with_kwargs`` it is called as ``hook(module, args, kwargs)``.
            prepend: run before the hooks already there.
            with_kwargs: hand on keyword arguments as well.
        """
        flags = {"with_kwargs": (self._forward_pre_hooks_with_kwargs, with_kwargs)}
        return add_hook(self._forward_pre_hooks, hook, prepend, **flags)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Register ``hook(module, args, output)`` to run after ``forward``; what it returns replaces the output.

        Args:
            hook: the function; with ``with_kwargs`` it is called as ``hook(module, args, kwargs, output)``.
            prepend: run before the hooks already there.
            with_kwargs: hand on keyword arguments as well.
            always_call: run even when ``forward`` raises.
        """
        flags = {
            "with_kwargs": (self._forward_hooks_with_kwargs, with_kwargs),
            "always_call": (self._forward_hooks_always_called, always_call),
        }
        return add_hook(self._forward_hooks, hook, prepend, **flags)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(module, grad_output)`` to run before gradients go back through the module.

        Args:
            hook: the function; a tuple that it returns replaces the gradients of the module's results.
            prepend: run before the hooks already there.
        """
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(module, grad_input, grad_output)`` to run when gradients have gone back through the module.

        Args:
            hook: the function. It gets one gradient for each positional argument and each result, ``None`` where there
                is none, and a tuple that it returns replaces the gradients of the arguments.
            prepend: run before the hooks already there.

        Raises:
            RuntimeError: if the module has had a hook of :meth:`register_backward_hook`.
        """
        return _backward_hooks.register(self, hook, True, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register a backward hook that gets the gradient of the first result only (PyTorch's deprecated kind).

        Raises:
            RuntimeError: if the module has had a hook of :meth:`register_full_backward_hook`.
        """
        return _backward_hooks.register(self, hook, False)

    def _get_backward_hooks(self) -> tuple[list[Any], list[Any]]:
        kinds = (_backward_hooks.hooks_of(self, is_full) for is_full in (True, False))
        full, not_full = ([hook for _, hook in hooks] for hooks in kinds)
        return full, not_full

    def _get_backward_pre_hooks(self) -> list[Any]:
        return [hook for _, hook in _backward_hooks.pre_hooks_of(self)]

    def _maybe_warn_non_full_backward_hook(self, inputs: Any, result: Any, grad_fn: Any) -> None:
        _backward_hooks.warn_not_full(inputs, result)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        if getattr(hook, "_from_public_api", False):
            raise RuntimeError(
                "Cannot register the same function as the state dict post hook that was previously registered via"
                " register_state_dict_post_hook"
            )
        return add_hook(self._state_dict_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register ``hook(module, state_dict, prefix, local_metadata)`` to run after :meth:`state_dict`."""
        hook._from_public_api = True
        return add_hook(self._state_dict_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register ``hook(module, prefix, keep_vars)`` to run before :meth:`state_dict`."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        return add_hook(self._load_state_dict_pre_hooks, _state_dict.LoadPreHook(hook, self if with_module else None))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register a hook to run before :meth:`load_state_dict` loads into this module.

        It is called as ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
        error_msgs)``.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register ``hook(module, incompatible_keys)`` to run after :meth:`load_state_dict`."""
        return add_hook(self._load_state_dict_post_hooks, hook)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return an ordered dict of all parameters and persistent buffers, by dotted name.

        Args:
            args: the others by position (deprecated).
            destination: a dict to put them into.
            prefix: put before every name.
            keep_vars: list the Parameters themselves instead of their arrays.
        """
        if args:
            destination, prefix, keep_vars = _state_dict.positional(args, destination, prefix, keep_vars)
        return _state_dict.build(self, destination, prefix, keep_vars)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        _state_dict.save_own(self, destination, prefix, keep_vars, self._jm_has_extra_state())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy a state dict into the parameters and buffers; all of it, or on any error nothing.

        Args:
            state_dict: arrays of JAX, NumPy or torch by dotted name; of what
                :func:`jm.checkpoint.open <jaxmodules.checkpoint.open>` gives, one at a time is read.
            strict: whether missing and unexpected keys are errors.
            assign: put the arrays in as they are instead of copying them in the module's dtype and placement.

        Returns:
            A named tuple of ``missing_keys`` and ``unexpected_keys``.

        Raises:
            RuntimeError: listing all missing, unexpected and mis-shaped keys.
            TypeError: if ``state_dict`` is no mapping.
        """
        return _state_dict.load(self, state_dict, strict, assign)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        missing, unexpected = _state_dict.load_own(self, state_dict, prefix, local_metadata, error_msgs)
        if strict:
            missing_keys.extend(missing)
            unexpected_keys.extend(unexpected)

    def _jm_has_extra_state(self) -> bool:
        return type(self).get_extra_state is not Module.get_extra_state

    def _jm_takes_extra_state(self) -> bool:
        return type(self).set_extra_state is not Module.set_extra_state

    def get_extra_state(self) -> Any:
        """Return what else belongs into the ``state_dict``; override it together with :meth:`set_extra_state`."""
        raise _state_dict.no_extra_state("get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Take what :meth:`get_extra_state` returned; called by :meth:`load_state_dict`."""
        raise _state_dict.no_extra_state("set_extra_state")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_compiled_call_impl", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = ModuleAttributes.of(self)
        own.update(state)
        for name, make in DICTS.items():
            own.setdefault(name, make())

    def _replicate_for_data_parallel(self) -> Self:
        replica = object.__new__(type(self))
        replica.__setstate__({k: v.copy() if k in DICTS and v is not None else v for k, v in self.__dict__.items()})
        replica._parameters.clear()
        return replica

    def _jm_scan(self, scan: Any, path: str) -> Any:
        return scan.module(self, ModuleAttributes.of(self), path)

    def get_submodule(self, target: str) -> "Module":
        """Return the module at a dotted path.

        Raises:
            AttributeError: if a step of the path is missing or no module.
        """
        return _walk.resolve(self, target)

    def set_submodule(self, target: str, module: "Module", strict: bool = False) -> None:
        """Replace the module at a dotted path, or add it; with ``strict`` only replace.

        Raises:
            ValueError: if the path is empty or ``module`` is no Module.
            AttributeError: if a step of the path is missing or no module.
        """
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict or hasattr(parent, name):
            _walk.resolve(parent, name)
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter at a dotted path; AttributeError is raised if there is none."""
        return _walk.resolve_member(self, target, lambda _, __, value: isinstance(value, Parameter), "an nn.Parameter")

    def get_buffer(self, target: str) -> jax.Array:
        """Return the buffer at a dotted path; AttributeError is raised if there is none."""
        return _walk.resolve_member(self, target, lambda owner, name, _: name in owner._buffers, "a buffer")

    def _named_members(
        self, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        return _walk.walk_members(self, get_members_fn, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield every parameter once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield every parameter with its dotted name; shared ones once, or with ``remove_duplicate=False`` always."""
        return self._named_members(lambda m: m._parameters.items(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[jax.Array]:
        """Yield every buffer once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, jax.Array]]:
        """Yield every buffer with its dotted name."""
        return self._named_members(_attributes.buffers_of, prefix, recurse, remove_duplicate)

    def children(self) -> Iterator["Module"]:
        """Yield the direct children, each once."""
        for _, child in self.named_children():
            yield child

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield the direct children with their names, each once."""
        memo: set[int] = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in memo:
                memo.add(id(child))
                yield name, child

    def modules(self, remove_duplicate: bool = True) -> Iterator["Module"]:
        """Yield this module and every module below it, each once."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_modules(
        self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """Yield this module and every module below it with dotted names, parents first."""
        return _walk.walk_modules(self, memo, prefix, remove_duplicate)

    def apply(self, fn: Callable[["Module"], None]) -> Self:
        """Call ``fn`` on every module, children first, and return this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and below, and return this module; ValueError if ``mode`` is no bool."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below, and return this module."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze every parameter, and return this module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset every parameter's ``.grad`` to ``None``, or to zeros."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else jnp.zeros_like(parameter.grad)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        if recurse:
            for child in self.children():
                child._apply(fn)
        _convert.apply(self, fn)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast every parameter and buffer in place, and return this module.

        Args:
            args: a device (a JAX device, a Sharding, or a string such as ``"cpu"`` or ``"cuda:0"``), a floating
                point or complex dtype, both in this order, or an array to follow.
            kwargs: ``device``, ``dtype``; PyTorch's ``non_blocking`` and ``memory_format`` are accepted.

        Raises:
            RuntimeError: if the device is not there.
            TypeError: if an argument is neither, or the dtype is one of integers.
        """
        device, dtype = _convert.parse_to(args, kwargs)
        return self._apply(_convert.converter(device, dtype))

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Move every parameter and buffer without its content, and return this module."""
        return self._apply(_convert.emptier(device), recurse=recurse)

    def type(self, dst_type: Any) -> Self:
        """Cast every parameter and buffer, and return this module."""
        dtype = _convert.parse_dtype(dst_type)
        return self._apply(lambda array: _convert.cast(array, dtype))

    def float(self) -> Self:
        """Cast floating point parameters and buffers to float32."""
        return self._apply(_convert.floating_to(jnp.float32))

    def double(self) -> Self:
        """Cast floating point parameters and buffers to float64 (JAX needs ``jax_enable_x64`` for it)."""
        return self._apply(_convert.floating_to(jnp.float64))

    def half(self) -> Self:
        """Cast floating point parameters and buffers to float16."""
        return self._apply(_convert.floating_to(jnp.float16))

    def bfloat16(self) -> Self:
        """Cast floating point parameters and buffers to bfloat16."""
        return self._apply(_convert.floating_to(jnp.bfloat16))

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move to a GPU; RuntimeError is raised if there is none."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def xpu(self, device: Any = None) -> Self:
        """Raise RuntimeError: JAX has no such device."""
        return self.to("xpu")

    ipu = mtia = xpu

    def share_memory(self) -> Self:
        """Return this module: JAX arrays are shared as they are; RuntimeError is raised if there are none yet."""
        _convert.check_shareable(self)
        return self

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Return what to print between the parentheses; layers override this."""
        return ""

    def __repr__(self) -> str:
        return module_repr(self)


_pytree.register(Module)
