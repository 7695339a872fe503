"""Containers: modules and parameters in lists and dictionaries."""

import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any, NoReturn, Self, overload

import jax
import numpy as np

from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter


def _position(index: int, size: int) -> int:
    """Return ``index`` counted from the front, for a container of ``size`` entries."""
    index = operator.index(index)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range")
    return index % size


def _pairs(source: Any, caller: str, family: str, is_sorted: bool) -> list[tuple[str, Any]]:
    """List the key-value pairs of a mapping, by sorted key where it has no order, or of an iterable of pairs."""
    if not isinstance(source, Iterable):
        raise TypeError(
            f"{caller}.update should be called with an iterable of key/value pairs, but got {type(source).__name__}"
        )
    if isinstance(source, OrderedDict | ModuleDict | ParameterDict):
        return list(source.items())
    if isinstance(source, Mapping):
        return sorted(source.items()) if is_sorted else list(source.items())
    pairs = []
    for position, pair in enumerate(source):
        element = f"{family} update sequence element #{position}"
        if not isinstance(pair, Iterable):
            raise TypeError(f"{element} should be Iterable; is{type(pair).__name__}")
        entry = tuple(pair)
        if len(entry) != 2:
            raise ValueError(f"{element} has length {len(entry)}; 2 is required")
        pairs.append(entry)
    return pairs


def _as_parameter(value: Any) -> Any:
    """Wrap an array into a Parameter; give every other value back as it is."""
    return Parameter(value) if isinstance(value, jax.Array | np.ndarray) else value


def _describe(key: Any, value: Any) -> str:
    """Write the line of one entry in the repr of a parameter container."""
    if not isinstance(value, Parameter):
        return f"  ({key}): Object of type: {type(value).__name__}"
    size = "x".join(str(length) for length in value.shape)
    return f"  ({key}): Parameter containing: [{value.dtype} of size {size}]"


@contextmanager
def _all_or_nothing(module: Module) -> Iterator[None]:
    """Put the children of ``module`` back as they were when the block raises."""
    before = dict(module._modules)
    try:
        yield
    except BaseException:
        module._modules.clear()
        module._modules.update(before)
        raise


