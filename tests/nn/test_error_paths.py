"""Errors raised in a forward pass name the module they come from, and are otherwise as they were."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.transforms.helpers import Custom


class Net(nn.Module):
    """A net whose ``forward`` calls the part that a test asks for."""

    def __init__(self, body: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
        self.layers = nn.ModuleList([nn.Linear(3, 4)])
        self.inner = Custom(body)
        self.hidden = [nn.Linear(3, 4)]

    def forward(self, name: str, x: Any) -> Any:
        return {"layers": self.layers[0], "hidden": self.hidden[0]}.get(name, getattr(self, name))(x)


IMAGE = jnp.ones((1, 1, 8, 8))


def net(body: Callable[[Any, Any], Any] = lambda module, x: x + jnp.ones(5)) -> Net:
    return Net(body)


def run_jit(net: Net, name: str) -> Any:
    return jm.jit(lambda net, x: net(name, x))(net, IMAGE)


def run_functional(net: Net, name: str) -> Any:
    apply, params, state = jm.functionalize(net)
    return jax.jit(lambda params, state, x: apply(params, state, name, x))(params, state, IMAGE)


RUNS = {
    "eager": lambda net, name: net(name, IMAGE),
    "jit": run_jit,
    "grad": lambda net, name: jm.grad(lambda net: net(name, IMAGE).sum())(net),
    "jit of grad": lambda net, name: jm.jit(jm.grad(lambda net: net(name, IMAGE).sum()))(net),
    "functionalize": run_functional,
    "eval_shape": lambda net, name: jm.eval_shape(lambda: net(name, IMAGE)),
    "jax.checkpoint": lambda net, name: jm.jit(lambda net: jax.checkpoint(lambda x: net(name, x))(IMAGE))(net),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_shape_error_names_the_path_under_every_transform(run: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?m)^Given groups=1, .* instead \(in Net\.features\.2 \(Conv2d\)\)$"):
        run(net(), "features")


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_an_error_of_jax_in_user_code_names_the_path(run: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"(?m)shapes.*\(in Net\.inner \(Custom\)\)$"):
        run(net(), "inner")


@pytest.mark.parametrize("name, path", [("layers", "Net.layers.0"), ("hidden", "Net.Linear")])
def test_the_path_tells_containers_and_modules_that_are_not_registered(name: str, path: str) -> None:
    with pytest.raises(RuntimeError, match=rf"mat1 and mat2 .* \(in {re.escape(path)} \(Linear\)\)$"):
        net()(name, IMAGE)


def refuse(kind: type[Exception]) -> Callable[[Any, Any], Any]:
    def body(module: Any, x: Any) -> Any:
        raise kind("mine", 7)

    return body


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, KeyError])
@pytest.mark.parametrize("run", [RUNS["eager"], RUNS["jit"]], ids=["eager", "jit"])
def test_what_user_code_raises_stays_to_the_letter(run: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="mine") as caught:
        run(net(refuse(kind)), "inner")
    assert caught.value.args == ("mine", 7)


def test_a_failed_assertion_of_the_user_stays_to_the_letter() -> None:
    def body(module: Any, x: Any) -> Any:
        assert x.ndim == 2, "mine"

    with pytest.raises(AssertionError, match=r"^mine(?!.*in Net)"):
        net(body)("inner", IMAGE)


def test_a_module_that_no_other_calls_has_no_path() -> None:
    with pytest.raises(RuntimeError, match=r"shape \[2, 5\]$"):
        nn.Linear(3, 4)(jnp.ones((2, 5)))


def test_an_error_caught_in_between_and_raised_again_tells_its_path_once() -> None:
    def body(module: Any, x: Any) -> Any:
        try:
            return module.inside(x)
        except RuntimeError as error:
            assert str(error).endswith("(in Sequential.0 (Linear))")
            raise

    outer = net(body)
    outer.inner.inside = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match=r"8\] \(in Net\.inner\.inside\.0 \(Linear\)\)$"):
        outer("inner", IMAGE)


def test_the_cause_of_an_error_stays_with_the_path_it_had() -> None:
    def body(module: Any, x: Any) -> Any:
        try:
            return module.inside(x)
        except RuntimeError as error:
            raise ValueError("mine") from error

    outer = net(body)
    outer.inner.inside = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="^mine$") as caught:
        outer("inner", IMAGE)
    assert str(caught.value.__cause__).endswith("(in Sequential.0 (Linear))")


def test_an_error_whose_message_is_no_argument_of_it_gets_a_note() -> None:
    def body(module: Any, x: Any) -> Any:
        return b"\xff".decode()

    with pytest.raises(UnicodeDecodeError, match="(?m)invalid start byte$") as caught:
        net(body)("inner", IMAGE)
    assert caught.value.__notes__[-1] == "(in Net.inner (Custom))"


def test_the_path_of_a_module_under_grad_of_a_loss_is_that_of_the_net() -> None:
    def loss(net: Net, x: Any) -> Any:
        return F.mse_loss(net("layers", x), x)

    with pytest.raises(RuntimeError, match=r"(?m)\(in Net\.layers\.0 \(Linear\)\)$"):
        jm.jit(jm.value_and_grad(loss))(net(), IMAGE)
