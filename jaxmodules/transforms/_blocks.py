"""Modules that a ``scan`` runs over: a stacked module, or blocks of equal structure that are stacked for the loop."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodules._keys import Freezer, Stateful
from jaxmodules.nn.modules.container import ModuleList, Sequential
from jaxmodules.nn.modules.module import Module
from jaxmodules.random import Generator
from jaxmodules.state import NOT_STRUCTURE, Structure, whole
from jaxmodules.transforms._call import Changes
from jaxmodules.transforms._stage import is_weak


def is_scanned(value: Any) -> bool:
    """Tell whether a part of ``xs`` is state: a stacked object, or a list of blocks."""
    return isinstance(value, Stateful | Generator) or _is_list_of_blocks(value)


def _is_list_of_blocks(value: Any) -> bool:
    """Tell a list of blocks from a stacked module; a Sequential is one or the other, as its children and arrays are."""
    if type(value) is Sequential:
        return _problem(list(value)) is None or len({jnp.shape(array)[:1] for array in whole(value).read()}) != 1
    if isinstance(value, ModuleList):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(item, Module) for item in value)


def slice_of(array: Any) -> Any:
    """Return the shape and dtype of an element of an array along its first axis.

    Raises:
        ValueError: if it has none.
    """
    shape = jnp.shape(array)
    if not shape:
        raise ValueError(f"scan got value with no leading axis to scan over: {array!r}")
    return jax.ShapeDtypeStruct(shape[1:], jax.dtypes.result_type(array), weak_type=is_weak(array))


class Blocks:
    """A part of ``xs`` that is state.

    ``body`` stands for each of the blocks in turn: its slots hold their arrays. ``rows`` are the places of one slot in
    each block; a slot that all blocks share is in none of them.

    Args:
        part: a stacked object, or a list of blocks.

    Raises:
        ValueError: if the blocks differ in more than the values of their arrays.
        TypeError: if it can't be run over.
    """

    def __init__(self, part: Any) -> None:
        if isinstance(part, Generator):
            raise TypeError("scan can't run over a Generator: split a JAX key with jax.random.split and scan over that")
        if not _is_list_of_blocks(part):
            self.body, self.members, self.length = part, [part], None
            self.rows = [(place,) for place in Structure([part]).places]
            return
        self.members = list(part)
        if not self.members:
            raise ValueError(f"scan needs at least one block to run over, got an empty {type(part).__name__}")
        self.body, self.length = self.members[0], len(self.members)
        problem = _problem(self.members)
        if problem is not None:
            raise ValueError(
                f"scan runs over blocks of equal structure, but {problem}"
                " (make them equal, or call the blocks one by one)"
            )
        rows = zip(*(whole(block).places for block in self.members), strict=True)
        self.rows = [row for row in rows if len(set(row)) > 1 or len(row) == 1]


class Columns:
    """The slots of a stage that a loop runs over: for each slot of a body, where its arrays come from.

    Args:
        groups: the parts of ``xs`` that are state.
        stage: of the loop's body; its state is given the shapes of single blocks.
    """

    def __init__(self, groups: Sequence[Blocks], stage: Any) -> None:
        self._groups = groups
        self._names = stage.structure.names
        self._boxes = stage.structure.parameters
        index = {place: i for i, place in enumerate(stage.structure.places)}
        self._box_slots = [index[id(box)] for box in self._boxes]
        self.slots: dict[int, tuple[int, ...]] = {}
        self._stacked: set[int] = set()
        for group in groups:
            for row in group.rows:
                column = tuple(index[place] for place in row)
                if self.slots.setdefault(column[0], column) != column:
                    raise ValueError(f"scan runs over '{self._names[column[0]]}' twice, in different orders")
                if group.length is None:
                    self._stacked.add(column[0])
        self._values = {i: stage.state.values[i] for column in self.slots.values() for i in column}
        self._written: list[int] = []
        for i in self._stacked:
            stage.state.values[i] = slice_of(self._values[i])

    def length(self, given: int | None) -> int | None:
        """Return the number of iterations, as far as it is known: ``lax.scan`` compares it with the arrays."""
        return next((group.length for group in self._groups if given is None and group.length is not None), given)

    def joined(self) -> list[Any]:
        """Return the arrays to run over, one for each slot."""
        values = self._values
        return [
            values[i] if i in self._stacked else jnp.stack([values[j] for j in column])
            for i, column in self.slots.items()
        ]

    def note(self, changes: Changes) -> None:
        """Take note of what the body writes.

        Raises:
            TypeError: if that is a ``.grad`` of a parameter that the loop runs over.
            ValueError: if that is a slot that only some of the blocks share.
        """
        self._written = [i for i in changes.slots if i in self.slots]
        for i, _ in changes.gradients:
            if self._box_slots[i] in self.slots:
                raise TypeError(
                    f"the body of a scan sets .grad of '{self._names[self._box_slots[i]]}', which the scan runs over:"
                    " return the gradient from the body instead"
                )
        places = [j for i in self._written for j in self.slots[i]]
        if len(places) > len(set(places)):
            raise ValueError("the body of a scan writes a buffer or parameter that only some of the blocks share")

    def put(self, state: Any, arrays: Sequence[Any]) -> Any:
        """Return a state with the arrays of one block in the slots of the body."""
        for i, array in zip(self.slots, arrays, strict=True):
            state.values[i] = array
        return state

    def written(self, state: Any) -> list[Any]:
        """Return what the body has written to its slots."""
        return [state.values[i] for i in self._written]

    def spread(self, changes: Changes, stacks: Sequence[Any]) -> Changes:
        """Return the changes with what was written to each block."""
        split = len(changes.slots)
        own = dict(zip(changes.slots, changes.values[:split], strict=True))
        for i, stack in zip(self._written, stacks, strict=True):
            column = self.slots[i]
            own |= {i: stack} if i in self._stacked else {j: stack[n] for n, j in enumerate(column)}
        slots = sorted(own)
        return Changes((tuple(slots), *changes.static[1:]), [*(own[i] for i in slots), *changes.values[split:]])


def _problem(blocks: Sequence[Module]) -> str | None:
    """Say in what a block differs from the first one, apart from the values of its arrays."""
    structures = [whole(block) for block in blocks]
    for i, structure in enumerate(structures):
        if structure.key != structures[0].key:
            return f"block [{i}] differs from block [0]: {_difference(blocks[0], blocks[i])}"
        pairs = zip(structure.names, structures[0].read(), structure.read(), strict=True)
        for path, a, b in pairs:
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"'{path}' is {_kind(a)} in block [0] and {_kind(b)} in block [{i}]"
    return None


def _kind(array: jax.Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _difference(first: Module, second: Module) -> str:
    """Say where two modules of different structure key differ."""
    ours, theirs = dict(first.named_modules()), dict(second.named_modules())
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        one, two = ours.get(path), theirs.get(path)
        where = f"'{path}'" if path else "the module"
        if one is None or two is None:
            return f"there is a module {where} in only one of them"
        if type(one) is not type(two):
            return f"{where} is a {type(one).__name__} in one and a {type(two).__name__} in the other"
        for name in sorted({*vars(one), *vars(two)} - NOT_STRUCTURE):
            a, b = vars(one).get(name), vars(two).get(name)
            if Freezer().freeze(a, "") != Freezer().freeze(b, "") and not isinstance(a, Stateful):
                return f"the attribute '{f'{path}.{name}' if path else name}' is {a!r} in one and {b!r} in the other"
        for registry, what in (("_parameters", "parameter"), ("_buffers", "buffer")):
            a, b = ([(k, _flag(v)) for k, v in vars(m)[registry].items()] for m in (one, two))
            if a != b:
                return f"the {what}s of {where} are {_listed(a)} in one and {_listed(b)} in the other"
    return "they have other hooks, or share their modules and parameters in another way"


def _flag(entry: Any) -> Any:
    return None if entry is None else getattr(entry, "requires_grad", True)


def _listed(entries: list[tuple[str, Any]]) -> str:
    notes = {None: " (None)", False: " (frozen)", True: ""}
    return ", ".join(f"{name}{notes[flag]}" for name, flag in entries) or "none"
