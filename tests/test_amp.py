"""``GradScaler`` against torch's: the same scales and steps with gradients that overflow, eagerly and compiled."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.optim.helpers import values

SETTINGS = {"init_scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2}
BATCHES = [1.0, 2.0, np.inf, 1.0, -1.0, np.nan, 3.0, 1.0, 1.0, 1.0]


def build(name: str, **settings: Any) -> tuple[Any, Any, Any]:
    """Make a small problem: a net, its optimizer and a scaler."""
    net = nn.Linear(2, 1)
    net.load_state_dict({"weight": np.array([[0.5, -0.25]], np.float32), "bias": np.zeros(1, np.float32)})
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(jm.optim, name)(net.parameters(), lr=0.1, **momentum)
    return net, optimizer, jm.amp.GradScaler("cpu", **(SETTINGS | settings))


def expected(name: str, batches: list[Any] = BATCHES) -> tuple[list[Any], dict[str, Any]]:
    """Return torch's scales and parameters after each step, and the state of its scaler."""
    net = torch.nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -0.25]]))
        net.bias.zero_()
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1, **momentum)
    scaler, history = torch.amp.GradScaler("cpu", **SETTINGS), []
    for batch in batches:
        optimizer.zero_grad()
        scaler.scale((net(torch.tensor([[batch, 1.0]])) ** 2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        history.append((scaler.get_scale(), net.weight.detach().numpy().copy()))
    return history, scaler.state_dict()


def loss_of(net: Any, x: Any) -> Any:
    return (net(x) ** 2).sum()


def with_grad(net: Any, optimizer: Any, scaler: Any, x: Any) -> None:
    optimizer.zero_grad()
    jm.backward(lambda: scaler.scale(loss_of(net, x)), net)
    scaler.step(optimizer)
    scaler.update()


def with_dict(net: Any, optimizer: Any, scaler: Any, x: Any) -> None:
    _, grads = jm.value_and_grad(lambda net: scaler.scale(loss_of(net, x)))(net)
    scaler.step(optimizer, grads)
    scaler.update()


def unscaled_first(net: Any, optimizer: Any, scaler: Any, x: Any) -> None:
    _, grads = jm.value_and_grad(lambda net: scaler.scale(loss_of(net, x)))(net)
    scaler.step(optimizer, scaler.unscale(optimizer, grads))
    scaler.update()


def unscaled_in_place(net: Any, optimizer: Any, scaler: Any, x: Any) -> None:
    optimizer.zero_grad()
    jm.backward(lambda: scaler.scale(loss_of(net, x)), net)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1e6)
    scaler.step(optimizer)
    scaler.update()


STEPS = [("SGD", with_dict), *(("Adam", step) for step in (with_grad, with_dict, unscaled_first, unscaled_in_place))]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("name", "step"), STEPS, ids=lambda value: getattr(value, "__name__", value))
def test_steps_are_those_of_torch(name: str, step: Callable[..., None], compile_it: bool) -> None:
    net, optimizer, scaler = build(name)
    step = jm.jit(step, donate=True) if compile_it else step
    history, state = expected(name)
    for batch, (scale, weight) in zip(BATCHES, history, strict=True):
        step(net, optimizer, scaler, jnp.array([[batch, 1.0]], jnp.float32))
        assert scaler.get_scale() == scale
        np.testing.assert_allclose(net.weight.numpy(), weight, rtol=1e-5, atol=1e-6)
    assert scaler.state_dict() == state
    assert {name: type(value) for name, value in scaler.state_dict().items()} == {k: type(v) for k, v in state.items()}


