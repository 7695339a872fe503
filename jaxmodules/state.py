"""The state core: where the arrays of stateful objects are, and what their structure is.

A :class:`Structure` lists the *slots* of some objects (modules, optimizers, generators), each once: boxes
(``Cell._value``) and entries of ``_buffers``. Beside them it has a *key*: everything else that decides what a
traced function does (classes, names, static attributes, flags, hooks, tying), compared by value. Two calls with
equal keys run the same program; so a compiled call need only read the slots, run, and write back what changed.

Finding a structure walks the objects; knowing that it still holds is one comparison, because every change to an
observed object moves ``epoch`` (see :class:`TrackedDict` and ``Module.__setattr__``). Attributes that change in
place without telling (lists, dicts, sets, NumPy arrays, plain records) are compared by content instead.

:func:`bound` is the one way tracers get into slots: it swaps them in on the very objects, and out again whatever
happens, under one lock.
"""

import functools
import sys
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jaxmodules._tracing import (
    Cell,
    Frame,
    LeakError,
    Tracer,
    birth,
    epoch,
    is_tracing,
    leak_message,
    leaks,
    local,
    owner,
)
from jaxmodules.random import Generator

lock = threading.RLock()
set_item = dict.__setitem__


class Stateful:
    """Base of the objects whose arrays are state: modules and optimizers."""

    __slots__ = ("__weakref__", "_observed", "_scope", "_structure")

    def _scan(self, scan: "Scan", path: str) -> Hashable:
        """Visit every slot with ``scan.cell``/``scan.item`` and return the rest of the structure as a key."""
        raise NotImplementedError


