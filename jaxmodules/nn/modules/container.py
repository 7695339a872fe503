"""Modules in lists and dictionaries; the containers of parameters are in a file of their own."""

import warnings
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any, Self, overload

from jaxmodules.nn.modules._entries import from_front, pairs
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.modules.parameter_containers import ParameterDict as ParameterDict
from jaxmodules.nn.modules.parameter_containers import ParameterList as ParameterList


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


class Container(Module):
    """Hold modules given by keyword; deprecated, as in PyTorch.

    Warns:
        FutureWarning: always: use :class:`Sequential`, :class:`ModuleList` or :class:`ModuleDict`.
    """

    def __init__(self, **kwargs: Any) -> None:
        warnings.warn(
            "`nn.Container` is deprecated. All of its functionality is now implemented in `nn.Module`. Subclass that"
            " instead.",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__()
        for key, value in kwargs.items():
            self.add_module(key, value)


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
        return list(self._modules)[from_front(idx, len(self))]

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
        >>> import jax.numpy as jnp
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net(jnp.ones((3, 4))).shape
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
        entries = pairs(modules, "ModuleDict", "ModuleDict", is_sorted=False)
        with _all_or_nothing(self):
            for key, module in entries:
                self[key] = module
