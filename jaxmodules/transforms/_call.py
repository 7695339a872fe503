"""What every transform does with a call: find the state in it, run it on given arrays, report what changed."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxmodules._keys import Stateful, captured, holds_tracer, restorer
from jaxmodules._tracing import Cell, LeakError, StructureMoves, leak_message
from jaxmodules._tracked import ATOMS
from jaxmodules.random import Generator, bind_generator, current_generator
from jaxmodules.state import NOT_STRUCTURE, Structure, run_bound, structure_of


def is_stateful(value: Any) -> bool:
    """Tell whether a transform threads the arrays of ``value`` instead of flattening it."""
    return isinstance(value, Stateful | Cell | Generator)


@jax.tree_util.register_pytree_node_class
class Changes:
    """The slots that a function wrote, with their new arrays; travels out of JAX's transforms as a pytree.

    ``slots`` are indices into the structure; ``gradients`` pairs of a box's index and whether its ``.grad`` is
    set (or cleared); ``drew`` tells that random numbers were drawn; ``values`` come in that order, the new key
    last. ``has_refs`` tells that the output refers to the caller's own objects.
    """

    __slots__ = ("drew", "gradients", "has_refs", "slots", "static", "touches_more", "values")

    def __init__(
        self,
        static: tuple[tuple[int, ...], tuple[tuple[int, bool], ...], bool, bool],
        values: Sequence[Any],
    ) -> None:
        self.static = static
        self.slots, self.gradients, self.drew, self.has_refs = static
        self.touches_more = bool(self.gradients or self.drew)  # than slots
        self.values = values

    def tree_flatten(self) -> tuple[Sequence[Any], tuple[Any, ...]]:
        """Split into arrays and static indices."""
        return self.values, self.static

    @classmethod
    def tree_unflatten(cls, static: Any, values: Sequence[Any]) -> "Changes":
        """Join arrays and static indices."""
        return cls(static, values)


@jax.tree_util.register_static
class Ref:
    """Stand for one of the caller's own objects in the output of a traced function."""

    def __init__(self, root: int, path: Any) -> None:
        self.root = root
        self.path = path

    def __hash__(self) -> int:
        return hash((self.root, self.path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and (self.root, self.path) == (other.root, other.path)


@jax.tree_util.register_static
class Static:
    """A static argument: part of what a function is compiled for."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and type(self.value) is type(other.value) and self.value == other.value


class _Guard:
    """The plain attributes of some modules as they are, so that no traced value stays behind in one."""

    def __init__(self, roots: Sequence[Any]) -> None:
        modules = [m for root in roots if hasattr(type(root), "named_modules") for m in root.named_modules()]
        self._before = [(path, module, dict(module.__dict__)) for path, module in modules]
        self._contents = [
            (path, module, name, restorer(value))
            for path, module, own in self._before
            for name, value in own.items()
            if name not in NOT_STRUCTURE and type(value) not in ATOMS
        ]

    def check(self) -> None:
        """Raise if an attribute, or a container or record in one, has taken up a traced value."""
        for path, module, before in self._before:
            for name, value in module.__dict__.items():
                if name not in NOT_STRUCTURE and type(value) not in ATOMS and holds_tracer(value):
                    if module._buffers._born is None:
                        if before.get(name) is not value:
                            self._put_back(module, name, before)
                        where = f"{path}.{name}" if path else name
                        raise LeakError(leak_message(f"the attribute '{where}' of {type(module).__name__}"))

    def _put_back(self, module: Any, name: str, before: dict[str, Any]) -> None:
        if name in before:
            module.__dict__[name] = before[name]
        else:
            del module.__dict__[name]

    def restore_contents(self) -> None:
        """Take traced values out of containers and records again."""
        for _, module, name, restore in self._contents:
            if name in module.__dict__ and holds_tracer(module.__dict__[name]):
                restore()


class Call:
    """One call of a function: its arguments taken apart into state and arrays, and its captured objects.

    Nothing here keeps a stateful object alive; the caller's arguments and the function do.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], also: Sequence[Any] = ()
    ) -> None:
        leaves, self.treedef = jax.tree_util.tree_flatten((args, kwargs), is_leaf=is_stateful)
        self.function = function
        self.holes = [weakref.ref(leaf) if is_stateful(leaf) else None for leaf in leaves]
        self.leaves = [leaf for leaf in leaves if not is_stateful(leaf)]
        self.captured, self.watches = captured(function)
        found = [*filter(is_stateful, leaves), *also, *(value for _, value in self.captured)]
        roots = {id(root): root for root in found}
        self.root_refs = [weakref.ref(root) for root in roots.values()]
        self.root_ids = tuple(roots)

    @property
    def roots(self) -> list[Any]:
        """The stateful objects of the call, each once."""
        return [ref() for ref in self.root_refs]

    def structure(self) -> Structure:
        """Find the slots of all roots together, and first the shapes of what is lazy."""
        structure, again = self._find(), True
        while structure.lazy and again:
            again = self._initialize(structure)
            structure = self._find()
        return structure

    def _initialize(self, structure: Structure) -> bool:
        """Run the function on shapes alone, so that lazy modules find theirs; tell whether it has to be run again."""
        try:
            self.on_shapes(structure, lambda out, changes: None)  # the function may return what is no array
        except StructureMoves as signal:
            signal.settle()
            return True
        return False

    def on_shapes(self, structure: Structure, take: Callable[[Any, Changes], Any]) -> Any:
        """Run the function on shapes alone; return the shapes of what ``take`` makes of what :meth:`run` returns."""
        key = jax.ShapeDtypeStruct((2,), np.uint32)
        gradients = [box._grad for box in structure.parameters]
        return jax.eval_shape(
            lambda key, values, leaves, grads: take(*self.run(structure, values, leaves, key=key, gradients=grads)),
            key, structure.read(), self.leaves, gradients,
        )  # fmt: skip

    def _find(self) -> Structure:
        roots = self.roots
        if len(roots) == 1 and isinstance(roots[0], Stateful):
            return structure_of(roots[0])
        return Structure(roots)

    def rebuild(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return args and kwargs with ``leaves`` for the arrays."""
        arrays = iter(leaves)
        filled = [next(arrays) if hole is None else hole() for hole in self.holes]
        args, kwargs = jax.tree_util.tree_unflatten(self.treedef, filled)
        return tuple(map(unwrapped, args)), {name: unwrapped(value) for name, value in kwargs.items()}

    def run(
        self,
        structure: Structure,
        values: Sequence[Any],
        leaves: Sequence[Any],
        *,
        key: Any = None,
        lifts: bool = False,
        gradients: Sequence[Any] | None = None,
    ) -> tuple[Any, Changes]:
        """Run the function with ``values`` in the slots, and return its output and what it wrote.

        Args:
            structure: the slots.
            values: one array a slot.
            leaves: the arrays among the arguments.
            key: the JAX key that random operations draw from; ``None`` leaves the current generator in place.
            lifts: whether reading state outside the structure is an error.
            gradients: one ``.grad`` (or ``None``) for each parameter; ``None`` leaves them alone.
        """
        # A generator among the roots is bound by its own cell; drawing from it must move that.
        own = current_generator() if any(root is current_generator() for root in self.roots) else None
        guard = _Guard(self.roots)

        def body() -> tuple[Any, Changes]:
            generator = own or (current_generator() if key is None else Generator.from_key(key))
            with bind_generator(generator):
                boxes = structure.parameters if gradients is not None else []
                for box, gradient in zip(boxes, gradients or (), strict=True):
                    box._grad = gradient
                args, kwargs = self.rebuild(leaves)
                out, has_refs = self._export(self.function(*args, **kwargs), structure)
                guard.check()
                now = structure.read()
                grads = [(i, b._grad) for i, b in enumerate(boxes) if b._grad is not (gradients or ())[i]]
                new_key = key if own or key is None else generator._key._value
            slots = rewritten(now, values)
            drew = new_key is not key
            static = (slots, tuple((i, g is not None) for i, g in grads), drew, has_refs)
            arrays = [now[i] for i in slots] + [g for _, g in grads if g is not None] + [new_key] * drew
            return out, Changes(static, arrays)

        threads_grads = gradients is not None or (False if lifts else None)
        try:
            return run_bound(structure, values, body, lifts=lifts, grads=threads_grads)
        except BaseException:
            guard.restore_contents()
            raise

    def _export(self, out: Any, structure: Structure) -> tuple[Any, bool]:
        """Replace the caller's own objects in an output by references to them; tell whether there were any."""
        leaves, treedef = jax.tree_util.tree_flatten(out, is_leaf=is_stateful)
        if not any(map(is_stateful, leaves)):
            return out, False
        known = {id(cell): Ref(-1, i) for i, cell in enumerate(structure.cells)}
        for number, root in enumerate(self.roots):
            modules = root.named_modules() if hasattr(type(root), "named_modules") else [("", root)]
            for path, module in modules:
                known.setdefault(id(module), Ref(number, path))
        return jax.tree_util.tree_unflatten(treedef, [known.get(id(leaf), leaf) for leaf in leaves]), True

    def restore(self, out: Any, structure: Structure) -> Any:
        """Replace references in an output by the caller's own objects."""
        leaves, treedef = jax.tree_util.tree_flatten(out, is_leaf=lambda x: isinstance(x, Ref))
        roots = self.roots

        def resolve(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            if leaf.root < 0:
                return structure.cells[leaf.path]
            root = roots[leaf.root]
            return root.get_submodule(leaf.path) if leaf.path else root

        return jax.tree_util.tree_unflatten(treedef, [resolve(leaf) for leaf in leaves])


def rewritten(now: Sequence[Any], before: Sequence[Any]) -> tuple[int, ...]:
    """Return the indices of the slots that hold another array than before."""
    return tuple(i for i, (new, old) in enumerate(zip(now, before, strict=True)) if new is not old)


def unwrapped(value: Any) -> Any:
    """Return what a static value stands for, and anything else as it is."""
    return value.value if isinstance(value, Static) else value


def commit(structure: Structure, changes: Changes) -> None:
    """Write back what a function changed; if that would leak a tracer, write nothing and raise."""
    values = list(changes.values)
    key: Any = values.pop() if changes.drew else None
    split = len(changes.slots)
    arrays = iter(values[split:])
    boxes = structure.parameters if changes.gradients else []
    gradients = [(boxes[i], next(arrays) if is_set else None) for i, is_set in changes.gradients]
    for box, gradient in gradients:
        box._check_grad(gradient)

    def write() -> None:
        if changes.drew:
            current_generator().set_key(key)
        structure.assign(changes.slots, values[:split])
        for box, gradient in gradients:
            box._grad = gradient

    try:
        write()
    except LeakError:
        raise
    except BaseException:  # an interrupt
        write()
        raise
