"""Which parameters of an optimizer share an optax state: plain functions over its groups and cohorts."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from jaxmodules._device import place_of
from jaxmodules._tracing import StructureMoves, Tracer, epoch, local
from jaxmodules.nn._writable import copy_array, take, to_array
from jaxmodules.nn.parameter import Parameter
from jaxmodules.optim._cohort import Cohort, Leaf
from jaxmodules.optim._groups import ParamGroup


def is_aligned(optimizer: Any, active: set[int]) -> bool:
    """Tell whether the parameters with these identities have the state that a step needs."""
    if optimizer._aligned == (epoch.count, active):
        return True
    groups = {id(group): group for group in optimizer.param_groups}
    members = {number: {id(box) for box in group["params"]} for number, group in groups.items()}
    static = {number: group.static_key() for number, group in groups.items()}
    covered: set[int] = set()
    for cohort in optimizer._cohorts:
        number = id(cohort.group)
        if number not in groups or cohort.static != static[number] or cohort.left:
            return False
        if not cohort.by_id.keys() <= members[number] or _is_mixed(optimizer, cohort, active):
            return False
        covered |= cohort.by_id.keys()
    known = set().union(*members.values())
    if not active & known <= covered or any(id(key) in known for key in optimizer._loose):
        return False
    if not any(group.is_volatile for group in groups.values()):
        optimizer._aligned = epoch.count, set(active)
    return True


def align(optimizer: Any, active: set[int]) -> None:
    """Give every one of these parameters the state that its step needs."""
    if optimizer._is_aligned(active):
        return
    if is_bound(optimizer):
        raise StructureMoves(functools.partial(optimizer._arrange, active))
    optimizer._arrange(active)


def is_bound(optimizer: Any) -> bool:
    """Tell whether a running trace has bound the optimizer's state, so that its structure can't change."""
    return any(id(cell) in frame.owned for frame in local.frames for _, cell in optimizer._cells())


def _is_mixed(optimizer: Any, cohort: Cohort, active: set[int]) -> bool:
    return optimizer.transformation is None and len(active & cohort.by_id.keys()) not in (0, len(cohort.boxes))


def arrange(optimizer: Any, active: set[int]) -> None:
    """Make cohorts that step as a whole, for the present groups and settings.

    The state of a given optax transformation is never divided: it may couple its parameters (a global norm) or
    count the steps of all of them (a schedule). There a parameter without gradient is one whose gradient is zero,
    except that neither it nor its own state moves.
    """
    _leave(optimizer)
    cohorts: list[Cohort] = []
    for number, group in enumerate(optimizer.param_groups):
        static, names = group.static_key(), optimizer._keys(number)
        parts: list[Cohort] = []
        for cohort in optimizer._cohorts:
            if cohort.group is group:
                parts += cohort.part(active) if _is_mixed(optimizer, cohort, active) else [cohort]
        folded = _folded(optimizer, group, names, parts)
        parts = _merged(optimizer, names, parts + folded) if folded else parts
        covered = {i for cohort in parts for i in cohort.by_id}
        new = {id(box) for box in group["params"] if id(box) in active} - covered
        if optimizer.transformation is not None and (new or len(parts) > 1):
            joined = optimizer._fresh(group, names, covered | new)
            parts = [joined.take({k: v for cohort in parts for k, v in cohort.arrays().items()})]
        elif new:
            parts.append(optimizer._fresh(group, names, new))
        cohorts += [
            cohort if cohort.static == static else _remade(cohort, optimizer._fresh(group, names, cohort.by_id))
            for cohort in parts
        ]
    known = {id(box) for cohort in cohorts for box in cohort.boxes}
    optimizer._loose = {key: entries for key, entries in optimizer._loose.items() if id(key) not in known}
    optimizer._cohorts = cohorts
    optimizer._aligned = None
    epoch.count += 1


def _remade(old: Cohort, new: Cohort) -> Cohort:
    """Return a cohort for other settings, with what the old one has had so far."""
    return new if old.is_new else new.take(old.arrays())


def _leave(optimizer: Any) -> None:
    """Take parameters out of their cohorts that are in their groups no more, or whose state is kept elsewhere."""
    members = {id(group): {id(box) for box in group["params"]} for group in optimizer.param_groups}
    cohorts = []
    for cohort in optimizer._cohorts:
        inside = members.get(id(cohort.group), set())
        staying = [box for box in cohort.boxes if id(box) in inside and id(box) not in cohort.left]
        if len(staying) < len(cohort.boxes):
            for box in cohort.boxes:
                if id(box) not in inside:
                    optimizer._loosen(box)
            cohorts += [cohort.only(staying)] if staying else []
        else:
            cohorts.append(cohort)
    optimizer._cohorts = cohorts


def _folded(optimizer: Any, group: ParamGroup, names: Mapping[int, str], parts: Sequence[Cohort]) -> list[Cohort]:
    """Return cohorts for the parameters of a group whose state has been written one by one."""
    covered = {i for cohort in parts for i in cohort.by_id}
    states = [
        optimizer._loose[box].values() if box in optimizer._loose and id(box) not in covered else None
        for box in group["params"]
    ]
    return loaded(optimizer, group, names, states, strict=False) if any(states) else []


def _merged(optimizer: Any, names: Mapping[int, str], parts: Sequence[Cohort]) -> list[Cohort]:
    """Return cohorts in which those are one that have the same history."""
    alike: dict[Any, list[Cohort]] = {}
    for cohort in parts:
        shared = [(leaf, on_host(value)) for leaf, value in cohort.arrays().items() if leaf[1] is None]
        history = [(field, id(v) if isinstance(v, Tracer) else v.tobytes()) for (field, _), v in shared]
        alike.setdefault((cohort.static, tuple(history)), []).append(cohort)
    merged = []
    for cohorts in alike.values():
        if len(cohorts) > 1:
            whole = optimizer._fresh(cohorts[0].group, names, {i for cohort in cohorts for i in cohort.by_id})
            cohorts = [whole.take({leaf: v for cohort in cohorts for leaf, v in cohort.arrays().items()})]
        merged += cohorts
    return merged


def fresh(optimizer: Any, group: ParamGroup, names: Mapping[int, str], ids: Iterable[int]) -> Cohort:
    """Return a cohort in the state before the first step."""
    chosen = set(ids)
    boxes = [box for box in group["params"] if id(box) in chosen]
    own = [names[id(box)] for box in boxes]
    if optimizer.transformation is not None:
        state = optimizer.transformation.init({n: copy_array(b.value) for n, b in zip(own, boxes, strict=True)})
    else:
        init = optimizer.rule(**group.static(), **group.arrays()).init
        state = _before_first_step(init, {n: b.value for n, b in zip(own, boxes, strict=True)})
    return Cohort(group, boxes, own, state, group.static_key())


def _before_first_step(init: Callable[[Any], Any], values: dict[str, Any]) -> Any:
    """Return what ``init`` returns; where each array is one number throughout, without compiling anything."""
    avals = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in values.items()}
    program, shapes = jax.make_jaxpr(init, return_shape=True)(avals)
    sources = {id(out): equation for equation in program.jaxpr.eqns for out in equation.outvars}

    def number(variable: Any) -> Any:
        if isinstance(variable, Literal):
            return variable.val
        equation = sources.get(id(variable))
        return number(equation.invars[0]) if equation is not None and equation.primitive.name in _COPIES else None

    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    numbers = list(map(number, program.jaxpr.outvars))
    with jax.ensure_compile_time_eval():
        if any(value is None for value in numbers):
            return jax.jit(init)(values)
        filled = [
            jax.device_put(np.full(leaf.shape, n, leaf.dtype), _place(path, leaf, values), may_alias=False)
            for (path, leaf), n in zip(leaves, numbers, strict=True)
        ]
    return jax.tree.unflatten(treedef, filled)


def _place(path: Any, leaf: Any, values: dict[str, Any]) -> Any:
    """Return where state belongs: beside its parameter; of another shape, whole on all devices of a mesh."""
    names = [key.key for key in path if isinstance(key, DictKey) and key.key in values]
    owners = [values[names[0]]] if names else values.values()
    owner = next((value for value in owners if place_of(value) is not None), None)
    if owner is None or leaf.shape == owner.shape:
        return None if owner is None else owner.sharding
    return NamedSharding(owner.sharding.mesh, PartitionSpec()) if isinstance(owner.sharding, NamedSharding) else None


_COPIES = ("broadcast_in_dim", "convert_element_type", "reshape")


def loaded(
    optimizer: Any, group: ParamGroup, names: Mapping[int, str], states: Sequence[Any], strict: bool = True
) -> list[Cohort]:
    """Return the cohorts of a group: one for each history, which is all that parameters share, among the states.

    Args:
        optimizer: whose group it is.
        group: the group.
        names: its parameters' names in the optax state.
        states: what each parameter is to have, in torch's form; ``None`` or nothing for those without state.
        strict: whether a state that lacks a field is an error; else the field is as before the first step.

    Raises:
        ValueError: if a state lacks a field.
        RuntimeError: if an array has the wrong shape.
    """
    sources = {}
    for box, state in zip(group["params"], states, strict=True):
        own = {k: v for k, v in (state or {}).items() if v is not None}
        if own:
            sources[id(box)] = optimizer._import(own)
    if not sources:
        return []
    template = optimizer._fresh(group, names, sources)
    fields: dict[int, dict[Leaf, Any]] = {number: {} for number in sources}
    shared: dict[int, list[Any]] = {number: [] for number in sources}
    numbers = {name: number for number, name in template.by_id.items()}
    for (field, owner), cell in zip(template.leaves, template.cells, strict=True):
        for number in sources if owner is None else (numbers[owner],):
            name, own = template.by_id[number], sources[number]
            if field not in own and strict:
                raise ValueError(
                    f"loaded state dict has no {field!r} for parameter {name}, only {', '.join(map(repr, own))}:"
                    " is it that of another optimizer?"
                )
            if field in own:
                value = own[field] if owner is not None else on_host(own[field])
                fields[number][field, owner] = fitted(value, field, name, cell.value, "in the loaded state dict")
                if owner is None:
                    value = fields[number][field, owner]
                    shared[number].append((field, id(value) if isinstance(value, Tracer) else value.tobytes()))
    histories: dict[Any, list[Parameter]] = {}
    for box in template.boxes:
        history = tuple(shared[id(box)]) if optimizer.transformation is None else ()
        histories.setdefault(history, []).append(box)
    cohorts = []
    for boxes in histories.values():
        cohort = template if len(histories) == 1 else template.only(boxes)
        arrays: dict[Leaf, Any] = {}
        for box in boxes:
            own, used = fields[id(box)], {field for field, _ in fields[id(box)]}
            spare = {k: v for k, v in sources[id(box)].items() if k not in used}
            arrays |= {**own, **{(k, template.by_id[id(box)]): _spare(v) for k, v in spare.items()}}
        cohorts.append(cohort.take(dict(zip(arrays, _copies(list(arrays.values())), strict=True))))
    return cohorts


def on_host(value: Any) -> Any:
    """Return a number or an array as NumPy has it, except for a tracer."""
    if isinstance(value, Tracer):
        return value
    return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)


def _spare(value: Any) -> Any:
    return to_array(value) if hasattr(value, "dtype") or isinstance(value, int | float) else value


def fitted(value: Any, field: str, name: str, like: Any, where: str) -> Any:
    """Return a value in the dtype of the state it replaces; RuntimeError is raised for another shape."""
    array = value if isinstance(value, np.ndarray) else to_array(value)
    if array.shape != like.shape:
        raise RuntimeError(f"{field} of parameter {name} has shape {array.shape} {where}, expected {like.shape}")
    return array.astype(like.dtype) if array.dtype != like.dtype else array


def _copies(values: list[Any]) -> list[Any]:
    """Return arrays in memory of their own."""
    old = [
        isinstance(v, jax.Array) and not isinstance(v, Tracer) and not v.is_deleted() and not take(v) for v in values
    ]
    new = iter(jax.device_put([v for v, there in zip(values, old, strict=True) if there], may_alias=False))
    copied = [next(new) if there else v for v, there in zip(values, old, strict=True)]
    return [to_array(v) if isinstance(v, np.ndarray) else v for v in copied]


def isolate(optimizer: Any, ids: set[int]) -> Callable[[], None]:
    """Return a function that gives these parameters cohorts of their own."""

    def change() -> None:
        optimizer._cohorts = [part for cohort in optimizer._cohorts for part in cohort.part(ids)]
        epoch.count += 1

    return change
