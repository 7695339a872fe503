"""Static values as keys: hashable, and equal when what a function would do with the values is equal.

Plain data is compared by content, what can't change or can't be looked into by identity. Beside it, because it walks
the same kinds of objects: finding the stateful objects that a function sees without being given them.
"""

import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np

from jaxmodules._tracing import Cell
from jaxmodules.random import Generator


class Stateful:
    """Base of the objects whose arrays are state: modules and optimizers."""

    __slots__ = ("__weakref__", "_observed", "_scope", "_structure")

    def _scan(self, scan: Any, path: str) -> Hashable:
        """Visit every slot with ``scan`` and return the rest of the structure as a key."""
        raise NotImplementedError


class Same:
    """A key that is equal for one and the same object only, and does not keep it alive."""

    __slots__ = ("number", "ref")

    def __init__(self, value: Any) -> None:
        self.number = id(value)
        try:
            self.ref: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self.ref = lambda: value

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.number == other.number and self.ref() is other.ref() is not None

    def __repr__(self) -> str:
        return f"Same({self.ref()!r})"


ATOMS = frozenset({int, str, bool, bytes, complex, type(None), type(...), type(NotImplemented)})
FOREIGN = sys.stdlib_module_names | {"jax", "jaxlib", "numpy", "optax", "jaxmodules", "torch", "flax", "equinox"}
def is_record(value: Any) -> bool:
    """Tell whether an object is plain data of the user's: compared by the content of its attributes."""
    kind = type(value)
    if kind.__module__ in ("argparse", "types"):
        return isinstance(value, types.SimpleNamespace) or kind.__name__ == "Namespace"
    opaque = types.FunctionType | types.BuiltinFunctionType | type | types.ModuleType
    return hasattr(value, "__dict__") and not isinstance(value, opaque) and _home(kind) not in FOREIGN


def _home(value: Any) -> str:
    """Return the top-level package that a class or function comes from."""
    return (value.__module__ or "").partition(".")[0]


class Freezer:
    """Turn a static value into a hashable key that is equal when the value is."""

    def __init__(self) -> None:
        self.mutable = False  # whether anything frozen since this was last cleared can change in place
        self._open: set[int] = set()

    def stateful(self, value: Any, path: str) -> Hashable:
        """Return the key of a box or a stateful object."""
        return Same(value)

    def freeze(self, value: Any, path: str) -> Hashable:
        """Return the key of any value."""
        kind = type(value)
        if kind in ATOMS:
            return kind, value  # the kind matters: 1 == True == 1.0
        if kind is float:
            return float, value.hex()
        if isinstance(value, Cell | Stateful | Generator):
            return self.stateful(value, path)
        if id(value) in self._open:
            return "cycle"
        self._open.add(id(value))
        try:
            return self._compound(value, kind, path)
        finally:
            self._open.discard(id(value))

    def _compound(self, value: Any, kind: type, path: str) -> Hashable:
        if isinstance(value, dict):
            self.mutable = True
            return kind, tuple((self.freeze(k, path), self.freeze(v, f"{path}[{k!r}]")) for k, v in value.items())
        if isinstance(value, list | tuple | deque):
            self.mutable |= not isinstance(value, tuple)
            return kind, tuple(self.freeze(v, f"{path}[{i}]") for i, v in enumerate(value))
        if isinstance(value, set | frozenset):
            self.mutable |= isinstance(value, set)
            return kind, frozenset(self.freeze(v, path) for v in value)
        if isinstance(value, np.ndarray):
            self.mutable = True
            content = tuple(map(Same, value.flat)) if value.dtype.hasobject else value.tobytes()
            return kind, value.dtype.str, value.shape, content
        if isinstance(value, types.MethodType):
            return kind, Same(value.__func__), self.freeze(value.__self__, path)
        if isinstance(value, functools.partial):
            return kind, *(self.freeze(v, path) for v in (value.func, value.args, value.keywords))
        if isinstance(value, types.FunctionType):
            held = captured(value)
            return kind, Same(value), tuple(self.freeze(v, path) for _, v in held)
        if is_record(value):
            self.mutable = True
            return kind, self.freeze(vars(value), path)
        if kind.__eq__ is not object.__eq__ and kind.__hash__ not in (None, object.__hash__):
            return kind, value
        return Same(value)


_WIDEST = 1000  # containers longer than this are data, not lists of modules


def captured(function: Any) -> list[tuple[Callable[[], Any], Any]]:
    """Find the stateful objects that a function's closure, globals, defaults and ``self`` show.

    Returns:
        Pairs of a getter, which tells on a later call what the function sees there then, and the object.
    """
    found: list[tuple[Callable[[], Any], Any]] = []
    _capture(function, lambda: function, found, set(), 0)
    return found


def _capture(
    value: Any, get: Callable[[], Any], found: list[tuple[Callable[[], Any], Any]], seen: set[int], depth: int
) -> None:
    if id(value) in seen or depth > 8:
        return
    if isinstance(value, Stateful | Cell | Generator):
        seen.add(id(value))
        found.append((get, value))
        return
    if isinstance(value, jax.Array | np.ndarray | type | types.ModuleType | str | int | float | None):
        return
    seen.add(id(value))
    for item, item_get in _parts(value, get):
        _capture(item, item_get, found, seen, depth + 1)


def _parts(value: Any, get: Callable[[], Any]) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """Yield what a function, a container or a plain object of the user's holds, with a getter for each."""
    if isinstance(value, types.MethodType):
        yield value.__self__, lambda: get().__self__
        yield value.__func__, lambda: get().__func__
    elif isinstance(value, functools.partial):
        yield value.func, lambda: get().func
        yield from _parts(value.args, lambda: get().args)
        yield from _parts(value.keywords, lambda: get().keywords)
    elif isinstance(value, types.FunctionType):
        if _home(value) not in FOREIGN or value.__closure__:
            yield from _function_parts(value)
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__, lambda: get().__wrapped__
    elif isinstance(value, list | tuple) and len(value) <= _WIDEST:
        for i, item in enumerate(value):
            yield item, lambda i=i: get()[i] if i < len(get()) else None
    elif isinstance(value, dict) and len(value) <= _WIDEST:
        for k, item in list(value.items()):
            yield item, lambda k=k: get().get(k)
    elif (wrapped := getattr(value, "__wrapped__", None)) is not None:
        yield wrapped, lambda: get().__wrapped__
    elif is_record(value):
        for k, item in list(vars(value).items()):
            yield item, lambda k=k: vars(get()).get(k)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[Any, Callable[[], Any]]]:
    for cell in function.__closure__ or ():
        content = functools.partial(_content, cell)
        yield content(), content
    scope = function.__globals__
    for name in _global_names(function.__code__):
        if name in scope:
            yield scope[name], functools.partial(scope.get, name)
    for i, default in enumerate(function.__defaults__ or ()):
        yield default, lambda i=i: (function.__defaults__ or ())[i]
    for k, default in (function.__kwdefaults__ or {}).items():
        yield default, lambda k=k: (function.__kwdefaults__ or {}).get(k)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@functools.cache
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that a code object and the functions defined in it mention."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *(n for c in inner for n in _global_names(c))]))
