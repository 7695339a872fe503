"""State that a user's code keeps under any names: arrays and numbers in cells, anything else as it is.

A name that gets its first value inside a compiled function has to have a place that the compiled program returns the
value for. Such places are *reserved*: made outside the trace, empty, after which the function is traced again. What is
reserved looks as if it were not there until it is written.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._keys import holds_tracer
from jaxmodules._tracing import Cell, LeakError, StructureMoves, epoch, is_tracing, leak_message, local
from jaxmodules.nn._writable import to_array
from jaxmodules.optim._number import Count, Number
from jaxmodules.state import Scan

_NOTHING = np.zeros(0, np.bool_)


def _is_nothing(value: Any) -> bool:
    return value.dtype == _NOTHING.dtype and value.shape == _NOTHING.shape


class _Place(Cell):
    """A cell that may be empty; it is structure whether it is."""

    __slots__ = ()

    @property
    def _value(self) -> Any:
        return Cell._value.__get__(self)

    @_value.setter
    def _value(self, new: Any) -> None:
        if _is_nothing(self._store[self._index]) != _is_nothing(new):
            epoch.count += 1
        self._store[self._index] = new

    @classmethod
    def empty(cls) -> Any:
        """Return one without a value."""
        place = cls(0)
        place.clear()
        return place

    @property
    def is_empty(self) -> bool:
        """Whether there is no value."""
        return _is_nothing(self._value)

    def clear(self) -> None:
        """Be empty."""
        with jax.ensure_compile_time_eval():
            self.value = jnp.asarray(_NOTHING)

    def get(self) -> Any:
        """Return what was put there."""
        return self.value

    def set(self, value: Any) -> None:
        """Put a value there."""
        self.value = to_array(value)


class _ArrayPlace(_Place):
    __slots__ = ()

    def __init__(self, value: Any) -> None:
        super().__init__(to_array(value))


class _WholePlace(_Place, Count):
    __slots__ = ()

    def set(self, value: Any) -> None:
        Count.set(self, value)

    def get(self) -> Any:
        return Count.get(self)


class _RealPlace(_Place, Number):
    __slots__ = ()

    def set(self, value: Any) -> None:
        Number.set(self, value)

    def get(self) -> Any:
        return Number.get(self)


class _PlainPlace(_Place):
    """What is no array and no number, until it is known to have been put there: ``value`` only tells whether it is."""

    __slots__ = ("content",)

    def __init__(self, value: Any) -> None:
        self.content = value
        super().__init__(_something())

    def set(self, value: Any) -> None:
        if self.content is not value:
            epoch.count += 1
        self.content = value
        self.value = _something()

    def get(self) -> Any:
        return self.content


def _something() -> Any:
    with jax.ensure_compile_time_eval():
        return jnp.ones((), bool)


def _kind_of(value: Any, old: Any) -> type[_Place] | None:
    """Return the kind of place for a value; a traced number stays where a number was."""
    if isinstance(value, bool | str) or value is None:
        return None
    if isinstance(value, int):
        return type(old) if isinstance(old, _RealPlace) else _WholePlace
    if isinstance(value, float):
        return _RealPlace
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return None
    if isinstance(old, Number) and is_tracing() and tuple(value.shape) == () and value.dtype != bool:
        is_real = jnp.issubdtype(value.dtype, jnp.inexact)
        return _RealPlace if is_real or isinstance(old, _RealPlace) else _WholePlace
    return _ArrayPlace


class Entries:
    """What an optimizer keeps under one key of its state, by name.

    Args:
        born: the trace that the optimizer was made in.
        values: what to begin with.
    """

    def __init__(self, born: Any, values: Mapping[Any, Any]) -> None:
        self.held: dict[Any, Any] = {}
        self.plain: dict[Any, Any] = {}  # of these, what is in no cell
        self._born = born
        for name, value in values.items():
            self.put(name, value, [])

    def __iter__(self) -> Iterator[Any]:
        return iter([name for name, place in self.held.items() if not isinstance(place, _Place) or not place.is_empty])

    def __contains__(self, name: Any) -> bool:
        place = self.held.get(name, self)
        return place is not self and not (isinstance(place, _Place) and place.is_empty)

    def get(self, name: Any) -> Any:
        """Return a value; KeyError is raised where there is none."""
        if name not in self:
            raise KeyError(name)
        place = self.held[name]
        return place.get() if isinstance(place, _Place) else place

    def values(self) -> dict[Any, Any]:
        """Return everything by name."""
        return {name: self.get(name) for name in self}

    def put(self, name: Any, value: Any, reserved: list[Callable[[], Callable[[], None]]]) -> None:
        """Set a value.

        Args:
            name: its name.
            value: an array, a number, or anything.
            reserved: gets a function for each place that has to be made outside the trace; it takes the value back,
                and returns a function that makes the place.
        """
        old = self.held.get(name)
        kind = _kind_of(value, old)
        if kind is None and self._born is None and holds_tracer(value):
            raise LeakError(_leak(name, value))
        if kind is None and (name in self.plain or not is_tracing() or self._born is not None):
            if old is not value:
                self.held[name] = self.plain[name] = value
                epoch.count += 1
            return
        kind = kind or _PlainPlace
        if old is not None and type(old) is kind:
            if not is_tracing() and old.is_empty:
                epoch.count += 1
            old.set(value)
        else:
            if is_tracing() and self._born is None:
                if not local.frames:
                    raise LeakError(leak_message(f"the state {name!r} of an optimizer"))
                reserved.append(lambda: self._take_back(name, old, kind, value))
            self.plain.pop(name, None)
            self.held[name] = kind(value)
            epoch.count += 1

    def _take_back(self, name: Any, old: Any, kind: type[_Place], value: Any) -> Callable[[], None]:
        self.held.pop(name) if old is None else self.held.update({name: old})

        def make() -> None:
            place = kind.empty()
            if isinstance(old, _Place) and isinstance(old, Number) and isinstance(place, Number) and not old.is_empty:
                place.set(old.get())
            if isinstance(place, _PlainPlace):
                place.content = value
            self.held[name] = place
            epoch.count += 1

        return make

    def remove(self, name: Any) -> None:
        """Remove a value; KeyError is raised where there is none."""
        if name not in self:
            raise KeyError(name)
        place = self.held[name]
        if isinstance(place, _Place) and is_tracing() and self._born is None:
            place.clear()
            return
        del self.held[name]
        self.plain.pop(name, None)
        epoch.count += 1

    def cells(self) -> list[tuple[str, Cell]]:
        """Return every cell with its name."""
        return [(str(name), place) for name, place in self.held.items() if isinstance(place, _Place)]

    def scan(self, scan: Scan, path: str) -> Hashable:
        """Visit the cells, and return the rest as a key."""
        if not local.frames:
            self._settle()
        names = [
            (name, type(place), place.is_empty) if isinstance(place, _Place) else name
            for name, place in self.held.items()
        ]
        for name, cell in self.cells():
            scan.stateful(cell, f"{path}.{name}")
        return tuple(names), scan.attributes(self, f"{path}.", _CELLS) if self.plain else None

    def _settle(self) -> None:
        """Keep as it is what a compiled function has put here."""
        for name, place in self.held.items():
            if isinstance(place, _PlainPlace) and not place.is_empty:
                self.held[name] = self.plain[name] = place.content

    def check(self) -> None:
        """Raise LeakError if a container has taken up a traced value."""
        places = {name: place.content for name, place in self.held.items() if isinstance(place, _PlainPlace)}
        for name, value in (self.plain | places).items():
            if self._born is None and holds_tracer(value):
                raise LeakError(_leak(name, value))


def _leak(name: Any, value: Any) -> str:
    return leak_message(f"{name!r}, a {type(value).__name__}, in the state of an optimizer")


_CELLS = frozenset({"held", "_born"})


def reserve(reserved: list[Callable[[], Callable[[], None]]]) -> Callable[[], None] | None:
    """Take back what was set in a trace; return a function that makes all the places, if there are any."""
    makers = [take_back() for take_back in reversed(reserved)]
    reserved.clear()
    if not makers:
        return None

    def make() -> None:
        for maker in reversed(makers):
            maker()

    return make


def move_now(reserved: list[Callable[[], Callable[[], None]]]) -> None:
    """Have the places made now."""
    make = reserve(reserved)
    if make is not None:
        raise StructureMoves(make)
