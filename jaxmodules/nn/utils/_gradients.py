"""Gradients as ``jm.value_and_grad`` returns them: a dict by name, or several, in an order that stays."""

from collections.abc import Iterator, Mapping
from typing import Any


def are_gradients(value: Any) -> bool:
    """Tell whether a value is a dict of gradients, or a list or tuple of such dicts."""
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(item, Mapping) for item in several)


def leaves(grads: Any) -> Iterator[Any]:
    """Yield the gradients in dicts, lists and tuples; ``None`` is none."""
    if isinstance(grads, Mapping | list | tuple):
        for value in grads.values() if isinstance(grads, Mapping) else grads:
            yield from leaves(value)
    elif grads is not None:
        yield grads


def refilled(grads: Any, arrays: Iterator[Any]) -> Any:
    """Return new dicts, lists and tuples with other arrays in the place of the gradients."""
    if isinstance(grads, Mapping):
        return {name: refilled(value, arrays) for name, value in grads.items()}
    if isinstance(grads, list | tuple):
        return type(grads)([refilled(value, arrays) for value in grads])
    return None if grads is None else next(arrays)
