"""State around JAX's control flow: the functions of one loop or branching, traced once, with what they write.

``lax.scan`` and its kin take pure functions. A :class:`Stage` finds the state that some functions of the same
arguments show, traces each of them once (:class:`Traced`), and so knows which slots they write, which ``.grad`` they
set and whether they draw. A :class:`Changes` over all of that is what the primitive hands from iteration to
iteration or out of a branch; every other slot is an ordinary constant of the body.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from jaxmodules._keys import captured
from jaxmodules._tracing import Cell, StructureMoves
from jaxmodules.random import current_generator
from jaxmodules.transforms._call import Call, Changes, Ref, commit, is_stateful

_TRIES = 4


def unboxed(tree: Any) -> Any:
    """Return a pytree with the arrays of boxes in their place: what a loop hands on is no Parameter."""
    return jax.tree.map(lambda v: v.value if isinstance(v, Cell) else v, tree, is_leaf=is_stateful)


def is_weak(value: Any) -> bool:
    """Tell whether the dtype of ``value`` gives way to that of others, as a Python number's does."""
    return getattr(value, "weak_type", type(value) in (int, float, complex))


def settled(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Let a transform start again after a change of structure that a function in it needs."""

    @functools.wraps(transform)
    def run(*args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return transform(*args, **kwargs)
            except StructureMoves as signal:
                signal.settle()

    return run


class State(NamedTuple):
    """The random key, one array for each slot, and a ``.grad`` or ``None`` for each parameter."""

    key: Any
    values: list[Any]
    gradients: list[Any]

    def after(self, changes: Changes) -> "State":
        """Return the state with what was changed."""
        values, gradients, arrays = list(self.values), list(self.gradients), iter(changes.values)
        for i in changes.slots:
            values[i] = next(arrays)
        for i, is_set in changes.gradients:
            gradients[i] = next(arrays) if is_set else None
        return State(next(arrays) if changes.drew else self.key, values, gradients)


class Traced:
    """A function of the state and of arrays, as the jaxpr of its one run.

    ``out`` and ``changes`` hold the shapes of what it returns and writes.
    """

    def __init__(self, call: Call, structure: Any, state: State, leaves: Sequence[Any]) -> None:
        def pure(state: State, leaves: Sequence[Any]) -> tuple[Any, Changes]:
            return call.run(structure, state.values, leaves, key=state.key, gradients=state.gradients)

        jaxpr, (self.out, self.changes) = jax.make_jaxpr(pure, return_shape=True)(state, leaves)
        self._function = jaxpr_as_fun(jaxpr)
        self._treedef = jax.tree.structure((self.out, self.changes))

    def __call__(self, state: State, leaves: Sequence[Any]) -> tuple[Any, State]:
        """Return the output and the state after it."""
        flat = self._function(*jax.tree.leaves((state, leaves)))
        out, changes = jax.tree.unflatten(self._treedef, flat)
        return out, state.after(changes)


class Stage:
    """Some functions of the same arguments, and the state that they share.

    Args:
        functions: the functions.
        args: their arguments: state, and arrays or shapes.
        also: further stateful objects.
    """

    def __init__(
        self, functions: Sequence[Callable[..., Any]], args: tuple[Any, ...], also: Sequence[Any] = ()
    ) -> None:
        shown = [value for function in functions for _, value in captured(function).objects]
        self.calls = [Call(_without_boxes(function), args, {}, [*also, *shown]) for function in functions]
        for call in self.calls:
            self.structure = call.structure()
        self.leaves = self.calls[0].leaves
        gradients = [box._grad for box in self.structure.parameters]
        self.state = State(current_generator()._key.value, self.structure.read(), gradients)

    def trace(self, number: int, leaves: Sequence[Any] | None = None) -> Traced:
        """Trace one of the functions."""
        leaves = self.leaves if leaves is None else leaves
        return Traced(self.calls[number], self.structure, self.state, leaves)

    def trace_body(
        self, number: int, count: int, carry_of: Callable[[Any], Any], apart: Collection[int] = ()
    ) -> Traced:
        """Trace the body of a loop until what it hands on is of the types it is handed.

        The state and the first ``count`` arrays of the arguments are cast to these types where that is due: a buffer
        to the dtype that is written to it, a carry as ``lax.scan`` does it (only Python numbers and their kin).

        Args:
            number: which of the functions.
            count: how many of the leaves are carried.
            carry_of: returns the carried part of what the function returns.
            apart: the slots that are not carried.
        """
        for _ in range(_TRIES):
            traced = self.trace(number)
            is_stable = self._adopt_state(traced.changes, apart)
            if self._adopt_carry(carry_of(traced.out), count) and is_stable:
                return traced
        raise TypeError("the state that the body of a loop writes has another dtype after every iteration")

    def _adopt_state(self, changes: Changes, apart: Collection[int]) -> bool:
        after = self.state.after(changes)
        values, gradients = self.state.values, self.state.gradients
        is_stable = True
        for i in changes.slots:
            if i in apart:
                continue
            before, now = jnp.shape(values[i]), after.values[i]
            if before != now.shape:
                raise TypeError(
                    f"'{self.structure.names[i]}' has shape {before} before an iteration of a loop and {now.shape}"
                    " after it: what a loop writes must keep its shape"
                )
            if values[i].dtype != now.dtype:
                values[i], is_stable = jax.lax.convert_element_type(values[i], now.dtype), False
        for i, is_set in changes.gradients:
            if is_set != (gradients[i] is not None):
                gradients[i], is_stable = self._zeros(i) if is_set else None, False
        return is_stable

    def _adopt_carry(self, carry: Any, count: int) -> bool:
        after = jax.tree.leaves(carry)
        is_stable = True
        for i, (now, new) in enumerate(zip(self.leaves[:count], after, strict=False)):
            dtype = jax.dtypes.result_type(now)
            if dtype != new.dtype and is_weak(now):
                wider = jnp.promote_types(dtype, new.dtype)
                if wider != dtype:
                    self.leaves[i], is_stable = jax.lax.convert_element_type(now, wider), False
        return is_stable

    def _zeros(self, parameter: int) -> Any:
        return jnp.zeros_like(self.structure.parameters[parameter].value)

    def form(self, *changes: Changes, without: Collection[int] = ()) -> Changes:
        """Return what any of some functions changes, with no arrays and ``without`` some slots."""
        slots = sorted({i for one in changes for i in one.slots}.difference(without))
        gradients: dict[int, bool] = {}
        for i in sorted({i for one in changes for i, _ in one.gradients}):
            kept = self.state.gradients[i] is not None
            gradients[i] = any(dict(one.gradients).get(i, kept) for one in changes)
        drew = any(one.drew for one in changes)
        return Changes((tuple(slots), tuple(gradients.items()), drew, False), ())

    def pick(self, form: Changes, state: State) -> Changes:
        """Return what ``form`` names, out of ``state``; a ``.grad`` that is not there is zero."""
        gradients = [state.gradients[i] for i, is_set in form.gradients if is_set]
        numbers = [i for i, is_set in form.gradients if is_set]
        filled = [self._zeros(i) if g is None else g for i, g in zip(numbers, gradients, strict=True)]
        values = [state.values[i] for i in form.slots]
        return Changes(form.static, [*values, *filled, *[state.key] * form.drew])

    def exported(self, args: Any, count: int) -> Any:
        """Return arguments as a function returns them: the first ``count`` arrays, and references to state."""
        exported, _ = self.calls[0]._export(args, self.structure)
        return jax.tree.unflatten(jax.tree.structure(exported), self.leaves[:count])

    def finish(self, out: Any, changes: Changes) -> Any:
        """Write back what was changed, and return an output with the caller's own objects in it."""
        commit(self.structure, changes)
        leaves = jax.tree.leaves(out, is_leaf=lambda x: isinstance(x, Ref))
        return self.calls[0].restore(out, self.structure) if any(isinstance(x, Ref) for x in leaves) else out


def _without_boxes(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def run(*args: Any) -> Any:
        return unboxed(function(*args))

    return run
