"""The arrays of a module by name on their way out and in, and the one report on what does not fit."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import beside, is_meta
from jaxmodules._tracing import Tracer
from jaxmodules.nn._writable import copy_array, to_array
from jaxmodules.nn.modules._state_dict import IncompatibleKeys
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import is_lazy
from jaxmodules.transforms.functional import update

Path = tuple[str, ...]


class Slot(NamedTuple):
    """A place for an array of a module: what is tied has the same identity."""

    value: Any
    identity: Any
    is_buffer: bool


def slots(net: Module) -> dict[str, Slot]:
    """Return every parameter and persistent buffer of ``net``, under each of its names.

    Raises:
        TypeError: if ``net`` is no Module.
    """
    if not isinstance(net, Module):
        raise TypeError(f"expected a Module, got {type(net).__name__}")
    found = {
        name: Slot(box if is_lazy(box) else box.value, id(box), False)
        for name, box in net.named_parameters(remove_duplicate=False)
    }
    for path, module in net.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[f"{path}.{name}" if path else name] = Slot(buffer, (id(module._buffers), name), True)
    return found


def concrete(name: str, value: Any) -> jax.Array:
    """Return the array in a slot.

    Raises:
        ValueError: if it has none yet.
    """
    if is_lazy(value):
        raise ValueError(f"cannot export {name!r}: it has no shape yet: call the module once, or load a state dict")
    if is_meta(value):
        raise ValueError(f"cannot export {name!r}: it is on the meta device and has no data: load a state dict first")
    return value


def host(name: str, value: Any) -> np.ndarray:
    """Return the array in a slot, in the memory of this process.

    Raises:
        ValueError: if it has no numbers, or they are not here.
    """
    array = concrete(name, value)
    if isinstance(array, Tracer):
        raise ValueError(f"cannot export {name!r}: it is a traced value, which has no numbers yet: do it outside jit")
    try:
        return np.asarray(array)
    except RuntimeError as error:  # deleted by donation, or on other hosts
        raise ValueError(f"cannot export {name!r}: its values are not available here ({error})") from error


def to_numpy(leaf: Any) -> np.ndarray:
    """Return a leaf of someone's tree as a NumPy array."""
    return leaf if isinstance(leaf, np.ndarray) else np.asarray(to_array(leaf))


def is_array(leaf: Any) -> bool:
    """Tell whether a leaf of someone's tree stands for an array."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return getattr(leaf.dtype, "kind", "f") not in "OSUMm"  # objects, texts and times
    return isinstance(leaf, bool | int | float | complex)


def flatten(tree: Mapping[Any, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of nested dicts with the keys that lead to them."""
    for key, value in tree.items():
        path = (*prefix, str(key))
        if isinstance(value, Mapping):
            yield from flatten(value, path)
        elif value is not None:
            yield path, value.unbox() if hasattr(value, "unbox") else value


def nest(leaves: Mapping[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """Return nested dicts for leaves by path."""
    tree: dict[Any, Any] = {}
    for (*path, last), value in leaves.items():
        here = tree
        for step in path:
            here = here.setdefault(step, {})
        here[last] = value
    return tree


def check(
    what: str,
    owner: str,
    given: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    missing: Collection[str],
    strict: bool,
) -> IncompatibleKeys:
    """Compare what was ``given`` with the ``shapes`` there are places for, and report everything at once.

    Raises:
        RuntimeError: if a name is missing or unexpected and ``strict``, or a leaf is no array or has another shape.
    """
    unexpected = [name for name in given if name not in shapes]
    problems = []
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in {what}: {_quoted(unexpected)}. ")
    if strict and missing:
        problems.append(f"Missing key(s) in {what}: {_quoted(missing)}. ")
    for name, leaf in given.items():
        if name not in shapes:
            continue
        if not is_array(leaf):
            problems.append(f'expected an array of numbers for "{name}", got {type(leaf).__name__}.')
        elif tuple(np.shape(leaf)) != shapes[name]:
            problems.append(
                f"size mismatch for {name}: the shape in the {what} is {tuple(np.shape(leaf))},"
                f" the shape in current model is {shapes[name]}."
            )
    if problems:
        raise RuntimeError(f"Error(s) in loading {what} for {owner}:\n\t" + "\n\t".join(problems))
    return IncompatibleKeys(list(missing), unexpected)


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def put(net: Module, arrays: Mapping[str, Any], there: Mapping[str, Slot]) -> None:
    """Put arrays into a module as ``load_state_dict`` does: copied, in the dtype and place of those they replace.

    Raises:
        RuntimeError: if tied names are given different values; the module is left as it was.
    """
    fitting = {}
    for name, array in arrays.items():
        old = there[name].value
        new = to_array(array, jnp.dtype(old.dtype))
        fitting[name] = beside(copy_array(new) if new is array else new, old)
    update(net, fitting)
