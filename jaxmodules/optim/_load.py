"""``state_dict`` and ``load_state_dict`` of optimizers, in PyTorch's shape."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmodules._tracing import epoch
from jaxmodules.nn._writable import copy_array, to_array
from jaxmodules.nn.parameter import Parameter
from jaxmodules.optim._state import read_all


def pack(optimizer: Any) -> dict[str, Any]:
    """Return the state dict of an optimizer, hooks apart: parameters by number, arrays by name."""
    number: dict[int, int] = {}
    groups = []
    start = 0
    for group in optimizer.param_groups:
        number |= {id(p): i for i, p in enumerate(group["params"], start) if id(p) not in number}
        groups.append({**group.saved(), "params": [number[id(p)] for p in group["params"]]})
        start += len(group["params"])
    state = {number.get(id(key), key): own for key, own in read_all(optimizer).items()}
    return {"state": state, "param_groups": groups}


def unpack(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict; all of it or nothing."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    _check_sizes(optimizer, groups)
    known = _flags(type(optimizer))
    settings = [_settings(optimizer, own, new, known) for new, own in zip(groups, optimizer.param_groups, strict=True)]
    boxes = {
        number: box
        for new, own in zip(groups, optimizer.param_groups, strict=True)
        for number, box in zip(new["params"], own["params"], strict=True)
    }
    cohorts, rest = [], {}
    if optimizer._has_rule:
        for i, (new, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
            group = optimizer._group({**settings[i], "params": own["params"]})
            optimizer.rule(**group.static(), **group.arrays())
            cohorts.append(optimizer._loaded(group, optimizer._keys(i), [state.get(n) for n in new["params"]]))
        rest = {key: value for key, value in state.items() if key not in boxes}
    else:
        rest = {boxes.get(key, key): _cast(boxes.get(key), value) for key, value in state.items()}
    for own, new in zip(optimizer.param_groups, settings, strict=True):
        for key in [key for key in own if key != "params" and key not in new]:
            del own[key]
        own.update(new)
    if optimizer._overrides_setstate:
        values = {key: own for key, own in rest.items()}
        for own in cohorts:
            values |= {box: optimizer._export(each) for cohort in own for box, each in cohort.of_each()}
        optimizer.__setstate__({"state": values, "param_groups": list(optimizer.param_groups)})
        return
    optimizer.state.clear()
    for group, own in zip(optimizer.param_groups, cohorts, strict=False):
        for cohort in own:
            cohort.group = group
    optimizer._cohorts = [cohort for own in cohorts for cohort in own]
    optimizer.state.update(rest)
    epoch.count += 1


def _check_sizes(optimizer: Any, groups: Any) -> None:
    if len(groups) != len(optimizer.param_groups):
        raise ValueError("loaded state dict has a different number of parameter groups")
    if any(len(new["params"]) != len(own["params"]) for new, own in zip(groups, optimizer.param_groups, strict=True)):
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
        )


def _flags(kind: Any) -> dict[str, Any]:
    """Return the settings that an older state dict may lack, as they were then: mostly flags of the constructor."""
    parameters = inspect.signature(kind).parameters.values()
    flags = {p.name: p.default for p in parameters if p.default is None or isinstance(p.default, bool)}
    return {**flags, **kind.older}


def _settings(optimizer: Any, own: Any, new: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a group is to have: the loaded ones, and those of its own that no state dict lacks."""
    kept = {key: known.get(key, own[key]) for key in own if key in optimizer.defaults or key == "param_names"}
    return {**kept, **copy.deepcopy(own.loaded(new))}


def _cast(box: Parameter | None, value: Any, name: Any = None) -> Any:
    """Return a copy of loaded state in the dtype of its parameter, except for what is called ``step``."""
    if isinstance(value, jax.Array | np.ndarray | np.generic) or hasattr(value, "detach"):
        array = copy_array(to_array(value))
        is_cast = box is not None and box.is_floating_point() and name != "step"
        return array.astype(box.dtype) if is_cast and box is not None else array
    if isinstance(value, Mapping):
        return {key: _cast(box, item, key) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_cast(box, item) for item in value)
    return copy.deepcopy(value)
