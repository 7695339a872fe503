"""``vmap`` over functions of modules, and ``eval_shape``: transforms that need little beyond the call itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmodules._tracing import StructureMoves, is_mapped
from jaxmodules.random import Generator, bind_generator, next_key
from jaxmodules.state import Structure
from jaxmodules.transforms._call import Call, Changes, commit, is_stateful


class _NoRandomness(Generator):
    """Refuse to draw: ``vmap`` was not told whether all elements draw the same."""

    def next_key(self) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError(
            "vmap: called random operation while in randomness error mode. Please either use the 'same' or 'different'"
            " randomness flags on vmap or perform the randomness operation out of vmap"
        )

    def set_key(self, key: Any) -> Any:
        """Raise RuntimeError: a compiled function has drawn."""
        return self.next_key()


def vmap(
    fn: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    *,
    randomness: Literal["error", "same", "different"] = "error",
    **options: Any,
) -> Callable[..., Any]:
    """Return ``fn`` mapped over an axis of its arguments.

    A module passed with axis ``None``, and any that ``fn`` finds in its closure, is shared by all elements; what the
    mapped function writes to it must then be the same for all. A module passed with an axis has that axis in every
    parameter and buffer (a stack of models), and so has what is written to it.

    Args:
        fn: the function, or a module.
        in_axes: as for :func:`jax.vmap`: an int, ``None``, or one for each positional argument.
        out_axes: as for :func:`jax.vmap`.
        randomness: what random operations do: raise, draw the same for all elements, or draw for each.
        options: further keyword arguments of :func:`jax.vmap`.

    Raises:
        ValueError: as :func:`jax.vmap` raises.
        RuntimeError: if ``randomness`` is none of the three; on a random operation with ``randomness="error"``, and
            on a write of what differs between elements to a shared module.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> vmap(nn.Linear(3, 2))(jnp.ones((5, 3))).shape
        (5, 2)
    """
    if randomness not in ("error", "same", "different"):
        raise RuntimeError(f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}")

    @functools.wraps(fn, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        call = Call(fn, args, kwargs)
        structure = call.structure()
        values = structure.read()
        slot_axes, leaf_axes = _axes(structure, args, kwargs, in_axes)
        size = options.get("axis_size") or _size([*values, *call.leaves], [*slot_axes, *leaf_axes])
        key, key_axis = None, None
        if randomness != "error":
            key = next_key()
            key, key_axis = (key, None) if randomness == "same" else (jax.random.split(key, size), 0)
        groups = sorted({*slot_axes}, key=str)

        def one(key: Any, values: list[Any], leaves: list[Any]) -> tuple[Any, Changes, list[list[Any]]]:
            with bind_generator(_NoRandomness() if key is None else Generator.from_key(key)):
                out, changes = call.run(structure, values, leaves)
            written = list(zip(changes.slots, changes.values, strict=True))
            for i, value in written:
                if slot_axes[i] is None and is_mapped(value):
                    raise RuntimeError(
                        f"vmap: '{structure.names[i]}' of a shared module was written with a value that differs between"
                        " the mapped elements: call eval() on the module, or give it an axis (a stack of modules)"
                    )
            changes.values = []
            return out, changes, [[v for i, v in written if slot_axes[i] == axis] for axis in groups]

        out, changes, by_group = jax.vmap(
            one, in_axes=(key_axis, slot_axes, leaf_axes), out_axes=(out_axes, None, groups), **options
        )(key, values, call.leaves)
        arrays = {axis: iter(group) for axis, group in zip(groups, by_group, strict=True)}
        changes.values = [next(arrays[slot_axes[i]]) for i in changes.slots]
        commit(structure, changes)
        return call.restore(out, structure) if changes.has_refs else out

    return mapped


def _axes(
    structure: Structure, args: tuple[Any, ...], kwargs: dict[str, Any], in_axes: Any
) -> tuple[list[int | None], list[int | None]]:
    """Return the mapped axis of every slot, and of every array among the arguments."""
    place = {p: i for i, p in enumerate(structure.places)}
    slot_axes: list[int | None] = [None] * len(structure)
    leaf_axes: list[int | None] = []
    if not isinstance(in_axes, int | None) and len(in_axes) != len(args):
        raise ValueError(
            f"vmap in_axes must be an int, None, or a tuple with one entry for each positional argument,"
            f" got {len(in_axes)} entries for {len(args)} arguments"
        )
    per_argument = [in_axes] * len(args) if isinstance(in_axes, int | None) else list(in_axes)
    for axes, argument in [*zip(per_argument, args, strict=True), *((0, v) for _, v in sorted(kwargs.items()))]:
        flat_axes, treedef = jax.tree_util.tree_flatten(axes, is_leaf=lambda a: a is None)
        for axis, part in zip(flat_axes, treedef.flatten_up_to(argument), strict=True):
            for leaf in jax.tree.leaves(part, is_leaf=is_stateful):
                if is_stateful(leaf):
                    for p in Structure([leaf]).places:
                        slot_axes[place[p]] = axis
                else:
                    leaf_axes.append(axis)
    return slot_axes, leaf_axes


def _size(arrays: Sequence[Any], axes: Sequence[int | None]) -> int:
    for array, axis in zip(arrays, axes, strict=True):
        if axis is not None and jnp.ndim(array):
            return jnp.shape(array)[axis]
    raise ValueError("vmap must have at least one array with a mapped axis: every in_axes is None")


def eval_shape(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the shapes and dtypes of a function's result without computing it.

    Nothing is written: buffers, optimizer state and random keys stay as they are.

    Args:
        fn: a function or module.
        args: its arguments: modules, arrays or ``jax.ShapeDtypeStruct``.
        kwargs: its keyword arguments.

    Returns:
        The result with a ``jax.ShapeDtypeStruct`` for every array.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> eval_shape(nn.Linear(3, 2), jax.ShapeDtypeStruct((5, 3), jnp.float32)).shape
        (5, 2)
    """
    call = Call(fn, args, kwargs)
    structure = call.structure()
    try:
        out, changes = call.on_shapes(structure, lambda out, changes: (out, changes))
    except StructureMoves as signal:
        signal.settle()
        return eval_shape(fn, *args, **kwargs)
    return call.restore(out, structure) if changes.has_refs else out