class TrackedDict(dict[str, Any]):
    """A dict whose structural changes move the epoch once a structure has been read from it."""

    __slots__ = ("__weakref__", "_born", "observed")

    def __new__(cls, *args: Any, **kwargs: Any) -> "TrackedDict":
        """Make an unobserved dict."""
        self = super().__new__(cls)
        self.observed = False
        self._born = birth()
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self._check(key, value)
        if self.observed and self._is_change(key, value):
            epoch.count += 1
        set_item(self, key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set every item of a mapping or iterable of pairs."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, setting it first where it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> "TrackedDict":  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return type(self)._of, (dict(self),)

    @classmethod
    def _of(cls, items: Mapping[str, Any]) -> "TrackedDict":
        self = cls()
        dict.update(self, items)
        return self

    def _is_change(self, key: str, value: Any) -> bool:
        return key not in self or self[key] is not value

    def _check(self, key: str, value: Any) -> None:
        """Refuse a box that was made in a trace and would outlive it here."""
        if isinstance(value, Cell) and owner(id(value)) is None and leaks(value._value, (id(self), key), self._born):
            raise LeakError(leak_message(f"the parameter '{'.'.join([*local.path, key])}'"))


class ChildDict(TrackedDict):
    """The children of a module; tells each child the name it is called by."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if value is not None:
            object.__setattr__(value, "_scope", key)

    def _check(self, key: str, value: Any) -> None:
        """Refuse a module that was made in a trace and would outlive it here."""
        if value is not None and is_tracing() and self._born is None and value._parameters._born is not None:
            if any(isinstance(leaf, Tracer) for leaf in structure_of(value).read()):
                raise LeakError(leak_message(f"the module '{'.'.join([*local.path, key])}'"))


class BufferDict(TrackedDict):
    """The buffers of a module: a new array in place of an old one is a value, not a change of structure."""

    __slots__ = ()

    def _is_change(self, key: str, value: Any) -> bool:
        return key not in self or (self[key] is None) != (value is None)

    def _check(self, key: str, value: Any) -> None:
        if isinstance(value, Tracer) and leaks(value, (id(self), key), self._born):
            raise LeakError(leak_message(f"the buffer '{'.'.join([*local.path, key])}'"))


class HookDict(OrderedDict[int, Any]):
    """The hooks of a module, by handle id."""

    observed = False

    def __reduce__(self) -> Any:
        return HookDict, (list(self.items()),)


def _telling(base: type, name: str) -> Callable[..., Any]:
    method = getattr(base, name)

    @functools.wraps(method)
    def mutate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.observed:
            epoch.count += 1
        return method(self, *args, **kwargs)

    return mutate


for _name in ("__delitem__", "pop", "popitem", "clear"):
    setattr(TrackedDict, _name, _telling(dict, _name))
for _name in ("__setitem__", "__delitem__", "pop", "popitem", "clear", "move_to_end"):
    setattr(HookDict, _name, _telling(OrderedDict, _name))

global_hooks: list[HookDict] = []


def holds_tracer(value: Any) -> bool:
    """Tell whether ``value`` is a tracer, or a list, tuple, dict or set with one inside."""
    if isinstance(value, Tracer):
        return True
    if isinstance(value, dict):
        return any(map(holds_tracer, value.values()))
    return isinstance(value, list | tuple | set | deque) and any(map(holds_tracer, value))


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
_NOT_STRUCTURE = frozenset(
    "_parameters _buffers _modules _backward_pre_hooks _backward_hooks _is_full_backward_hook _forward_hooks"
    " _forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks _forward_pre_hooks_with_kwargs"
    " _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks"
    " _non_persistent_buffers_set _compiled_call_impl".split()
)


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


class Scan(Freezer):
    """One walk over stateful objects that collects their slots and their key."""

    def __init__(self) -> None:
        super().__init__()
        self.ordinal: dict[int, int] = {}  # id -> order of first visit
        self.cells: list[Cell] = []
        self.items: list[tuple[BufferDict, str]] = []
        self.cell_names: list[str] = []
        self.item_names: list[str] = []
        self.volatile: list[tuple[dict[str, Any], str, Hashable]] = []
        self._later: list[tuple[Any, str]] = []

    def run(self, roots: Sequence[Any]) -> Hashable:
        """Visit ``roots`` and return their joint key."""
        parts: list[Hashable] = [self.stateful(root, "") for root in roots]
        for module, path in self._later:  # static attributes last: modules get their names from the tree
            parts.append(self._static(module, path))
        parts.append(tuple(self._hooks(hooks, "") for hooks in global_hooks))
        return tuple(parts)

    def stateful(self, value: Any, path: str) -> Hashable:
        """Visit a box or a stateful object."""
        number = self.ordinal.setdefault(id(value), len(self.ordinal))
        if number != len(self.ordinal) - 1:
            return "again", number
        if isinstance(value, Cell):
            self.cells.append(value)
            self.cell_names.append(path)
            extras = self._attributes(value.__dict__, path) if getattr(value, "__dict__", None) else ()
            return type(value), extras
        if isinstance(value, Generator):
            return type(value), self.stateful(value._key, path)
        object.__setattr__(value, "_observed", True)
        return type(value), value._scan(self, path)

    def module(self, module: Any, path: str) -> Hashable:
        """Visit the dicts of a module, in the order of its named parameters, buffers and children."""
        prefix = f"{path}." if path else ""
        own: dict[str, Any] = module.__dict__
        parameters, buffers, children = own["_parameters"], own["_buffers"], own["_modules"]
        parameters.observed = buffers.observed = children.observed = True
        boxes = [(k, None if p is None else self.stateful(p, prefix + k)) for k, p in parameters.items()]
        arrays = [(k, array is None or self._item(buffers, k, prefix + k)) for k, array in buffers.items()]
        self._later.append((module, prefix))
        return (
            tuple(boxes),
            tuple(arrays),
            tuple((k, None if m is None else self.stateful(m, prefix + k)) for k, m in children.items()),
        )

    def _item(self, buffers: BufferDict, name: str, path: str) -> bool:
        self.items.append((buffers, name))
        self.item_names.append(path)
        return False

    def _static(self, module: Any, prefix: str) -> Hashable:
        own: dict[str, Any] = module.__dict__
        kwargs, always = own["_forward_hooks_with_kwargs"], own["_forward_hooks_always_called"]
        pre = own["_forward_pre_hooks"]
        pre_kwargs = own["_forward_pre_hooks_with_kwargs"]
        return (
            self._attributes(own, prefix),
            self._hooks(own["_forward_hooks"], prefix, kwargs, always) if own["_forward_hooks"] else (),
            self._hooks(pre, prefix, pre_kwargs) if pre else (),
            self._observe(own["_forward_hooks"]),
            self._observe(pre),
        )

    def _observe(self, hooks: HookDict) -> None:
        hooks.observed = True

    def _hooks(self, hooks: HookDict, prefix: str, *flags: Mapping[int, Any]) -> Hashable:
        return tuple((self.freeze(hook, prefix), *(i in flag for flag in flags)) for i, hook in hooks.items())

    def _attributes(self, own: dict[str, Any], prefix: str) -> Hashable:
        parts = []
        for name in sorted(own.keys() - _NOT_STRUCTURE):
            if name == "_grad" or name == "_labels":
                continue
            self.mutable = False
            parts.append((name, self.freeze(own[name], prefix + name)))
            if self.mutable:
                self.volatile.append((own, name, Freezer().freeze(own[name], "")))
        return tuple(parts)


class Key:
    """A structure key with its hash computed once."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: Hashable) -> None:
        self.parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts
        )


