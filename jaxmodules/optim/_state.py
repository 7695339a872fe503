"""The live ``state`` of an optimizer: torch's dicts by parameter, read from and written to where the arrays are.

What a rule keeps lies in cohorts. A parameter whose state is written in a way that no longer suits its cohort leaves
it: its state is then kept in entries of its own, until the next step finds a cohort for it again. The state of an
optimizer without a rule, and what is kept under keys that are no parameters, always is in entries.
"""

from collections import defaultdict
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jaxmodules._tracing import StructureMoves, epoch, is_tracing
from jaxmodules._tracked import ItemwiseDict
from jaxmodules.nn._writable import to_array
from jaxmodules.nn.parameter import Parameter
from jaxmodules.optim._arrange import fitted, is_bound, isolate
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._entries import Entries, move_now


def find(optimizer: Any, key: Any) -> Cohort | None:
    """Return the cohort that holds a parameter's state, if one does."""
    return next((cohort for cohort in optimizer._cohorts if cohort.holds(key)), None)


def has_stepped(optimizer: Any, cohort: Cohort) -> bool:
    """Tell whether there is any state to show."""
    own = cohort.of(next(box for box in cohort.boxes if cohort.holds(box)))
    return bool(own) and not optimizer._is_before_first_step(own, cohort.is_new)


def read(optimizer: Any, key: Any) -> dict[Any, Any]:
    """Return the state under one key, in torch's form."""
    entries = optimizer._loose.get(key)
    if entries is not None:
        return entries.values()
    cohort = find(optimizer, key)
    return optimizer._export(cohort.of(key)) if cohort is not None and has_stepped(optimizer, cohort) else {}


def read_all(optimizer: Any) -> dict[Any, dict[Any, Any]]:
    """Return the state under all keys, in torch's form, in the order of the parameters."""
    state: dict[Any, dict[Any, Any]] = {}
    for cohort in optimizer._cohorts:
        if len(cohort.left) < len(cohort.boxes) and has_stepped(optimizer, cohort):
            state |= {box: own for box, values in cohort.of_each() if (own := optimizer._export(values))}
    state |= {key: entries.values() for key, entries in optimizer._loose.items()}
    state |= optimizer._others.values()
    places = {id(box): i for i, box in enumerate(optimizer._boxes())}
    last = len(places)
    return {key: state[key] for key in sorted(state, key=lambda key: places.get(id(key), last))}


def loosen(optimizer: Any, key: Any) -> Entries:
    """Return the entries for a key; a parameter that is in a cohort leaves it with what it has."""
    entries = optimizer._loose.get(key)
    if entries is None:
        values = read(optimizer, key)
        cohort = find(optimizer, key)
        if cohort is not None:
            if is_tracing() and is_bound(optimizer):
                raise RuntimeError(
                    "a compiled function can change and reset the state that an optimizer keeps, but not add to it or"
                    " remove a part: do that outside"
                )
            cohort.left.add(id(key))
            epoch.count += 1
        entries = optimizer._loose[key] = Entries(optimizer._born, values)
    return entries


def write(optimizer: Any, key: Any, name: Any, value: Any) -> None:
    """Set one value of the state under a key."""
    cohort = find(optimizer, key) if key not in optimizer._loose else None
    if cohort is not None and value is not None and has_stepped(optimizer, cohort):
        cell, is_own = cohort.cell(name, key)
        if cell is not None and not is_own and optimizer.transformation is None and is_tracing():
            raise StructureMoves(isolate(optimizer, {id(key)}))
        if cell is not None and (is_own or optimizer.transformation is not None):
            cell.value = to_array(fitted(value, name, cohort.by_id[id(key)], cell.value, "where it is set"))
            return
    _put(optimizer, loosen(optimizer, key), name, value)


def _put(optimizer: Any, entries: Entries, name: Any, value: Any) -> None:
    entries.put(name, value, optimizer._reserved)
    if not optimizer._stepping:
        move_now(optimizer._reserved)


def remove(optimizer: Any, key: Any) -> None:
    """Remove the state under a key."""
    if key in optimizer._others:
        optimizer._others.remove(key)
    elif isinstance(key, Parameter) and find(optimizer, key) is not None:
        _reset(optimizer, [key])
    elif is_tracing() and optimizer._born is None:
        for name in optimizer._loose[key]:
            optimizer._loose[key].remove(name)
    else:
        del optimizer._loose[key]
        epoch.count += 1


def clear(optimizer: Any) -> None:
    """Remove all state."""
    _reset(optimizer, [box for cohort in optimizer._cohorts for box in cohort.boxes])
    for key in list(optimizer._loose):
        remove(optimizer, key)
    for name in optimizer._others:
        optimizer._others.remove(name)


