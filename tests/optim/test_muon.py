"""Muon: the steps, the state and the refusals of torch's."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import Counted, draw, gradients, to_torch

SHAPES = ((4, 3), (3, 5))
# Those of torch.testing._internal.common_optimizers come first, then more.
MUON: list[dict[str, Any]] = [
    {}, {"lr": 0.01}, {"weight_decay": 0.2}, {"momentum": 0.8}, {"ns_steps": 6}, {"ns_coefficients": (3.4, -4.7, 2.0)},
    {"nesterov": False, "weight_decay": 0}, {"adjust_lr_fn": "match_rms_adamw"}, {"momentum": 0.3, "eps": 1e-3},
]  # fmt: skip


class Matrices:
    """Equal matrices under our Muon and torch's."""

    def __init__(self, dtype: str = "float32", shapes: Any = SHAPES, **kwargs: Any) -> None:
        self.ours = [nn.Parameter(jnp.asarray(a, dtype)) for a in draw(0, shapes)]
        self.theirs = [torch.nn.Parameter(torch.tensor(a).to(getattr(torch, dtype))) for a in draw(0, shapes)]
        self.optimizer, self.oracle = jm.optim.Muon(self.ours, **kwargs), torch.optim.Muon(self.theirs, **kwargs)

    def train(self, steps: int, step: Any = None, seed: int = 1) -> None:
        for grads in gradients(steps, seed, [tuple(p.shape) for p in self.ours]):
            for parameter, grad in zip(self.theirs, grads, strict=True):
                parameter.grad = torch.tensor(grad).to(parameter.dtype)
            self.oracle.step()
            (step or self.optimizer.step)([jnp.asarray(g, p.dtype) for g, p in zip(grads, self.ours, strict=True)])

    def check(self, tolerance: float) -> None:
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            expected = theirs.detach().double().numpy()
            np.testing.assert_allclose(np.asarray(ours.value, np.float64), expected, rtol=1e-6, atol=tolerance)


# An update has an entry or two rounded to bfloat16 from the other side of a tie: a 256th of lr each.
@pytest.mark.parametrize("kwargs", MUON, ids=str)
def test_compiled_steps(kwargs: dict[str, Any]) -> None:
    pair = Matrices(**kwargs)
    compiled = Counted(pair.optimizer)
    pair.train(50, compiled)
    pair.check(5e-6)
    assert compiled.traces == 1
    ours, theirs = pair.optimizer.state_dict()["state"], pair.oracle.state_dict()["state"]
    for i, own in ours.items():
        np.testing.assert_allclose(own["momentum_buffer"], theirs[i]["momentum_buffer"].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 40), (64, 24)])
def test_larger_matrices_in_eager_steps(shape: tuple[int, int]) -> None:
    pair = Matrices(shapes=[shape])
    pair.train(20)
    pair.check(2e-5)


def test_bfloat16_parameters() -> None:
    pair = Matrices("bfloat16", lr=0.1)
    pair.train(5)
    pair.check(0.02)
    assert pair.optimizer.state[pair.ours[0]]["momentum_buffer"].dtype == jnp.bfloat16


def test_state_dicts_are_exchanged_in_mid_training() -> None:
    pair = Matrices(lr=0.01)
    pair.train(5)
    ours, theirs = pair.optimizer.state_dict(), pair.oracle.state_dict()
    assert {key for own in ours["state"].values() for key in own} == {"momentum_buffer"}
    pair.optimizer, pair.oracle = jm.optim.Muon(pair.ours), torch.optim.Muon(pair.theirs)
    pair.optimizer.load_state_dict(theirs)
    pair.oracle.load_state_dict(to_torch(ours))
    pair.train(5, seed=9)
    pair.check(1e-6)


def test_the_number_of_iterations_may_change_between_compiled_steps() -> None:
    pair = Matrices()
    compiled = Counted(pair.optimizer)
    for steps in (5, 3, 5):
        pair.optimizer.param_groups[0]["ns_steps"] = pair.oracle.param_groups[0]["ns_steps"] = steps
        pair.train(2, compiled, seed=steps)
    pair.check(1e-6)
    assert compiled.traces == 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"lr": np.ones(2)}, "Tensor lr must be 1-element"),
        ({"momentum": -0.1}, "momentum should be >= 0 but is: -0.1"),
        ({"weight_decay": -0.1}, "weight decay should be >= 0 but is: -0.1"),
        ({"adjust_lr_fn": "arbitrary"}, "Adjust learning rate function arbitrary is not supported"),
    ],
    ids=str,
)
def test_refused_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jm.optim.Muon([nn.Parameter(jnp.ones((2, 2)))], **kwargs)


def test_parameters_that_are_no_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only supports 2D parameters .* with size: torch.Size\(\[2, 3, 4\]\)"):
        jm.optim.Muon([nn.Parameter(jnp.ones((2, 3, 4)))])


@pytest.mark.parametrize(
    ("dtype", "kwargs", "error", "message"),
    [
        ("complex64", {}, RuntimeError, "Muon does not support complex parameters"),
        ("float32", {"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ("float32", {"ns_coefficients": (1.0, 2.0)}, ValueError, "Coefficients must be a tuple of exactly 3 values"),
    ],
    ids=str,
)
def test_what_a_step_refuses(dtype: str, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    parameter = nn.Parameter(jnp.ones((2, 3), dtype))
    optimizer = jm.optim.Muon([parameter], **kwargs)
    with pytest.raises(error, match=message):
        optimizer.step([parameter.value])