class _ModuleSequence(Module):
    """Shared body of :class:`Sequential` and :class:`ModuleList`: children in order, found by position."""

    _modules: dict[str, Module]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, idx: int) -> Module: ...

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    def __getitem__(self, idx: int | slice) -> Module:
        if isinstance(idx, slice):
            return self._select(list(self._modules.items())[idx])
        return self._modules[self._get_abs_string_index(idx)]

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._get_abs_string_index(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        chosen = list(self._modules)[idx] if isinstance(idx, slice) else [self._get_abs_string_index(idx)]
        for key in chosen:
            delattr(self, key)
        children = list(self._modules.values())
        self._modules.clear()
        self._modules.update((str(position), child) for position, child in enumerate(children))

    def append(self, module: Module) -> Self:
        """Add a module at the end.

        Args:
            module: the module to add; it is named by its position.

        Returns:
            The container itself.

        Examples:
            >>> from jaxmodules import nn
            >>> nn.Sequential(nn.ReLU()).append(nn.Tanh())
            Sequential(
              (0): ReLU()
              (1): Tanh()
            )
        """
        self.add_module(str(len(self)), module)
        return self

    def pop(self, key: int | slice) -> Module:
        """Remove the module at ``key`` and return it; those behind it move up.

        Examples:
            >>> from jaxmodules import nn
            >>> layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])
            >>> layers.pop(0), len(layers)
            (ReLU(), 1)
        """
        module = self[key]
        del self[key]
        return module

    def _get_abs_string_index(self, idx: int) -> str:
        """Return the name of the child at position ``idx``."""
        return list(self._modules)[_position(idx, len(self))]

    def _select(self, children: list[tuple[str, Module]]) -> Self:
        """Make a container of the same class from a slice of the children."""
        raise NotImplementedError

    def _insert(self, index: int, module: Module) -> None:
        """Put ``module`` at ``index`` and move those behind it one place on."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        size = len(self)
        if not -size <= index <= size:
            raise IndexError(f"Index out of range: {index}")
        first = index + size if index < 0 else index
        moved = [self._modules[str(position)] for position in range(first, size)]
        for position, child in enumerate([module, *moved], first):
            self._modules[str(position)] = child

    def _extend(self, modules: Iterable[Module]) -> Self:
        """Add every module at the end, or none of them when one cannot be added."""
        with _all_or_nothing(self):
            for module in list(modules):
                self.append(module)
        return self


class Sequential(_ModuleSequence):
    """Call modules one after another, each with the output of the one before.

    Args:
        args: the modules in calling order, named ``"0"``, ``"1"`` and so on; or one ``OrderedDict`` of named modules.

    Shape:
        What the first module takes, to what the last one gives.

    Examples:
        >>> from jaxmodules import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net(jax.numpy.ones((3, 4))).shape
        (3, 2)
        >>> net[1:]
        Sequential(
          (1): ReLU()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = len(args) == 1 and isinstance(args[0], OrderedDict)
        children = args[0] if named else {str(position): module for position, module in enumerate(args)}
        for key, module in children.items():
            self.add_module(key, module)

    def forward(self, input: Any) -> Any:
        """Pass ``input`` through every module in turn."""
        for module in self:
            input = module(input)
        return input

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before position ``index``.

        Args:
            index: from ``-len(self)`` to ``len(self)``.
            module: the module to put there.

        Returns:
            The container itself.

        Examples:
            >>> from jaxmodules import nn
            >>> nn.Sequential(nn.ReLU()).insert(0, nn.Tanh())[0]
            Tanh()
        """
        self._insert(index, module)
        return self

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Add the modules of another container, or of any iterable, at the end."""
        return self._extend(sequential)

    def __add__(self, other: "Sequential") -> "Sequential":
        return Sequential(*self, *self._checked(other))

    def __iadd__(self, other: "Sequential") -> Self:
        return self._extend(self._checked(other))

    def __mul__(self, other: int) -> "Sequential":
        return Sequential(*list(self) * self._factor(other))

    def __rmul__(self, other: int) -> "Sequential":
        return self * other

    def __imul__(self, other: int) -> Self:
        return self._extend(list(self) * (self._factor(other) - 1))

    def _select(self, children: list[tuple[str, Module]]) -> Self:
        return self.__class__(OrderedDict(children))

    def _checked(self, other: Any) -> "Sequential":
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return other

    def _factor(self, other: Any) -> int:
        if not isinstance(other, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(other)}")
        if other <= 0:
            raise ValueError(f"Non-positive multiplication factor {other} for {type(self)}")
        return other


class ModuleList(_ModuleSequence):
    """Hold modules in a list; what is in it is registered, and its parameters are found.

    Args:
        modules: the modules to start with.

    Examples:
        >>> from jaxmodules import nn
        >>> nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        ModuleList(
          (0-2): 3 x Linear(in_features=4, out_features=4, bias=True)
        )
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self += modules

    def insert(self, index: int, module: Module) -> None:
        """Put a module before position ``index``, from ``-len(self)`` to ``len(self)``."""
        self._insert(index, module)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add the modules of an iterable at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"ModuleList.extend should be called with an iterable, but got {type(modules).__name__}")
        return self._extend(modules)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        lines: list[str] = []
        first = 0
        for text, run in groupby(map(repr, self)):
            count = len(list(run))
            lines.append(f"({first}): {text}" if count == 1 else f"({first}-{first + count - 1}): {count} x {text}")
            first += count
        body = "\n".join(["", *lines]).replace("\n", "\n  ")
        return f"{self._get_name()}({body}\n)" if lines else f"{self._get_name()}()"

    def _select(self, children: list[tuple[str, Module]]) -> Self:
        return self.__class__(module for _, module in children)


class ModuleDict(Module):
    """Hold modules in a dictionary that remembers the order of insertion.

    Args:
        modules: a mapping from names to modules, or an iterable of such pairs.

    Examples:
        >>> from jaxmodules import nn
        >>> nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})["tanh"]
        Tanh()
    """

    _modules: dict[str, Module]

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove every module."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Remove the module called ``key`` and return it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> KeysView[str]:
        """Return the names, in order."""
        return self._modules.keys()

    def items(self) -> ItemsView[str, Module]:
        """Return the pairs of name and module, in order."""
        return self._modules.items()

    def values(self) -> ValuesView[Module]:
        """Return the modules, in order."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules: all of them, or none when one is refused.

        Args:
            modules: a mapping from names to modules, or an iterable of such pairs.

        Examples:
            >>> from jaxmodules import nn
            >>> layers = nn.ModuleDict({"act": nn.ReLU()})
            >>> layers.update([("act", nn.Tanh()), ("out", nn.ReLU())])
            >>> list(layers)
            ['act', 'out']
        """
        pairs = _pairs(modules, "ModuleDict", "ModuleDict", is_sorted=False)
        with _all_or_nothing(self):
            for key, module in pairs:
                self[key] = module


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
        if not isinstance(values, Iterable) or isinstance(values, jax.Array | np.ndarray | Parameter):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in [_as_parameter(value) for value in values]:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        """Describe every value in a line of its own."""
        return "\n".join(_describe(position, value) for position, value in enumerate(self))

    def _get_abs_string_index(self, idx: int) -> str:
        """Return the name of the value at position ``idx``."""
        return str(_position(idx, len(self)))


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
        for key, value in _pairs(parameters, "ParametersDict", "ParameterDict", is_sorted=True):
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
