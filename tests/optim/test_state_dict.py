"""``state_dict`` and ``load_state_dict``: torch's shape, exchanged both ways in the middle of training."""

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.configs import MAIN, Settings, every_optimizer
from tests.optim.helpers import SMALL, Counted, Pair, gradients, mlp, to_torch, train_step, values

HISTORIES = [*MAIN.items(), ("SGD", {"lr": 0.1}), ("SGD", {"momentum": 0.9, "nesterov": True})]
every_history = pytest.mark.parametrize(("name", "kwargs"), HISTORIES, ids=lambda value: str(value).replace(" ", ""))


def partly(grads: list[Any]) -> list[Any]:
    """Leave one parameter out, so that step counts differ."""
    return [None, *grads[1:]]


@every_history
def test_torch_goes_on_from_our_state(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    first, *others = gradients(12)
    pair.step(partly(first))
    for grads in others[:6]:
        pair.step(grads)
    pair.oracle = getattr(torch.optim, name)(pair.theirs)
    pair.oracle.load_state_dict(to_torch(pair.optimizer.state_dict()))
    for grads in others[6:]:
        pair.step(grads)
    pair.check()
    pair.check_state()


@every_history
def test_we_go_on_from_torchs_state(name: str, kwargs: Settings) -> None:
    pair = Pair(name, shapes=SMALL, **kwargs)
    first, *others = gradients(12, shapes=SMALL)
    pair.step(partly(first))
    for grads in others[:6]:
        pair.step(grads)
    pair.optimizer = getattr(jm.optim, name)(pair.ours)
    pair.optimizer.load_state_dict(pair.oracle.state_dict())
    step = Counted(pair.optimizer)
    for grads in others[6:]:
        pair.step(grads, step)
    pair.check()
    pair.check_state()
    assert step.traces == 1


@every_optimizer
def test_state_before_the_first_step_and_of_who_sits_it_out(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    pair.check_state()
    for grads in gradients(2):
        pair.step(partly(grads))
        pair.check_state()


@pytest.mark.parametrize(("name", "setting"), [("NAdam", "momentum_decay"), ("ASGD", "lambd")])
def test_parameters_of_equal_steps_and_different_histories_go_on_apart(name: str, setting: str) -> None:
    pair = Pair(name, **{setting: 0.5})
    first, second, third = gradients(3)
    pair.step(partly(first))
    pair.set(**{setting: 0.1})
    pair.step([second[0], None, None, None])
    pair.optimizer.load_state_dict(pair.oracle.state_dict())
    pair.step(third)
    pair.check()
    pair.check_state()


@every_optimizer
def test_groups_are_those_of_torch(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    assert pair.optimizer.state_dict()["param_groups"] == pair.oracle.state_dict()["param_groups"]


def test_groups_are_json_after_compiled_steps() -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net.named_parameters(), lr=jnp.float32(0.5))
    jm.jit(train_step, donate=True)(net, optimizer)
    groups = optimizer.state_dict()["param_groups"]
    assert json.loads(json.dumps(groups))[0]["lr"] == 0.5
    assert groups[0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_saved_optimizer_goes_on_as_if_never_stopped() -> None:
    net, file = mlp(), io.BytesIO()
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1, amsgrad=True)
    step = jm.jit(train_step)
    step(net, optimizer)
    jm.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    loaded = jm.load(io.BytesIO(file.getvalue()))
    twin = mlp(1)
    twin.load_state_dict(loaded["net"])
    other = jm.optim.Adam(twin.parameters())
    other.load_state_dict(loaded["optimizer"])
    for _ in range(3):
        step(net, optimizer)
        step(twin, other)
    for ours, theirs in zip(values(net), values(twin), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_state_is_there_after_the_first_step_only() -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net.parameters())
    lowered = jm.jit(train_step).lower(net, optimizer)
    assert lowered is not None
    assert optimizer.state == {}
    train_step(net, optimizer)
    assert set(optimizer.state) == set(net.parameters())


def test_loading_during_compiled_training_is_honoured_without_a_retrace() -> None:
    pair = Pair("Adam", lr=0.1)
    step = Counted(pair.optimizer, donate=True)
    first, second, third = gradients(3)
    pair.step(first, step)
    state = copy.deepcopy(pair.oracle.state_dict())
    pair.step(second, step)
    pair.optimizer.load_state_dict(state)
    pair.oracle.load_state_dict(state)
    pair.step(third, step)
    pair.check()
    assert step.traces == 1


def test_momentum_outlives_a_time_without_it() -> None:
    pair = Pair("SGD", momentum=0.9)
    first, *others = gradients(4)
    pair.step(first)
    pair.set(momentum=0)
    pair.optimizer.load_state_dict(pair.oracle.state_dict())
    for grads in others:
        pair.step(grads)
        pair.set(momentum=0.5)
    pair.check()
    pair.check_state()


def wrong_shape(state: dict[str, Any]) -> None:
    state["state"][2]["exp_avg"] = jnp.zeros(7)


def wrong_group(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].pop()


BAD: list[tuple[type[Exception], str, Callable[[dict[str, Any]], Any]]] = [
    (ValueError, "loaded state dict has a different number of parameter groups", lambda s: s["param_groups"].pop()),
    (ValueError, "contains a parameter group that doesn't match the size of optimizer's group", wrong_group),
    (RuntimeError, r"exp_avg of parameter 2 has shape \(7,\) in the loaded state dict, expected \(2, 4\)", wrong_shape),
    (ValueError, "no 'exp_avg_sq' for parameter 0, only 'step', 'exp_avg'", lambda s: s["state"][0].pop("exp_avg_sq")),
    (KeyError, "state", lambda s: s.pop("state")),
]


@pytest.mark.parametrize(("error", "words", "spoil"), BAD, ids=range(len(BAD)))
def test_a_state_that_does_not_fit_changes_nothing(
    error: type[Exception], words: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    net = mlp()
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    train_step(net, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 9.0
    spoil(state)
    before = optimizer.state_dict()
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(own[key] is before["state"][i][key] for i, own in after["state"].items() for key in ("exp_avg",))


def test_the_state_of_another_optimizer_is_refused() -> None:
    one, other = Pair("SGD", momentum=0.9), Pair("Adam")
    one.step(gradients(1)[0])
    with pytest.raises(ValueError, match="no 'step' for parameter 0, only 'momentum_buffer': is it that of another"):
        other.optimizer.load_state_dict(one.optimizer.state_dict())


def test_loading_copies() -> None:
    box = nn.Parameter(jnp.ones(2))
    optimizer = jm.optim.SGD([box], momentum=0.9)
    optimizer.step([jnp.ones(2)])
    state = optimizer.state_dict()
    other = jm.optim.SGD([nn.Parameter(jnp.ones(2))])
    other.load_state_dict(state)
    Counted(other, donate=True)([jnp.ones(2)])
    assert state["state"][0]["momentum_buffer"].tolist() == [1, 1]
