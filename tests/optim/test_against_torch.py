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
from tests.optim.helpers import Counted, Pair, gradients

# Those of torch.testing._internal.common_optimizers for the CPU come first, then more.
SGD: list[dict[str, Any]] = [
    {}, {"lr": 1e-2}, {"weight_decay": 0.5}, {"momentum": 0.9}, {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.5, "dampening": 0.9, "weight_decay": 0.1, "maximize": True}, {"lr": 0, "momentum": 1},
]  # fmt: skip
ADAM: list[dict[str, Any]] = [
    {}, {"lr": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "amsgrad": True}, {"lr": 0.1}, {"lr": 0.1, "betas": (0.5, 0.9999)}, {"betas": (0.0, 0.0)},
    {"lr": 0.1, "amsgrad": True, "maximize": True}, {"eps": 1e-3},
]  # fmt: skip
EXTRA: list[dict[str, Any]] = [{"decoupled_weight_decay": True, "weight_decay": 0.1, "lr": 0.01}]
CONFIGS = (
    [("SGD", kwargs) for kwargs in SGD]
    + [("Adam", kwargs) for kwargs in ADAM + EXTRA]
    + [("AdamW", kwargs) for kwargs in [*ADAM, {"weight_decay": 0}]]
)


def label(value: Any) -> str:
    return str(value).replace(" ", "")


every_config = pytest.mark.parametrize(("name", "kwargs"), CONFIGS, ids=label)


@every_config
def test_eager_steps_with_gradients(name: str, kwargs: dict[str, Any]) -> None:
    pair = Pair(name, **kwargs)
    for grads in gradients(50):
        pair.step(grads)
    pair.check()
    pair.check_state()


@every_config
def test_eager_steps_with_grad_attributes(name: str, kwargs: dict[str, Any]) -> None:
    pair = Pair(name, **kwargs)

    def step(grads: list[Any]) -> None:
        for parameter, grad in zip(pair.ours, grads, strict=True):
            parameter.grad = grad
        pair.optimizer.step()

    for grads in gradients(50):
        pair.step(grads, step)
    pair.check()


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
@pytest.mark.parametrize(("name", "kwargs"), [CONFIGS[i] for i in (7, 8, 14, 21, 25)], ids=label)
def test_compiled_steps(name: str, kwargs: dict[str, Any], donate: bool) -> None:
    pair = Pair(name, **kwargs)
    compiled = Counted(pair.optimizer, donate=donate)
    for grads in gradients(50):
        pair.step(grads, compiled)
    pair.check()
    pair.check_state()
    assert compiled.traces == 1


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


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("SGD", {"momentum": 0.9, "lr": 0.1}), ("Adam", {"lr": 0.1}), ("AdamW", {"lr": 0.1, "weight_decay": 0.5})],
)
def test_bfloat16_parameters(name: str, kwargs: dict[str, Any]) -> None:
    pair = Pair(name, "bfloat16", **kwargs)
    for grads in gradients(10):
        pair.step(grads)
    pair.check(0.05)
    dtypes = {value.dtype.name for own in pair.optimizer.state.values() for key, value in own.items() if key != "step"}
    assert dtypes == {"bfloat16"}


@pytest.mark.parametrize(("name", "amsgrad"), [("SGD", {}), ("Adam", {}), ("AdamW", {"amsgrad": True})])
def test_complex_parameters_are_pairs_of_real_ones(name: str, amsgrad: dict[str, Any]) -> None:
    pair = Pair(name, "complex64", lr=0.1, **amsgrad)
    for real, imaginary in zip(gradients(10), gradients(10, seed=99), strict=True):
        pair.step([a + 1j * b for a, b in zip(real, imaginary, strict=True)])
    for ours, theirs in zip(pair.ours, pair.theirs, strict=True):
        np.testing.assert_allclose(ours.value, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)


X64 = """
import jax
jax.config.update("jax_enable_x64", True)
from tests.optim.helpers import Counted, Pair, gradients
for name, kwargs in [("SGD", dict(momentum=0.9, lr=0.1)), ("AdamW", dict(lr=0.1, amsgrad=True))]:
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
