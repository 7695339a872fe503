"""What has a state: the two protocols for it, and what is done to a state on its way to a file and back."""

import sys
from collections import OrderedDict
from typing import Any

import numpy as np

from jaxmodules.nn.modules.module import Module

_METHODS = (("state_dict", "load_state_dict"), ("get_state", "set_state"))


def _methods(value: Any) -> tuple[str, str] | None:
    """Return the names of the methods that give and take the state of an object, if it has them."""
    if isinstance(value, type):
        return None
    return next((pair for pair in _METHODS if all(callable(getattr(value, name, None)) for name in pair)), None)


def has_state(value: Any) -> bool:
    """Tell whether an object can be saved by its state and put back into one."""
    return _methods(value) is not None


def get_state(value: Any) -> Any:
    """Return the state of an object; what has none of its own is its own state."""
    methods = _methods(value)
    if methods is None:
        return value
    state = getattr(value, methods[0])()
    return state if isinstance(value, Module) else plain(state)


def set_state(value: Any, state: Any, strict: bool = True) -> Any:
    """Put an object into a state that :func:`get_state` returned; return what its method does."""
    methods = _methods(value)
    assert methods is not None
    if isinstance(value, Module):
        return value.load_state_dict(state, strict=strict)
    return getattr(value, methods[1])(unplain(state))


def plain(state: Any) -> Any:
    """Return the state of a loader with torch's tensors marked as such, for a file."""
    if type(state) in (dict, OrderedDict) and not hasattr(state, "_metadata"):
        return type(state)((key, plain(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(plain(value) for value in state)
    if type(state).__module__.partition(".")[0] == "torch" and hasattr(state, "detach"):
        return {"torch.Tensor": state.detach().cpu().numpy()}
    return state


def unplain(state: Any) -> Any:
    """Return what :func:`plain` was given."""
    if type(state) in (dict, OrderedDict) and not hasattr(state, "_metadata"):
        if state.keys() == {"torch.Tensor"}:
            return sys.modules["torch"].from_numpy(np.array(state["torch.Tensor"]))
        return type(state)((key, unplain(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(unplain(value) for value in state)
    return state
