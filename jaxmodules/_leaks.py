"""Calls of hooks that may not keep what they see: a traced value stored in passing is taken out again and refused.

A hook is the one piece of a user's code that is made to store things. Under a trace it sees traced values, which are
of no use afterwards; so each place that the hook shows (closure, globals, defaults, ``self``, what is bound by
``partial``, and the containers and plain objects inside) is compared before and after its call.
"""

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxmodules._handles import was_registered_here
from jaxmodules._keys import (
    ATOMS,
    FOREIGN,
    Stateful,
    contents,
    global_names,
    holds_tracer,
    home,
    is_record,
    refill,
)
from jaxmodules._tracing import Cell, LeakError, Tracer, is_tracing, local
from jaxmodules._tracked import HookDict, TrackedDict
from jaxmodules.random import Generator

_WIDEST = 1000  # what is longer is looked at, but not into
_DEEPEST = 8
_OPAQUE = (jax.Array, np.ndarray, str, bytes, int, float, types.ModuleType, Cell, Generator)
_HOLDERS = ("collections", "queue", "weakref")  # the containers of the standard library that are written in Python
_EMPTY = object()

Items = list[tuple[str, Any]]


class _Place:
    """Something that values can be stored in, with what was in it."""

    def __init__(self, read: Callable[[], Items], restore: Callable[[], None]) -> None:
        self.read = read
        self.restore = restore
        values = [value for _, value in read()]
        self.before = {id(value) for value in values}
        self.is_traced = any(isinstance(value, Tracer) for value in values)  # made for the trace, and gone with it

    def taken_up(self) -> str | None:
        """Return the name of the first traced value that was not there before."""
        if self.is_traced:
            return None
        return next((n for n, value in self.read() if id(value) not in self.before and holds_tracer(value)), None)


