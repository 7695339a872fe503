"""Put saved state back into live objects: where each array goes, and all objects or none."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxmodules._device import current_place, is_meta, parse_device, place_of
from jaxmodules.checkpoint import _tree
from jaxmodules.checkpoint._stateful import get_state, has_state, set_state
from jaxmodules.nn._writable import unbox
from jaxmodules.nn.modules._state_dict import Snapshot, landing
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, is_lazy
from jaxmodules.random import copy_to_jax, get_rng_state, set_rng_state

Device = Any | Callable[[str, jax.ShapeDtypeStruct], Any]


class Places:
    """Where arrays are to go: each a Sharding, or None for the default device.

    Args:
        described: dtype and shape of the saved arrays.
        device: where what is on the meta device goes, or a function from its name, shape and dtype.
    """

    def __init__(self, described: Mapping[str, list[Any]], device: Device) -> None:
        self._described = described
        self._device = device
        self._chosen: dict[int, Any] = {}  # for places without data, which an optimizer's state shares
        self._seen: list[Any] = []

    def of(self, node: Any, value: Any) -> dict[str, Any]:
        """Return the places of all arrays of a skeleton, by the object that will be put into its state."""
        found: dict[str, Any] = dict.fromkeys(names(node))
        if found:
            for name, like in _pairs(node, _filled(value)):
                if found[name] is None:
                    found[name] = self._place(name, like)
        return found

    def _place(self, name: str, like: Any) -> Any:
        if is_lazy(like):
            return None
        dtype, shape = np.dtype(self._described[name][0]), tuple(self._described[name][1])
        like = like.value if isinstance(like, Parameter) else unbox(like)
        if tuple(getattr(like, "shape", ())) != shape or jax.dtypes.canonicalize_dtype(dtype) != dtype:
            return None
        if isinstance(like, jax.Array):
            return place_of(like)
        if not is_meta(like):
            return None
        if id(like) not in self._chosen:
            self._seen.append(like)
            self._chosen[id(like)] = self._choose(name, like)
        return self._chosen[id(like)]

    def _choose(self, name: str, like: jax.ShapeDtypeStruct) -> Any:
        here = like.sharding or current_place()
        if self._device is not None:
            is_function = callable(self._device) and not hasattr(self._device, "type")
            here = parse_device(self._device(name, like) if is_function else self._device)
        if isinstance(here, jax.Device):
            return jax.sharding.SingleDeviceSharding(here)
        if isinstance(here, jax.sharding.Sharding):
            here.shard_shape(like.shape)  # says what does not fit
            return here
        return None


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


def in_order(given: Iterable[str], objects: Mapping[str, Any]) -> list[str]:
    """Return names with those of modules first, whose parameters others look at."""
    return sorted(given, key=lambda name: not isinstance(objects.get(name), Module))


def put(objects: Mapping[str, Any], states: dict[str, Any], strict: bool) -> tuple[list[str], list[str]]:
    """Put objects into states, and return the missing and the unexpected keys of the modules.

    Raises:
        RuntimeError: if states do not fit; all that do not are named.
    """
    errors: list[str] = []
    missing: list[str] = []
    unexpected: list[str] = []
    first: Exception | None = None
    for name in in_order(states, objects):
        try:
            with landing():
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
