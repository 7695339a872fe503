"""The random streams outside the library that data may draw from: Python's, NumPy's and, where it is loaded, torch's.

A torch DataLoader takes its order from torch's stream, many an augmentation its numbers from NumPy's: to repeat what
they gave, these are put back as they were.
"""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


def capture() -> dict[str, Any]:
    """Return the states of all streams, as plain values."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().copy()
    return states


def restore(states: dict[str, Any]) -> None:
    """Put the streams back."""
    random.setstate(states["python"])
    name, words, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(words), *rest))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(np.array(states["torch"])))


@contextlib.contextmanager
def unmoved() -> Iterator[None]:
    """Put the streams back at the end of the block."""
    states = capture()
    try:
        yield
    finally:
        restore(states)


def plain(state: Any) -> Any:
    """Return the state of a loader with torch's tensors marked as such, for a file."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(plain(value) for value in state)
    if hasattr(state, "detach"):
        return {"torch.Tensor": state.detach().cpu().numpy()}
    return state


def unplain(state: Any) -> Any:
    """Return what :func:`plain` was given."""
    if isinstance(state, dict):
        if state.keys() == {"torch.Tensor"}:
            return sys.modules["torch"].from_numpy(np.array(state["torch.Tensor"]))
        return {key: unplain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(unplain(value) for value in state)
    return state
