"""Handles that remove hooks, and the way a hook gets into a dict of hooks."""

import weakref
from typing import Any

from jaxmodules._tracing import ancestry, birth, current_trace
from jaxmodules._tracked import HookDict


class RemovableHandle:
    """Remove a hook with :meth:`remove`, or at the end of a ``with`` block.

    Args:
        hooks_dict: the dict that the hook is registered in, under the handle's ``id``.
        extra_dict: further dicts with entries under the same ``id``.
    """

    next_id = 0

    def __init__(self, hooks_dict: Any, *, extra_dict: Any = None) -> None:
        self.id = RemovableHandle.next_id
        RemovableHandle.next_id += 1
        extras = extra_dict if isinstance(extra_dict, list) else [] if extra_dict is None else [extra_dict]
        self.hooks_dict_ref = weakref.ref(hooks_dict)
        self.extra_dict_ref = tuple(weakref.ref(extra) for extra in extras)

    def remove(self) -> None:
        """Unregister the hook; doing it twice is no error."""
        for ref in (self.hooks_dict_ref, *self.extra_dict_ref):
            hooks = ref()
            if hooks is not None and self.id in hooks:
                del hooks[self.id]

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.hooks_dict_ref(), self.id, tuple(ref() for ref in self.extra_dict_ref))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        hooks, self.id, extras = state
        self.hooks_dict_ref = weakref.ref(HookDict() if hooks is None else hooks)
        self.extra_dict_ref = tuple(weakref.ref(HookDict() if extra is None else extra) for extra in extras)
        RemovableHandle.next_id = max(RemovableHandle.next_id, self.id + 1)

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()


_births: dict[int, weakref.ref[Any]] = {}  # the traces that hooks were registered in


def add_hook(hooks: HookDict, hook: Any, prepend: bool = False, **flags: tuple[HookDict, bool]) -> RemovableHandle:
    """Register ``hook``, and its id in each flag dict whose flag is true."""
    handle = RemovableHandle(hooks, extra_dict=[flag for flag, _ in flags.values()])
    trace = birth()
    if trace is not None:
        for number in [number for number, other in _births.items() if other() is None]:
            del _births[number]
        _births[handle.id] = trace
    hooks[handle.id] = hook
    for flag, is_on in flags.values():
        if is_on:
            flag[handle.id] = True
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


def was_registered_here(number: int) -> bool:
    """Tell whether the hook of the handle with this id was registered inside the running trace."""
    if number not in _births:
        return False
    trace = _births[number]()
    return trace is not None and any(trace is outer for outer in ancestry(current_trace()))
