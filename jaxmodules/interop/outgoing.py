"""``to_torch``: weights put back into a live torch module."""

from collections import OrderedDict
from typing import Any

import numpy as np

from jaxmodules._device import NO_DATA, lacks_data
from jaxmodules.interop._live import Entry, check_module, entries, is_tensor, live_torch, to_tensor
from jaxmodules.nn.modules._state_dict import loading_error, size_mismatch
from jaxmodules.nn.modules.module import Module


def to_torch(net: Module, torch_module: Any) -> Any:
    """Copy the parameters and buffers of a module into a torch module with the same names.

    They are written into the tensors that are there, which keep their dtype, device, tying and ``requires_grad``:
    optimizers that hold them go on. Buffers that are no part of the ``state_dict`` are copied where both have them.
    No memory is shared. On any error nothing has changed.

    Args:
        net: the module.
        torch_module: the :class:`torch.nn.Module`.

    Returns:
        ``torch_module``.

    Raises:
        TypeError: if ``net`` is no Module, or ``torch_module`` no torch module.
        RuntimeError: if names or shapes do not match; it is torch's own report.
        ValueError: if parameters are one in the torch module and different in ``net``.
        NotImplementedError: if one of the two is on the meta device.

    Examples:
        >>> import torch
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 2)
        >>> to_torch(net, torch.nn.Linear(3, 2)).bias.tolist() == net.bias.tolist()
        True
    """
    if not isinstance(net, Module):
        raise TypeError(f"expected a jaxmodules Module, got {type(net).__name__}: call to_torch(net, torch_module)")
    check_module(torch_module, "to_torch(net, torch_module)")
    ours = {entry.name: entry for entry in entries(net)}
    theirs = {entry.name: entry for entry in entries(torch_module)}
    _check_data(ours, "net")
    _check_data(theirs, "torch_module")
    _check_tying(ours, theirs)
    given = net.state_dict()
    state: Any = OrderedDict((name, _tensor(name, value)) for name, value in given.items())
    state._metadata = given._metadata
    passing = [name for name in ours.keys() & theirs.keys() if name not in state and not theirs[name].is_persistent]
    passing = {name: _tensor(name, ours[name].value) for name in passing}
    _check_fit(torch_module, state, passing, theirs)
    torch_module.load_state_dict(state)
    torch: Any = live_torch()
    with torch.no_grad():
        for name, tensor in passing.items():
            theirs[name].value.copy_(tensor)
    return torch_module


def _tensor(name: str, value: Any) -> Any:
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):  # extra state
        return value
    try:
        return to_tensor(value)
    except TypeError as error:
        raise TypeError(f"to_torch: '{name}' can't go to torch: {error}") from error


def _check_data(found: dict[str, Entry], which: str) -> None:
    for name, entry in found.items():
        if not hasattr(entry.value, "materialize") and lacks_data(entry.value):
            raise NotImplementedError(
                f"{NO_DATA} to_torch: '{name}' of {which} is on the meta device: give it data first"
            )


def _check_tying(ours: dict[str, Entry], theirs: dict[str, Entry]) -> None:
    """Raise if one tensor of torch's would have to take several values."""
    first: dict[int, str] = {}
    for name, entry in theirs.items():
        known = first.setdefault(id(entry.value), name)
        if name in ours and known in ours and ours[name].value is not ours[known].value:
            if not np.array_equal(np.asarray(ours[name].value), np.asarray(ours[known].value)):
                raise ValueError(
                    f"to_torch: '{known}' and '{name}' are one tensor in torch_module, but have different values in"
                    " net: tie them there too, or untie them in torch_module"
                )


def _check_fit(torch_module: Any, state: Any, passing: dict[str, Any], theirs: dict[str, Entry]) -> None:
    """Raise torch's report if names or shapes do not match, before anything changes.

    The torch module loads its own state where that would be replaced, which changes nothing, and what does not fit.
    """
    own = torch_module.state_dict(keep_vars=True)
    rehearsed = state.copy()
    rehearsed._metadata = state._metadata
    for name, value in state.items():
        if name in own and (not is_tensor(own[name]) or _fits(value, own[name])):
            rehearsed[name] = own[name]
    torch_module.load_state_dict(rehearsed)
    misfits = [
        size_mismatch(n, value, theirs[n].value) for n, value in passing.items() if not _fits(value, theirs[n].value)
    ]
    if misfits:
        raise loading_error(torch_module, [], [], misfits)


def _fits(new: Any, old: Any) -> bool:
    return hasattr(old, "materialize") or getattr(new, "shape", None) == old.shape