def test_nothing_is_traced_again() -> None:
    net, optimizer, scaler = build("Adam", growth_interval=5)
    traces = []
    step = jm.jit(lambda *args: traces.append(1) or with_dict(*args))
    for batch in BATCHES[:4]:
        step(net, optimizer, scaler, jnp.array([[batch, 1.0]], jnp.float32))
    settled = len(traces)
    scaler.set_growth_factor(2.0)
    scaler.set_backoff_factor(0.5)
    scaler.set_growth_interval(2)
    scaler.update(4.0)
    for batch in (1.0, np.inf, np.inf):
        step(net, optimizer, scaler, jnp.array([[batch, 1.0]], jnp.float32))
    assert len(traces) == settled <= 2
    assert scaler.get_scale() == 2.0


def test_a_step_left_out_leaves_counts_and_schedules_alone() -> None:
    net = nn.Linear(2, 1)
    optimizer = jm.optim.Adam(net.parameters(), lr=optax.linear_schedule(1.0, 0.0, 4))
    scaler, step = jm.amp.GradScaler("cpu"), jm.jit(with_dict)
    for batch in (1.0, np.inf, 1.0, np.nan):
        step(net, optimizer, scaler, jnp.array([[batch, 1.0]], jnp.float32))
    assert [float(own["step"]) for own in optimizer.state_dict()["state"].values()] == [2, 2]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_iteration_in_several_functions() -> None:
    net, optimizer, scaler = build("Adam")
    history, _ = expected("Adam")
    x = jnp.array([[1.0, 1.0]], jnp.float32)
    gradient = jm.jit(lambda net, scaler, x: jm.grad(lambda net: scaler.scale(loss_of(net, x)))(net))
    unscale = jm.jit(lambda scaler, optimizer, grads: scaler.unscale(optimizer, grads))
    step = jm.jit(lambda scaler, optimizer, grads: scaler.step(optimizer, grads))
    for batch, (scale, weight) in zip(BATCHES[:4], history, strict=False):
        x = jnp.array([[batch, 1.0]], jnp.float32)
        step(scaler, optimizer, unscale(scaler, optimizer, gradient(net, scaler, x)))
        with pytest.raises(RuntimeError, match="step\\(\\) has already been called since the last update"):
            scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        np.testing.assert_allclose(net.weight.numpy(), weight, rtol=1e-5)


def test_one_bad_optimizer_of_two_lowers_the_scale() -> None:
    (net, optimizer, scaler), (other, its_optimizer, _) = build("SGD"), build("SGD")

    @jm.jit
    def step(net: Any, other: Any, optimizer: Any, its_optimizer: Any, scaler: Any, x: Any) -> None:
        loss = lambda net, other: scaler.scale(loss_of(net, x) + loss_of(other, 2 * x / x))  # noqa: E731 - one line
        grads = jm.grad(loss, argnums=(0, 1))(net, other)
        scaler.step(optimizer, grads[0])
        scaler.step(its_optimizer, grads[1])
        scaler.update()

    before, its_before = values(net), values(other)
    step(net, other, optimizer, its_optimizer, scaler, jnp.full((1, 2), 1e30, jnp.float32))
    assert scaler.get_scale() == 2.0
    assert all((a == b).all() for a, b in zip(before, values(net), strict=True))
    assert not any((a == b).all() for a, b in zip(its_before, values(other), strict=True))


