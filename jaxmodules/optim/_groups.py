"""Parameter groups: PyTorch's dicts, whose numbers are arguments of compiled functions."""

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxmodules._keys import Freezer, holds_tracer
from jaxmodules._tracing import LeakError, StructureMoves, Tracer, birth, epoch, is_tracing, leak_message, local
from jaxmodules._tracked import ItemwiseDict
from jaxmodules.optim._number import Number, Schedule

_NOT_SETTINGS = ("params", "param_names")


class TellingList(list[Any]):
    """A list whose changes are changes of structure."""


def _telling(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    @functools.wraps(method)
    def mutate(self: Any, *args: Any, **kwargs: Any) -> Any:
        epoch.count += 1
        return method(self, *args, **kwargs)

    return mutate


for _name in "append extend insert remove pop clear sort reverse __setitem__ __delitem__ __iadd__ __imul__".split():
    setattr(TellingList, _name, _telling(_name))


class ParamGroup(ItemwiseDict):
    """Some parameters and their settings.

    Numbers, also those in tuples, live in cells: setting one changes no structure. A learning rate, or what was a
    number, may also be a function of the number of steps taken, such as an optax schedule.

    Args:
        settings: the parameters as ``params``, and their settings.
        switches: numbers that are structure where they are zero, for the update rule then leaves a term out.
        complements: numbers that the update rule gets as ``one_minus_<name>``.
        fixed: numbers that are structure.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        switches: frozenset[str] = frozenset(),
        complements: frozenset[str] = frozenset(),
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self._born = birth()
        self.is_volatile = False
        self.switches = switches
        self.complements = complements
        self.fixed = fixed
        for key, value in settings.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        old: Any = super().get(key)
        if key in _NOT_SETTINGS:
            new = value if type(value) is TellingList else TellingList(value)
        else:
            new = value if key in self.fixed else self._stored(old, value, key)
        if self._born is None and is_tracing() and holds_tracer(new):
            raise LeakError(leak_message(f"the setting {key!r} of a parameter group"))
        if not (new is old or (_has_cells(new) and _has_cells(old) and set(new) == set(old))):
            epoch.count += 1
        super().__setitem__(key, new)

    def __delitem__(self, key: str) -> None:
        epoch.count += 1
        super().__delitem__(key)

    def _stored(self, old: Any, value: Any, key: str) -> Any:
        """Return what stands for a setting: cells for numbers, those there are already if possible."""
        if _is_number(value):
            return self._number(old, value, key)
        if _is_numbers(value):
            olds = old if _has_cells(old) and len(old) == len(value) else [None] * len(value)
            return tuple(v if v is None else self._number(o, v, key) for o, v in zip(olds, value, strict=True))
        if callable(value) and not isinstance(value, Number) and (key == "lr" or isinstance(old, Number)):
            return Schedule(value, complement=key in self.complements)
        return value

    def _number(self, old: Any, value: Any, key: str) -> Number:
        if not isinstance(old, Number) or isinstance(old, Schedule):
            return Number(value, key in self.complements)
        if key in self.switches and not old.dynamic:
            is_traced = isinstance(value, Tracer) or isinstance(old.get(), Tracer)
            turns = is_traced or (old.get() == 0) != (value == 0)
            if is_traced or (turns and local.frames and old._born is None):
                raise StructureMoves(old.set_dynamic)
            if turns:
                epoch.count += 1
        old.set(value)
        return old

    def __getitem__(self, key: str) -> Any:
        return _plain(super().__getitem__(key))

    def __iter__(self) -> Iterator[str]:  # dict(group) and {**group} read through __getitem__ because of this
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting, or ``default``."""
        return self[key] if key in self else default

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a setting and return it."""
        epoch.count += 1
        return _plain(super().pop(key, *default))

    def popitem(self) -> tuple[str, Any]:
        """Remove the setting made last, and return it with its name."""
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove every setting."""
        epoch.count += 1
        super().clear()

    def fix(self, names: frozenset[str]) -> None:
        """Make numbers part of the structure: Python's also inside compiled functions."""
        numbers = {key: self[key] for key in self if key in names}
        self.fixed |= names
        self.update(numbers)

    def items(self) -> Any:
        """Return the settings as pairs."""
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        """Return the settings without their names."""
        return [self[key] for key in self]

    def copy(self) -> dict[str, Any]:
        """Return the settings as a plain dict."""
        return dict(self.items())

    def saved(self) -> dict[str, Any]:
        """Return the settings for a state dict: of a schedule the present value and the number of steps."""
        steps = {f"{key}_steps": schedule.steps for key, schedule in self.schedules().items()}
        own = {key: list(value) if key == "param_names" else value for key, value in self.items() if key != "params"}
        return {**own, **steps}

    def loaded(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings to take from a state dict: this group's schedules stay, at the saved number of steps."""
        own = self.schedules()
        kept = {key: Schedule(s.function, saved.get(f"{key}_steps", s.steps), s.complement) for key, s in own.items()}
        names = {"params", *(f"{key}_steps" for key in own)}
        return {**{key: value for key, value in saved.items() if key not in names}, **kept}

    def schedules(self) -> dict[str, Schedule]:
        """Return the settings that are functions of the number of steps."""
        cells = {key: super(ParamGroup, self).__getitem__(key) for key in self}
        return {key: cell for key, cell in cells.items() if isinstance(cell, Schedule)}

    def __reduce__(self) -> Any:
        # the cells themselves: a copy keeps which switches are dynamic
        cells = {key: super(ParamGroup, self).__getitem__(key) for key in self}
        return _rebuild, (cells, self.switches, self.complements, self.fixed)

    def __repr__(self) -> str:
        return repr(self.copy())

    def cells(self) -> Iterator[tuple[str, Number]]:
        """Yield every number with its name, except switches that are off."""
        for key in self:
            value = super().__getitem__(key)
            if isinstance(value, Number):
                if not self._is_off(key, value):
                    yield key, value
            elif _has_cells(value):
                yield from ((f"{key}[{i}]", number) for i, number in enumerate(value) if number is not None)

    def static(self) -> dict[str, Any]:
        """Return the settings that an update rule is compiled for; of the numbers only switches that are off."""
        static: dict[str, Any] = {}
        for key in self:
            value = super().__getitem__(key)
            if isinstance(value, Number):
                if self._is_off(key, value):
                    static[key] = 0
            elif not _has_cells(value) and key not in _NOT_SETTINGS:
                static[key] = value
        return static

    def static_key(self) -> Hashable:
        """Return the static settings as a key."""
        settings = {**self.static(), **{key: schedule.function for key, schedule in self.schedules().items()}}
        freezer = Freezer()
        key = dict, tuple((freezer.freeze(name, ""), freezer.freeze(value, "")) for name, value in settings.items())
        self.is_volatile = freezer.mutable  # a setting that changes in place moves no epoch
        return key

    def arrays(self) -> dict[str, Any]:
        """Return the numbers as arrays, under the names that an update rule gets them by."""
        arrays: dict[str, Any] = {}
        for key in self:
            value = super().__getitem__(key)
            name = f"one_minus_{key}" if key in self.complements else key
            if isinstance(value, Number):
                if not self._is_off(key, value):
                    arrays[name] = value.argument()
            elif _has_cells(value):
                arrays[name] = tuple(number and number.argument() for number in value)
        return arrays

    def _is_off(self, key: str, number: Number) -> bool:
        return key in self.switches and number.is_off


def _rebuild(cells: dict[str, Any], *kinds: frozenset[str]) -> ParamGroup:
    group = ParamGroup({}, *kinds)
    for key, value in cells.items():
        dict.__setitem__(group, key, value)
    return group


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return int(np.prod(value.shape)) == 1 and "bool" not in str(value.dtype)
    return isinstance(value, int | float)


def _is_numbers(value: Any) -> bool:
    """Tell whether a value is some numbers, perhaps with None among them."""
    if not isinstance(value, tuple | list):
        return False
    return any(map(_is_number, value)) and all(item is None or _is_number(item) for item in value)


def _has_cells(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, Number) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, Number):
        return value.get()
    return tuple(number and number.get() for number in value) if _has_cells(value) else value