class Slots:
    """Places that hold arrays: boxes first, then buffers."""

    def __init__(self, cells: list[Cell], items: list[tuple[BufferDict, str]], names: list[str]) -> None:
        self.cells = cells
        self.items = items
        self.names = names
        self.places: list[Hashable] = [*map(id, cells), *((id(buffers), name) for buffers, name in items)]
        self.owned = dict(zip(self.places, names, strict=True))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> list[Any]:
        """The boxes that can have a ``.grad``."""
        return [c for c in self.cells if hasattr(c, "_requires_grad")]

    def subset(self, indices: Sequence[int]) -> "Slots":
        """Return some of the slots; ``indices`` are in order."""
        split = len(self.cells)
        cells = [self.cells[i] for i in indices if i < split]
        items = [self.items[i - split] for i in indices if i >= split]
        return Slots(cells, items, [self.names[i] for i in indices])

    def read(self) -> list[Any]:
        """Return what the slots hold."""
        return [c._value for c in self.cells] + [d[k] for d, k in self.items]

    def write(self, values: Sequence[Any]) -> None:
        """Put ``values`` into the slots, unchecked."""
        for cell, value in zip(self.cells, values, strict=False):
            cell._value = value
        for (buffers, name), value in zip(self.items, values[len(self.cells) :], strict=True):
            set_item(buffers, name, value)

    def assign(self, indices: Sequence[int], values: Sequence[Any]) -> None:
        """Put ``values`` into some slots the way a user would: a leak is refused before anything is written."""
        split = len(self.cells)
        for i, value in zip(indices, values, strict=True):
            if i < split:
                self.cells[i]._check_write(value)
            else:
                buffers, name = self.items[i - split]
                buffers._check(name, value)
        for i, value in zip(indices, values, strict=True):
            if i < split:
                self.cells[i]._value = value
            else:
                set_item(*self.items[i - split], value)


class Structure(Slots):
    """The slots and the key of some stateful objects, as they were at one epoch."""

    def __init__(self, roots: Sequence[Any]) -> None:
        self.epoch = epoch.count
        scan = Scan()
        self.key = Key(scan.run(roots))
        self.volatile = scan.volatile
        self.template: Any = None  # what a pytree is rebuilt from
        super().__init__(scan.cells, scan.items, scan.cell_names + scan.item_names)

    def fresh(self) -> bool:
        """Tell whether the objects still have this structure."""
        return self.epoch == epoch.count and (not self.volatile or self.unchanged())

    def unchanged(self) -> bool:
        """Tell whether the attributes that can change in place have the content they had."""
        freeze = Freezer().freeze
        return all(freeze(own.get(name), "") == was for own, name, was in self.volatile)

    def refuse_tracers(self) -> None:
        """Raise if a list or dict among the attributes has taken up a traced value."""
        for own, name, _ in self.volatile:
            if holds_tracer(own.get(name)):
                raise LeakError(leak_message(f"the attribute '{name}'"))


def _known(root: Any) -> Structure | None:
    try:
        return object.__getattribute__(root, "_structure")
    except AttributeError:
        return None


def structure_of(root: Any) -> Structure:
    """Return the structure of one object, walking it only when something changed."""
    known = _known(root)
    if known is None or not known.fresh():
        known = Structure([root])
        object.__setattr__(root, "_structure", known)
    return known


swapped: list[Frame] = []  # of the thread that holds the lock


def wait(slots: Slots) -> bool:
    """Take the lock, held by another thread, if that thread has swapped tracers into these slots; tell whether."""
    if any(not frame.owned.keys().isdisjoint(slots.owned) for frame in tuple(swapped)):
        return lock.acquire()
    return False


@contextmanager
def bound(
    slots: Slots, values: Sequence[Any], *, lifts: bool = False, grads: bool | None = None
) -> Iterator[Frame]:
    """Run the body with ``values`` in the slots; afterwards the slots hold what they held before."""
    with lock:
        frame = Frame(slots.owned, lifts, grads)
        before = slots.read()
        boxes = slots.parameters if grads else []
        gradients = [p._grad for p in boxes]
        frames = local.frames
        try:
            swapped.append(frame)
            slots.write(values)
            frames.append(frame)
            yield frame
        finally:
            swapped.remove(frame)
            if frames and frames[-1] is frame:
                frames.pop()
            slots.write(before)
            for box, gradient in zip(boxes, gradients, strict=True):
                box._grad = gradient


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
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__, lambda: get().__wrapped__
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
