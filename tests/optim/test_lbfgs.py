"""LBFGS goes where torch's goes, in a Python loop and in a compiled one."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.optim.lbfgs import _strong_wolfe

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.optim import _wolfe
from tests.optim.helpers import draw, loss_of, mlp, to_torch, values

# Those of torch.testing._internal.common_optimizers come first, then more.
SEARCH = {"line_search_fn": "strong_wolfe"}
LBFGS: list[dict[str, Any]] = [
    {}, {"lr": 0.01}, {"lr": 0.001}, {"tolerance_grad": 1e-6}, SEARCH, {**SEARCH, "max_iter": 4, "history_size": 2},
    {**SEARCH, "max_iter": 1}, {**SEARCH, "max_eval": 2, "lr": 0.3}, {"lr": 0.1, "max_iter": 3, "history_size": 1},
    {**SEARCH, "lr": 1e-3, "tolerance_change": 1e-4}, {"max_iter": 1}, {"max_eval": 3, "lr": 0.5},
]  # fmt: skip


def rosenbrock(x: Any, y: Any) -> Any:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + (y**2).sum()


def quadratic(x: Any, y: Any) -> Any:
    return (x[0] - 3) ** 2 + 0.5 * (x[1] + x[0]) ** 2 + sum((i + 1.5) * y[i] ** 2 - y[i] * y[0] for i in range(3))


class Twins:
    """Equal parameters of a function of two vectors under our LBFGS and torch's."""

    def __init__(self, function: Callable[..., Any] = rosenbrock, dtype: str = "float32", **kwargs: Any) -> None:
        start = [np.array([-1.2, 1.0]), np.array([0.3, -0.2, 0.5])]
        self.function = function
        self.both = jax.jit(jax.value_and_grad(function, (0, 1)))
        self.ours = [nn.Parameter(jnp.asarray(a, dtype)) for a in start]
        self.theirs = [torch.nn.Parameter(torch.tensor(a, dtype=getattr(torch, dtype))) for a in start]
        self.optimizer = jm.optim.LBFGS(self.ours, **kwargs)
        self.oracle = torch.optim.LBFGS(self.theirs, **kwargs)
        self.traces = 0
        self.compiled = jm.jit(self.step)

    def step(self, optimizer: Any, x: Any, y: Any) -> Any:
        self.traces += 1

        def closure() -> tuple[Any, list[Any]]:
            loss, grads = self.both(x.value, y.value)
            return loss, [*grads]

        return optimizer.step(closure)

    def closure(self) -> torch.Tensor:
        self.oracle.zero_grad()
        loss = self.function(*self.theirs)
        loss.backward()
        return loss

    def train(self, steps: int, tolerance: float, compiled: bool = False) -> None:
        for _ in range(steps):
            expected = self.oracle.step(self.closure).item()
            loss = (self.compiled if compiled else self.step)(self.optimizer, *self.ours)
            np.testing.assert_allclose(float(loss), expected, rtol=tolerance, atol=tolerance)
            for ours, theirs in zip(self.ours, self.theirs, strict=True):
                np.testing.assert_allclose(ours.value, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)

    def check_state(self, tolerance: float) -> None:
        (ours,), (theirs,) = self.optimizer.state.values(), self.oracle.state.values()
        assert sorted(ours) == sorted(theirs)
        for name, value in ours.items():
            if name != "al":
                np.testing.assert_allclose(value, _plain(theirs[name]), rtol=tolerance, atol=tolerance, err_msg=name)
            else:
                assert [a is None for a in value] == [a is None for a in theirs[name]]


def _plain(value: Any) -> Any:
    return [np.asarray(v) for v in value] if isinstance(value, list) else np.asarray(value)


advance = jax.jit(_wolfe.advance)