class Holdings:
    """All places that a function shows, as they are now."""

    def __init__(self, *roots: Any) -> None:
        self._places: list[_Place] = []
        self._kept: list[Any] = []  # alive while their ids stand for them
        self._seen: set[int] = set()
        for root in roots:
            self._walk(root, type(root).__name__ if isinstance(root, Stateful) else "", 0)

    def take_back(self) -> str | None:
        """Put back every place that has taken up a traced value; return the name of the first."""
        names = [(place.taken_up(), place) for place in self._places]
        for name, place in names:
            if name is not None:
                place.restore()
        return next((name for name, _ in names if name is not None), None)

    def _add(self, read: Callable[[], Items], restore: Callable[[], None]) -> Items:
        items = read()
        self._kept.append(items)
        self._places.append(_Place(read, restore))
        return items

    def _walk(self, value: Any, name: str, depth: int) -> None:
        if type(value) in ATOMS or id(value) in self._seen or depth > _DEEPEST or isinstance(value, _OPAQUE):
            return
        self._seen.add(id(value))
        self._kept.append(value)
        for inner, item in self._inside(value, name):
            self._walk(item, inner, depth + 1)

    def _inside(self, value: Any, name: str) -> Items:
        dot = f"{name}." if name else ""
        if isinstance(value, types.MethodType):
            return [(type(value.__self__).__name__, value.__self__), (name, value.__func__)]
        if isinstance(value, functools.partial):
            return [(name, value.func), *((name, v) for v in value.args), *value.keywords.items()]
        if isinstance(value, types.FunctionType):
            return self._function(value) if home(value) not in FOREIGN or value.__closure__ else []
        if isinstance(value, tuple):
            return [(f"{name}[{i}]", item) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return self._container(value, lambda: [(f"{name}[{k!r}]", v) for k, v in list(value.items())])
        if isinstance(value, list | deque | set):
            return self._container(value, lambda: [(f"{name}[{i}]", v) for i, v in enumerate(value)])
        if isinstance(value, Stateful):  # a traced value assigned to an attribute is refused where that happens
            own = [(dot + k, v) for k, v in vars(value).items() if isinstance(v, dict | list | deque | set)]
            return [(name, v) for name, v in own if not isinstance(v, TrackedDict | HookDict)]
        if isinstance(value, type):
            return self._class(value, dot) if home(value) not in FOREIGN else []
        if is_record(value):
            fields = contents(value)
            there = [(type(value).__name__, type(value))]
            if fields is not getattr(value, "__dict__", None):
                return [*there, *((dot + k, v) for k, v in fields.items())]
            return there + self._container(fields, lambda: [(dot + k, v) for k, v in list(fields.items())])
        if home(type(value)) in _HOLDERS and hasattr(value, "__dict__"):
            return [(name, item) for item in vars(value).values()]
        if home(type(value)) not in FOREIGN and _slots(type(value)):
            return self._add(*_slotted(value, dot))
        return [(name, value.__wrapped__)] if hasattr(value, "__wrapped__") else []

    def _container(self, value: Any, read: Callable[[], Items]) -> Items:
        snapshot: Any = dict(value) if isinstance(value, dict) else list(value)
        items = self._add(read, lambda: refill(value, snapshot))
        return items if len(items) <= _WIDEST else []

    def _class(self, value: Any, dot: str) -> Items:
        def read() -> Items:
            return [(dot + k, v) for k, v in list(vars(value).items()) if not k.startswith("__")]

        before = dict(vars(value))

        def restore() -> None:
            for k in list(vars(value)):
                if k not in before:
                    delattr(value, k)
                elif vars(value)[k] is not before[k] and not k.startswith("__"):
                    setattr(value, k, before[k])

        return [(k, v) for k, v in self._add(read, restore) if not callable(v)]

    def _function(self, function: types.FunctionType) -> Items:
        items = [*self._variables(function)]
        defaults = enumerate(function.__defaults__ or ())
        items += [(f"default {i} of {function.__name__}", value) for i, value in defaults]
        items += [(f"default {k!r} of {function.__name__}", v) for k, v in (function.__kwdefaults__ or {}).items()]
        return [*items, (function.__name__, vars(function))]

    def _variables(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """Yield what the names outside the function stand for; the function may bind them anew."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield from self._add(*_cell(cell, name))
        if home(function) in FOREIGN:
            return
        scope = function.__globals__
        for name in global_names(function.__code__, "STORE_GLOBAL"):
            self._add(*_global(scope, name))
        yield from [(name, scope[name]) for name in global_names(function.__code__) if name in scope]


def _cell(cell: types.CellType, name: str) -> tuple[Callable[[], Items], Callable[[], None]]:
    def read() -> Items:
        try:
            return [(name, cell.cell_contents)]
        except ValueError:  # not filled
            return []

    before = read()

    def restore() -> None:
        if before:
            cell.cell_contents = before[0][1]
        else:
            del cell.cell_contents

    return read, restore


def _slots(kind: type) -> list[str]:
    """Return the names of the slots that the objects of a class have."""
    groups = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    names = [name for group in groups for name in ([group] if isinstance(group, str) else group)]
    return [name for name in names if not name.startswith("__")]


def _slotted(value: Any, dot: str) -> tuple[Callable[[], Items], Callable[[], None]]:
    names = _slots(type(value))

    def read() -> Items:
        return [(dot + name, getattr(value, name)) for name in names if hasattr(value, name)]

    before = dict(read())

    def restore() -> None:
        for name, new in read():
            if name not in before:
                delattr(value, name.removeprefix(dot))
            elif new is not before[name]:
                setattr(value, name.removeprefix(dot), before[name])

    return read, restore


def _global(scope: dict[str, Any], name: str) -> tuple[Callable[[], Items], Callable[[], None]]:
    before = scope.get(name, _EMPTY)

    def restore() -> None:
        if before is _EMPTY:
            del scope[name]
        else:
            scope[name] = before

    return lambda: [(name, scope[name])] if name in scope else [], restore


def call_hook(kind: str, number: int, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a hook; if it stores a traced value, take that out of where it is and raise.

    Args:
        kind: what to call it in the message.
        number: the id of its handle. A hook registered inside the running trace may store what the trace computes.
        hook: the function.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        LeakError: naming the hook, the place, the module, and the way to get values out.
    """
    if not is_tracing() or home(hook) == "jaxmodules" or was_registered_here(number):
        return hook(*args, **kwargs)
    holdings = Holdings(hook, *(arg for arg in args if isinstance(arg, Stateful)))
    try:
        out = hook(*args, **kwargs)
    except BaseException:
        holdings.take_back()
        raise
    place = holdings.take_back()
    if place is not None:
        raise LeakError(_message(kind, hook, place))
    return out


def _message(kind: str, hook: Any, place: str) -> str:
    name = getattr(hook, "__qualname__", None) or type(hook).__name__
    module = f" of '{'.'.join(local.path)}'" if local.path else ""
    where = f"'{place}'" if place else "an object of its own"
    return (
        f"the {kind} '{name}'{module} stored a traced value in {where}, which outlives the trace (expected a concrete"
        f" array); it has been taken out again: {_ADVICE['forward' in kind]}"
    )


_ADVICE = {
    True: "jm.capture(net, names)(x) returns the outputs of submodules, also in a compiled function",
    False: "store gradients where they are concrete (jm.grad or jm.backward without jm.jit around), or return them",
}
