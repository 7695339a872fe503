"""Every configuration takes the steps that torch takes, however it is driven."""

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.configs import MAIN, Settings, every_config, every_optimizer, ours, theirs
from tests.optim.helpers import Counted, Pair, gradients

SMALL = ((4, 3), ())


@every_config
def test_compiled_steps(name: str, kwargs: Settings) -> None:
    pair = Pair(name, shapes=SMALL, theirs=theirs(kwargs), **ours(kwargs))
    compiled = Counted(pair.optimizer)
    for grads in gradients(50, shapes=SMALL):
        pair.step(grads, compiled)
    pair.check()
    pair.check_state()
    assert compiled.traces == 1


@every_optimizer
def test_eager_steps(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    for grads in gradients(50):
        pair.step(grads)
    pair.check()
    pair.check_state()


@every_optimizer
def test_donated_steps(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    compiled = Counted(pair.optimizer, donate=True)
    for grads in gradients(5):
        pair.step(grads, compiled)
    pair.check()
    pair.check_state()


def test_steps_with_grad_attributes() -> None:
    pair = Pair("Adam", lr=0.1)

    def step(grads: list[Any]) -> None:
        for parameter, grad in zip(pair.ours, grads, strict=True):
            parameter.grad = grad
        pair.optimizer.step()

    for grads in gradients(10):
        pair.step(grads, step)
    pair.check()


def test_backward_and_step_train_as_torch_does() -> None:
    theirs = torch.nn.Linear(3, 2)
    ours = nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.randn(7, 3).astype(np.float32)
    optimizer, oracle = jm.optim.Adam(ours.parameters(), 0.1), torch.optim.Adam(theirs.parameters(), 0.1)
    for _ in range(10):
        optimizer.zero_grad()
        oracle.zero_grad()
        jm.backward(lambda: (ours(x) ** 2).mean(), ours)
        (theirs(torch.tensor(x)) ** 2).mean().backward()
        optimizer.step()
        oracle.step()
    np.testing.assert_allclose(ours.weight.numpy(), theirs.weight.detach().numpy(), rtol=1e-5, atol=1e-6)


@every_optimizer
def test_bfloat16_parameters(name: str, kwargs: Settings) -> None:
    pair = Pair(name, "bfloat16", **kwargs)
    for grads in gradients(10):
        pair.step(grads)
    pair.check(0.05)
    for i, own in pair.optimizer.state_dict()["state"].items():
        expected = {
            key: str(getattr(value, "dtype", int)) for key, value in pair.oracle.state_dict()["state"][i].items()
        }
        assert {k: f"torch.{v.dtype}" if hasattr(v, "dtype") else str(type(v)) for k, v in own.items()} == expected


@pytest.mark.parametrize(("name", "kwargs"), [row for row in MAIN.items() if row[0] != "SparseAdam"])
def test_complex_parameters_are_pairs_of_real_ones(name: str, kwargs: Settings) -> None:
    pair = Pair(name, "complex64", **kwargs)
    for real, imaginary in zip(gradients(10), gradients(10, seed=99), strict=True):
        pair.step([a + 1j * b for a, b in zip(real, imaginary, strict=True)])
    for parameter, expected in zip(pair.ours, pair.theirs, strict=True):
        np.testing.assert_allclose(parameter.value, expected.detach().numpy(), rtol=1e-6, atol=1e-6)


X64 = """
import jax
jax.config.update("jax_enable_x64", True)
from tests.optim.configs import MAIN
from tests.optim.helpers import Counted, Pair, gradients
for name, kwargs in MAIN.items():
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        pair = Pair(name, dtype, **kwargs)
        compiled = Counted(pair.optimizer)
        for i, grads in enumerate(gradients(20)):
            pair.step(grads, compiled if i % 2 else None)
        pair.check(tolerance)
        assert compiled.traces == 1, compiled.traces
"""


def test_float64_parameters() -> None:
    subprocess.run([sys.executable, "-c", X64], check=True, timeout=120)


def test_gradients_take_the_dtype_of_their_parameter() -> None:
    parameter = nn.Parameter(jnp.ones(3, jnp.bfloat16))
    optimizer = jm.optim.Adam([parameter])
    optimizer.step([jnp.ones(3, jnp.float32)])
    assert optimizer.state[parameter]["exp_avg"].dtype == jnp.bfloat16


@pytest.mark.parametrize("kwargs", [{"lr": 0.5}, {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}])
def test_hyperparameters_may_be_scalars_of_jax_or_numpy(kwargs: dict[str, float]) -> None:
    pair = Pair("SGD", theirs=kwargs, **{key: jnp.float32(value) for key, value in kwargs.items()})
    other = Pair("SGD", theirs=kwargs, **{key: np.float32(value) for key, value in kwargs.items()})
    for grads in gradients(5):
        pair.step(grads)
        other.step(grads)
    pair.check()
    other.check()


def test_a_closure_returns_loss_and_gradients() -> None:
    net = nn.Linear(3, 1)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    before = net.bias.numpy()
    loss = optimizer.step(lambda: jm.value_and_grad(lambda net: net(jnp.ones((2, 3), jnp.float32)).sum())(net))
    assert loss.shape == ()
    np.testing.assert_allclose(net.bias.numpy(), before - 0.2, rtol=1e-6)


def test_a_closure_fills_grad_and_returns_the_loss() -> None:
    net = nn.Linear(3, 1)
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    before = net.bias.numpy()
    loss = optimizer.step(lambda: jm.backward(lambda: net(jnp.ones((2, 3), jnp.float32)).sum(), net))
    assert loss.shape == ()
    np.testing.assert_allclose(net.bias.numpy(), before - 0.2, rtol=1e-6)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    weight, untouched = nn.Parameter(jnp.ones(2)), nn.Parameter(jnp.ones(2))
    weight.grad = jnp.ones(2)
    jm.optim.SGD([weight, untouched]).zero_grad(set_to_none)
    assert weight.grad is None if set_to_none else weight.grad.tolist() == [0, 0]
    assert untouched.grad is None
