"""The purely functional forms of a module: arrays in, arrays out, nothing written."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._gradient_hooks import hooked
from jaxmodules._tracing import Tracer
from jaxmodules._tracked import MISSING, buffer_writes, get_item, set_item
from jaxmodules.nn._writable import to_array, unbox
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import fork_rng
from jaxmodules.state import Structure, run_bound, whole
from jaxmodules.transforms._label import label

Arrays = dict[str, jax.Array]


def functionalize(net: Module) -> tuple[Callable[..., Any], Arrays, Arrays]:
    """Take a module apart into a pure function and its arrays.

    ``apply(params, state, *args, rng=None, **kwargs)`` returns ``(output, new_state)``. It runs the module as it is
    at that moment (flags, hooks, attributes) on the arrays it is given and leaves the module alone; ``rng`` is the
    JAX key that Dropout and its kin draw from.

    Args:
        net: the module.

    Returns:
        ``apply``; ``params``, the trainable parameters by name; ``state``, the buffers and frozen parameters by name.

    Raises:
        TypeError: if ``net`` is no Module.
        RuntimeError: from ``apply``, if names or shapes do not fit the module.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> apply, params, state = functionalize(nn.Linear(3, 2))
        >>> logits, state = jax.jit(apply)(params, state, jnp.ones((4, 3)))
        >>> logits.shape, sorted(params)
        ((4, 2), ['bias', 'weight'])
    """
    if not isinstance(net, Module):
        raise TypeError(f"expected a Module, got {net!r}")
    label(net)

    def apply(params: Arrays, state: Arrays, /, *args: Any, rng: Any = None, **kwargs: Any) -> tuple[Any, Arrays]:
        layout = _layout(net)
        values = layout.structure.read()
        layout.check("params", params, layout.params, values)
        layout.check("state", state, layout.state, values)
        for name, array in (*params.items(), *state.items()):
            values[layout.places[name]] = unbox(array)
        chosen = [layout.places[name] for name in params]
        for i, array in hooked(layout.structure, {i: values[i] for i in chosen}, is_repeated=True).items():
            values[i] = array

        def body() -> tuple[Any, Arrays]:
            with nullcontext() if rng is None else fork_rng(rng):
                out = jax.tree.map(unbox, net(*args, **kwargs), is_leaf=lambda x: isinstance(x, Parameter))
                after = layout.structure.read()
                return out, {name: after[layout.places[name]] for name in state}

        return run_bound(layout.structure, values, body)

    layout = _layout(net)
    values = layout.structure.read()
    params = {name: values[layout.places[name]] for name in layout.params}
    state = {name: values[layout.places[name]] for name in layout.state}
    return apply, params, state


class _Layout:
    """Which slot of a module's structure each name stands for."""

    def __init__(self, net: Module, structure: Structure) -> None:
        self.structure = structure
        index = {place: i for i, place in enumerate(structure.places)}
        boxes = dict(net.named_parameters(remove_duplicate=False))
        self.places = {name: index[id(box)] for name, box in boxes.items()}
        for path, module in net.named_modules(remove_duplicate=False):
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self.places[f"{path}.{name}" if path else name] = index[(id(module._buffers), name)]
        named = dict(net.named_parameters())
        self.params = [name for name, box in named.items() if box.requires_grad]
        frozen = [name for name, box in named.items() if not box.requires_grad]
        buffers = structure.names[len(structure.cells) :]
        self.state = [*frozen, *(name for name in buffers if name in self.places)]

    def tied(self) -> dict[str, list[str]]:
        """Return for each name all that it is tied to: of the same box, or of buffers that hold the same array."""
        split = len(self.structure.cells)
        arrays = [id(get_item(buffers, name)) for buffers, name in self.structure.items]
        groups: dict[Any, list[str]] = {}
        held = {name: slot if slot < split else ("array", arrays[slot - split]) for name, slot in self.places.items()}
        for name, holder in held.items():
            groups.setdefault(holder, []).append(name)
        return {name: groups[holder] for name, holder in held.items()}

    def check(self, what: str, given: Mapping[str, Any], names: Sequence[str], values: Sequence[Any]) -> None:
        """Raise unless ``given`` has an array of the right shape for each name."""
        problems = []
        if missing := [name for name in names if name not in given]:
            problems.append(f"missing {', '.join(missing)}")
        if unexpected := sorted(given.keys() - set(names)):
            problems.append(f"unexpected {', '.join(unexpected)}")
        problems += self.misfits({name: given[name] for name in names if name in given}, values)
        if problems:
            raise RuntimeError(f"{what} does not fit the module: " + "; ".join(problems))

    def conflicts(self, given: Mapping[str, Any]) -> list[str]:
        """Say which names of one tied array are given different values; of traced ones the first counts."""
        problems = []
        first: dict[int, str] = {}
        for name in given:
            if name in self.places and _differ(given[name], given[first.setdefault(self.places[name], name)]):
                problems.append(f"{first[self.places[name]]} and {name} are tied but given different values")
        return problems

    def misfits(self, given: Mapping[str, Any], values: Sequence[Any]) -> list[str]:
        """Say of which arrays the shape is wrong."""
        problems = []
        for name, array in given.items():
            shape, expected = tuple(jnp.shape(unbox(array))), tuple(values[self.places[name]].shape)
            if shape != expected:
                problems.append(f"{name} has shape {shape}, expected {expected}")
        return problems


