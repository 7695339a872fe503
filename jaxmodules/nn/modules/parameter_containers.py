"""Parameters in lists and dictionaries."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView
from typing import Any, NoReturn, Self

import jax
import numpy as np

from jaxmodules.nn._writable import Writable
from jaxmodules.nn.modules._entries import from_front, pairs
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter


def _as_parameter(value: Any) -> Any:
    """Wrap an array into a Parameter; give every other value back as it is."""
    return Parameter(value) if _is_array(value) and not isinstance(value, Parameter) else value


def _is_array(value: Any) -> bool:
    """Tell whether ``value`` is an array, or a box with one."""
    return isinstance(value, jax.Array | np.ndarray | Writable)


def _describe(key: Any, value: Any) -> str:
    """Write the line of one entry in the repr of a parameter container."""
    if not isinstance(value, Parameter):
        return f"  ({key}): Object of type: {type(value).__name__}"
    size = "x".join(str(length) for length in value.shape)
    return f"  ({key}): Parameter containing: [{value.dtype} of size {size}]"


class ParameterList(Module):
    """Hold parameters in a list.

    An array that is put in becomes a :class:`~jaxmodules.nn.Parameter`; any other value stays what it is.

    Args:
        values: the values to start with.

    Examples:
        >>> from jaxmodules import nn
        >>> scales = nn.ParameterList([np.ones(2, np.float32), np.zeros(3, np.float32)])
        >>> [name for name, _ in scales.named_parameters()]
        ['0', '1']
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self += values

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a container of parameters computes nothing."""
        raise RuntimeError("ParameterList should not be called.")

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self[position] for position in range(len(self)))

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return self.__class__(self[position] for position in range(len(self))[idx])
        return getattr(self, self._get_abs_string_index(idx))

    def __setitem__(self, idx: int, param: Any) -> None:
        setattr(self, self._get_abs_string_index(idx), _as_parameter(param))

    def __iadd__(self, parameters: Iterable[Any]) -> Self:
        return self.extend(parameters)

    def append(self, value: Any) -> Self:
        """Add a value at the end and return the container.

        Examples:
            >>> from jaxmodules import nn
            >>> nn.ParameterList().append(np.ones((2, 3), np.float32))
            ParameterList(  (0): Parameter containing: [float32 of size 2x3])
        """
        setattr(self, str(self._size), _as_parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add the values of an iterable at the end and return the container."""
        # An array can be iterated over, but as a value to add it is one parameter.
        if not isinstance(values, Iterable) or _is_array(values):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in [_as_parameter(value) for value in values]:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        """Describe every value in a line of its own."""
        return "\n".join(_describe(number, value) for number, value in enumerate(self))

    def _get_abs_string_index(self, idx: int) -> str:
        """Return the name of the value at position ``idx``."""
        return str(from_front(idx, len(self)))


class ParameterDict(Module):
    """Hold parameters in a dictionary that remembers the order of insertion.

    An array that is put in becomes a :class:`~jaxmodules.nn.Parameter`; any other value stays what it is.

    Args:
        parameters: a mapping from names to values, or an iterable of such pairs. A plain ``dict`` is taken in
            sorted order, an ``OrderedDict``, a ``ParameterDict`` or pairs in their own.

    Examples:
        >>> from jaxmodules import nn
        >>> sides = nn.ParameterDict({"right": np.ones(2, np.float32), "left": np.zeros(2, np.float32)})
        >>> list(sides)
        ['left', 'right']
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: tuple[str, ...] = ()  # a tuple: what can't change in place is not compared on every call
        if parameters is not None:
            self.update(parameters)

    def __call__(self, input: Any) -> NoReturn:
        """Refuse: a container of parameters computes nothing."""
        raise RuntimeError("ParameterDict should not be called.")

    def __getitem__(self, key: str) -> Any:
        return getattr(self, self._key_to_attr(key))

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, self._key_to_attr(key), _as_parameter(value))
        if key not in self._keys:
            self._keys += (key,)

    def __delitem__(self, key: str) -> None:
        if key not in self._keys:
            raise KeyError(key)
        delattr(self, key)
        self._keys = tuple(name for name in self._keys if name != key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __or__(self, other: "ParameterDict") -> "ParameterDict":
        merged = self.copy()
        merged.update(other)
        return merged

    def __ror__(self, other: Any) -> Any:
        merged = other.copy()
        merged.update(self)
        return merged

    def __ior__(self, other: "ParameterDict") -> Self:
        self.update(other)
        return self

    def copy(self) -> "ParameterDict":
        """Return a new container of the same parameters, not of copies of them."""
        return ParameterDict(OrderedDict(self.items()))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value called ``key``, after putting ``default`` there if there was none.

        Examples:
            >>> from jaxmodules import nn
            >>> nn.ParameterDict().setdefault("scale", np.ones(2, np.float32)).shape
            (2,)
        """
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Remove every value."""
        for key in self._keys:
            del self[key]

    def pop(self, key: str) -> Any:
        """Remove the value called ``key`` and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the pair that was put in last and return it."""
        key, _ = dict.fromkeys(self._keys).popitem()
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value called ``key``, or ``default`` if there is none."""
        return self[key] if key in self else default

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> "ParameterDict":
        """Return a new container with ``default`` under every one of ``keys``."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> KeysView[str]:
        """Return the names, in order."""
        return dict.fromkeys(self._keys).keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return the pairs of name and value, in order."""
        return ((key, self[key]) for key in self._keys)

    def values(self) -> Iterable[Any]:
        """Return the values, in order."""
        return (self[key] for key in self._keys)

    def update(self, parameters: Any) -> None:
        """Add or replace values; takes what the constructor takes.

        Examples:
            >>> from jaxmodules import nn
            >>> sides = nn.ParameterDict()
            >>> sides.update([("right", np.ones(2, np.float32)), ("note", "kept as it is")])
            >>> sides["note"]
            'kept as it is'
        """
        for key, value in pairs(parameters, "ParametersDict", "ParameterDict", is_sorted=True):
            self[key] = value

    def extra_repr(self) -> str:
        """Describe every value in a line of its own."""
        return "\n".join(_describe(key, value) for key, value in self.items())

    def _key_to_attr(self, key: str) -> str:
        """Return the attribute that holds ``key``; the name is kept, so that ``named_parameters`` shows it."""
        if not isinstance(key, str):
            raise TypeError(
                "Index given to ParameterDict cannot be used as a key as it is "
                f"not a string (type is '{type(key).__name__}'). Use a string such as {str(key)!r} instead."
            )
        return key