def test_float16_training_keeps_small_gradients() -> None:
    net, optimizer, scaler = build("SGD", init_scale=2.0**12)

    @jm.jit
    def grads_of(net: Any, scaler: Any, x: Any) -> Any:
        with jm.autocast("float16"):
            plain = jm.grad(lambda net: 1e-6 * F.mse_loss(net(x), jnp.zeros((1, 1), jnp.float32)))(net)
            scaled = jm.grad(lambda net: scaler.scale(1e-6 * F.mse_loss(net(x), jnp.zeros((1, 1), jnp.float32))))(net)
        return plain, scaled

    plain, scaled = grads_of(net, scaler, jnp.full((1, 2), 1e-3, jnp.float32))
    exact = jm.grad(lambda net: 1e-6 * (net(jnp.full((1, 2), 1e-3, jnp.float32)) ** 2).sum())(net)
    unscaled = scaler.unscale(optimizer, scaled)
    assert list(unscaled) == list(scaled)
    np.testing.assert_allclose(unscaled["bias"], exact["bias"], rtol=2e-2)
    assert (plain["bias"] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_scaled_outputs_have_the_types_of_torch(shape: tuple[int, ...], dtype: str) -> None:
    scaler, oracle = (library.amp.GradScaler("cpu", init_scale=4.0) for library in (jm, torch))
    ours = scaler.scale([jnp.ones(shape, dtype), (jnp.ones(shape, dtype),)])
    theirs = oracle.scale([torch.ones(shape, dtype=getattr(torch, dtype)), (torch.ones(1),)])
    assert str(ours[0].dtype) == str(theirs[0].dtype).removeprefix("torch.")
    assert isinstance(ours, list)
    assert isinstance(ours[1], tuple)
    assert ours[0].tolist() == theirs[0].tolist()


MISUSES: dict[str, tuple[type[Exception], str, str]] = {
    "step first": (AssertionError, "Attempted step but _scale is None", "scaler.step(optimizer)"),
    "update first": (AssertionError, "Attempted update but _scale is None", "scaler.update()"),
    "unscale first": (AssertionError, "Attempted unscale_ but _scale is None", "scaler.unscale_(optimizer)"),
    "two steps": (RuntimeError, r"step\(\) has already been called",
                  "loss(); scaler.step(optimizer); scaler.step(optimizer)"),
    "unscaled twice": (RuntimeError, r"unscale_\(\) has already been called",
                       "loss(); scaler.unscale_(optimizer); scaler.unscale_(optimizer)"),
    "unscaled late": (RuntimeError, r"unscale_\(\) is being called after step",
                      "loss(); scaler.step(optimizer); scaler.unscale_(optimizer)"),
    "closure": (RuntimeError, "Closure use is not currently supported", "loss(); scaler.step(optimizer, closure=max)"),
    "no gradients": (AssertionError, "No inf checks were recorded for this optimizer",
                     "loss(); optimizer.zero_grad(); scaler.step(optimizer)"),
    "no step": (AssertionError, "No inf checks were recorded prior to update", "loss(); scaler.update()"),
    "pickled": (AssertionError, "may only be pickled at the beginning",
                "loss(); scaler.step(optimizer); pickle.dumps(scaler)"),
    "empty state": (RuntimeError, "The source state dict is empty", "scaler.load_state_dict({})"),
    "no growth": (AssertionError, "The growth factor must be > 1.0.", "GradScaler('cpu', growth_factor=1.0)"),
    "no backoff": (AssertionError, "The backoff factor must be < 1.0.", "GradScaler('cpu', backoff_factor=1.0)"),
    "no array": (ValueError, "outputs must be a Tensor or an iterable of Tensors", "scaler.scale(1)"),
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_refused_as_by_torch(misuse: str) -> None:
    error, match, code = MISUSES[misuse]
    net, optimizer, scaler = build("SGD")
    its_net = torch.nn.Linear(2, 1)
    oracle, its_scaler = torch.optim.SGD(its_net.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0)
    scopes = [
        {"loss": lambda: jm.backward(lambda: scaler.scale(loss_of(net, jnp.ones((1, 2), jnp.float32))), net)},
        {"loss": lambda: its_scaler.scale(loss_of(its_net, torch.ones(1, 2))).backward()},
    ]
    scopes[0] |= {"scaler": scaler, "optimizer": optimizer, "GradScaler": jm.amp.GradScaler}
    scopes[1] |= {"scaler": its_scaler, "optimizer": oracle, "GradScaler": torch.amp.GradScaler}
    for scope in scopes:
        with pytest.raises(error, match=match):
            exec(code, {"pickle": pickle, **scope})


def test_an_optimizer_made_in_a_compiled_function_is_refused() -> None:
    net, _, scaler = build("Adam")
    step = jm.jit(lambda net, scaler, x: with_dict(net, jm.optim.Adam(net.parameters()), scaler, x))
    with pytest.raises(RuntimeError, match="made in a compiled function has no state .*: make it outside"):
        step(net, scaler, jnp.ones((1, 2), jnp.float32))


def test_gradients_of_float16_are_refused() -> None:
    weight, scaler = nn.Parameter(jnp.ones(2, jnp.float16)), jm.amp.GradScaler("cpu")
    optimizer = jm.optim.SGD([weight])
    scaler.scale(jnp.ones(()))
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients."):
        scaler.step(optimizer, [jnp.ones(2, jnp.float16)])


def test_a_scaler_that_is_not_enabled_steps_as_ever() -> None:
    net, optimizer, scaler = build("SGD", enabled=False)
    (other, its_optimizer, _) = build("SGD")
    x = jnp.ones((1, 2), jnp.float32)
    jm.jit(with_dict)(net, optimizer, scaler, x)
    its_optimizer.step(jm.grad(loss_of)(other, x))
    assert all((a == b).all() for a, b in zip(values(net), values(other), strict=True))
    assert (scaler.get_scale(), scaler.state_dict(), scaler.is_enabled()) == (1.0, {}, False)


def test_without_the_device_it_is_not_enabled() -> None:
    for library in (jm, torch):
        with pytest.warns(UserWarning, match="CUDA is not available.  Disabling."):
            scaler = library.amp.GradScaler()
        assert not scaler.is_enabled()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda scaler: pickle.loads(pickle.dumps(scaler))])
