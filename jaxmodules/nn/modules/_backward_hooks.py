"""Backward hooks: boundaries around the call of a module, through which the gradients of its arguments and results go.

The boundary of the results is crossed first: it runs the pre-hooks, and leaves the gradients where the boundary of the
arguments finds them (see ``_boundary``). That one runs the hooks, and its results flow on to what came before.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._boundary import Mapped, cross
from jaxmodules._gradient_hooks import call_gradient_hook, checked_gradient
from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._tracing import is_tracing, local
from jaxmodules._tracked import HookDict, global_hooks
from jaxmodules.nn._writable import Writable, is_differentiable, unbox

backward_pre_hooks = HookDict()
backward_hooks = HookDict()
_is_not_full = HookDict()
global_hooks += [(backward_pre_hooks, ()), (backward_hooks, (_is_not_full,))]
_MIXED = "Cannot use both regular backward hooks and full backward hooks {}. Please use only one of them."

Hooks = list[tuple[int, Callable[..., Any]]]


def register(module: Any, hook: Callable[..., Any], is_full: bool, prepend: bool = False) -> RemovableHandle:
    """Register a full or a non-full backward hook on a module, which has only ever one kind."""
    own = module.__dict__
    if own["_is_full_backward_hook"] is (not is_full):
        raise RuntimeError(_MIXED.format("on a single Module"))
    own["_is_full_backward_hook"] = is_full
    return add_hook(own["_backward_hooks"], hook, prepend)


def _register_globally(hook: Callable[..., Any], is_full: bool) -> RemovableHandle:
    if any((number in _is_not_full) is is_full for number in backward_hooks):
        raise RuntimeError(_MIXED.format("as a global Module hook"))
    return add_hook(backward_hooks, hook, kind=(_is_not_full, not is_full))


def hooks_of(module: Any, is_full: bool) -> Hooks:
    """Return the full, or the non-full, backward hooks of a module, global ones first."""
    own = module.__dict__
    hooks = [(number, hook) for number, hook in backward_hooks.items() if (number in _is_not_full) is not is_full]
    return hooks + [*own["_backward_hooks"].items()] if own["_is_full_backward_hook"] is is_full else hooks


def pre_hooks_of(module: Any) -> Hooks:
    """Return the backward pre-hooks of a module, global ones first."""
    return [*backward_pre_hooks.items(), *module.__dict__["_backward_pre_hooks"].items()]


class Passage:
    """The boundaries around one call of a module."""

    def __init__(self, module: Any) -> None:
        self._warns = bool(hooks_of(module, True) or pre_hooks_of(module))
        self._links = [_Link(module, True)] if self._warns else []
        self._links += [_Link(module, False)] if hooks_of(module, False) else []
        self._tokens: list[Any] = []

    @classmethod
    def of(cls, module: Any) -> "Passage | None":
        """Return the boundaries for a call of ``module``, or ``None`` if it has no backward hooks."""
        own = module.__dict__
        has_hooks = own["_backward_hooks"] or own["_backward_pre_hooks"] or backward_hooks or backward_pre_hooks
        return cls(module) if has_hooks else None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, put through the first boundary."""
        for link in self._links if is_tracing() else ():
            places = [i for i, arg in enumerate(args) if _takes_gradients(arg)]
            inside = _Inside(link, places, len(args))
            values, token = cross([unbox(args[i]) for i in places], inside)
            self._tokens.append(token)
            args = _replace(args, places, values)
            link.arity = len(args)
        return args

    def leave(self, args: tuple[Any, ...], result: Any) -> Any:
        """Return the result, put through the second boundary."""
        if self._warns and not isinstance(result, (*_ARRAYS, tuple)):
            warnings.warn(_NO_TENSOR.format(type(result)), stacklevel=_TO_CALLER)
        if any(not link.is_full for link in self._links):
            warn_not_full(args, result)
        for link, token in zip(self._links, self._tokens, strict=False):
            result = (_leave_whole if link.is_full else _leave_first)(link, result, token)
        return result


