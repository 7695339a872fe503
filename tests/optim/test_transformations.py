"""``Optimizer(net, tx)``: any optax transformation, with the numbers of a plain optax loop."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.helpers import X, mlp, train_step, values


def weights(params: dict[str, Any]) -> dict[str, bool]:
    return {name: "weight" in name for name in params}


def labels(params: dict[str, Any]) -> dict[str, str]:
    return {name: "adam" if "weight" in name else "sgd" for name in params}


DECAY = optax.exponential_decay(0.1, 1, 0.5)
TRANSFORMATIONS = {
    "chain": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
    "masked": optax.chain(optax.masked(optax.add_decayed_weights(0.1), weights), optax.sgd(0.1, 0.9)),
    "multi_transform": optax.multi_transform({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1, 0.9)}, labels),
    "schedule": optax.adam(DECAY),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=DECAY),
    "two traces": optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1)),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "multi_steps": optax.MultiSteps(optax.adam(0.1), 2),
    "lion": optax.lion(0.01),
}
every_transformation = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def optax_loop(net: nn.Module, tx: Any, steps: int) -> list[np.ndarray]:
    """Train copies of the parameters as one does without this library."""
    apply, params, buffers = jm.functionalize(net)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda p: (apply(p, buffers, X)[0] ** 2).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return [np.asarray(params[name]) for name, _ in net.named_parameters()]


@every_transformation
def test_compiled_steps_are_those_of_an_optax_loop(tx: Any) -> None:
    net = nn.Linear(3, 4)
    expected = optax_loop(net, tx, 3)
    optimizer, step = jm.optim.Optimizer(net, tx), jm.jit(train_step, donate=True)
    for _ in range(3):
        step(net, optimizer)
    for ours, theirs in zip(values(net), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["multi_transform", "adafactor", "inject_hyperparams", "two traces", "multi_steps"])
def test_state_goes_into_another_optimizer(name: str) -> None:
    net, tx = nn.Linear(3, 4), TRANSFORMATIONS[name]
    grads = {name: jnp.ones(p.shape) for name, p in net.named_parameters()}
    optimizer = jm.optim.Optimizer(net, tx)
    optimizer.step(grads)
    twin = copy.deepcopy(net)
    other = jm.optim.Optimizer(twin, tx)
    other.load_state_dict(optimizer.state_dict())
    optimizer.step(grads)
    other.step(grads)
    for ours, theirs in zip(values(net), values(twin), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_injected_hyperparameters_show_in_the_state() -> None:
    net = mlp()
    optimizer = jm.optim.Optimizer(net, optax.inject_hyperparams(optax.sgd)(learning_rate=DECAY))
    train_step(net, optimizer)
    train_step(net, optimizer)
    assert optimizer.state[net[0].bias]["hyperparams"] == 0.05


def test_thawed_parameters_join_the_one_state() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    optimizer, step = jm.optim.Optimizer(net, optax.adam(DECAY)), jm.jit(train_step)
    before = values(net[0])
    step(net, optimizer)
    step(net, optimizer)
    assert list(optimizer.state) == list(net[2].parameters())
    net[0].requires_grad_(True)
    step(net, optimizer)
    assert [int(own["0.count"]) for own in optimizer.state_dict()["state"].values()] == [3, 3, 3, 3]
    assert (np.asarray(net[0].weight) != before[0]).any()


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_a_global_norm_stays_global_when_gradients_are_missing(compile_it: bool) -> None:
    one, other = nn.Parameter(jnp.zeros(1)), nn.Parameter(jnp.zeros(1))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.5), optax.scale(-1.0))
    optimizer = jm.optim.Optimizer([one, other], tx)
    step = lambda optimizer, grads: optimizer.step(grads)  # noqa: E731 - compiled or not
    step = jm.jit(step) if compile_it else step
    step(optimizer, [jnp.ones(1), None])
    step(optimizer, [jnp.full(1, 3.0), jnp.full(1, 4.0)])
    np.testing.assert_allclose([one.value[0], other.value[0]], [-1 - 0.5 - 0.6, -0.8], rtol=1e-6)


def test_a_parameter_without_gradient_does_not_move() -> None:
    one, other = nn.Parameter(jnp.ones(1)), nn.Parameter(jnp.ones(1))
    optimizer = jm.optim.Optimizer([one, other], optax.adamw(0.1, weight_decay=0.5))
    optimizer.step([jnp.ones(1), jnp.ones(1)])
    before, moment = other.value, optimizer.state[other]["mu"]
    optimizer.step([jnp.ones(1), None])
    assert other.value is before
    assert optimizer.state[other]["mu"] is moment


class Lion(jm.optim.Optimizer):
    """What a user writes."""

    def __init__(self, params: Any, lr: float = 0.1, clip: bool = False) -> None:
        super().__init__(params, {"lr": lr, "clip": clip})

    def rule(self, *, lr: Any, clip: bool) -> optax.GradientTransformation:
        return optax.chain(optax.clip(0.1), optax.lion(lr)) if clip else optax.lion(lr)


def test_a_recipe_of_ones_own() -> None:
    net = mlp()
    expected = optax_loop(net, optax.lion(0.05), 2)
    optimizer, step = Lion(net, lr=0.1), jm.jit(train_step)
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    step(net, optimizer)
    train_step(net, optimizer)
    for ours, theirs in zip(values(net), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_recipe_keeps_its_state_when_a_static_setting_changes_its_shape() -> None:
    net = mlp()
    optimizer = Lion(net)
    train_step(net, optimizer)
    moment = optimizer.state[net[0].bias]["mu"]
    optimizer.param_groups[0]["clip"] = True
    optimizer.step([None, None, jnp.zeros((2, 4)), None])
    np.testing.assert_array_equal(optimizer.state[net[0].bias]["mu"], moment)


def test_a_recipe_refuses_settings_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentum'"):
        Lion([{"params": mlp().parameters(), "momentum": 0.9}])


class Started(jm.optim.Optimizer):
    """Adagrad whose accumulator starts from what the rule says."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @staticmethod
    def rule(lr: Any) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_rss(0.3), optax.ema(0.9), optax.scale_by_learning_rate(lr))


@pytest.mark.parametrize("start", [Started, lambda params: jm.optim.Optimizer(params, Started.rule(0.1))])
def test_a_rule_starts_where_its_init_says(start: Any) -> None:
    box = nn.Parameter(jnp.ones(2, jnp.float32))
    optimizer = start([box])
    rule = Started.rule(0.1)
    value = jnp.ones(2, jnp.float32)
    state = rule.init(value)
    for _ in range(3):
        optimizer.step([jnp.ones(2, jnp.float32)])
        updates, state = rule.update(jnp.ones(2, jnp.float32), state, value)
        value = optax.apply_updates(value, updates)
    np.testing.assert_allclose(box.value, value, rtol=1e-6)