def test_copies_and_states_carry_on(clone: Callable[[Any], Any]) -> None:
    net, optimizer, scaler = build("Adam")
    history, state = expected("Adam", BATCHES[:5])
    for batch in BATCHES[:3]:
        with_dict(net, optimizer, scaler, jnp.array([[batch, 1.0]], jnp.float32))
    twin = clone(scaler)
    again = jm.amp.GradScaler("cpu")
    again.load_state_dict(twin.state_dict())
    for batch in BATCHES[3:5]:
        with_dict(net, optimizer, again, jnp.array([[batch, 1.0]], jnp.float32))
    assert again.state_dict() == state
    assert twin.state_dict() == scaler.state_dict()


def test_a_scale_that_would_overflow_stays() -> None:
    weight, its_weight = nn.Parameter(jnp.ones(1, jnp.float32)), torch.nn.Parameter(torch.ones(1))
    optimizer, oracle = jm.optim.SGD([weight]), torch.optim.SGD([its_weight])
    scalers = [library.amp.GradScaler("cpu", 2.0**124, 8.0, growth_interval=1) for library in (jm, jm, torch)]

    def step(scaler: Any, optimizer: Any) -> None:
        scaler.scale(jnp.zeros((), jnp.float32))
        scaler.step(optimizer, [jnp.zeros(1, jnp.float32)])
        scaler.update()

    its_weight.grad = torch.zeros(1)
    for _ in range(3):
        step(scalers[0], optimizer)
        jm.jit(step)(scalers[1], optimizer)
        scalers[2].scale(torch.zeros(()))
        scalers[2].step(oracle)
        scalers[2].update()
        assert scalers[0].get_scale() == scalers[1].get_scale() == scalers[2].get_scale()


def test_steps_in_a_scan() -> None:
    net, optimizer, scaler = build("Adam")
    history, state = expected("Adam")

    @jm.jit
    def train(net: Any, optimizer: Any, scaler: Any, xs: Any) -> Any:
        return jm.scan(lambda _, x: (_, with_dict(net, optimizer, scaler, x) or scaler.get_scale()), None, xs)[1]

    scales = train(net, optimizer, scaler, jnp.array([[[batch, 1.0]] for batch in BATCHES], jnp.float32))
    assert scales.tolist() == [scale for scale, _ in history]
    assert scaler.state_dict() == state