def _reset(optimizer: Any, boxes: Iterable[Parameter]) -> None:
    """Put the state of parameters that are in cohorts back to what it is before the first step."""
    chosen = {id(box) for box in boxes}
    if is_tracing() and is_bound(optimizer):
        touched = [cohort for cohort in optimizer._cohorts if chosen & cohort.by_id.keys()]
        if any(not cohort.by_id.keys() <= chosen for cohort in touched) and optimizer.transformation is None:
            raise StructureMoves(isolate(optimizer, chosen))
        for cohort in touched:
            start = optimizer._fresh(cohort.group, cohort.by_id, cohort.by_id)
            for (_, owner), cell, new in zip(cohort.leaves, cohort.cells, start.cells, strict=True):
                if owner is None or owner in {cohort.by_id[number] for number in chosen & cohort.by_id.keys()}:
                    cell.value = new.value
        return
    for cohort in optimizer._cohorts:
        cohort.left |= chosen & cohort.by_id.keys()
    epoch.count += 1


class _Live(ItemwiseDict):
    """A dict whose items are somewhere else."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self._optimizer = optimizer

    def _items(self) -> Mapping[Any, Any]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def __contains__(self, key: Any) -> bool:
        return key in self._items()

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``."""
        return self[key] if key in self else default

    def keys(self) -> Any:
        """Return a view of the keys."""
        return KeysView(self)

    def values(self) -> Any:
        """Return a view of the values."""
        return ValuesView(self)

    def items(self) -> Any:
        """Return a view of the pairs."""
        return ItemsView(self)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove an item and return its value as it is now."""
        if key not in self and default:
            return default[0]
        value = self[key]
        value = value.copy() if isinstance(value, _Live) else value
        del self[key]
        return value

    def popitem(self) -> Any:
        """Remove the last item and return it."""
        if len(self) == 0:
            raise KeyError("popitem(): dictionary is empty")
        key = list(self)[-1]
        return key, self.pop(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.copy() == dict(other)

    def copy(self) -> dict[Any, Any]:
        """Return the items as they are now."""
        return dict(self._items())

    def __or__(self, other: Any) -> Any:
        return self.copy() | dict(other)

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self.copy()

    def __reversed__(self) -> Iterator[Any]:
        return reversed(list(self))

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)


class ParameterState(_Live):
    """What an optimizer keeps for one parameter, or under another key: arrays and numbers by torch's names."""

    def __init__(self, optimizer: Any, key: Any) -> None:
        super().__init__(optimizer)
        self._key = key

    def _items(self) -> Mapping[Any, Any]:
        return read(self._optimizer, self._key)

    def __getitem__(self, name: Any) -> Any:
        entries = self._optimizer._loose.get(self._key)
        return entries.get(name) if entries is not None else self._items()[name]

    def __contains__(self, name: Any) -> bool:
        entries = self._optimizer._loose.get(self._key)
        return name in (self._items() if entries is None else entries)

    def __len__(self) -> int:
        entries = self._optimizer._loose.get(self._key)
        return len(self._items() if entries is None else list(entries))

    def __setitem__(self, name: Any, value: Any) -> None:
        write(self._optimizer, self._key, name, value)

    def __delitem__(self, name: Any) -> None:
        if name not in self:
            raise KeyError(name)
        loosen(self._optimizer, self._key).remove(name)

    def clear(self) -> None:
        """Remove everything."""
        if len(self) > 0:
            remove(self._optimizer, self._key)


class State(_Live):
    """The state of an optimizer: what is read shows the present arrays, what is written the next step uses."""

    default_factory: Callable[[], Any] = dict

    def _items(self) -> Mapping[Any, Any]:
        optimizer = self._optimizer
        values = read_all(optimizer)
        return {k: v if k in optimizer._others else ParameterState(optimizer, k) for k, v in values.items()}

    def __getitem__(self, key: Any) -> Any:
        optimizer = self._optimizer
        if key in optimizer._others:
            return optimizer._others.get(key)
        if key not in optimizer._loose and (not optimizer._has_rule or not isinstance(key, Parameter)):
            optimizer._loose[key] = Entries(optimizer._born, {})
        return ParameterState(optimizer, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        optimizer = self._optimizer
        if not isinstance(value, Mapping):
            _put(optimizer, optimizer._others, key, value)
            return
        values = dict(value)
        if key in self:
            remove(optimizer, key)
        if not is_tracing():
            optimizer._loose[key] = Entries(optimizer._born, {})
        own = self[key]
        for name, item in values.items():
            own[name] = item

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        remove(self._optimizer, key)

    def clear(self) -> None:
        """Remove everything."""
        clear(self._optimizer)

    def __repr__(self) -> str:
        return repr(defaultdict(dict, self.copy()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return defaultdict, (dict, self.copy())