def search(seed: int, limit: int, tolerance: float) -> tuple[list[float], list[float]]:
    """Search along a wavy line that ends in NaN; return the step, the loss and the evaluations of ours and torch's."""
    rng = np.random.default_rng(seed)
    waves, phases, direction = 3 * rng.standard_normal((4, 2)), rng.uniform(0, 6, 4), rng.uniform(0.1, 3)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = waves.T @ np.cos(waves @ x + phases) + 0.02 * x
        return (float(np.sin(waves @ x + phases).sum() + 0.01 * x @ x), gradient) if abs(x).max() < 20 else (np.nan, x)

    start, step = rng.standard_normal(2), float(rng.choice([1e-3, 0.1, 1.0, 10.0]))
    loss, gradient = function(start)
    d = -gradient * direction
    tensors = torch.tensor(d), loss, torch.tensor(gradient), torch.tensor(gradient @ d)

    def evaluate(x: Any, t: Any, d: Any) -> tuple[float, torch.Tensor]:
        loss, gradient = function(x + float(t) * d.numpy())
        return loss, torch.tensor(gradient)

    their_loss, _, t, evaluations = _strong_wolfe(
        evaluate, start, step, *tensors, tolerance_change=tolerance, max_ls=limit
    )
    base = _wolfe.Place(*map(jnp.asarray, (0.0, loss, gradient, gradient @ d)))
    ours, is_over = _wolfe.start(base, jnp.asarray(step)), False
    while not is_over:
        loss, gradient = function(start + float(ours.step) * d)
        new = _wolfe.Place(*map(jnp.asarray, (ours.step, loss, gradient, gradient @ d)))
        ours, is_over = advance(ours, base, new, limit, tolerance, abs(d).max())
    found = [float(ours.low.step), float(ours.low.loss), int(ours.evaluations)]
    return found, [float(t), float(their_loss), evaluations]


X64 = """
import jax
jax.config.update("jax_enable_x64", True)
from itertools import product
import numpy as np
from tests.optim.test_lbfgs import LBFGS, SEARCH, Twins, quadratic, search
for seed, (limit, tolerance) in product(range(8), ((0, 1e-9), (2, 1e-9), (25, 1e-9), (25, 0.1))):
    np.testing.assert_allclose(*search(seed, limit, tolerance), rtol=1e-6, err_msg=f"{seed} {limit} {tolerance}")
for kwargs in LBFGS:
    twins = Twins(dtype="float64", **kwargs)
    twins.train(50, 1e-6)
    twins.check_state(1e-5)
for kwargs in ({"lr": 0.1, "max_iter": 5}, SEARCH):
    twins = Twins(quadratic, "float64", **kwargs)
    twins.train(50, 1e-9, compiled=True)
    twins.check_state(1e-6)
    assert twins.traces == 1
"""


def test_searches_and_every_configuration_take_the_steps_of_torch_in_float64() -> None:
    subprocess.run([sys.executable, "-c", X64], check=True, timeout=240)


@pytest.mark.parametrize(("kwargs", "compiled"), [({"lr": 0.001}, False), (SEARCH, True)], ids=str)
def test_steps_in_float32(kwargs: dict[str, Any], compiled: bool) -> None:
    twins = Twins(quadratic, max_iter=3, **kwargs)
    twins.train(2, 1e-4, compiled)
    twins.check_state(1e-3)


@pytest.mark.parametrize("steps", [1, 4], ids=["one step", "several"])
def test_state_dicts_are_exchanged_in_mid_training(steps: int) -> None:
    twins = Twins(quadratic, max_iter=2, lr=0.1, history_size=3)
    twins.train(steps, 1e-4)
    ours, theirs = twins.optimizer.state_dict(), twins.oracle.state_dict()
    twins.optimizer = jm.optim.LBFGS(twins.ours, history_size=3)
    twins.oracle = torch.optim.LBFGS(twins.theirs, history_size=3)
    twins.optimizer.load_state_dict(theirs)
    twins.oracle.load_state_dict(to_torch(ours))
    twins.train(2, 1e-4)
    twins.check_state(1e-3)


def test_a_restored_optimizer_goes_on_where_the_saved_one_was() -> None:
    twins = Twins(quadratic, max_iter=3, **SEARCH)
    twins.train(2, 1e-4)
    again = jm.optim.LBFGS(twins.ours, **SEARCH)
    again.load_state_dict(twins.optimizer.state_dict())
    before = values(twins.ours)
    twins.step(twins.optimizer, *twins.ours)
    expected = values(twins.ours)
    for box, value in zip(twins.ours, before, strict=True):
        box.value = jnp.asarray(value)
    twins.step(again, *twins.ours)
    for got, value in zip(values(twins.ours), expected, strict=True):
        np.testing.assert_array_equal(got, value)


