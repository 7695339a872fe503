"""A call of a module or a function as a program of arrays: traced once, with what it writes and draws."""

import dataclasses
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxmodules._device import check_data, is_meta
from jaxmodules._shapes import known
from jaxmodules.export._dynamic_shapes import argument_names, is_array, with_dynamic_shapes
from jaxmodules.nn.functional.attention import portable
from jaxmodules.nn.modules.module import Module
from jaxmodules.state import Structure
from jaxmodules.transforms._call import Call, Changes, is_stateful
from jaxmodules.transforms._stage import settled, unboxed

Weights = Literal["embedded", "inputs", "inputs+outputs"]
_ADVICE = (
    "(what is exported may depend on a size that dynamic_shapes leaves open: give it bounds, by"
    " jm.export.Dim('b', min=2) in the place of 'b', or fix it)"
)
_OPEN_ERRORS = (  # in which a size ends that Python or NumPy would have to know
    jax.errors.ConcretizationTypeError,
    jax.errors.InconclusiveDimensionOperation,
    jax.errors.TracerArrayConversionError,
    OverflowError,
)
_KEY = jax.ShapeDtypeStruct((2,), np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """What a call comes to.

    Args:
        name: of the function or module.
        jaxpr: from the random key, the state and the arrays among the arguments to output, written state and new key.
        args: the positional arguments that hold arrays, as shapes.
        kwargs: the keyword arguments that hold arrays, as shapes.
        inputs: the names of the arrays among the arguments.
        state: what the slots hold, by name.
        out: the output, as shapes.
        written: the names of the slots that are written.
        rng: the name of the random key, if random numbers are drawn.
    """

    name: str
    jaxpr: ClosedJaxpr
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[str]
    state: dict[str, Any]
    out: Any
    written: list[str]
    rng: str | None

    def __call__(self, key: Any, state: Sequence[Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Run it: return the output and the new state."""
        flat = jaxpr_as_fun(self.jaxpr)(key, *state, *jax.tree.leaves((args, kwargs)))
        split = jax.tree.structure(self.out).num_leaves
        names = [*self.written, *filter(None, [self.rng])]
        new = dict(zip(names, flat[split:], strict=True))
        return jax.tree.unflatten(jax.tree.structure(self.out), flat[:split]), new

    def check_pure(self, weights: Weights) -> None:
        """Raise if there is state to hand on, and nowhere to put it."""
        if weights == "inputs+outputs":
            return
        does = [f"writes {_several(self.written)}"] if self.written else []
        does += ["draws random numbers"] if self.rng else []
        if does:
            raise RuntimeError(
                f"{self.name} {' and '.join(does)}, which an exported program with weights={weights!r} cannot do: call"
                " eval() on the module first, or export it with weights='inputs+outputs', which takes the state and"
                " returns what is new of it"
            )


@settled
def trace(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Function:
    """Trace a call of a function or a module.

    Raises:
        TypeError: if ``function`` cannot be called, or an argument is not what it should be.
        RuntimeError: if lazy modules have no shapes yet, or gradients are left in ``.grad``.
    """
    if not callable(function):
        raise TypeError(f"expected a module or a function to export, got {function!r}")
    args = args if isinstance(args, tuple) else (args,)
    specs = with_dynamic_shapes(function, args, kwargs or {}, dynamic_shapes)
    call = Call(_returning_plain(function), *specs)
    structure = Structure(call.roots)
    if structure.lazy:
        raise RuntimeError(
            f"{name_of(function)} has uninitialized parameters, which have no arrays yet: call the module once, or"
            " jm.eval_shape(net, batch), before it is exported"
        )
    names = _names(function, specs, call.roots, structure)
    values = structure.read()
    arrays = [leaf for leaf in call.leaves if is_array(leaf)]

    def pure(key: Any, values: list[Any], arrays: list[Any]) -> tuple[Any, Changes]:
        inputs = iter(arrays)
        leaves = [next(inputs) if is_array(leaf) else leaf for leaf in call.leaves]
        none = [None] * len(structure.parameters)
        return call.run(structure, values, leaves, key=key, lifts=True, gradients=none)

    before = portable.set(True)
    try:
        jaxpr, (out, changes) = jax.make_jaxpr(pure, return_shape=True)(_KEY, [*map(spec_of, values)], arrays)
    except _OPEN_ERRORS as error:
        sizes = [size for leaf in arrays for size in leaf.shape]
        if len(known(sizes)) < len(sizes):
            error.add_note(_ADVICE)
        raise
    finally:
        portable.reset(before)
    if changes.gradients:
        raise RuntimeError(
            f"{name_of(function)} leaves gradients in .grad, which an exported program has no place for: end it with"
            " zero_grad(), or use jm.value_and_grad and optimizer.step(gradients)"
        )
    return Function(
        name_of(function),
        jaxpr,
        *_inputs(*specs),
        _input_names(function, *specs),
        dict(zip(names, values, strict=True)),
        out,
        [names[i] for i in changes.slots],
        unlike("rng", names) if changes.drew else None,
    )


def name_of(function: Any) -> str:
    """Return what messages call a function or module."""
    return getattr(function, "__name__", type(function).__name__)


def spec_of(value: Any) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of a value."""
    aval = value if is_meta(value) else jax.typeof(value)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def constants(state: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the arrays of a state on the host, to be put into a program.

    Raises:
        NotImplementedError: if there is no data.
    """
    check_data(list(state), list(state.values()))
    return [np.asarray(value) for value in state.values()]


def plain(tree: Any) -> Any:
    """Return a pytree with tuples for named tuples, so that a process that has only JAX can make it."""
    if isinstance(tree, tuple | list):
        return [*map(plain, tree)] if isinstance(tree, list) else tuple(map(plain, tree))
    if type(tree) is dict:
        return {key: plain(value) for key, value in tree.items()}
    return tree


def _returning_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, returning arrays for boxes and tuples for named tuples."""

    def run(*args: Any, **kwargs: Any) -> Any:
        out = plain(unboxed(function(*args, **kwargs)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(out, is_leaf=is_stateful):
            if is_stateful(leaf) or isinstance(leaf, str) or not hasattr(leaf, "dtype") and not np.isscalar(leaf):
                raise TypeError(
                    f"{name_of(function)} returns a {type(leaf).__name__} at output{jax.tree_util.keystr(path)},"
                    " expected arrays, numbers and None in tuples, lists and dicts"
                )
        return out

    return run


def _inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that hold arrays, with ``None`` for all else in them."""

    def holds_arrays(arg: Any) -> bool:
        return any(map(is_array, jax.tree.leaves(arg, is_leaf=is_stateful)))

    def arrays_of(arg: Any) -> Any:
        return plain(jax.tree.map(lambda leaf: leaf if is_array(leaf) else None, arg, is_leaf=is_stateful))

    given = {name: arrays_of(arg) for name, arg in kwargs.items() if holds_arrays(arg)}
    return tuple(arrays_of(arg) for arg in args if holds_arrays(arg)), given


def _input_names(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Return a name for each array, made of that of the argument and the path in it."""
    named = [*zip(argument_names(function, args), args, strict=True), *sorted(kwargs.items())]
    return [
        re.sub(r"\W+", "_", name + jax.tree_util.keystr(path)).strip("_")
        for name, arg in named
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg, is_leaf=is_stateful)
        if is_array(leaf)
    ]


def _names(function: Any, specs: tuple[Any, Any], roots: Sequence[Any], structure: Structure) -> list[str]:
    """Return a name for each slot: the dotted one in a module, after the name of the argument in a function."""
    own = getattr(function, "__self__", function)
    labels: dict[int, str] = {id(own): ""}
    if not isinstance(function, Module):
        given = {**dict(zip(argument_names(function, specs[0]), specs[0], strict=True)), **specs[1]}
        plain_function = inspect.unwrap(getattr(function, "__func__", function))
        if inspect.isfunction(plain_function):
            shown = inspect.getclosurevars(plain_function)
            given = {**shown.globals, **shown.nonlocals, **given}
        for name, value in given.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(value, is_leaf=is_stateful):
                if is_stateful(leaf):
                    labels.setdefault(id(leaf), f"{name}{jax.tree_util.keystr(path)}.")
    named: dict[Any, str] = {}
    taken: set[str] = set()
    for root in sorted(roots, key=lambda root: not isinstance(root, Module)):
        prefix = labels.get(id(root), f"{type(root).__name__}.")
        for place, name in Structure([root]).owned.items():
            if place not in named:
                named[place] = unlike((prefix + name).removesuffix("."), taken)
                taken.add(named[place])
    return [named[place] for place in structure.places]


def unlike(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number if it is taken."""
    numbered = (name if count == 1 else f"{name}#{count}" for count in itertools.count(1))
    return next(one for one in numbered if one not in taken)


def _several(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, the first few of them."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
