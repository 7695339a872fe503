"""Modules as pytrees: leaves are parameters and buffers, once each, under their dotted names.

Flattening remembers a *template*: a copy of the module without its arrays. Unflattening copies the template and
puts the leaves in, so the new module shares nothing mutable with the old one, and what pointed inside the old
module (bound methods, references between siblings) points inside the new.
"""

import copy
import functools
import types
import weakref
from collections import deque
from typing import Any

import jax
import numpy as np

from jaxmodules._keys import Stateful, contents, is_record
from jaxmodules._tracing import Cell
from jaxmodules._tracked import BufferDict, HookDict, TrackedDict, set_item
from jaxmodules.nn.modules._attributes import ModuleAttributes
from jaxmodules.nn.parameter import Parameter
from jaxmodules.state import Structure, whole


class Template:
    """The static part of a flattened module; equal for modules of equal structure."""

    __slots__ = ("copies", "key", "root", "structure")

    def __init__(self, module: Any, structure: Structure) -> None:
        self.key = structure.key
        copier = _Copier()
        self.root = copier.copy(module)
        self.copies = list(copier.memo.values())  # some may be referred to weakly
        self.structure = (copier.cells(structure), copier.items(structure))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.key == other.key

    def build(self, leaves: Any) -> Any:
        """Return a new module with ``leaves`` in its slots."""
        copier = _Copier()
        module = copier.copy(self.root)
        cells, items = self.structure
        values = iter(leaves)
        for cell in cells:
            copier.memo[id(cell)]._value = next(values)
        for buffers, name in items:
            set_item(copier.memo[id(buffers)], name, next(values))
        return module


class _Copier:
    """Copy a module without its arrays: what its key compares by content is copied, the rest is shared."""

    def __init__(self) -> None:
        self.memo: dict[int, Any] = {}

    def cells(self, structure: Structure) -> list[Any]:
        return [self.memo[id(cell)] for cell in structure.cells]

    def items(self, structure: Structure) -> list[tuple[Any, str]]:
        return [(self.memo[id(buffers)], name) for buffers, name in structure.items]

    def copy(self, value: Any) -> Any:
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, Stateful) and hasattr(value, "_modules"):
            return self._module(value)
        if isinstance(value, Cell):
            new: Any = value._with(None) if isinstance(value, Parameter) else value
        elif isinstance(value, BufferDict):
            new = BufferDict._of(dict.fromkeys(value))
        elif isinstance(value, TrackedDict):
            new = type(value)()
            self.memo[id(value)] = new
            for key, item in value.items():
                new[key] = self.copy(item)
        else:
            new = self._static(value)
        self.memo[id(value)] = new
        return new

    def _module(self, module: Any) -> Any:
        new = object.__new__(type(module))
        self.memo[id(module)] = new
        own = ModuleAttributes.of(new)
        for name, value in module.__dict__.items():
            if name != "_compiled_call_impl":
                set_item(own, name, self.copy(value))
        return new

    def _static(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, HookDict):
            return HookDict((k, self.copy(v)) for k, v in value.items())
        if kind is weakref.ref:
            return value if value() is None else weakref.ref(self.copy(value()))
        if isinstance(value, types.MethodType):
            owner = self.copy(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if hasattr(kind, "_jm_around"):  # a compiled function
            inner = self.copy(value.__wrapped__)
            return value if inner is value.__wrapped__ else value._jm_around(inner)
        if isinstance(value, functools.partial):
            return kind(self.copy(value.func), *map(self.copy, value.args), **self._dict(value.keywords))
        if isinstance(value, dict):
            new = copy.copy(value)  # keeps a default factory
            for key, item in value.items():
                new[key] = self.copy(item)
            return new
        if isinstance(value, deque):
            return kind(map(self.copy, value), value.maxlen)
        if isinstance(value, list | set | frozenset) or kind is tuple:
            return kind(self.copy(item) for item in value)
        if isinstance(value, bytearray):
            return bytearray(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return kind(*map(self.copy, value))
        if isinstance(value, np.ndarray):
            return value.copy()
        if is_record(value) and not isinstance(value, jax.Array):
            new = object.__new__(kind)
            self.memo[id(value)] = new
            for name, item in self._dict(contents(value)).items():
                object.__setattr__(new, name, item)
            return new
        return value

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        return {k: self.copy(v) for k, v in value.items()}


def _template(structure: Structure, module: Any) -> Template:
    if structure.template is None:
        structure.template = Template(module, structure)
    return structure.template


def _flatten(module: Any) -> tuple[list[Any], Template]:
    structure = whole(module)
    return structure.read(), _template(structure, module)


def _flatten_with_keys(module: Any) -> tuple[list[tuple[Any, Any]], Template]:
    structure = whole(module)
    keys = map(jax.tree_util.GetAttrKey, structure.names)
    return list(zip(keys, structure.read(), strict=True)), _template(structure, module)


def register(cls: type) -> None:
    """Register a Module class with JAX."""
    jax.tree_util.register_pytree_with_keys(cls, _flatten_with_keys, Template.build, _flatten)
