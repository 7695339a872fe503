"""Hooks around the steps of optimizers, and what happens around every step."""

import functools
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._keys import Freezer
from jaxmodules._tracing import StructureMoves, local
from jaxmodules._tracked import HookDict
from jaxmodules.state import Scan

STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
DICTS = (
    *STEP_HOOKS,
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
global_pre_hooks = HookDict()
global_post_hooks = HookDict()


_GRADIENTS = (Mapping, list, tuple, jax.Array)


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Register ``hook(optimizer, args, kwargs)`` to run before the steps of all optimizers.

    Args:
        hook: may return new ``(args, kwargs)`` for the step; ``args`` begin with the optimizer.

    Returns:
        A handle that removes the hook.
    """
    return add_hook(global_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Register ``hook(optimizer, args, kwargs)`` to run after the steps of all optimizers.

    Args:
        hook: a function; what it returns is not used.

    Returns:
        A handle that removes the hook.
    """
    return add_hook(global_post_hooks, hook)


def with_hooks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``step`` method with hooks around it; they run once, also where one step calls another by ``super``."""

    @functools.wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        optimizer = args[0]
        own = optimizer.__dict__
        if own["_stepping"]:
            return function(*args, **kwargs)
        for hook in (*global_pre_hooks.values(), *own[STEP_HOOKS[0]].values()):
            result = hook(optimizer, args, kwargs)
            if result is not None:
                if not (isinstance(result, tuple) and len(result) == 2):
                    raise RuntimeError(
                        f"{function} must return None or a tuple of (new_args, new_kwargs), but got {result}."
                    )
                args, kwargs = result
        own["_stepping"] = own["_opt_called"] = True  # the second is what schedulers look for
        try:
            if optimizer._steps_itself and len(args) > 1 and isinstance(args[1], _GRADIENTS):
                with optimizer._lent(args[1]):
                    out = function(optimizer, *args[2:], **kwargs)
            else:
                out = function(*args, **kwargs)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            if not local.frames or not optimizer._can_pin():
                raise
            raise StructureMoves(optimizer._pin) from None
        finally:
            own["_stepping"] = False
            move = optimizer._take_back_reservations()
        if move is not None:
            raise StructureMoves(move)
        for group in optimizer.param_groups:
            for schedule in group.schedules().values():
                schedule.advance()
        for hook in (*own[STEP_HOOKS[1]].values(), *global_post_hooks.values()):
            hook(optimizer, args, kwargs)
        return out

    step.hooked = True  # type: ignore[attr-defined]
    return step


def scanned(optimizer: Any, scan: Scan, path: str) -> Hashable:
    """Return the key of the hooks around an optimizer's steps."""
    own = optimizer.__dict__
    outer, scan.mutable = scan.mutable, False
    key = tuple(scan.hooks(hooks, path) for hooks in (*(own[name] for name in STEP_HOOKS), *_GLOBAL))
    if scan.mutable:
        scan.volatile += [(weakref.ref(optimizer), name, Freezer().freeze(own[name], "")) for name in STEP_HOOKS]
    scan.mutable = outer
    return key


_GLOBAL = (global_pre_hooks, global_post_hooks)