_ARRAYS = (jax.Array, np.ndarray, Writable)
_TO_CALLER = 6
_NO_TENSOR = "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but received {}"
_NO_INPUTS = (
    "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require"
    " gradients. See https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html"
    "#torch.nn.Module.register_full_backward_hook for more details."
)


def _takes_gradients(value: Any) -> bool:
    return isinstance(value, jax.Array | Writable) and is_differentiable(value)


def _replace(values: tuple[Any, ...], places: Sequence[int], new: Sequence[Any]) -> Any:
    changed = list(values)
    for i, value in zip(places, new, strict=True):
        changed[i] = value
    return tuple(changed) if type(values) is tuple else type(values)(*changed)


def _leave_whole(link: "_Link", result: Any, token: Any) -> Any:
    outputs = result if isinstance(result, tuple) else (result,)
    places = [i for i, output in enumerate(outputs) if _takes_gradients(output)]
    outside = _Outside(link, places, len(outputs))
    values, _ = cross([unbox(outputs[i]) for i in places], outside, token)
    outputs = _replace(outputs, places, values)
    return outputs if isinstance(result, tuple) else outputs[0]


def _leave_first(link: "_Link", result: Any, token: Any) -> Any:
    """Put the first array of a result, however nested, through the boundary."""
    if _takes_gradients(result):
        return cross([unbox(result)], _Outside(link, [0], 1), token)[0][0]
    if isinstance(result, dict):
        name = next((k for k, v in result.items() if isinstance(v, _ARRAYS)), None)
        return result if name is None else type(result)({**result, name: _leave_first(link, result[name], token)})
    if isinstance(result, tuple | list) and result:
        new = [_leave_first(link, result[0], token), *result[1:]]
        return type(result)(*new) if hasattr(result, "_fields") else type(result)(new)
    return result


class _Link:
    """What the two boundaries of one call have in common, and the gradients that await the first."""

    def __init__(self, module: Any, is_full: bool) -> None:
        # what JAX keeps of a compiled function must not keep a model alive; a model made in a trace goes with it
        self.module = weakref.ref(module) if module._parameters._born is None else lambda: module
        self.is_full = is_full
        self.path = list(local.path)
        self.arity = 0
        self.gradients: Any = None


