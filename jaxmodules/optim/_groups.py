"""Parameter groups: PyTorch's dicts, whose numbers are arguments of compiled functions."""

from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._keys import Freezer
from jaxmodules._tracing import Cell, StructureMoves, Tracer, epoch
from jaxmodules._tracked import ItemwiseDict

_NOT_SETTINGS = ("params", "param_names")


class Number(Cell):
    """A hyperparameter: a Python number outside compiled functions, an argument inside them.

    Args:
        value: a Python number, or an array of one element.
        complement: keep ``1 - value``, which float32 holds precisely where the value is close to 1.
        dynamic: whether a compiled function sets the number, so that what is compiled can't depend on it.
    """

    __slots__ = ("_mirror", "_python", "complement", "dynamic")

    def __init__(self, value: Any, complement: bool = False, dynamic: bool = False) -> None:
        super().__init__(None)
        self.complement = complement
        self.dynamic = dynamic
        self._python: Any = None
        self._mirror: Any = None
        self.set(value)

    def set(self, value: Any) -> None:
        """Take a number."""
        if isinstance(value, Tracer):
            value = jnp.reshape(value, ()) * 1.0
            self.value = 1 - value if self.complement else value
            return
        python = value.item() if hasattr(value, "item") else value
        with jax.ensure_compile_time_eval():
            self.value = jnp.asarray(1.0 - python if self.complement else float(python))
        self._python, self._mirror = python, self._value

    def get(self) -> Any:
        """Return the number, or under a trace the traced scalar."""
        if isinstance(self._value, Tracer):
            return 1 - self._value if self.complement else self._value
        if self._value is not self._mirror:
            shortest = float(str(np.asarray(self._value)[()]))  # 0.05, where .item() gives 0.05000000074505806
            self._python = 1 - shortest if self.complement else shortest
            self._mirror = self._value
        return self._python

    @property
    def is_off(self) -> bool:
        """Whether the number is zero for as long as Python does not set it."""
        return not self.dynamic and self._python == 0

    def set_dynamic(self) -> None:
        """Take note that a compiled function sets the number."""
        self.dynamic = True
        epoch.count += 1

    def __reduce__(self) -> Any:
        return Number, (self.get(), self.complement, self.dynamic)


class ParamGroup(ItemwiseDict):
    """Some parameters and their settings.

    Numbers, also those in tuples, live in cells: setting one changes no structure.

    Args:
        settings: the parameters as ``params``, and their settings.
        switches: numbers that are structure where they are zero, for the update rule then leaves a term out.
        complements: numbers that the update rule gets as ``one_minus_<name>``.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        switches: frozenset[str] = frozenset(),
        complements: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.switches = switches
        self.complements = complements
        for key, value in settings.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        old: Any = super().get(key)
        new: Any = value
        if key not in _NOT_SETTINGS:
            if _is_number(value):
                new = self._number(old, value, key)
            elif _is_numbers(value):
                olds = old if _has_cells(old) and len(old) == len(value) else [None] * len(value)
                new = tuple(self._number(o, v, key) for o, v in zip(olds, value, strict=True))
        if not (new is old or (_has_cells(new) and _has_cells(old) and set(new) == set(old))):
            epoch.count += 1
        super().__setitem__(key, new)

    def _number(self, old: Any, value: Any, key: str) -> Number:
        if not isinstance(old, Number):
            return Number(value, key in self.complements)
        if key in self.switches and not old.dynamic:
            if isinstance(value, Tracer) or isinstance(old.get(), Tracer):
                raise StructureMoves(old.set_dynamic)
            if (old.get() == 0) != (value == 0):
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

    def items(self) -> Any:
        """Return the settings as pairs."""
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        """Return the settings without their names."""
        return [self[key] for key in self]

    def copy(self) -> dict[str, Any]:
        """Return the settings as a plain dict."""
        return dict(self.items())

    def __reduce__(self) -> Any:
        # the cells themselves: a copy keeps which switches are dynamic
        cells = {key: super(ParamGroup, self).__getitem__(key) for key in self}
        return _rebuild, (cells, self.switches, self.complements)

    def __repr__(self) -> str:
        return repr(self.copy())

    def cells(self) -> Iterator[tuple[str, Number]]:
        """Yield every number with its name."""
        for key in self:
            value = super().__getitem__(key)
            if isinstance(value, Number):
                yield key, value
            elif _has_cells(value):
                yield from ((f"{key}[{i}]", number) for i, number in enumerate(value))

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
        return Freezer().freeze(self.static(), "")

    def arrays(self) -> dict[str, Any]:
        """Return the numbers as arrays, under the names that an update rule gets them by."""
        arrays: dict[str, Any] = {}
        for key in self:
            value = super().__getitem__(key)
            name = f"one_minus_{key}" if key in self.complements else key
            if isinstance(value, Number):
                if not self._is_off(key, value):
                    arrays[name] = value.value
            elif _has_cells(value):
                arrays[name] = tuple(number.value for number in value)
        return arrays

    def _is_off(self, key: str, number: Number) -> bool:
        return key in self.switches and number.is_off


def check_number(value: Any, name: str) -> None:
    """Raise ValueError if a hyperparameter is an array of more than one element."""
    if int(np.prod(np.shape(value))) != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(np.shape(value))}")


def check_flags(*, fused: Any, foreach: Any, differentiable: Any) -> None:
    """Raise RuntimeError if flags exclude each other, as PyTorch does."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def is_off(setting: Any) -> bool:
    """Tell, in an update rule, whether a switch is off."""
    return isinstance(setting, int | float) and setting == 0


def _rebuild(cells: dict[str, Any], switches: frozenset[str], complements: frozenset[str]) -> ParamGroup:
    group = ParamGroup({}, switches, complements)
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
    return isinstance(value, tuple | list) and bool(value) and all(map(_is_number, value))


def _has_cells(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Number)


def _plain(value: Any) -> Any:
    if isinstance(value, Number):
        return value.get()
    return tuple(number.get() for number in value) if _has_cells(value) else value
