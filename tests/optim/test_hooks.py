"""Hooks around steps and state dicts: torch's order, torch's arguments, and compiled steps that know of changes."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.optim import optimizer as ours
from tests.optim.helpers import Counted, Pair, draw


def ours_and_theirs(name: str = "SGD", **kwargs: Any) -> list[tuple[Any, Any]]:
    pair = Pair(name, **kwargs)
    return [(pair.optimizer, ours), (pair.oracle, sys.modules["torch.optim.optimizer"])]


def test_step_hooks_run_in_torchs_order() -> None:
    logs = []
    for optimizer, module in ours_and_theirs():
        log: list[Any] = []
        handles = [
            optimizer.register_step_post_hook(lambda *_, log=log: log.append("post")),
            module.register_optimizer_step_post_hook(lambda *_, log=log: log.append("global post")),
            optimizer.register_step_pre_hook(lambda *_, log=log: log.append("pre")),
            module.register_optimizer_step_pre_hook(lambda *_, log=log: log.append("global pre")),
        ]
        optimizer.step()
        for handle in handles:
            handle.remove()
        optimizer.step()
        logs.append(log)
    assert logs[0] == logs[1] == ["global pre", "pre", "post", "global post"]


def test_step_hooks_get_torchs_arguments() -> None:
    for optimizer, _ in ours_and_theirs():
        seen: list[Any] = []
        optimizer.register_step_post_hook(lambda *args, seen=seen: seen.append(args))
        closure = lambda: 1.0  # noqa: E731 - it is compared below
        assert optimizer.step(closure=closure) == 1.0
        assert seen == [(optimizer, (optimizer,), {"closure": closure})]


def test_a_pre_hook_gives_the_step_other_arguments() -> None:
    box = nn.Parameter(jnp.ones(2))
    optimizer = jm.optim.SGD([box], lr=0.5)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: ((args[0], [jnp.zeros(2)]), kwargs))
    optimizer.step([jnp.ones(2)])
    assert box.value.tolist() == [1, 1]


def test_a_pre_hook_that_returns_something_else_is_an_error() -> None:
    for optimizer, _ in ours_and_theirs():
        optimizer.register_step_pre_hook(lambda *_: 5)
        with pytest.raises(RuntimeError, match=r"must return None or a tuple of \(new_args, new_kwargs\), but got 5"):
            optimizer.step()


def test_a_compiled_step_knows_of_hooks_that_come_and_go() -> None:
    box, log = nn.Parameter(jnp.ones(1)), []
    optimizer = jm.optim.SGD([box], lr=0.5)
    step = Counted(optimizer)
    step([jnp.ones(1)])
    with optimizer.register_step_pre_hook(lambda *_: log.append("own")):
        step([jnp.ones(1)])
        step([jnp.ones(1)])
    with ours.register_optimizer_step_post_hook(lambda *_: log.append("global")):
        step([jnp.ones(1)])
    step([jnp.ones(1)])
    assert (log, step.traces, box.value.tolist()) == (["own", "global"], 3, [-1.5])


class Clipped(jm.optim.SGD):
    """A step around a step."""

    def step(self, closure: Any = None, grads: Any = None) -> Any:
        return super().step([jnp.clip(grad, -1, 1) for grad in closure])


def test_hooks_run_once_around_a_step_that_calls_the_step_of_its_base() -> None:
    box, log = nn.Parameter(jnp.ones(1)), []
    optimizer = Clipped([box], lr=0.5)
    optimizer.register_step_pre_hook(lambda *_: log.append("pre"))
    optimizer.step([jnp.full(1, 7.0)])
    assert (box.value.tolist(), log) == ([0.5], ["pre"])


def noted(log: list[str], word: str) -> Callable[..., None]:
    return lambda *_: log.append(word)


@pytest.mark.parametrize("kind", ["state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"])
def test_hooks_of_state_dicts_run_in_torchs_order(kind: str) -> None:
    logs = []
    for optimizer, _ in ours_and_theirs():
        log: list[str] = []
        register = getattr(optimizer, f"register_{kind}_hook")
        handles = [register(noted(log, "a")), register(noted(log, "b"), prepend=True), register(noted(log, "c"))]
        optimizer.load_state_dict(optimizer.state_dict())
        handles[1].remove()
        optimizer.load_state_dict(optimizer.state_dict())
        logs.append(log)
    assert logs[0] == logs[1] == list("bacac")


def test_hooks_of_state_dicts_put_another_dict_in_its_place() -> None:
    for optimizer, _ in ours_and_theirs(lr=0.5):
        given = optimizer.state_dict()
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
        assert optimizer.state_dict()["extra"] == 1
        other = copy.deepcopy(given)
        other["param_groups"][0]["lr"] = 0.25
        optimizer.register_load_state_dict_pre_hook(lambda _, state, other=other: other)
        optimizer.load_state_dict(given)
        assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_hook_that_changes_the_loaded_dict_changes_a_shallow_copy() -> None:
    for optimizer, _ in ours_and_theirs():
        given = optimizer.state_dict()
        optimizer.register_load_state_dict_pre_hook(lambda _, state: state.update(more=1))
        optimizer.load_state_dict(given)
        assert sorted(given) == ["param_groups", "state"]


def test_hooks_are_not_copied() -> None:
    for optimizer, _ in ours_and_theirs():
        log: list[Any] = []
        optimizer.register_step_pre_hook(noted(log, "pre"))
        copy.deepcopy(optimizer).step()
        assert log == []
        assert sorted(optimizer.__getstate__()) == ["defaults", "param_groups", "state"]


def test_a_hook_may_set_a_number_of_a_compiled_step() -> None:
    pair = Pair("SGD", lr=1.0)

    def decay(optimizer: Any, *_: Any) -> None:
        optimizer.param_groups[0]["lr"] *= 0.5

    for optimizer in (pair.optimizer, pair.oracle):
        optimizer.register_step_pre_hook(decay)
    step = Counted(pair.optimizer)
    for seed in range(3):
        pair.step(draw(seed), step)
    pair.check()
    assert (step.traces, pair.optimizer.param_groups[0]["lr"]) == (1, 0.125)
