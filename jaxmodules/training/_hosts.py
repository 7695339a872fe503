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
