"""Any optimizer steps with a closure, of either kind, in a Python loop and in a compiled function."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest

import jaxmodules as jm
from tests.optim.helpers import loss_of, mlp, train_step, values

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "Adam": lambda net: jm.optim.Adam(net.parameters(), 0.1),
    "Adafactor": lambda net: jm.optim.Adafactor(net.parameters(), 0.1),
    "optax": lambda net: jm.optim.Optimizer(net, optax.adamw(0.1)),
}


def with_gradients(net: Any, optimizer: Any) -> Any:
    return optimizer.step(lambda: jm.value_and_grad(loss_of)(net))


def with_grad_attributes(net: Any, optimizer: Any) -> Any:
    def closure() -> Any:
        optimizer.zero_grad()
        return jm.backward(lambda: loss_of(net), net)

    return optimizer.step(closure)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("step", [with_gradients, with_grad_attributes])
def test_a_closure_is_called_once_for_each_step(step: Any, compiled: bool, name: str) -> None:
    results = []
    for function in (train_step, jm.jit(step) if compiled else step):
        net = mlp()
        optimizer = OPTIMIZERS[name](net)
        losses = [float(function(net, optimizer)) for _ in range(3)]
        results.append([*losses, *values(net)])
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