class _Side:
    """One of the two boundaries; held by a differentiation it has the module, and its hooks as they are then."""

    is_repeated = True

    def __init__(self, link: _Link, places: Sequence[int], size: int, module: Any = None) -> None:
        self.link = link
        self.places = places
        self.size = size
        self.module = module
        self.hooks = [] if module is None else hooks_of(module, link.is_full)
        self.pre_hooks = pre_hooks_of(module) if module is not None and link.is_full else []

    def held(self) -> Self:
        """Return this boundary, holding on to the module."""
        module = self.link.module()
        if module is None:
            raise RuntimeError("a module that has backward hooks was called, and deleted before it was differentiated")
        return type(self)(self.link, self.places, self.size, module)

    def pack(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return all arguments or results, ``None`` where there is no gradient."""
        return _replace((None,) * self.size, self.places, values)

    def call(self, kind: str, hook: tuple[int, Callable[..., Any]], *gradients: Any) -> Any:
        """Call a hook as if where the module was called."""
        return call_gradient_hook(kind, hook, self.link.path, self.module, *gradients)

    def checked(
        self, hook: tuple[int, Callable[..., Any]], new: Any, what: tuple[str, str], avals: list[Any]
    ) -> tuple[Any, ...]:
        """Return what a hook returned in place of gradients."""
        if len(new) != self.size:
            raise RuntimeError(
                f"{what[0]} returned an invalid number of {what[1]}, got {len(new)}, but expected {self.size}"
            )
        pairs = zip(self.places, avals, strict=True)
        return self.pack([None if aval is None else checked_gradient(hook[1], new[i], aval) for i, aval in pairs])


class _Outside(_Side):
    """The boundary of the results: runs the pre-hooks, and passes their outcome on to the other."""

    def reverse(self, gradients: list[Any], avals: list[Any], is_anchored: bool, mapped: Mapped) -> list[Any]:
        """Return the gradients of the results as the pre-hooks leave them."""
        if all(gradient is None for gradient in gradients):
            return gradients
        if not is_anchored and self.link.is_full:
            warnings.warn(_NO_INPUTS, stacklevel=2)
        packed, gradients = mapped(lambda gradients: self._run(gradients, avals, is_anchored))(gradients)
        self.link.gradients = packed if is_anchored else None
        return gradients

    def _run(self, gradients: list[Any], avals: list[Any], is_anchored: bool) -> tuple[Any, list[Any]]:
        packed = self.pack(gradients)
        for hook in self.pre_hooks:
            new = self.call("backward pre-hook", hook, packed)
            if new is not None:
                packed = self.checked(hook, new, ("Backward pre hook", "grad_output"), avals)
        for hook in () if is_anchored else self.hooks:
            new = self.call("backward hook", hook, (None,) * self.link.arity, packed)
            if self.link.is_full and new is not None and not (isinstance(new, tuple) and all(x is None for x in new)):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always return None or None for"
                    " all gradients."
                )
        return packed, _filled([packed[i] for i in self.places], avals)


class _Inside(_Side):
    """The boundary of the arguments: runs the hooks."""

    def reverse(self, gradients: list[Any], avals: list[Any], is_anchored: bool, mapped: Mapped) -> list[Any]:
        """Return the gradients of the arguments as the hooks leave them."""
        outputs, self.link.gradients = self.link.gradients, None
        if outputs is None or all(gradient is None for gradient in gradients):
            return gradients
        return mapped(lambda gradients, outputs: self._run(gradients, outputs, avals))(gradients, outputs)

    def _run(self, gradients: list[Any], outputs: tuple[Any, ...], avals: list[Any]) -> list[Any]:
        packed = self.pack(_filled(gradients, avals))
        for hook in self.hooks:
            new = self.call("backward hook", hook, packed, outputs)
            if new is not None:
                packed = self.checked(hook, new, ("Backward hook", "grad_input"), avals)
        return [packed[i] for i in self.places]


def _filled(gradients: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """Return gradients with zeros for those that are wanted and not there."""
    return [
        jnp.zeros(aval.shape, aval.dtype) if gradient is None and aval is not None else gradient
        for gradient, aval in zip(gradients, avals, strict=True)
    ]


def warn_not_full(inputs: Any, result: Any) -> None:
    """Warn of what a non-full backward hook does not get to see."""
    flat = result if isinstance(result, tuple) else (result,)
    missing = None
    if not all(isinstance(value, _ARRAYS) for value in flat):
        missing = (
            "non-full backward hooks on a Module that does not return a single Tensor or a tuple of Tensors is",
            "of the grad_output",
        )
    elif not all(isinstance(value, _ARRAYS) for value in inputs):
        missing = (
            "non-full backward hooks on a Module that does not take as input a single Tensor or a tuple of Tensors is",
            "of the grad_input",
        )
    elif sum(map(_takes_gradients, flat)) > 1:
        missing = "a non-full backward hook when outputs are generated by different autograd Nodes is", "grad_output"
    if missing is not None:
        warnings.warn(_NOT_FULL.format(*missing), FutureWarning, stacklevel=_TO_CALLER + 1)


_NOT_FULL = (
    "Using {} deprecated and will be removed in future versions. This hook will be missing"
    " some {}. Please use register_full_backward_hook to get the documented behavior."
)


def register_module_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Register a non-full backward hook for every module; see :meth:`Module.register_backward_hook`.

    Raises:
        RuntimeError: if global full backward hooks have been registered.
    """
    return _register_globally(hook, False)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Register ``hook(module, grad_input, grad_output)`` to run in the backward pass of every module, before its own.

    Raises:
        RuntimeError: if global non-full backward hooks have been registered.
    """
    return _register_globally(hook, True)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Register ``hook(module, grad_output)`` to run before the backward pass of every module, before its own."""
    return add_hook(backward_pre_hooks, hook)
