"""Every scheduler: torch's values bit by bit, compiled the same to float32 rounding, states exchanged, copies, resumed.

A row is a function of the room (ours or torch's), an optimizer of two groups, and perhaps a ``last_epoch``.
"""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

OURS, THEIRS = jm.optim.lr_scheduler, torch.optim.lr_scheduler
METRICS = [float(x) for x in np.random.default_rng(0).random(64, dtype=np.float32)]


def decay(epoch: Any) -> Any:
    return 0.95**epoch


def slower(epoch: Any) -> Any:
    return 1 / (epoch + 1)


def constant(epoch: Any) -> Any:
    return 0.95


CASES: dict[str, Callable[..., Any]] = {
    "StepLR": lambda room, o, **k: room.StepLR(o, 3, 0.7, **k),
    "MultiStepLR": lambda room, o, **k: room.MultiStepLR(o, [2, 5, 5, 17, 40], 0.3, **k),
    "ConstantLR": lambda room, o, **k: room.ConstantLR(o, 0.3, 7, **k),
    "LinearLR": lambda room, o, **k: room.LinearLR(o, 0.25, 0.8, 20, **k),
    "LinearLR down": lambda room, o, **k: room.LinearLR(o, 1.0, 0.0, 70, **k),
    "ExponentialLR": lambda room, o, **k: room.ExponentialLR(o, 0.9, **k),
    "PolynomialLR": lambda room, o, **k: room.PolynomialLR(o, 55, 2.3, **k),
    "CosineAnnealingLR": lambda room, o, **k: room.CosineAnnealingLR(o, 20, 0.01, **k),
    "LambdaLR": lambda room, o, **k: room.LambdaLR(o, [decay, slower], **k),
    "MultiplicativeLR": lambda room, o, **k: room.MultiplicativeLR(o, constant, **k),
    "CosineAnnealingWarmRestarts": lambda room, o, **k: room.CosineAnnealingWarmRestarts(o, 7, 2, 0.001, **k),
    "CyclicLR": lambda room, o, **k: room.CyclicLR(o, 0.01, [0.1, 0.2], 5, 9, base_momentum=[0.7, 0.8], **k),
    "CyclicLR triangular2": lambda room, o, **k: room.CyclicLR(o, 0.01, 0.1, 5, mode="triangular2", **k),
    "CyclicLR exp_range": lambda room, o, **k: room.CyclicLR(o, 0.01, 0.1, 5, mode="exp_range", gamma=0.97, **k),
    "CyclicLR scale_fn": lambda room, o, **k: room.CyclicLR(
        o, 0.01, 0.1, 5, scale_fn=decay, scale_mode="iterations", cycle_momentum=False, **k
    ),
    "OneCycleLR": lambda room, o, **k: room.OneCycleLR(o, [0.1, 0.3], total_steps=70, **k),
    "OneCycleLR linear": lambda room, o, **k: room.OneCycleLR(
        o, 0.1, epochs=10, steps_per_epoch=7, anneal_strategy="linear", three_phase=True, **k
    ),
    "SequentialLR": lambda room, o, **k: room.SequentialLR(
        o, [room.LinearLR(o, 0.1, 1.0, 10), room.CosineAnnealingLR(o, 30, 0.001)], [10]
    ),
    "ChainedScheduler": lambda room, o, **k: room.ChainedScheduler(
        [room.LinearLR(o, 0.1, 1.0, 10), room.ExponentialLR(o, 0.93), room.StepLR(o, 9)]
    ),
    "ChainedScheduler nested": lambda room, o, **k: room.ChainedScheduler(
        [CASES["SequentialLR"](room, o), room.MultiplicativeLR(o, constant)]
    ),
    "ReduceLROnPlateau": lambda room, o, **k: room.ReduceLROnPlateau(o, "min", 0.5, 2, cooldown=2, min_lr=[0.001, 0.1]),
    "ReduceLROnPlateau max": lambda room, o, **k: room.ReduceLROnPlateau(o, "max", 0.5, 3, 0.05, "abs"),
}
RESUMABLE = [name for name in CASES if not name.startswith(("Sequential", "Chained", "Reduce"))]


