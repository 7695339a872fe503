"""Parameter groups: PyTorch's dicts, whose numbers are arguments of compiled functions."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodules._tracing import Cell, Tracer, epoch


class Number(Cell):
    """A hyperparameter: a Python number outside compiled functions, an argument inside them."""

    __slots__ = ("_mirror", "_python")

    def __init__(self, value: Any) -> None:
        super().__init__(None)
        self.set(value)

    def set(self, value: Any) -> None:
        """Take a Python number or a scalar array."""
        self.value = jnp.asarray(value)
        self._python, self._mirror = value, self._value

    def get(self) -> Any:
        """Return the number, or under a trace the traced scalar."""
        if isinstance(self._value, Tracer):
            return self._value
        if self._value is not self._mirror:
            self._python, self._mirror = self._value.item(), self._value
        return self._python

    def __reduce__(self) -> Any:
        return Number, (self.get(),)


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


class ParamGroup(dict[str, Any]):
    """Some parameters and their settings.

    Numbers, also those in tuples, live in cells: setting one changes no structure. A number named in ``switches`` is
    structure where it is zero, for the update rule then leaves a term, and its state, out.
    """

    def __init__(self, settings: dict[str, Any], switches: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.switches = switches
        for key, value in settings.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        new: Any = value
        if key != "params":
            old = super().get(key)
            if _is_number(value):
                new = self._number(old, value, key)
            elif isinstance(value, tuple | list) and value and all(map(_is_number, value)):
                olds = old if isinstance(old, tuple) and len(old) == len(value) else [None] * len(value)
                new = tuple(self._number(o, v, key) for o, v in zip(olds, value, strict=True))
            if new is not old and not (isinstance(new, tuple) and isinstance(old, tuple) and _same(new, old)):
                epoch.count += 1
        super().__setitem__(key, new)

    def _number(self, old: Any, value: Any, key: str) -> Number:
        if not isinstance(old, Number):
            return Number(value)
        if key in self.switches and not isinstance(value, Tracer) and (old.get() == 0) != (value == 0):
            epoch.count += 1
        old.set(value)
        return old

    def __getitem__(self, key: str) -> Any:
        return _plain(super().__getitem__(key))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting, or ``default``."""
        return self[key] if key in self else default

    def items(self) -> Any:
        """Return the settings as pairs."""
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        """Return the settings without their names."""
        return [self[key] for key in self]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several settings."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return a setting, setting it first where it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> Any:
        return ParamGroup, (dict(self.items()), self.switches)

    def __repr__(self) -> str:
        return repr(dict(self.items()))

    def cells(self) -> Iterator[tuple[str, Number]]:
        """Yield every number with its name."""
        for key in self:
            value = super().__getitem__(key)
            if isinstance(value, Number):
                yield key, value
            elif isinstance(value, tuple) and value and isinstance(value[0], Number):
                yield from ((f"{key}[{i}]", number) for i, number in enumerate(value))

    def static(self) -> tuple[Any, ...]:
        """Return the settings that a compiled step is compiled for."""
        parts = []
        for key in self:
            value = super().__getitem__(key)
            if key == "params":
                continue
            if isinstance(value, Number):
                parts.append((key, key in self.switches and self._is_off(key)))
            elif not (isinstance(value, tuple) and value and isinstance(value[0], Number)):
                parts.append((key, type(value), value))
        return tuple(parts)

    def _is_off(self, key: str) -> bool:
        number = super().__getitem__(key)
        return isinstance(number, Number) and number._python == 0 and number._mirror is not None

    def settings(self) -> dict[str, Any]:
        """Return what the update rule gets: arrays for numbers, 0 for the switches that are off."""

        def of(key: str, value: Any) -> Any:
            if isinstance(value, Number):
                return 0 if key in self.switches and self._is_off(key) else value.value
            return tuple(of("", v) for v in value) if isinstance(value, tuple) else value

        return {key: of(key, super(ParamGroup, self).__getitem__(key)) for key in self if key not in _NOT_SETTINGS}


_NOT_SETTINGS = ("params", "param_names")


def _plain(value: Any) -> Any:
    if isinstance(value, Number):
        return value.get()
    if isinstance(value, tuple) and value and isinstance(value[0], Number):
        return tuple(number.get() for number in value)
    return value


def _same(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    return len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True))
