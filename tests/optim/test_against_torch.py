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
from tests.optim.configs import COMPLEX, MAIN, Settings, every_config, every_optimizer, ours, theirs
from tests.optim.helpers import SMALL, Counted, Pair, gradients

compiled = Counted(None)  # one for all: configurations that differ in numbers share a program


@every_config
def test_compiled_steps(name: str, kwargs: Settings) -> None:
    pair = Pair(name, shapes=SMALL, theirs=theirs(kwargs), **ours(kwargs))
    before = compiled.traces
    for grads in gradients(50, shapes=SMALL):
        pair.step(grads, lambda grads: compiled.jitted(pair.optimizer, grads))
    pair.check()
    pair.check_state()
    assert compiled.traces <= before + 1


@every_optimizer
def test_eager_steps(name: str, kwargs: Settings) -> None:
    pair = Pair(name, **kwargs)
    for grads in gradients(50):
        pair.step(grads)
    pair.check()
    pair.check_state()


@pytest.mark.parametrize("name", ["ASGD", "AdamW", "SGD"])
def test_donated_steps(name: str) -> None:
    pair = Pair(name, **MAIN[name])
    donating = Counted(pair.optimizer, donate=True)
    for grads in gradients(10):
        pair.step(grads, donating)
    pair.check()
    pair.check_state()
    assert donating.traces == 1


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
    pair = Pair(name, "bfloat16", shapes=SMALL, **kwargs)
    for grads in gradients(10, shapes=SMALL):
        pair.step(grads)
    pair.check(0.05)
    for i, own in pair.optimizer.state_dict()["state"].items():
        expected = {
            key: str(getattr(value, "dtype", int)) for key, value in pair.oracle.state_dict()["state"][i].items()
        }
        assert {k: f"torch.{v.dtype}" if hasattr(v, "dtype") else str(type(v)) for k, v in own.items()} == expected


@pytest.mark.parametrize(("name", "kwargs"), COMPLEX)
def test_complex_parameters_are_pairs_of_real_ones(name: str, kwargs: Settings) -> None:
    pair = Pair(name, "complex64", shapes=SMALL, **kwargs)
    for real, imaginary in zip(gradients(10, shapes=SMALL), gradients(10, 99, SMALL), strict=True):
        pair.step([a + 1j * b for a, b in zip(real, imaginary, strict=True)])
    for parameter, expected in zip(pair.ours, pair.theirs, strict=True):
        np.testing.assert_allclose(parameter.value, expected.detach().numpy(), rtol=1e-6, atol=1e-6)


X64 = """
import jax
jax.config.update("jax_enable_x64", True)
from tests.optim.configs import MAIN
from tests.optim.helpers import SMALL, Counted, Pair, gradients
for name, kwargs in MAIN.items():
    pair = Pair(name, "float64", shapes=SMALL, **kwargs)
    compiled = Counted(pair.optimizer)
    for grads in gradients(20, shapes=SMALL):
        pair.step(grads, compiled)
    pair.check(1e-12)
    assert compiled.traces == 1, compiled.traces
for name in ("AdamW", "SGD"):
    pair = Pair(name, "float32", shapes=SMALL, **MAIN[name])
    for grads in gradients(20, shapes=SMALL):
        pair.step(grads)
    pair.check()
"""


def test_float64_parameters() -> None:
    subprocess.run([sys.executable, "-c", X64], check=True, timeout=120)


def test_rows_without_gradient_keep_their_values_and_moments() -> None:
    pair = Pair("SparseAdam", shapes=[(6, 3), (6,)], lr=0.1)
    before = compiled.traces
    for i, grads in enumerate(gradients(20, shapes=[(6, 3), (6,)])):
        used = np.random.default_rng(i).random(6) < 0.5
        pair.step([grads[0] * used[:, None], grads[1] * used], lambda g: compiled.jitted(pair.optimizer, g))
    pair.check()
    pair.check_state()
    assert compiled.traces == before + 1


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
