"""Static values as keys: hashable, and equal when what a function would do with the values is equal.

Plain data is compared by content, what can't change or can't be looked into by identity. Beside it, because it walks
the same kinds of objects: finding the stateful objects that a function sees without being given them.
"""

import dataclasses
import dis
import enum
import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodules._tracing import Cell, Tracer
from jaxmodules._tracked import ATOMS, holds_traced_state
from jaxmodules.random import Generator


class Stateful:
    """Base of the objects whose arrays are state: modules and optimizers.

    Users subclass these: what the library adds to them has names that nobody else's attributes have.
    """

    __slots__ = ("__weakref__", "_jm_scope", "_jm_structure")

    def _jm_scan(self, scan: Any, path: str) -> Hashable:
        """Visit every slot with ``scan`` and return the rest of the structure as a key."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # what the slots hold is worked out again


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


FOREIGN = sys.stdlib_module_names | {"jax", "jaxlib", "numpy", "optax", "jaxmodules", "torch", "flax", "equinox"}


def is_record(value: Any) -> bool:
    """Tell whether an object is plain data, the user's or marked so: compared by the content of its attributes."""
    kind = type(value)
    if kind.__module__ in ("argparse", "types"):
        return isinstance(value, types.SimpleNamespace) or kind.__name__ == "Namespace"
    opaque = types.FunctionType | types.BuiltinFunctionType | type | types.ModuleType | enum.Enum
    has_attributes = hasattr(value, "__dict__") or dataclasses.is_dataclass(kind)
    is_plain = home(kind) not in FOREIGN or getattr(kind, "compared_by_content", False)
    return has_attributes and not isinstance(value, opaque) and is_plain


def _is_frozen(kind: type) -> bool:
    return bool(getattr(getattr(kind, "__dataclass_params__", None), "frozen", False))


def contents(record: Any) -> dict[str, Any]:
    """Return the attributes of a record by name."""
    if hasattr(record, "__dict__"):
        return vars(record)
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if hasattr(record, f.name)}


def holds_tracer(value: Any) -> bool:
    """Tell whether ``value`` is a tracer, or a container, a record, a box or a module with one inside."""
    return _holds_tracer(value, set())


def _holds_tracer(value: Any, seen: set[int]) -> bool:
    if isinstance(value, Tracer):
        return True
    if type(value) in ATOMS or type(value) is float or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Cell):
        return value._born is not None and isinstance(value._value, Tracer)
    if isinstance(value, Stateful):
        return hasattr(value, "_modules") and holds_traced_state(value)
    if isinstance(value, dict):
        return any(_holds_tracer(item, seen) for item in value.values())
    if isinstance(value, list | tuple | set | deque):
        return any(_holds_tracer(item, seen) for item in value)
    return is_record(value) and _holds_tracer(contents(value), seen)


def refill(container: Any, items: Any) -> None:
    """Put other items in the place of those of a dict, a list, a deque or a set."""
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(items)