def _differ(a: Any, b: Any) -> bool:
    """Tell whether two arrays are known to differ."""
    a, b = unbox(a), unbox(b)
    if a is b or isinstance(a, Tracer | jax.ShapeDtypeStruct) or isinstance(b, Tracer | jax.ShapeDtypeStruct):
        return False
    return not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def _layout(net: Module) -> _Layout:
    structure = whole(net)
    if structure.layout is None:
        structure.layout = _Layout(net, structure)
    return structure.layout


def update(net: Module, params: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> Module:
    """Put the arrays of :func:`functionalize` or of :func:`tree` back into the module, without copying.

    Args:
        net: the module.
        params: arrays by dotted name, in one dict or in nested ones; those left out keep their value.
        state: arrays by name; those left out keep their value.

    Returns:
        The module.

    Raises:
        RuntimeError: naming every array that is unknown, has another shape, or differs from one given for a tied
            name; the module is left as it was.
    """
    layout = _layout(net)
    given = {**dict(_flat(params)), **dict(_flat(state or {}))}
    problems = layout.conflicts(given)
    arrays = {name: to_array(unbox(array)) for name, array in given.items()}
    problems += [f"unexpected {name}" for name in sorted(arrays.keys() - layout.places.keys())]
    known = {name: array for name, array in arrays.items() if name in layout.places}
    problems += layout.misfits(known, layout.structure.read())
    if problems:
        raise RuntimeError("these arrays do not fit the module: " + "; ".join(problems))
    chosen: dict[int, Any] = {}
    for name, array in arrays.items():
        chosen.setdefault(layout.places[name], array)
    layout.structure.assign(list(chosen), list(chosen.values()))
    return net


def tree(net: Module, *, params: bool = True, buffers: bool = True, remove_duplicate: bool = False) -> dict[str, Any]:
    """Return the arrays of a module in nested dicts that mirror its tree of submodules.

    The way back is :func:`update`; :func:`functional_call` runs a module on such a tree.

    Args:
        net: the module.
        params: whether its parameters are listed, frozen ones included.
        buffers: whether its buffers are listed.
        remove_duplicate: list what is tied under its first name alone instead of under each; for a tree that is
            differentiated or trained.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        >>> jax.tree.map(jnp.shape, tree(net, buffers=False))
        {'0': {'bias': (2,), 'weight': (2, 3)}, '1': {'bias': (2,), 'weight': (2,)}}
        >>> update(net, jax.tree.map(jnp.zeros_like, tree(net, buffers=False)))[0].bias.tolist()
        [0.0, 0.0]
    """
    layout = _layout(net)
    values, boxes = layout.structure.read(), len(layout.structure.cells)
    nested: dict[str, Any] = {}
    listed: set[int] = set()
    for name, slot in layout.places.items():
        if not (params if slot < boxes else buffers) or (remove_duplicate and slot in listed):
            continue
        listed.add(slot)
        *path, last = name.split(".")
        here = nested
        for step in path:
            here = here.setdefault(step, {})
        here[last] = values[slot]
    return nested


def _flat(arrays: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the arrays in nested dicts with their dotted names."""
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with other arrays in place of its own; the counterpart of :func:`torch.func.functional_call`.

    Args:
        module: the module.
        parameter_and_buffer_dicts: arrays by name, in one dict, which may be nested, or several with distinct names.
        args: the arguments, a tuple or a single one.
        kwargs: the keyword arguments.
        tie_weights: whether an array given for one name of a tied parameter or buffer stands for all of them.
        strict: whether every parameter and buffer has to be given.

    Returns:
        The output. What the module writes to the arrays it was given is dropped.

    Raises:
        ValueError: if ``parameter_and_buffer_dicts`` is neither a dict nor a sequence of dicts, two dicts share a name,
            or tied names are given different arrays.
        AttributeError: if a name leads to no module; one that a module does not have is an attribute for this call.
        RuntimeError: if ``strict`` and names are missing or unexpected.
    """
    given = {name: unbox(value) for name, value in _merge(parameter_and_buffer_dicts).items()}
    layout = _layout(module)
    structure, places = layout.structure, layout.places
    names = layout.tied() if tie_weights else {name: [name] for name in places}
    for name, value in given.items():
        if any(given.get(alias, value) is not value for alias in names.get(name, ())):
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(names[name])}, which are tied. Consider using"
                " tie_weights=False"
            )
    if strict:
        _check_strict({alias for name in given for alias in names.get(name, [name])}, places, module)
    chosen: dict[int, Any] = {}
    apart: list[tuple[Module, str, Any]] = []
    shared = Counter(places.values())
    for name, value in given.items():
        array = value if value is None or isinstance(value, jax.Array) else to_array(value)
        if name not in places or value is None or (not tie_weights and shared[places[name]] > 1):
            path, _, attribute = name.rpartition(".")
            apart.append((_owner(module, path), attribute, array))
            continue
        chosen.update((places[alias], array) for alias in names[name])
    order = sorted(chosen)
    values = hooked(structure, {slot: chosen[slot] for slot in order}, is_repeated=True)
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)

    def body() -> Any:
        with _set_apart(apart):
            return module(*arguments, **(kwargs or {}))

    return run_bound(structure.subset(order), list(values.values()), body)


