"""An optimizer on other parameters and other state for a time: a step as a function."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxmodules._tracing import birth, epoch
from jaxmodules.nn.parameter import Parameter
from jaxmodules.optim import _load
from jaxmodules.optim._entries import Entries
from jaxmodules.optim._groups import TellingList
from jaxmodules.optim.optimizer import Optimizer

_NAME = "swap_in_optimizer_params_and_state"


@contextlib.contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: dict[str, Any], swapin_optim_state: dict[str, Any]
) -> Iterator[None]:
    """Give an optimizer other parameters and state within a ``with`` block, and its own back after it.

    Steps, hooks and ``state_dict()`` see what was swapped in. Unlike ``load_state_dict`` this replaces the parameters,
    too; in a function under :func:`jax.jit` both may be traced. The counterpart of
    :func:`torch.optim.swap_in_optimizer_params_and_state`, except that arrays can't be written in place: the new
    values are in the Parameters given, the new state is in ``optimizer.state_dict()`` within the block.

    Args:
        optimizer: one that has stepped.
        swapin_parameters: Parameters by any names, in the order of the optimizer's.
        swapin_optim_state: what its ``state_dict()`` returned.

    Raises:
        RuntimeError: if the optimizer has no state, or what is given does not fit it.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Linear(2, 1, bias=False)
        >>> optimizer = jm.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        >>> optimizer.step([jnp.zeros((1, 2))])
        >>> @jax.jit
        ... def step(weight, state, grad):
        ...     box = jm.nn.Parameter(weight)
        ...     with swap_in_optimizer_params_and_state(optimizer, {"weight": box}, {**saved, "state": state}):
        ...         optimizer.step([grad])
        ...         return box.value, optimizer.state_dict()["state"]
        >>> saved = optimizer.state_dict()
        >>> weight, state = step(jnp.ones((1, 2)), saved["state"], jnp.ones((1, 2)))
        >>> weight.tolist(), state[0]["momentum_buffer"].tolist()
        ([[0.5, 0.5]], [[1.0, 1.0]])
    """
    boxes = _checked(optimizer, swapin_parameters, swapin_optim_state)
    own = vars(optimizer)
    before = {name: own[name] for name in ("_groups", "_cohorts", "_loose", "_others", "_aligned", "_born")}
    groups = []
    for group in optimizer.param_groups:
        chosen, boxes = boxes[: len(group["params"])], boxes[len(group["params"]) :]
        groups.append(optimizer._group({**group.copy(), **group.loaded(group.saved()), "params": chosen}))
    epoch.count += 1
    try:
        born = birth()
        own.update(_groups=TellingList(groups), _cohorts=[], _loose={}, _aligned=None, _born=born)
        own["_others"] = Entries(born, {})
        _load.unpack(optimizer, swapin_optim_state)
        yield
    finally:
        own.update(before)
        epoch.count += 1


def _checked(optimizer: Optimizer, parameters: Mapping[str, Any], saved: Any) -> list[Parameter]:
    """Return the parameters as a list."""
    if not optimizer.state:
        raise RuntimeError(f"{_NAME} requires initialized optimizer state: take a step before.")
    if not isinstance(saved, dict):
        raise RuntimeError(f"{_NAME} requires a DCP-style optimizer state_dict, got {type(saved).__name__}.")
    state, groups = saved.get("state"), saved.get("param_groups")
    if not isinstance(state, dict):
        raise RuntimeError(
            f"{_NAME} requires swapin_optim_state['state'] to be a dict mapping packed parameter ids to per-param state"
            f" dicts, got {type(state).__name__}."
        )
    if not isinstance(groups, list):
        raise RuntimeError(
            f"{_NAME} requires swapin_optim_state['param_groups'] to be a list of param-group dicts, got"
            f" {type(groups).__name__}."
        )
    if len(groups) != len(optimizer.param_groups):
        raise RuntimeError(
            "swapin_optim_state has a different number of parameter groups than the live optimizer:"
            f" {len(groups)}, expected {len(optimizer.param_groups)}."
        )
    for i, (given, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        _check_group(i, given, group)
    known = {number for group in groups for number in group["params"]}
    extra = [key for key in state if isinstance(key, Parameter) or key not in known]
    if extra:
        raise RuntimeError(
            f"{_NAME} requires swapin_optim_state['state'] to be keyed only by packed parameter ids from"
            f" param_groups[*]['params']; got extra keys {extra!r}."
        )
    boxes = list(parameters.values())
    if len(boxes) < len(known):
        raise RuntimeError(
            f"{_NAME} requires the explicit parameter state to match optimizer.param_groups ordering:"
            f" {len(boxes)} parameters were given, expected {len(known)}."
        )
    for name, box in parameters.items():
        if not isinstance(box, Parameter):
            raise RuntimeError(
                f"{_NAME} requires Parameters, which a step can write to: {name!r} is {type(box).__name__}."
            )
    return boxes


def _check_group(number: int, given: Any, group: Any) -> None:
    ids = given.get("params") if isinstance(given, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
        raise RuntimeError(
            f"{_NAME} requires optimizer.state_dict()-style param_groups[*]['params'] entries keyed by packed parameter"
            " ids."
        )
    if len(ids) != len(group["params"]):
        raise RuntimeError(
            f"swapin_optim_state param group {number} has a different number of params than the live optimizer param"
            f" group: {len(ids)}, expected {len(group['params'])}."
        )
    known = {"params", *group.saved()}
    if given.keys() != known:
        raise RuntimeError(
            f"{_NAME} requires optimizer.state_dict()-style param group keys to exactly match the live optimizer group"
            f" keys for group {number}. Keys only in swap-in: {sorted(given.keys() - known)}. Keys only in live:"
            f" {sorted(known - given.keys())}."
        )