def test_the_history_may_change_its_size() -> None:
    twins = Twins(quadratic, max_iter=4, lr=0.1)
    twins.train(2, 1e-4)
    newest = twins.optimizer.state[twins.ours[0]]["ro"][-1]
    twins.optimizer.param_groups[0].update(history_size=3, max_iter=2)
    twins.step(twins.optimizer, *twins.ours)
    state = twins.optimizer.state[twins.ours[0]]
    assert (len(state["ro"]), len(state["al"]), state["n_iter"]) == (3, 3, 10)
    assert state["ro"][0] == newest


def test_at_an_optimum_nothing_moves() -> None:
    parameter = nn.Parameter(jnp.ones(2, jnp.float32))
    optimizer = jm.optim.LBFGS([parameter])
    loss = optimizer.step(lambda: (jnp.float32(7.0), [jnp.zeros(2, jnp.float32)]))
    assert float(loss) == 7
    assert optimizer.state_dict()["state"] == {0: {"func_evals": 1, "n_iter": 0}}
    assert parameter.tolist() == [1, 1]


def test_there_is_no_state_before_the_first_step() -> None:
    optimizer = jm.optim.LBFGS(mlp())
    jm.jit(lambda optimizer: optimizer.zero_grad())(optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_an_eager_closure_is_an_ordinary_function() -> None:
    net, losses = mlp(), []
    optimizer = jm.optim.LBFGS(net, lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        losses.append(float(jm.backward(lambda: loss_of(net), net)))
        return losses[-1]

    assert optimizer.step(closure) == losses[0]
    assert losses[-1] < 0.9 * losses[0]
    assert len(losses) == optimizer.state_dict()["state"][0]["func_evals"]


def test_both_kinds_of_closures_take_the_same_steps_eagerly_and_compiled() -> None:
    def with_gradients(net: Any, optimizer: Any) -> Any:
        return optimizer.step(lambda: jm.value_and_grad(loss_of)(net))

    def with_grad_attributes(net: Any, optimizer: Any) -> Any:
        def closure() -> Any:
            optimizer.zero_grad()
            return jm.backward(lambda: loss_of(net), net)

        return optimizer.step(closure)

    results = []
    for step in (
        with_gradients,
        jm.jit(with_gradients, donate=True),
        with_grad_attributes,
        jm.jit(with_grad_attributes),
    ):
        net = mlp()
        optimizer = jm.optim.LBFGS(net, max_iter=3, **SEARCH)
        results.append([float(step(net, optimizer)) for _ in range(2)])
    for losses in results:
        np.testing.assert_allclose(losses, results[0], rtol=1e-3)
        assert losses[1] < 0.8 * losses[0]


def test_buffers_and_random_draws_go_through_the_compiled_loop() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = jm.optim.LBFGS(net, lr=0.01, max_iter=5)
    key = jm.random.current_generator()._key.value
    jm.jit(lambda net, optimizer: optimizer.step(lambda: jm.value_and_grad(loss_of)(net)))(net, optimizer)
    evaluations = optimizer.state_dict()["state"][0]["func_evals"]
    assert int(net[1].num_batches_tracked) == evaluations == 5
    assert not np.array_equal(key, jm.random.current_generator()._key.value)


def test_settings_change_between_compiled_steps_without_a_retrace() -> None:
    twins = Twins(quadratic, max_iter=3, lr=0.1)
    for lr in (0.1, 0.05, 0.02):
        for group in (twins.optimizer.param_groups[0], twins.oracle.param_groups[0]):
            group.update(lr=lr, max_iter=4, max_eval=3, tolerance_grad=1e-3)
        twins.train(1, 1e-4, compiled=True)
    assert twins.traces == 1


def test_a_schedule_counts_steps() -> None:
    net = mlp()
    optimizer = jm.optim.LBFGS(net, lr=lambda step: 0.5 / (1 + step), max_iter=2)
    optimizer.step(lambda: jm.value_and_grad(loss_of)(net))
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_frozen_parameters_and_those_without_a_gradient_stay() -> None:
    net, other = mlp(), nn.Parameter(jnp.ones(2, jnp.float32))
    net[0].bias.requires_grad = False
    frozen = net[0].bias.numpy()
    optimizer = jm.optim.LBFGS([*net.parameters(), other], max_iter=3)
    before, after = (float(optimizer.step(lambda: jm.value_and_grad(loss_of)(net))) for _ in range(2))
    assert after < before
    np.testing.assert_array_equal(net[0].bias.numpy(), frozen)
    assert other.tolist() == [1, 1]


def squared(gap: Any) -> Any:
    return (abs(gap) ** 2).sum()


@pytest.mark.parametrize("kwargs", [SEARCH, {"lr": 0.1}], ids=str)
def test_complex_parameters_are_pairs_of_real_ones(kwargs: dict[str, Any]) -> None:
    (start,), target = draw(0, [(3,)]), 1 + 2j
    parameter = nn.Parameter(jnp.asarray(start, jnp.complex64))
    theirs = torch.nn.Parameter(torch.tensor(start).to(torch.complex64))
    optimizer, oracle = jm.optim.LBFGS([parameter], **kwargs), torch.optim.LBFGS([theirs], **kwargs)

    def closure() -> torch.Tensor:
        oracle.zero_grad()
        loss = squared(theirs - target)
        loss.backward()
        return loss

    oracle.step(closure)
    optimizer.step(lambda: (squared(parameter.value - target), [2 * (parameter.value - target)]))
    np.testing.assert_allclose(parameter.value, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
    assert optimizer.state[parameter]["d"].shape == (6,)


def test_parameters_of_several_dtypes_keep_them() -> None:
    boxes = [nn.Parameter(jnp.ones(2, dtype)) for dtype in (jnp.bfloat16, jnp.float32)]
    optimizer = jm.optim.LBFGS(boxes, max_iter=20)
    loss = jm.value_and_grad(lambda a, b: ((a.value - 3) ** 2).sum().astype(jnp.float32) + (b.value**2).sum(), (0, 1))
    optimizer.step(lambda: (lambda pair: (pair[0], [*pair[1]]))(loss(*boxes)))
    assert [box.dtype.name for box in boxes] == ["bfloat16", "float32"]
    np.testing.assert_allclose(np.asarray(boxes[0].value, np.float32), 3, atol=0.05)


def test_an_error_in_the_closure_leaves_everything_as_it_was() -> None:
    net, calls = mlp(), []
    optimizer = jm.optim.LBFGS(net, lr=0.1)
    before = values(net)

    def closure() -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt("here")
        return jm.value_and_grad(loss_of)(net)

    with pytest.raises(KeyboardInterrupt, match="here"):
        optimizer.step(closure)
    for now, value in zip(values(net), before, strict=True):
        np.testing.assert_array_equal(now, value)
    assert optimizer.state_dict()["state"] == {}


def two_groups() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(jnp.ones(2))]} for _ in range(2)]


