"""Averaged models against torch's, eagerly and in compiled steps; batch normalisation statistics; SWALR."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.optim import swa_utils as ours
from tests.optim.helpers import draw

theirs = torch.optim.swa_utils
DECAY = 0.8


def torch_style(averaged: list[Any], current: list[Any], number: Any) -> None:
    for average, new in zip(averaged, current, strict=True):
        average.copy_(average * 0.5 + new * 0.5)


FUNCTIONS: dict[str, Any] = {
    "default": lambda u: {},
    "ema": lambda u: {"avg_fn": u.get_ema_avg_fn(DECAY)},
    "swa": lambda u: {"avg_fn": u.get_swa_avg_fn()},
    "multi ema": lambda u: {"multi_avg_fn": u.get_ema_multi_avg_fn(DECAY)},
    "own": lambda u: {"avg_fn": lambda averaged, current, number: averaged + (current - averaged) * 0.3 / number},
    "own multi": lambda u: {"multi_avg_fn": torch_style},
}


def layers(library: Any) -> Any:
    """Build a net with parameters of two types, and buffers."""
    norm = library.nn.BatchNorm1d(3)
    return library.nn.Sequential(library.nn.Linear(2, 3), norm, library.nn.Linear(3, 1).bfloat16())


def trained(net: Any, steps: int) -> Any:
    """Move the parameters and buffers of two equal nets alike, and yield after each step."""
    nets = (net, layers(torch))
    for step in range(steps):
        values = {k: np.array(v, np.float32) for k, v in net.state_dict().items()}
        for i, (name, value) in enumerate(values.items()):
            values[name] = value + (3 if value.ndim == 0 else draw(10 * step + i, [value.shape])[0])
        nets[0].load_state_dict(values)
        nets[1].load_state_dict({k: torch.tensor(v) for k, v in values.items()})
        yield nets


def assert_same(net: Any, oracle: Any) -> None:
    expected = oracle.state_dict()
    assert list(net.state_dict()) == list(expected)
    for name, value in net.state_dict().items():
        tolerance = 2e-2 if value.dtype == jnp.bfloat16 else 1e-6
        wide = np.asarray(value, np.float64)
        np.testing.assert_allclose(wide, expected[name].double().numpy(), tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("use_buffers", [False, True], ids=["", "buffers"])
@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_averages_are_those_of_torch(name: str, compile_it: bool, use_buffers: bool) -> None:
    net, traces = layers(jm), []
    averaged = ours.AveragedModel(net, **FUNCTIONS[name](ours), use_buffers=use_buffers)
    oracle = theirs.AveragedModel(layers(torch), **FUNCTIONS[name](theirs), use_buffers=use_buffers)
    update = lambda averaged, net: traces.append(1) or averaged.update_parameters(net)  # noqa: E731 - compiled or not
    update = jm.jit(update, donate=True) if compile_it else update
    for one, other in trained(net, 4):
        update(averaged, one)
        oracle.update_parameters(other)
        assert_same(averaged, oracle)
    assert len(traces) == (1 if compile_it else 4)


def test_the_average_has_memory_of_its_own() -> None:
    net = nn.BatchNorm1d(2)
    averaged = ours.AveragedModel(net)
    averaged.update_parameters(net)
    step = jm.jit(lambda net, x: (net(x), net.weight.data.mul_(2.0))[0], donate=True)
    both = jm.jit(lambda net, averaged, x: (net(x), averaged.update_parameters(net))[0], donate=True)
    x = jnp.ones((3, 2), jnp.float32)
    for _ in range(2):
        both(net, averaged, x)
        step(net, x)
    assert averaged.module.weight.value.tolist() == pytest.approx([4 / 3] * 2)
    assert averaged.module.running_mean.tolist() == pytest.approx([1 - 0.9**3] * 2)


def test_state_goes_to_torch_and_back() -> None:
    net = layers(jm)
    averaged = ours.AveragedModel(net)
    averaged.update_parameters(net)
    oracle = theirs.AveragedModel(layers(torch))
    oracle.load_state_dict({k: torch.tensor(np.array(v, np.float32)) for k, v in averaged.state_dict().items()})
    assert_same(averaged, oracle)
    again = ours.AveragedModel(layers(jm))
    again.load_state_dict(oracle.state_dict())
    assert_same(again, oracle)


def test_an_averaged_model_is_copied_and_pickled_with_its_function() -> None:
    net = nn.Linear(2, 1)
    averaged = ours.AveragedModel(net, multi_avg_fn=ours.get_ema_multi_avg_fn(DECAY))
    for twin in (copy.deepcopy(averaged), pickle.loads(pickle.dumps(averaged))):
        twin.update_parameters(net)
        np.testing.assert_array_equal(twin.module.weight.value, net.weight.value)


def test_an_average_goes_to_another_device() -> None:
    net, place = nn.BatchNorm1d(2), jax.devices()[1]
    averaged = ours.AveragedModel(net, device=place)
    for _ in range(2):
        averaged.update_parameters(net)
    assert {array.device for array in averaged.state_dict().values()} == {place}


def test_a_model_with_other_buffers_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ours.AveragedModel(nn.BatchNorm1d(2)).update_parameters(nn.Linear(2, 1))


@pytest.mark.parametrize("decay", [-0.1, 1.1])
@pytest.mark.parametrize("name", ["get_ema_avg_fn", "get_ema_multi_avg_fn"])
def test_a_decay_is_a_fraction(name: str, decay: float) -> None:
    for library in (ours, theirs):
        with pytest.raises(ValueError, match=rf"Invalid decay value {decay} provided. Please provide a value in \[0,1"):
            getattr(library, name)(decay)


def test_one_function_is_enough() -> None:
    for library, module in ((ours, nn.Linear(2, 1)), (theirs, torch.nn.Linear(2, 1))):
        with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
            library.AveragedModel(module, avg_fn=max, multi_avg_fn=max)


BATCHES = {
    "arrays": lambda arrays: arrays,
    "tuples": lambda arrays: ((x, 0) for x in arrays),
    "tensors": lambda arrays: [[torch.tensor(np.asarray(x))] for x in arrays],
}


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", BATCHES)
def test_update_bn(kind: str, compile_it: bool) -> None:
    net, oracle = nn.BatchNorm1d(2, momentum=0.3), torch.nn.BatchNorm1d(2, momentum=0.3)
    net.eval()
    arrays = [np.asarray(x) for x in draw(3, [(4, 2), (4, 2), (3, 2)])]
    ours.update_bn(BATCHES[kind](arrays), jm.jit(net) if compile_it else net)
    theirs.update_bn([torch.tensor(x) for x in arrays], oracle)
    assert_same(net, oracle)
    assert net.momentum == 0.3
    assert not net.training


def test_a_failed_pass_leaves_mode_and_momentum_alone() -> None:
    norm = nn.BatchNorm1d(2).eval()
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        ours.update_bn([jnp.ones(2)], norm)
    assert (norm.momentum, norm.training) == (0.1, False)


SCHEDULES: list[dict[str, Any]] = [
    {"swa_lr": 0.05},
    {"swa_lr": [0.05, 2.0], "anneal_epochs": 3, "anneal_strategy": "linear"},
    {"swa_lr": 0.5, "anneal_epochs": 0},
]


def scheduled(library: Any, parameter: Any, settings: Any) -> tuple[Any, Any]:
    groups = [{"params": [parameter(0)]}, {"params": [parameter(1)], "lr": 0.25}]
    optimizer = library.SGD(groups, lr=1.0)
    return optimizer, library.swa_utils.SWALR(optimizer, **settings)


def both_scheduled(settings: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    mine = scheduled(jm.optim, lambda i: nn.Parameter(jnp.ones(1, jnp.float32)), settings)
    return mine, scheduled(torch.optim, lambda i: torch.nn.Parameter(torch.ones(1)), settings)


def step_both(optimizer: Any, scheduler: Any) -> None:
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("settings", SCHEDULES)
def test_swalr_has_the_rates_of_torch(settings: dict[str, Any]) -> None:
    mine, oracle = both_scheduled(settings)
    for _ in range(12):
        step_both(*mine)
        step_both(*oracle)
        assert mine[1].get_last_lr() == oracle[1].get_last_lr()
    assert mine[1].state_dict() == oracle[1].state_dict()
    mine[1].load_state_dict(oracle[1].state_dict())


@pytest.mark.parametrize("settings", SCHEDULES)
def test_swalr_in_a_compiled_step(settings: dict[str, Any]) -> None:
    mine, oracle = both_scheduled(settings)
    traces = []
    step = jm.jit(lambda *args: traces.append(1) or step_both(*args))
    for _ in range(12):
        step(*mine)
        step_both(*oracle)
        np.testing.assert_allclose(mine[1].get_last_lr(), oracle[1].get_last_lr(), rtol=1e-6)
    assert len(traces) <= 2


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("anneal_strategy must be one of 'cos' or 'linear', instead got step", {"anneal_strategy": "step"}),
    ("anneal_epochs must be equal or greater than 0, got -1", {"anneal_epochs": -1}),
    ("swa_lr must have the same length as optimizer.param_groups", {"swa_lr": [0.1]}),
]


@pytest.mark.parametrize(("match", "settings"), REFUSED)
def test_swalr_refuses_what_torch_refuses(match: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=match):
        scheduled(torch.optim, lambda i: torch.nn.Parameter(torch.ones(1)), {"swa_lr": 0.1, **settings})
    with pytest.raises(ValueError, match=match):
        scheduled(jm.optim, lambda i: nn.Parameter(jnp.ones(1)), {"swa_lr": 0.1, **settings})