def restorer(value: Any, seen: set[int] | None = None) -> Callable[[], None]:
    """Return a function that puts the content of a container or record back as it is now."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, Stateful | Cell | jax.Array):
        return lambda: None
    seen.add(id(value))
    if isinstance(value, dict):
        items, inner = dict(value), [restorer(v, seen) for v in value.values()]
    elif isinstance(value, list | deque | set):
        items, inner = list(value), [restorer(v, seen) for v in value]
    elif is_record(value) and hasattr(value, "__dict__"):
        return restorer(vars(value), seen)
    else:
        return lambda: None

    def restore() -> None:
        refill(value, items)
        for function in inner:
            function()

    return restore


def home(value: Any) -> str:
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
        if kind is complex:
            return complex, value.real.hex(), value.imag.hex()
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
        if isinstance(value, np.generic):
            return kind, value.tobytes()
        if isinstance(value, bytearray):
            self.mutable = True
            return kind, bytes(value)
        if isinstance(value, types.MethodType):
            return kind, Same(value.__func__), self.freeze(value.__self__, path)
        if isinstance(value, functools.partial):
            return kind, *(self.freeze(v, path) for v in (value.func, value.args, value.keywords))
        if kind is weakref.ref:
            self.mutable = True  # the object can die
            return kind, self.freeze(value(), path)
        if hasattr(kind, "_jm_around"):  # a compiled function
            return kind, self.freeze(value.__wrapped__, path), self.freeze(value._settings, path)
        if isinstance(value, types.FunctionType):
            held = captured(value).objects
            if held:  # a cell or global of the function can be filled anew
                self.mutable = True
            return kind, Same(value), tuple(self.freeze(v, path) for _, v in held)
        if is_record(value):
            self.mutable |= not (_is_frozen(kind) or getattr(kind, "compared_by_content", False))
            return kind, self.freeze(contents(value), path)
        if kind.__eq__ is not object.__eq__ and kind.__hash__ not in (None, object.__hash__):
            return kind, value
        return Same(value)


_WIDEST = 1000  # containers longer than this are data, not lists of modules
_DEEPEST = 8

Getter = Callable[[], Any]


class Captured(NamedTuple):
    """What a function shows: stateful objects, each with a getter, and checks that it still shows the same."""

    objects: list[tuple[Getter, Any]]
    watches: list[Callable[[], bool]]


def captured(function: Any) -> Captured:
    """Find the stateful objects that a function's closure, globals, defaults and ``self`` show."""
    found = Captured([], [])
    _capture(function, lambda: function, found, set(), 0)
    return found


def _capture(value: Any, get: Getter, found: Captured, seen: set[int], depth: int) -> None:
    if isinstance(value, Stateful | Cell | Generator):
        ref = weakref.ref(value)
        found.watches.append(lambda: get() is ref())
        if id(value) not in seen:
            seen.add(id(value))
            found.objects.append((get, value))
        return
    if value is None:
        found.watches.append(lambda: get() is None)
    if id(value) in seen or depth > _DEEPEST or isinstance(value, _PLAIN):
        return
    seen.add(id(value))
    before = len(found.objects)
    for item, item_get in _parts(value, get):
        _capture(item, item_get, found, seen, depth + 1)
    if isinstance(value, list | dict) and len(found.objects) > before:
        size = len(value)
        found.watches.append(lambda: len(get()) == size)


_PLAIN = (jax.Array, np.ndarray, type, types.ModuleType, str, int, float, type(None))


def _parts(value: Any, get: Getter) -> Iterator[tuple[Any, Getter]]:
    """Yield what a function, a container or a plain object of the user's holds, with a getter for each."""
    if isinstance(value, types.MethodType):
        yield value.__self__, lambda: get().__self__
        yield value.__func__, lambda: get().__func__
    elif isinstance(value, functools.partial):
        yield value.func, lambda: get().func
        yield from _parts(value.args, lambda: get().args)
        yield from _parts(value.keywords, lambda: get().keywords)
    elif isinstance(value, types.FunctionType):
        if home(value) not in FOREIGN or value.__closure__:
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
        if (owner := getattr(value, "__self__", None)) is not None:
            yield owner, lambda: get().__self__
    elif is_record(value):
        for k, item in list(contents(value).items()):
            yield item, lambda k=k: getattr(get(), k, None)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[Any, Getter]]:
    for cell in function.__closure__ or ():
        content = functools.partial(_content, cell)
        yield content(), content
    scope = function.__globals__
    for name in global_names(function.__code__):
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
def global_names(code: types.CodeType, *operations: str) -> tuple[str, ...]:
    """Return the global names that a code object and the functions defined in it read, or use in these operations."""
    wanted = operations or ("LOAD_GLOBAL", "LOAD_NAME")
    own = [str(i.argval) for i in dis.get_instructions(code) if i.opname in wanted]
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys([*own, *(name for c in inner for name in global_names(c, *operations))]))
