"""Hooks: the global ones, and the call that runs them."""

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._leaks import call_hook
from jaxmodules._tracing import LeakError, Tracer, ancestry, current_trace
from jaxmodules._tracked import HookDict, global_hooks
from jaxmodules.nn.modules._backward_hooks import Passage, backward_hooks, backward_pre_hooks


class Derivation:
    """A forward pre-hook that gives its module one attribute, computed whenever it is read.

    PyTorch's hooks of this kind (weight norm, spectral norm, pruning) store what they compute in the module. A stored
    value would be state that every call writes; a derived one is none, and gradients flow through it in any transform.
    A value assigned by hand stands until the next call, as it does in PyTorch.
    """

    compared_by_content = True  # modules with equal hooks share compiled programs, and can be stacked

    @property
    def derived_name(self) -> str:
        """The name of the attribute."""
        raise NotImplementedError

    def derive(self, module: Any) -> Any:
        """Compute the attribute; AttributeError is raised when what it is computed from has been removed."""
        raise NotImplementedError

    def __call__(self, module: Any, inputs: Any) -> None:
        """Drop a value that was assigned by hand."""
        if self.derived_name in module.__dict__:
            delattr(module, self.derived_name)


def _global(*flags: HookDict) -> HookDict:
    hooks = HookDict()
    hooks.observed = True
    global_hooks.append((hooks, flags))
    return hooks


forward_hooks_with_kwargs = HookDict()
forward_hooks_always_called = HookDict()
forward_pre_hooks = _global()
forward_hooks = _global(forward_hooks_with_kwargs, forward_hooks_always_called)
module_registration_hooks = HookDict()
parameter_registration_hooks = HookDict()
buffer_registration_hooks = HookDict()


def registered(hooks: HookDict, module: Any, name: str, value: Any) -> Any:
    """Return ``value`` as the global registration hooks leave it."""
    for hook in hooks.values():
        output = hook(module, name, value)
        if output is not None:
            value = output
    return value


def run(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``forward``, with hooks around it where there are any."""
    own = module.__dict__
    if (
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
        or forward_hooks or forward_pre_hooks or backward_hooks or backward_pre_hooks or recorders
    ):  # fmt: skip
        result = _call_with_hooks(module, args, kwargs)
        for recorder in recorders:
            recorder.record(module, result)
        return result
    return module.forward(*args, **kwargs)


class Recorder:
    """Keep the results of some modules, called in this thread while the recorder is among ``recorders``.

    Args:
        modules: the modules by name; one may have several names.
    """

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.results: dict[int, list[Any]] = {id(module): [] for module in modules.values()}
        self._names = {id(module): name for name, module in modules.items()}
        self._thread = threading.get_ident()
        self._traces = list(ancestry(current_trace()))

    def record(self, module: Any, result: Any) -> None:
        """Take note of the result of a module.

        Raises:
            LeakError: if it belongs to a trace inside the one that the recorder was made in.
        """
        if id(module) not in self.results or threading.get_ident() != self._thread:
            return
        for leaf in jax.tree.leaves(result):
            if isinstance(leaf, Tracer) and all(leaf._trace is not trace for trace in self._traces):
                raise LeakError(
                    f"the output of '{self._names[id(module)]}' can't be captured: the module is called inside a"
                    " transform within the forward pass (jit, vmap, scan, checkpoint), which its values can't leave:"
                    " capture a module that is called outside of it, or put jm.capture inside the transform"
                )
        self.results[id(module)].append(result)


recorders: list[Recorder] = []  # of all threads


def _call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run pre-hooks, ``forward`` and forward hooks, gradients passing backward hooks; after an error, those marked."""
    called: set[int] = set()
    result = None
    try:
        passage = Passage.of(module)
        args, kwargs = _run_pre_hooks(module, args, kwargs)
        args = args if passage is None else passage.enter(args)
        result = module.forward(*args, **kwargs)
        for number, hook in (*forward_hooks.items(), *module._forward_hooks.items()):
            called.add(number)
            output = _run_hook(module, number, hook, args, kwargs, result)
            result = result if output is None else output
        return result if passage is None else passage.leave(args, result)
    except Exception:
        _run_always_called(module, called, args, kwargs, result)
        raise


def _run_pre_hooks(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    for number, hook in (*forward_pre_hooks.items(), *module._forward_pre_hooks.items()):
        if number in module._forward_pre_hooks_with_kwargs:
            output = call_hook("forward pre-hook", number, hook, module, args, kwargs)
            if output is None:
                continue
            if not (isinstance(output, tuple) and len(output) == 2):
                raise RuntimeError(
                    f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {output}."
                )
            args, kwargs = output
        else:
            output = call_hook("forward pre-hook", number, hook, module, args)
            if output is not None:
                args = output if isinstance(output, tuple) else (output,)
    return args, kwargs


def _run_hook(module: Any, number: int, hook: Any, args: Any, kwargs: Any, result: Any) -> Any:
    if number in module._forward_hooks_with_kwargs or number in forward_hooks_with_kwargs:
        return call_hook("forward hook", number, hook, module, args, kwargs, result)
    return call_hook("forward hook", number, hook, module, args, result)


def _run_always_called(module: Any, called: set[int], args: Any, kwargs: Any, result: Any) -> None:
    groups = (
        ("global module", forward_hooks, forward_hooks_always_called),
        ("module", module._forward_hooks, module._forward_hooks_always_called),
    )
    for kind, hooks, always in groups:
        for number, hook in hooks.items():
            if number not in always or number in called:
                continue
            try:
                output = _run_hook(module, number, hook, args, kwargs, result)
                result = result if output is None else output
            except Exception as error:
                warnings.warn(
                    f"{kind} forward hook with ``always_call=True`` raised an exception that was silenced as another"
                    f" error was raised in forward: {error}",
                    stacklevel=2,
                )


def register_module_forward_pre_hook(hook: Any) -> RemovableHandle:
    """Register ``hook(module, args)`` to run before the ``forward`` of every module."""
    return add_hook(forward_pre_hooks, hook)


def register_module_forward_hook(hook: Any, *, with_kwargs: bool = False, always_call: bool = False) -> RemovableHandle:
    """Register ``hook(module, args, output)`` to run after the ``forward`` of every module."""
    return add_hook(
        forward_hooks,
        hook,
        with_kwargs=(forward_hooks_with_kwargs, with_kwargs),
        always_call=(forward_hooks_always_called, always_call),
    )


def register_module_module_registration_hook(hook: Any) -> RemovableHandle:
    """Register ``hook(module, name, submodule)`` to run when any module gets a child."""
    return add_hook(module_registration_hooks, hook)


def register_module_parameter_registration_hook(hook: Any) -> RemovableHandle:
    """Register ``hook(module, name, parameter)`` to run when any module gets a parameter."""
    return add_hook(parameter_registration_hooks, hook)


def register_module_buffer_registration_hook(hook: Any) -> RemovableHandle:
    """Register ``hook(module, name, buffer)`` to run when any module gets a buffer."""
    return add_hook(buffer_registration_hooks, hook)
