"""The ``__dict__`` of a scheduler: the numbers that change from step to step live in cells."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import LeakError, StructureMoves, Tracer, birth, epoch, leak_message, local
from jaxmodules._tracked import MISSING, ItemwiseDict
from jaxmodules.optim._number import Count, Number

QUIET = frozenset({"_get_lr_called_within_step", "_is_initial"})  # set and reset within a step


class Variable:
    """A number, or a list of rates, that changes: Python's outside compiled functions, state inside them."""

    __slots__ = ("cells", "is_list")

    def __init__(self, value: Any) -> None:
        self.is_list = isinstance(value, list)
        counts = not self.is_list and _is_whole(value)
        self.cells = [Count(v) if counts else Number(v) for v in _numbers(value)]

    def get(self) -> Any:
        """Return the number, or a list of the numbers."""
        if local.frames:
            for cell in self.cells:
                cell._check_read()
        numbers = [cell.get() for cell in self.cells]
        return numbers if self.is_list else numbers[0]

    def takes(self, value: Any) -> bool:
        """Tell whether these cells can hold a value."""
        if not is_numeric(value) or isinstance(value, list) != self.is_list:
            return False
        numbers = _numbers(value)
        fits = (_is_whole(n) or type(cell) is not Count for n, cell in zip(numbers, self.cells, strict=False))
        return len(numbers) == len(self.cells) and all(fits)

    def set(self, value: Any) -> None:
        """Take a value."""
        for cell, number in zip(self.cells, _numbers(value), strict=True):
            cell.set(number)


class Variables(ItemwiseDict):
    """Attributes as they are set; those that are numbers, and change in compiled functions, are kept as variables.

    A number becomes a variable when a compiled function sets it, or at once where the class says so. Reading it gives
    a number all the same. A change of any other attribute is a change of structure.

    Args:
        owner: what the class of the object is called.
        changing: names of numbers that are variables from the beginning.
    """

    __slots__ = ("_born", "_changing", "_owner", "observed")

    def __init__(self, owner: str, changing: frozenset[str]) -> None:
        super().__init__()
        self._owner = owner
        self._changing = changing
        self._born = birth()
        self.observed = False  # whether a structure has been read from it

    @classmethod
    def of(cls, holder: Any) -> "Variables":
        """Return the ``__dict__`` of an object, which is one of this class from then on."""
        own = object.__getattribute__(holder, "__dict__")
        if isinstance(own, Variables):
            return own
        new = cls(type(holder).__name__, holder._changing)
        new.update(own)
        object.__setattr__(holder, "__dict__", new)
        return new

    def __setitem__(self, name: str, value: Any) -> None:
        old = dict.get(self, name, MISSING)
        if isinstance(old, Variable) and old.takes(value):
            old.set(value)
        elif is_numeric(value) and self._is_variable(name, old, value):
            self._make_variable(name, old, value)
        elif old is not value:
            if name not in QUIET and not _is_same(old, value):
                self._note_change()
            super().__setitem__(name, value)

    def _note_change(self) -> None:
        epoch.count += self.observed

    def _is_variable(self, name: str, old: Any, value: Any) -> bool:
        if name in self._changing or isinstance(old, Variable) or _is_traced(value):
            return True
        return is_numeric([old]) and not _is_same(old, value) and self._is_bound()

    def _make_variable(self, name: str, old: Any, value: Any) -> None:
        if self._born is None and (self._is_bound() or _is_traced(value)):
            plain = old.get() if isinstance(old, Variable) else old
            if not self._is_bound() or not is_numeric(plain) or isinstance(plain, list) != isinstance(value, list):
                raise LeakError(leak_message(f"the attribute '{name}' of {self._owner}"))
            numbers = _numbers(value)
            raise StructureMoves(functools.partial(self._remake, name, len(numbers), all(map(_is_whole, numbers))))
        self._put(name, value)

    def _remake(self, name: str, count: int, whole: bool) -> None:
        """Make a variable of what there is, to hold other numbers."""
        value = self[name]
        numbers = [n if whole else float(n) for n in _numbers(value)]
        numbers = (numbers + numbers[-1:] * count)[:count]
        self._put(name, numbers if isinstance(value, list) else numbers[0])

    def _put(self, name: str, value: Any) -> None:
        super().__setitem__(name, Variable(value))
        self._note_change()

    def _is_bound(self) -> bool:
        return any(id(cell) in frame.owned for frame in local.frames for _, cell in self.cells())

    def variables(self) -> dict[str, Variable]:
        """Return the variables by name."""
        return {name: value for name in self if isinstance(value := super(Variables, self).__getitem__(name), Variable)}

    def cells(self) -> Iterator[tuple[str, Number]]:
        """Yield the cell of every number that changes, with its name."""
        for name, variable in self.variables().items():
            for i, cell in enumerate(variable.cells):
                yield f"{name}[{i}]" if variable.is_list else name, cell

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value.get() if isinstance(value, Variable) else value

    def __iter__(self) -> Iterator[str]:  # {**variables} reads through __getitem__ because of this
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default``."""
        return self[name] if name in self else default

    def items(self) -> Any:
        """Return the attributes as pairs."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """Return the attributes without their names."""
        return [self[name] for name in self]

    def copy(self) -> dict[str, Any]:
        """Return the attributes as a plain dict."""
        return dict(self.items())

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._note_change()

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an attribute and return it."""
        value = super().pop(name, *default)
        self._note_change()
        return value.get() if isinstance(value, Variable) else value

    def __eq__(self, other: object) -> bool:
        return self.copy() == (other.copy() if isinstance(other, Variables) else other)

    def __repr__(self) -> str:
        return repr(self.copy())


def is_numeric(value: Any) -> bool:
    """Tell whether a value is a number, an array of one element, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(not isinstance(v, list) and is_numeric(v) for v in value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return int(np.prod(value.shape)) == 1 and "bool" not in str(value.dtype)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _is_same(old: Any, new: Any) -> bool:
    return type(old) is type(new) and is_numeric([old]) and old == new


def _is_traced(value: Any) -> bool:
    return any(isinstance(number, Tracer) for number in _numbers(value))


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tracer):
        return jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value.item() if hasattr(value, "item") else value, int)