def optimizers(name: str = "SGD", **kwargs: Any) -> tuple[Any, Any]:
    """Make an optimizer of ours and one of torch's, each with two groups."""
    kwargs = kwargs or ({"momentum": 0.9} if name == "SGD" else {})
    ours, theirs = nn.Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2))
    other, others = nn.Parameter(jnp.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(jm.optim, name)([{"params": [ours]}, {"params": [other], "lr": 0.5}], lr=0.05, **kwargs)
    oracle = getattr(torch.optim, name)([{"params": [theirs]}, {"params": [others], "lr": 0.5}], lr=0.05, **kwargs)
    return optimizer, oracle


def pair(case: str, **kwargs: Any) -> tuple[Any, Any]:
    """Make a scheduler of ours and one of torch's, their optimizers stepped once."""
    ours, theirs = (CASES[case](room, o) for room, o in zip((OURS, THEIRS), optimizers(**kwargs), strict=True))
    for scheduler in (ours, theirs):
        scheduler.optimizer.step()
    return ours, theirs


def step(scheduler: Any, i: int) -> None:
    """Step a scheduler, with a metric if it takes one."""
    scheduler.step(*[METRICS[i]] if "Plateau" in type(scheduler).__name__ else [])


def settings(optimizer: Any) -> list[dict[str, Any]]:
    return [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]


def check_equal(ours: Any, theirs: Any) -> None:
    """Compare everything that there is, exactly."""
    assert ours.get_last_lr() == theirs.get_last_lr()
    assert settings(ours.optimizer) == settings(theirs.optimizer)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict() == theirs.state_dict()


def numbers(state: Any) -> list[float]:
    """List the numbers in a state dict."""
    if isinstance(state, dict | list):
        return [n for item in (state.values() if isinstance(state, dict) else state) for n in numbers(item)]
    return [state] if isinstance(state, int | float) else []


@pytest.mark.parametrize("case", CASES)
def test_eager_steps_are_bit_equal_to_those_of_torch(case: str) -> None:
    ours, theirs = pair(case)
    for i in range(60):
        check_equal(ours, theirs)
        step(ours, i)
        step(theirs, i)


@pytest.mark.parametrize("case", [name for name in CASES if "Cycl" in name])
def test_the_first_beta_is_cycled_where_there_is_no_momentum(case: str) -> None:
    ours, theirs = pair(case, name="Adam")
    for i in range(20):
        step(ours, i)
        step(theirs, i)
    assert settings(ours.optimizer)[0]["betas"] == settings(theirs.optimizer)[0]["betas"]


@pytest.mark.parametrize("case", CASES)
def test_compiled_steps_among_eager_ones_are_those_of_torch(case: str) -> None:
    ours, theirs = pair(case)
    traces: list[int] = []

    @jm.jit
    def compiled(scheduler: Any, metric: Any) -> None:
        traces.append(1)
        scheduler.optimizer.step([jnp.zeros(2), jnp.zeros(3)])
        scheduler.step(*[metric] if isinstance(scheduler, OURS.ReduceLROnPlateau) else [])

    for i in range(60):
        if i % 7 == 3:
            step(ours, i)
        else:
            compiled(ours, METRICS[i])
        step(theirs, i)
        np.testing.assert_allclose(ours.get_last_lr(), theirs.get_last_lr(), rtol=2e-6, atol=1e-8)
    assert traces == [1]
    np.testing.assert_allclose(numbers(ours.state_dict()), numbers(theirs.state_dict()), rtol=2e-6, atol=1e-8)
    momenta = [[group["momentum"] for group in settings(s.optimizer)] for s in (ours, theirs)]
    np.testing.assert_allclose(momenta[0], momenta[1], rtol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_states_are_exchanged_with_torch(case: str) -> None:
    ours, theirs = pair(case)
    for i in range(20):
        step(ours, i)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for group, own in zip(theirs.optimizer.param_groups, settings(ours.optimizer), strict=True):
        group.update(own)
    for i in range(20, 40):
        step(theirs, i)
    fresh = CASES[case](OURS, optimizers()[0])
    fresh.optimizer.load_state_dict(theirs.optimizer.state_dict())
    fresh.load_state_dict(theirs.state_dict())
    for i in range(40, 60):
        step(fresh, i)
        step(theirs, i)
    check_equal(fresh, theirs)


@pytest.mark.parametrize("case", RESUMABLE)
def test_schedulers_resume_at_the_last_epoch(case: str) -> None:
    ours, theirs = pair(case)
    for i in range(13):
        step(ours, i)
        step(theirs, i)
    ours = CASES[case](OURS, ours.optimizer, last_epoch=12)
    theirs = CASES[case](THEIRS, theirs.optimizer, last_epoch=12)
    ours.optimizer.step()
    theirs.optimizer.step()
    for i in range(13, 30):
        check_equal(ours, theirs)
        step(ours, i)
        step(theirs, i)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
@pytest.mark.parametrize("case", CASES)
def test_copies_step_on_equally(case: str, clone: Callable[[Any], Any]) -> None:
    ours, _ = pair(case)
    for i in range(15):
        step(ours, i)
    twin = clone(ours)
    assert twin.optimizer is not ours.optimizer
    for i in range(15, 30):
        step(ours, i)
        step(twin, i)
    assert twin.state_dict() == ours.state_dict()
    assert settings(twin.optimizer) == settings(ours.optimizer)


@pytest.mark.parametrize("name", THEIRS.__all__)
def test_signatures_are_those_of_torch(name: str) -> None:
    def parameters(function: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    ours, theirs = getattr(OURS, name), getattr(THEIRS, name)
    assert parameters(ours) == parameters(theirs)
    for method in ("step", "get_lr", "get_last_lr", "state_dict", "load_state_dict"):
        assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method))
