"""Put saved state back into live objects: where each array goes, and all objects or none."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxmodules._device import current_place, is_meta, parse_device
from jaxmodules.checkpoint import _tree
from jaxmodules.checkpoint._stateful import get_state, has_state, set_state
from jaxmodules.nn._writable import unbox
from jaxmodules.nn.modules._state_dict import Snapshot
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import copy_to_jax, get_rng_state, set_rng_state

Device = Any | Callable[[str, jax.ShapeDtypeStruct], Any]


def places(node: Any, value: Any, device: Device, described: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return where each array that a skeleton needs is to go: a Sharding, or None for the default device.

    Args:
        node: the skeleton of a saved state.
        value: the object that will be put into it.
        device: where what is on the meta device goes, or a function from its name, shape and dtype.
        described: dtype and shape of the arrays.
    """
    found: dict[str, Any] = dict.fromkeys(names(node))
    if found:
        for name, like in _pairs(node, _filled(value)):
            if found[name] is None:
                found[name] = _place(name, like, device, described[name])
    return found


def _filled(value: Any) -> Any:
    """Return the state of an object; that of an optimizer has a parameter where it has no state for it yet."""
    state = get_state(value)
    groups = getattr(value, "param_groups", None)
    if not isinstance(groups, list) or not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        return state
    pairs = zip(state["param_groups"], groups, strict=True)
    boxes = {n: box for own, group in pairs for n, box in zip(own["params"], group["params"], strict=True)}
    return {**state, "state": {**boxes, **state["state"]}}


def _pairs(node: Any, live: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name of every array of a skeleton, with what a live state of this form has in its place."""
    match node:
        case {"array": name} | {"key": name}:
            yield name, live
        case {"dict": items} | {"OrderedDict": items}:
            for key, value in items:
                yield from _pairs(value, live.get(unpack(key, {})) if isinstance(live, Mapping) else _whole(live))
        case list(values) | {"tuple": values}:
            known = isinstance(live, list | tuple) and len(live) == len(values)
            for i, value in enumerate(values):
                yield from _pairs(value, live[i] if known else _whole(live))


def _whole(live: Any) -> Any:
    """Return a parameter, which all that is kept of it goes with."""
    return live if isinstance(live, Parameter) else None


def _place(name: str, like: Any, device: Device, description: list[Any]) -> Any:
    dtype, shape = np.dtype(description[0]), tuple(description[1])
    like = unbox(like) if not isinstance(like, Parameter) else like.value
    if tuple(getattr(like, "shape", ())) != shape or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        return None
    if isinstance(like, jax.Array):
        return like.sharding if like.committed else None
    if not is_meta(like):
        return None
    here = getattr(like, "sharding", None) or current_place()
    if device is not None:
        is_function = callable(device) and not hasattr(device, "type")
        here = parse_device(device(name, jax.ShapeDtypeStruct(shape, dtype)) if is_function else device)
    if isinstance(here, jax.Device):
        return jax.sharding.SingleDeviceSharding(here)
    if isinstance(here, jax.sharding.Sharding):
        here.shard_shape(shape)  # says what does not fit
        return here
    return None


def names(node: Any) -> set[str]:
    """Return the names of the arrays that a skeleton needs."""
    return {name for name, _ in _pairs(node, None)}


def unpack(node: Any, arrays: Mapping[str, Any]) -> Any:
    """Return the value of a skeleton."""
    return _tree.unpack(node, arrays, to_jax)


class Arrays(dict[str, Any]):
    """Restored arrays, those in host memory brought to the default device one by one; each its own memory."""

    def __init__(self, read: dict[str, Any], described: Mapping[str, list[Any]]) -> None:
        super().__init__({n: np.zeros(d[1], np.dtype(d[0])) for n, d in described.items() if n not in read})
        while read:
            name, array = read.popitem()
            self[name] = to_jax(array)


def to_jax(array: Any) -> Any:
    """Return a JAX array, or the NumPy one where JAX would cut 64 bits to 32."""
    is_wide = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if isinstance(array, jax.Array) or is_wide else copy_to_jax(array)


@contextlib.contextmanager
def all_or_nothing(objects: Mapping[str, Any]) -> Iterator[None]:
    """Put objects, and the random state, back as they were if the block raises."""
    rng = get_rng_state()
    modules = [Snapshot(value) for value in objects.values() if isinstance(value, Module)]
    states = [(v, get_state(v)) for v in objects.values() if has_state(v) and not isinstance(v, Module)]
    try:
        yield
    except BaseException as error:
        for before in modules:
            before.restore()
        for value, state in states:
            try:
                set_state(value, state)
            except Exception as other:
                error.add_note(f"the {type(value).__name__} could not be put back as it was: {other}")
        set_rng_state(rng)
        raise


def put(objects: Mapping[str, Any], states: dict[str, Any], strict: bool) -> tuple[list[str], list[str]]:
    """Put objects into states, and return the missing and the unexpected keys of the modules.

    Raises:
        RuntimeError: if states do not fit; all that do not are named.
    """
    errors: list[str] = []
    missing: list[str] = []
    unexpected: list[str] = []
    first: Exception | None = None
    for name in sorted(states, key=lambda name: not isinstance(objects[name], Module)):  # others look at parameters
        try:
            result = set_state(objects[name], states[name], strict)
        except Exception as error:
            first = first or error
            errors.append(f"{name}: {error}")
            continue
        if isinstance(objects[name], Module):
            missing += [f"{name}.{key}" for key in result.missing_keys]
            unexpected += [f"{name}.{key}" for key in result.unexpected_keys]
    if errors:
        raise RuntimeError("\n\t".join(errors)) from first
    return missing, unexpected
