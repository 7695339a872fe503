"""What every derivative shares: a call as a pure function of the arrays it is differentiated by.

These arrays are a *point*: some slots of the call's structure and some of the arrays among its arguments. JAX's
transforms take the pure function and the point; a :class:`Target` for each argument puts what comes out, gradients
and Jacobians, into the form of that argument, and takes tangents given in that form apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodules._gradient_hooks import hooked
from jaxmodules._tracing import Cell
from jaxmodules.nn._writable import to_array, unbox
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import current_generator
from jaxmodules.transforms._call import Call, Changes, commit, is_stateful
from jaxmodules.transforms._label import label


@jax.tree_util.register_pytree_node_class
class Point:
    """Arrays by slot, and by their place among the arrays of a call."""

    __slots__ = ("leaves", "slots")

    def __init__(self, slots: dict[int, Any], leaves: dict[int, Any]) -> None:
        self.slots = slots
        self.leaves = leaves

    def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
        """Split into the two dicts."""
        return (self.slots, self.leaves), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any, Any]) -> "Point":
        """Join the two dicts."""
        return cls(*children)


def is_point(value: Any) -> bool:
    """Tell whether ``value`` is a :class:`Point`."""
    return isinstance(value, Point)


class Target:
    """One differentiated argument: which slots and which arrays of the call it is made of.

    ``name`` is what messages call it.
    """

    def __init__(self, name: str, value: Any, first_leaf: int, index: dict[Any, int]) -> None:
        parts, self._treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=is_stateful)
        self._name = name
        self._names = [name + jax.tree_util.keystr(path) for path, _ in parts]
        self._parts: list[Any] = []  # a dict of slots by name, one slot, or None for the next array
        self.slots: list[int] = []
        for _, part in parts:
            if isinstance(part, Module):
                self._parts.append({name: index[id(box)] for name, box in label(part).items()})
                self.slots += self._parts[-1].values()
            elif isinstance(part, Cell):
                self._parts.append(index[id(part)])
                self.slots.append(self._parts[-1])
            elif is_stateful(part):
                raise TypeError(f"expected modules, parameters and arrays to differentiate, got {part!r}")
            else:
                self._parts.append(None)
        self.leaves = range(first_leaf, first_leaf + sum(part is None for part in self._parts))

    def form(self, point: Point) -> Any:
        """Put what belongs to this argument into its form."""
        arrays = iter(self.leaves)

        def of(part: Any) -> Any:
            if part is None:
                return point.leaves[next(arrays)]
            return {name: point.slots[i] for name, i in part.items()} if isinstance(part, dict) else point.slots[part]

        return jax.tree_util.tree_unflatten(self._treedef, [of(part) for part in self._parts])

    def take(self, tangent: Any, types: Point, into: Point) -> None:
        """Take apart a tangent that has the form of this argument; ``None`` in it is left out."""
        arrays = iter(self.leaves)
        for name, part, given in zip(self._names, self._parts, self._parts_of(tangent), strict=True):
            if part is None:
                _put(into.leaves, next(arrays), types.leaves, given, name)
            elif isinstance(part, dict):
                for key, array in _by_name(name, part, given).items():
                    _put(into.slots, part[key], types.slots, array, f"{name}[{key!r}]")
            else:
                _put(into.slots, part, types.slots, given, name)

    def _parts_of(self, tangent: Any) -> list[Any]:
        if tangent is None:
            return [None] * len(self._parts)
        try:
            return self._treedef.flatten_up_to(tangent)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "primal and tangent arguments to jm.jvp must have the same tree structure (with a dict of arrays by"
                f" parameter name for a module); the tangent of {self._name} has another: {error}"
            ) from None


def _by_name(name: str, slots: Mapping[str, int], given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"the tangent of the module {name} must be a dict of arrays by parameter name, got {given!r}")
    problems = []
    if missing := [key for key in slots if key not in given]:
        problems.append(f"missing {', '.join(missing)} (None stands for zeros)")
    if unexpected := sorted(str(key) for key in given.keys() - slots.keys()):
        problems.append(f"unexpected {', '.join(unexpected)}")
    if problems:
        raise TypeError(f"the tangent of {name} does not fit its trainable parameters: " + "; ".join(problems))
    return given


def _put(into: dict[int, Any], i: int, types: Mapping[int, Any], tangent: Any, name: str) -> None:
    """Store a tangent after checking that it is what it has to be."""
    if tangent is None:
        return
    expected = types[i]
    tangent = tangent if getattr(tangent, "dtype", None) == jax.dtypes.float0 else to_array(unbox(tangent))
    if tangent.dtype != expected.dtype:
        raise TypeError(
            "primal and tangent arguments to jm.jvp do not match; dtypes must be equal, or in case of int/bool primal"
            f" dtype the tangent dtype must be float0 (or the tangent None): for {name} expected {expected.dtype}, got"
            f" {tangent.dtype}"
        )
    if tangent.shape != expected.shape:
        raise ValueError(
            f"jvp called with different primal and tangent shapes: {name} has shape {expected.shape}, its tangent"
            f" {tangent.shape}"
        )
    if i in into and into[i] is not tangent:
        raise ValueError(f"jvp got two tangents for one parameter, which is given twice: the second is that of {name}")
    into[i] = tangent


class Problem:
    """A call as a pure function of a point, and what is to be done with what that returns.

    Args:
        call: the call.
        args: the objects to differentiate by are among these: the arguments of the call, or some of its modules.
        argnums: which of ``args`` they are.
        has_aux: whether the function returns a value and something beside it.
        is_mapped: whether JAX's transform will map over the function, with one random state for all elements.
    """

    def __init__(
        self,
        call: Call,
        args: Sequence[Any],
        argnums: int | Sequence[int],
        has_aux: bool = False,
        is_mapped: bool = False,
    ) -> None:
        self._call = call
        self._key = jnp.asarray(current_generator()._key.value) if is_mapped else None
        self._structure = call.structure()
        self._values = self._structure.read()
        self._is_one = isinstance(argnums, int)
        self._has_aux = has_aux
        call.function = _with_arrays(call.function, has_aux)
        self.targets = self._targets(args, (argnums,) if isinstance(argnums, int) else tuple(argnums))
        slots = [i for target in self.targets for i in target.slots]
        leaves = [i for target in self.targets for i in target.leaves]
        self.point = Point({i: self._values[i] for i in slots}, {i: call.leaves[i] for i in leaves})

    def _targets(self, args: Sequence[Any], positions: Sequence[int]) -> list[Target]:
        index = {place: i for i, place in enumerate(self._structure.places)}
        counts = [sum(not is_stateful(x) for x in jax.tree.leaves(arg, is_leaf=is_stateful)) for arg in args]
        for i in positions:
            if not -len(args) <= i < len(args):
                raise TypeError(f"argnums names argument {i}, but the call has {len(args)} positional arguments")
        own = [i % len(args) for i in positions]
        return [Target(f"args[{i}]", args[i], sum(counts[:i]), index) for i in own]

    def pure(self, point: Point) -> tuple[Any, tuple[Any, Changes]]:
        """Run the call at a point; return the value to differentiate, and the output with all that was written."""
        slots = hooked(self._structure, point.slots)
        values = [slots.get(i, value) for i, value in enumerate(self._values)]
        leaves = [point.leaves.get(i, leaf) for i, leaf in enumerate(self._call.leaves)]
        out, changes = self._call.run(self._structure, values, leaves, key=self._key)
        value, aux = out if self._has_aux else (out, None)
        return value, (aux, changes)

    def finish(self, value: Any, rest: tuple[Any, Changes]) -> tuple[Any, Any]:
        """Write back what the call wrote, and return the value and what came beside it."""
        aux, changes = rest
        commit(self._structure, changes)
        return self._call.restore((value, aux), self._structure) if changes.has_refs else (value, aux)

    def form(self, point: Point) -> Any:
        """Put a point into the form of what is differentiated: of one argument, or of a tuple."""
        formed = form(self.targets, point)
        return formed[0] if self._is_one else formed

    def boxes(self, point: Point) -> Iterator[tuple[str, Any, Any]]:
        """Yield the name of each slot of a point, its box, and what stands for it."""
        for i, array in point.slots.items():
            yield self._structure.names[i], self._structure.cells[i], array


def form(targets: Sequence[Target], point: Point) -> tuple[Any, ...]:
    """Put a point into the forms of some arguments."""
    return tuple(target.form(point) for target in targets)


def _with_arrays(function: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """Return ``function`` with arrays for the parameters in the value that is to be differentiated."""

    def run(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        if not has_aux:
            return _unboxed(out)
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise TypeError(
                f"expected function with aux output to return a two-element tuple, but got type {type(out)} with value"
                f" {out!r}"
            )
        return _unboxed(out[0]), out[1]

    return run


def _unboxed(value: Any) -> Any:
    return jax.tree.map(unbox, value, is_leaf=lambda x: isinstance(x, Parameter))
