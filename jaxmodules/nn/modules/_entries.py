"""What the containers have in common: positions, and pairs of keys and values."""

import operator
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from jaxmodules._keys import Stateful


def from_front(index: int, size: int) -> int:
    """Return ``index`` counted from the front, for a container of ``size`` entries."""
    index = operator.index(index)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range")
    return index % size


def pairs(source: Any, caller: str, family: str, is_sorted: bool) -> list[tuple[str, Any]]:
    """List the key-value pairs of a mapping, by sorted key where it has no order, or of an iterable of pairs.

    Raises:
        TypeError: if ``source`` is no iterable of pairs.
        ValueError: if something in it is no pair.
    """
    if not isinstance(source, Iterable):
        raise TypeError(
            f"{caller}.update should be called with an iterable of key/value pairs, but got {type(source).__name__}"
        )
    if isinstance(source, OrderedDict | Stateful):
        return list(source.items())
    if isinstance(source, Mapping):
        return sorted(source.items()) if is_sorted else list(source.items())
    found = []
    for number, pair in enumerate(source):
        element = f"{family} update sequence element #{number}"
        if not isinstance(pair, Iterable):
            raise TypeError(f"{element} should be Iterable; is{type(pair).__name__}")
        entry = tuple(pair)
        if len(entry) != 2:
            raise ValueError(f"{element} has length {len(entry)}; 2 is required")
        found.append(entry)
    return found
