"""Dicts that tell: a module's registries, and its ``__dict__``, move the epoch on a change of structure; no leaks."""

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Self

from jaxmodules._tracing import (
    Cell,
    LeakError,
    Tracer,
    UnboundStateError,
    birth,
    epoch,
    is_foreign,
    is_tracing,
    leak_message,
    leaks,
    local,
    lock,
    must_not_read,
    nothing,
    owner,
    swapped,
    unbound_message,
)

buffer_writes = [0]  # how often any buffer was written; a copy of some is true while the count stands still
get_item = dict.__getitem__
set_item = dict.__setitem__
MISSING = object()
ATOMS = frozenset({int, str, bool, bytes, type(None), type(...), type(NotImplemented)})


class ItemwiseDict(dict[str, Any]):
    """A dict that changes through ``__setitem__`` alone, whichever method sets its items."""

    __slots__ = ()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set every item of a mapping or iterable of pairs."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, setting it first where it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self


class TrackedDict(ItemwiseDict):
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
            object.__setattr__(value, "_jm_scope", str(key))

    @classmethod
    def _of(cls, items: Mapping[str, Any]) -> "ChildDict":
        self = cls()
        self.update(items)
        return self

    def _check(self, key: str, value: Any) -> None:
        """Refuse a module that was made in a trace and would outlive it here."""
        if value is not None and is_tracing() and self._born is None and holds_traced_state(value):
            raise LeakError(leak_message(f"the module '{'.'.join([*local.path, key])}'"))


class Awaited:
    """A buffer that an array will take the place of; knows the registries it is in."""

    _places: list[tuple[weakref.ref[Any], str]]


class BufferDict(TrackedDict):
    """The buffers of a module: a new array in place of an old one is a value, not a change of structure."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        if not swapped and not local.frames:
            return get_item(self, key)
        array = self._settled(key)
        if array is not None and must_not_read((id(self), key), self._born):
            raise UnboundStateError(unbound_message(f"the buffer '{'.'.join([*local.path, key])}'"))
        return array

    def items(self) -> Any:
        """Return the buffers with their names."""
        return [(key, self._settled(key)) for key in self] if swapped else super().items()

    def values(self) -> Any:
        """Return the buffers."""
        return [self._settled(key) for key in self] if swapped else super().values()

    def _settled(self, key: str) -> Any:
        """Return a buffer, when no other thread has a traced array in its place."""
        with lock if is_foreign((id(self), key)) else nothing:
            return get_item(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        with lock if swapped and is_foreign((id(self), key)) else nothing:
            buffer_writes[0] += 1
            self._note(key, value)
            super().__setitem__(key, value)

    def _is_change(self, key: str, value: Any) -> bool:
        return key not in self or (self[key] is None) != (value is None)

    @classmethod
    def _of(cls, items: Mapping[str, Any]) -> "BufferDict":
        self = cls()
        for key, value in items.items():
            self._note(key, value)
            set_item(self, key, value)
        return self

    def _note(self, key: str, value: Any) -> None:
        if isinstance(value, Awaited):
            value._places.append((weakref.ref(self), key))

    def _check(self, key: str, value: Any) -> None:
        if isinstance(value, Tracer) and leaks(value, (id(self), key), self._born):
            raise LeakError(leak_message(f"the buffer '{'.'.join([*local.path, key])}'"))


def holds_traced_state(module: Any) -> bool:
    """Tell whether a module that was made in a trace holds traced arrays."""
    arrays = [p._value for p in module._parameters.values() if p is not None] + list(module._buffers.values())
    return module._parameters._born is not None and (
        any(isinstance(array, Tracer) for array in arrays)
        or any(holds_traced_state(child) for child in module._modules.values() if child is not None)
    )


class HookDict(OrderedDict[int, Any]):
    """The hooks of a module, by handle id."""

    observed = False

    def __reduce__(self) -> Any:
        return HookDict, (list(self.items()),)


class NameSet(set[str]):
    """The names of a module's buffers that its ``state_dict`` leaves out."""

    observed = False

    def __reduce__(self) -> Any:
        return NameSet, (list(self),)


class Attributes(ItemwiseDict):
    """The ``__dict__`` of an object: what is written into it directly is seen like an attribute that is set.

    Attribute access, and ``object.__setattr__``, go past the methods of a ``__dict__``, and cost what they always do.
    """

    __slots__ = ("observed",)
    quiet: frozenset[str] = frozenset()  # attributes that are no structure

    @classmethod
    def of(cls, holder: Any) -> Any:
        """Return the ``__dict__`` of an object, which is one of this class from then on."""
        own = holder.__dict__
        if not isinstance(own, Attributes):
            plain, own = own, cls()
            own.observed = False
            for name, value in plain.items():
                set_item(own, name, own.admit(name, value))
            object.__setattr__(holder, "__dict__", own)
        return own

    def admit(self, name: str, value: Any) -> Any:
        """Return ``value`` as it may be kept under ``name``."""
        return value

    def note(self, name: str, old: Any, new: Any) -> None:
        """Move the epoch if another value is a change of structure."""
        if self.observed and old is not new and name not in self.quiet:
            if not (type(old) is type(new) and type(new) in ATOMS and old == new):
                epoch.count += 1

    def __setitem__(self, name: str, value: Any) -> None:
        value = self.admit(name, value)
        self.note(name, self.get(name, MISSING), value)
        set_item(self, name, value)

    def __delitem__(self, name: str) -> None:
        self.note(name, self.get(name, MISSING), MISSING)
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an attribute and return it."""
        self.note(name, self.get(name, MISSING), MISSING)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the attribute set last, and return it with its name."""
        epoch.count += 1
        return super().popitem()

    def clear(self) -> None:
        """Remove every attribute."""
        epoch.count += 1
        super().clear()


class BoxAttributes(Attributes):
    """The ``__dict__`` of a box."""

    __slots__ = ()
    quiet = frozenset({"_grad", "_labels", "_backward_hooks", "_post_accumulate_grad_hooks"})


def _telling(base: type, name: str) -> Callable[..., Any]:
    method = getattr(base, name)

    @functools.wraps(method)
    def mutate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.observed:
            epoch.count += 1
        return method(self, *args, **kwargs)

    return mutate


def _telling_if_changed(name: str) -> Callable[..., Any]:
    method = getattr(set, name)

    @functools.wraps(method)
    def mutate(self: Any, *args: Any) -> Any:
        before = frozenset(self) if self.observed else None
        result = method(self, *args)
        if before is not None and self != before:
            epoch.count += 1
        return result

    return mutate


for _name in ("__delitem__", "pop", "popitem", "clear"):
    setattr(TrackedDict, _name, _telling(dict, _name))
for _name in ("__setitem__", "__delitem__", "pop", "popitem", "clear", "move_to_end"):
    setattr(HookDict, _name, _telling(OrderedDict, _name))
for _name in "add discard remove pop clear update difference_update __ior__ __isub__ __iand__ __ixor__".split():
    setattr(NameSet, _name, _telling_if_changed(_name))

global_hooks: list[tuple[HookDict, tuple[HookDict, ...]]] = []  # with the dicts of their flags