def _owner(module: Module, path: str) -> Module:
    """Return the module at a dotted path."""
    for step in path.split(".") if path else ():
        child = getattr(module, step, None)
        if not isinstance(child, Module):
            raise AttributeError(f"{module._get_name()} has no attribute `{step}` that is a module")
        module = child
    return module


@contextmanager
def _set_apart(entries: Sequence[tuple[Module, str, Any]]) -> Iterator[None]:
    """Give names of modules a value that is not put into a slot: of shared parameters, and of what is not there."""
    before = []
    try:
        for owner, name, array in entries:
            registry: Any = next((r for r in (owner._parameters, owner._buffers) if name in r), owner.__dict__)
            before.append((registry, name, registry.get(name, MISSING)))
            box = registry.get(name)
            is_box = array is not None and registry is owner._parameters
            value = array if not is_box else Parameter(array, False) if box is None else box._with(array)
            set_item(registry, name, value)
        buffer_writes[0] += 1
        yield
    finally:
        for registry, name, value in reversed(before):
            if value is MISSING:
                dict.__delitem__(registry, name)
            else:
                set_item(registry, name, value)
        buffer_writes[0] += 1


def _merge(dicts: Any) -> dict[str, Any]:
    if isinstance(dicts, Mapping):
        return dict(_flat(dicts))
    if not isinstance(dicts, Sequence) or not all(isinstance(d, Mapping) for d in dicts):
        raise ValueError(
            f"Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got {type(dicts)}"
        )
    merged: dict[str, Any] = {}
    for one in dicts:
        for name, _ in _flat(one):
            if name in merged:
                raise ValueError(f"{name} appears in multiple dictionaries; behavior of functional call is ambiguous")
        merged.update(_flat(one))
    return merged


def _check_strict(given: set[str], places: Mapping[str, int], module: Module) -> None:
    missing, unexpected = sorted(places.keys() - given), sorted(given - places.keys())
    parts = [
        f"{what} key(s): {', '.join(map(repr, names))}."
        for what, names in (("Unexpected", unexpected), ("Missing", missing))
        if names
    ]
    if parts:
        lines = "\n\t".join(parts)
        raise RuntimeError(f"Error(s) in reparametrizing for {module._get_name()}:\n\t{lines}")


def stack_module_state(models: Sequence[Module]) -> tuple[Arrays, Arrays]:
    """Stack the parameters and buffers of models for an ensemble; as :func:`torch.func.stack_module_state` does.

    Give them to :func:`functional_call` inside ``jm.vmap`` or ``jax.vmap``. (A stacked module,
    ``jax.tree.map(lambda *a: jnp.stack(a), *models)``, goes into ``jm.vmap`` as it is.)

    Args:
        models: of one class, all in training or all in evaluation mode.

    Returns:
        The parameters and the buffers by name, each with one more axis, the first.

    Raises:
        RuntimeError: if there are no models, or they differ in class, mode, ``requires_grad``, names or shapes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> models = [nn.Linear(3, 2) for _ in range(5)]
        >>> params, buffers = stack_module_state(models)
        >>> run = lambda params, buffers, x: functional_call(models[0], (params, buffers), x)
        >>> jax.vmap(run, (0, 0, None))(params, buffers, jnp.ones((4, 3))).shape
        (5, 4, 2)
    """
    if len(models) == 0:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    for expected, of in (("have the same training/eval mode", lambda m: m.training), ("be of the same class", type)):
        if len({of(model) for model in models}) > 1:
            raise RuntimeError(f"stack_module_state: Expected all models to {expected}.")
    named = [dict(model.named_parameters()) for model in models]
    for name in named[0]:
        if len({boxes[name].requires_grad for boxes in named if name in boxes}) > 1:
            raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
    params = _stacked([{name: box.value for name, box in boxes.items()} for boxes in named])
    return params, _stacked([dict(model.named_buffers()) for model in models])


def _stacked(dicts: Sequence[Arrays]) -> Arrays:
    stacked = {}
    for name in dicts[0]:
        arrays = [one[name] for one in dicts if name in one]
        if len(arrays) < len(dicts):
            raise RuntimeError(f"stack_module_state: Expected all models to have {name!r}, only some do")
        for i, array in enumerate(arrays):
            if array.shape != arrays[0].shape:
                raise RuntimeError(
                    f"stack expects each tensor to be equal size, but got {list(arrays[0].shape)} at entry 0 and"
                    f" {list(array.shape)} at entry {i} ({name})"
                )
        stacked[name] = jnp.stack(arrays)
    return stacked
