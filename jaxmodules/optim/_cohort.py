"""Cohorts: parameters that have taken the same steps share one optax state."""

import weakref
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey

from jaxmodules._tracing import Cell
from jaxmodules.nn._writable import copy_array
from jaxmodules.nn.parameter import Parameter

Leaf = tuple[str, str | None]  # what it is called, and the parameter that it belongs to or None


class Cohort:
    """Parameters with one optax state: a pytree over a dict of arrays, its leaves in cells.

    Args:
        group: the group that the parameters are in.
        boxes: the parameters.
        names: their names in the pytree.
        state: the optax state.
        static: the settings that the state was made for, as a key.
    """

    def __init__(
        self, group: Any, boxes: Sequence[Parameter], names: Sequence[str], state: Any, static: Hashable
    ) -> None:
        self.group = group
        self.boxes = list(boxes)
        self.names = list(names)
        self.static = static
        self.by_id = {id(box): name for box, name in zip(self.boxes, self.names, strict=True)}
        leaves, self.treedef = jax.tree_util.tree_flatten_with_path(state)
        self.cells = [Cell(leaf) for _, leaf in leaves]
        self.leaves = _leaf_names([path for path, _ in leaves], self.names)
        self._first = weakref.ref(self.cells[0].value) if self.cells else None
        self.spare: dict[Leaf, Any] = {}  # state that the present settings have no use for
        self.left: set[int] = set()  # parameters whose state is kept elsewhere from now on
        self._cells_of: dict[str | None, dict[str, Cell]] = {}
        for (field, owner), cell in zip(self.leaves, self.cells, strict=True):
            self._cells_of.setdefault(owner, {})[field] = cell

    @property
    def is_new(self) -> bool:
        """Whether the state is the one it was made with."""
        return self._first is not None and self.cells[0]._value is self._first()

    def holds(self, box: Any) -> bool:
        """Tell whether the state of a parameter is here."""
        return id(box) in self.by_id and id(box) not in self.left

    def cell(self, field: str, box: Any) -> tuple[Cell | None, bool]:
        """Return the cell of a field of a parameter's state, if there is one, and whether nobody shares it."""
        own = self._cells_of.get(self.by_id[id(box)], {}).get(field)
        if own is not None:
            return own, True
        return self._cells_of.get(None, {}).get(field), len(self.boxes) == 1

    def state(self) -> Any:
        """Return the optax state."""
        return jax.tree_util.tree_unflatten(self.treedef, [cell.value for cell in self.cells])

    def arrays(self) -> dict[Leaf, Any]:
        """Return every array of state."""
        return {**self.spare, **{leaf: cell.value for leaf, cell in zip(self.leaves, self.cells, strict=True)}}

    def of(self, box: Any) -> dict[str, Any]:
        """Return the state of one parameter, with what is shared."""
        name = self.by_id[id(box)]
        spare = {field: value for (field, owner), value in self.spare.items() if owner is None or owner == name}
        cells = {**self._cells_of.get(None, {}), **self._cells_of.get(name, {})}
        return {**spare, **{field: cell.value for field, cell in cells.items()}}

    def of_each(self) -> list[tuple[Parameter, dict[str, Any]]]:
        """Return every parameter with its state; what is shared is in all of them."""
        shared: dict[str, Any] = {}
        own: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        for (field, owner), value in self.arrays().items():
            (shared if owner is None else own[owner])[field] = value
        pairs = zip(self.boxes, self.names, strict=True)
        return [(box, {**shared, **own[name]}) for box, name in pairs if id(box) not in self.left]

    def shared(self, field: str) -> Any:
        """Return a shared array, or ``None`` if there is none of this name."""
        cell = self._cells_of.get(None, {}).get(field)
        return self.spare.get((field, None)) if cell is None else cell.value

    def part(self, active: set[int]) -> list["Cohort"]:
        """Return the cohort in two: the parameters with these identities and the others."""
        parts = [[box for box in self.boxes if (id(box) in active) == inside] for inside in (True, False)]
        return [self.only(boxes) for boxes in parts if boxes]

    def only(self, boxes: Sequence[Parameter]) -> "Cohort":
        """Return a cohort of some of the parameters."""
        chosen = {id(box) for box in boxes}
        names = {name: None for box, name in zip(self.boxes, self.names, strict=True) if id(box) in chosen}
        everything = set(self.names)

        def is_tree(node: Any) -> bool:
            return isinstance(node, dict) and node.keys() == everything

        def pick(node: Any) -> Any:
            return {k: v for k, v in node.items() if k in names} if is_tree(node) else copy_array(node)

        cohort = Cohort(self.group, boxes, list(names), jax.tree.map(pick, self.state(), is_leaf=is_tree), self.static)
        if not self.is_new:
            cohort._first = None
        cohort.spare = {(f, o): copy_array(v) for (f, o), v in self.spare.items() if o is None or o in names}
        return cohort

    def take(self, arrays: dict[Leaf, Any]) -> "Cohort":
        """Take those arrays that the cohort has leaves for, set the others aside, and return the cohort."""
        rest = dict(arrays)
        for leaf, cell in zip(self.leaves, self.cells, strict=True):
            if leaf in rest:
                cell.value = rest.pop(leaf)
        self.spare |= rest
        self._first = None
        return self


def _leaf_names(paths: Sequence[Any], names: Sequence[str]) -> list[Leaf]:
    """Name leaves by the last attribute on their path, or by the whole path where that would not be unique."""
    known = set(names)
    owners = [next((k.key for k in path if isinstance(k, DictKey) and k.key in known), None) for path in paths]
    short, full = [], []
    for path, owner in zip(paths, owners, strict=True):
        parts = [k for k in path if not (isinstance(k, DictKey) and k.key == owner)]
        attributes = [k.name for k in parts if isinstance(k, GetAttrKey)]
        full.append(jax.tree_util.keystr(tuple(parts), simple=True, separator="."))
        short.append(attributes[-1] if attributes else full[-1])
    count = Counter(zip(short, owners, strict=True))
    return [(s if count[s, o] == 1 else f, o) for s, f, o in zip(short, full, owners, strict=True)]
