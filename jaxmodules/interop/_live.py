"""What can be known of live torch objects without importing torch: what they are, and how values cross."""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def live_torch() -> Any:
    """Return the torch that this process has imported, or ``None``."""
    return sys.modules.get("torch")


def check_module(value: Any, call: str) -> None:
    """Raise TypeError unless ``value`` is a torch module; ``call`` is how the function is called."""
    torch = live_torch()
    if torch is None or not isinstance(value, torch.nn.Module):
        kind = value if isinstance(value, type) else type(value)
        given = f"{'the class ' if kind is value else ''}{kind.__module__}.{kind.__qualname__}"
        absent = "" if torch else " (torch has not been imported in this process: is it installed?)"
        raise TypeError(f"expected a torch.nn.Module, got {given}: call {call}{absent}")


def is_tensor(value: Any) -> bool:
    """Tell whether ``value`` is a torch tensor."""
    torch = live_torch()
    return torch is not None and isinstance(value, torch.Tensor)


def to_tensor(array: Any) -> Any:
    """Return an array of JAX or NumPy, or a box of one, as a torch tensor with memory of its own.

    Raises:
        TypeError: if torch has no such dtype.
    """
    torch: Any = live_torch()
    values = np.array(array, order="C")  # a copy: torch writes in place
    name = values.dtype.name
    if values.dtype.isbuiltin != 2:  # NumPy's own
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    if not name.startswith(("bfloat16", "float8")) or not hasattr(torch, name):
        raise TypeError(f"torch has no dtype {name}: cast the array first")
    bits = torch.from_numpy(values.reshape(-1).view(f"int{8 * values.itemsize}"))
    return bits.view(getattr(torch, name)).reshape(values.shape)


class Entry(NamedTuple):
    """A parameter or buffer of a module, torch's or ours, in one of its places."""

    name: str
    owner: Any
    attribute: str
    value: Any
    is_parameter: bool
    is_persistent: bool


def entries(module: Any) -> Iterator[Entry]:
    """Yield the parameters and buffers of a module in every place that they are in."""
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, value in owner._parameters.items():
            if value is not None:
                yield Entry(prefix + name, owner, name, value, True, True)
        for name, value in owner._buffers.items():
            if value is not None:
                is_persistent = name not in owner._non_persistent_buffers_set
                yield Entry(prefix + name, owner, name, value, False, is_persistent)


def shape_dtype(array: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape of an array, and its dtype as JAX has it in this process."""
    return tuple(array.shape), jax.dtypes.canonicalize_dtype(jnp.dtype(str(array.dtype).removeprefix("torch.")))