def test_there_is_one_group() -> None:
    with pytest.raises(ValueError, match=r"LBFGS doesn't support per-parameter options \(parameter groups\)"):
        jm.optim.LBFGS(two_groups())


def test_a_group_that_was_added_is_refused_on_a_step() -> None:
    first, second = two_groups()
    optimizer = jm.optim.LBFGS([first])
    optimizer.add_param_group(second)
    with pytest.raises(AssertionError, match="Expected exactly one param_group, but got 2"):
        optimizer.step(lambda: None)


@pytest.mark.parametrize(
    ("kwargs", "closure", "error", "message"),
    [
        ({"line_search_fn": "armijo"}, lambda: 1.0, RuntimeError, "only 'strong_wolfe' is supported"),
        ({}, None, TypeError, "expects a closure .* got NoneType"),
        ({}, lambda: None, TypeError, "must return the loss, got None"),
    ],
    ids=["search", "no closure", "no loss"],
)
def test_what_a_step_refuses(kwargs: dict[str, Any], closure: Any, error: type[Exception], message: str) -> None:
    optimizer = jm.optim.LBFGS([nn.Parameter(jnp.ones(2))], **kwargs)
    with pytest.raises(error, match=message):
        optimizer.step(closure)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"step": 1.0}, ValueError, "has no 'func_evals', only 'step': is it that of another optimizer"),
        ({"func_evals": 1, "n_iter": 1, "d": np.ones(3)}, RuntimeError, r"d has shape \(3,\) .* expected \(2,\)"),
    ],
    ids=["another", "shape"],
)
def test_refused_state(state: dict[str, Any], error: type[Exception], message: str) -> None:
    optimizer = jm.optim.LBFGS([nn.Parameter(jnp.ones(2))])
    with pytest.raises(error, match=message):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})


def test_lazy_modules_find_their_shapes_in_the_first_step() -> None:
    net = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    optimizer = jm.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    step = jm.jit(lambda net, optimizer: optimizer.step(lambda: jm.value_and_grad(loss_of)(net)))
    first, second = float(step(net, optimizer)), float(step(net, optimizer))
    assert second < first
