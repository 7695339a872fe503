"""Adafactor: the steps, the state and the refusals of torch's."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import Counted, Pair, gradients, to_torch

# Those of torch.testing._internal.common_optimizers come first, then more.
ADAFACTOR: list[dict[str, Any]] = [
    {}, {"weight_decay": 0.1, "lr": 0.01}, {"weight_decay": 0.1, "maximize": True}, {"beta2_decay": -1.0}, {"d": 1.5},
    {"eps": (1e-3, 1e-2)}, {"lr": 1.0}, {"eps": (0.0, 0.0), "lr": 0},
]  # fmt: skip
every_config = pytest.mark.parametrize("kwargs", ADAFACTOR, ids=str)


@every_config
def test_compiled_steps(kwargs: dict[str, Any]) -> None:
    pair = Pair("Adafactor", **kwargs)
    compiled = Counted(pair.optimizer)
    for grads in gradients(50):
        pair.step(grads, compiled)
    pair.check()
    pair.check_state()
    assert compiled.traces == 1


@pytest.mark.parametrize("kwargs", ADAFACTOR[1:3], ids=str)
def test_eager_steps(kwargs: dict[str, Any]) -> None:
    pair = Pair("Adafactor", **kwargs)
    for grads in gradients(50):
        pair.step(grads)
    pair.check()
    pair.check_state()


def test_the_first_epsilon_is_that_of_the_dtype() -> None:
    pair = Pair("Adafactor", "bfloat16", lr=0.1)
    for grads in gradients(10):
        pair.step([g * 1e-3 for g in grads])
    pair.check(0.02)
    assert pair.optimizer.state[pair.ours[0]]["row_var"].dtype == jnp.bfloat16


def test_settings_change_between_compiled_steps_without_a_retrace() -> None:
    pair = Pair("Adafactor", weight_decay=0.1)
    compiled = Counted(pair.optimizer)
    for i, grads in enumerate(gradients(10)):
        pair.set(lr=0.1 / (i + 1), eps=(None, 1e-3 * (i + 1)), d=1.0 + i, beta2_decay=-0.5 - 0.05 * i)
        pair.step(grads, compiled)
    pair.check()
    assert compiled.traces == 1


def test_state_dicts_are_exchanged_in_mid_training() -> None:
    pair = Pair("Adafactor", lr=0.1)
    for grads in gradients(5):
        pair.step(grads)
    ours, theirs = pair.optimizer.state_dict(), pair.oracle.state_dict()
    pair.optimizer = jm.optim.Adafactor(pair.ours)
    pair.oracle = torch.optim.Adafactor(pair.theirs)
    pair.optimizer.load_state_dict(theirs)
    pair.oracle.load_state_dict(to_torch(ours))
    for grads in gradients(5, seed=7):
        pair.step(grads)
    pair.check()
    pair.check_state()
    assert pair.optimizer.param_groups[0]["eps"] == (None, 1e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"lr": np.ones(2)}, "Tensor lr must be 1-element"),
        ({"beta2_decay": 0.8}, "beta2_decay should be <= 0 but is: 0.8"),
        ({"eps": (-1e-30, 1e-3)}, "epsilon1 should be >= 0 but is: -1e-30"),
        ({"eps": (None, -1.0)}, "epsilon2 should be >= 0 but is: -1.0"),
        ({"d": 0.0}, "Clipping threshold d should be >= 1 but is: 0.0"),
        ({"weight_decay": -0.1}, "weight_decay should be >= 0 but is: -0.1"),
    ],
    ids=str,
)
def test_refused_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jm.optim.Adafactor([nn.Parameter(jnp.ones((2, 2)))], **kwargs)


def test_complex_parameters_are_refused_on_a_step() -> None:
    parameter = nn.Parameter(jnp.ones((2, 3), jnp.complex64))
    optimizer = jm.optim.Adafactor([parameter])
    with pytest.raises(RuntimeError, match="Adafactor does not support complex parameters"):
        optimizer.step([parameter.value])
