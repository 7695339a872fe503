"""``jm.tree`` and back, labels by name pattern, and optax on everything that holds parameters."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, accumulate, arrays, assert_arrays, mlp, plain, same


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 3)
        self.register_buffer("step", jnp.zeros(()), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer1(x))


def tied() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


def names(nested: Any, prefix: str = "") -> set[str]:
    found = ((f"{prefix}{k}", v) for k, v in nested.items())
    return {n for k, v in found for n in (names(v, f"{k}.") if isinstance(v, dict) else [k])}


def test_tree_mirrors_the_submodules() -> None:
    net = Nested()
    nested = jm.tree(net)
    assert nested["layer1"]["0"]["weight"] is net.layer1[0].weight.value
    assert nested["layer1"]["1"]["running_mean"] is net.layer1[1].running_mean
    assert set(nested) == {"layer1", "head", "step"} and set(nested["layer1"]["0"]) == {"weight", "bias"}


@pytest.mark.parametrize("params, buffers", [(True, True), (True, False), (False, True), (False, False)])
def test_tree_lists_what_is_asked_for(params: bool, buffers: bool) -> None:
    net = Nested()
    net.head.bias.requires_grad_(False)
    expected = {n for n, _ in net.named_parameters() if params} | {n for n, _ in net.named_buffers() if buffers}
    assert names(jm.tree(net, params=params, buffers=buffers)) == expected


def test_tied_arrays_are_listed_under_every_name_or_once() -> None:
    net = tied()
    every, once = jm.tree(net), jm.tree(net, remove_duplicate=True)
    assert every["0"]["weight"] is every["1"]["weight"] is once["0"]["weight"]
    assert set(once["1"]) == {"bias"}


def test_update_takes_a_tree_back() -> None:
    net, source = Nested(), Nested()
    source(BATCH)
    assert jm.update(net, jm.tree(source)) is net
    assert_arrays(arrays(net), arrays(source))
    jm.update(net, {"head": {"bias": np.ones(3, np.float32)}, "layer1": {"1.weight": jnp.zeros(3)}})
    same(net.head.bias, np.ones(3))
    same(net.layer1[1].weight, np.zeros(3))


def test_tied_names_may_not_be_given_different_values() -> None:
    net, before = tied(), arrays(tied())
    jm.update(net, before)
    changed = jax.tree.map(lambda a: a, jm.tree(net))
    changed["1"]["weight"] += 1
    with pytest.raises(RuntimeError, match=r"0\.weight and 1\.weight are tied but given different values"):
        jm.update(net, changed)
    assert_arrays(arrays(net), before)
    jm.update(net, {"1": {"weight": changed["1"]["weight"]}})
    same(net[0].weight, changed["1"]["weight"])


WRONG: dict[str, tuple[Any, str]] = {
    "unknown": ({"head": {"wait": jnp.ones(3)}}, r"unexpected head\.wait"),
    "shape": ({"head": {"bias": jnp.ones(4)}}, r"head\.bias has shape \(4,\), expected \(3,\)"),
    "leaf for a module": ({"layer1": jnp.ones(3)}, "unexpected layer1"),
    "module for a leaf": ({"step": {"x": jnp.ones(3)}}, r"unexpected step\.x"),
}


@pytest.mark.parametrize("case", WRONG)
def test_update_names_the_paths_that_do_not_fit(case: str) -> None:
    net = Nested()
    before = arrays(net)
    with pytest.raises(RuntimeError, match=WRONG[case][1]):
        jm.update(net, {"head": {"weight": jnp.ones((3, 3))}} | WRONG[case][0])
    assert_arrays(arrays(net), before)


def test_tree_round_trip_is_compiled() -> None:
    net = Nested()

    @jm.jit
    def double(net: Any) -> None:
        jm.update(net, jax.tree.map(lambda a: 2 * a, jm.tree(net, buffers=False)))

    before = arrays(net)
    double(net)
    same(net.layer1[0].weight, 2 * before["layer1.0.weight"])
    same(net.layer1[1].running_var, before["layer1.1.running_var"])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_loss_is_differentiated_with_respect_to_a_tree(wrap: Any) -> None:
    net = plain()
    run = wrap(jax.grad(lambda nested: jnp.sum(jm.functional_call(net, nested, (BATCH,)) ** 2)))
    grads, expected = run(jm.tree(net)), jm.grad(lambda net: jnp.sum(net(BATCH) ** 2))(net)
    for name, gradient in expected.items():
        layer, _, leaf = name.rpartition(".")
        same(grads[layer][leaf], gradient)


def test_trees_train_tied_modules() -> None:
    net, other = tied(), tied()
    other.load_state_dict(net.state_dict())

    def loss(run: Any) -> Any:
        return jnp.mean(run(BATCH) ** 2)

    nested, optimizer = jm.tree(net, remove_duplicate=True), jm.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(2):
        grads = jax.grad(lambda nested: loss(lambda x: jm.functional_call(net, nested, (x,))))(nested)
        nested = jax.tree.map(lambda p, g: p - 0.1 * g, nested, grads)
        optimizer.step(jm.grad(lambda net: loss(net))(other))
    assert_arrays(arrays(jm.update(net, nested)), arrays(other))


PATTERNS = {"*.bias": "none", re.compile(r"^\d\.weight$"): "decay", "*": "rest"}


@pytest.mark.parametrize("form", ["flat", "nested", "boxes"])
def test_labels_are_those_of_the_first_pattern_that_matches(form: str) -> None:
    net = plain()
    params: Any = {"flat": net.state_dict(), "nested": jm.tree(net), "boxes": dict(net.named_parameters())}[form]
    flat = jax.tree_util.tree_flatten_with_path(jm.labels(params, PATTERNS))[0]
    assert {jax.tree_util.keystr(path, simple=True, separator="."): label for path, label in flat} == {
        "0.weight": "decay", "0.bias": "none", "2.weight": "decay", "2.bias": "none",
    }  # fmt: skip


def test_labels_of_a_module_are_those_of_its_trainable_parameters() -> None:
    net = Custom(accumulate, inner=plain())
    net.inner[2].requires_grad_(False)
    labelled = jm.labels(net, {"inner.*.bias": 1, "*": 2})
    assert labelled == {"weight": 2, "inner.0.weight": 2, "inner.0.bias": 1}
    assert jax.tree.structure(labelled) == jax.tree.structure(jm.functionalize(net)[1])


def test_names_that_nothing_matches_are_listed() -> None:
    with pytest.raises(ValueError, match=r"no pattern of \['\*\.bias'\] matches 0\.weight, 2\.weight: end with"):
        jm.labels(plain().state_dict(), {"*.bias": "x"})


RULES = {"decay": optax.adamw(0.1, weight_decay=0.3), "none": optax.sgd(0.1), "frozen": optax.set_to_zero()}
GROUPS = {"2.*": "frozen", "*.bias": "none", "*": "decay"}
FORMS: dict[str, Callable[[Any], Any]] = {
    "params": lambda net: jm.functionalize(net)[1],
    "tree": lambda net: jm.tree(net),
    "module": lambda net: net,
}


@pytest.mark.parametrize("form", ["params", "tree"])
def test_multi_transform_treats_every_form_alike(form: str) -> None:
    net, alone = plain(), optax.adamw(0.1, weight_decay=0.3)
    before, params = arrays(net), FORMS[form](net)
    rule = optax.multi_transform(RULES, jm.labels(params, GROUPS))
    updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    jm.update(net, optax.apply_updates(params, updates))
    weight = before["0.weight"]
    same(net[0].weight, weight + alone.update(np.ones_like(weight), alone.init(weight), weight)[0])
    same(net[0].bias, before["0.bias"] - 0.1)
    same(net[2].weight, before["2.weight"])


LABELS = {"given": lambda net: jm.labels(net, GROUPS), "called": lambda net: lambda params: jm.labels(params, GROUPS)}


@pytest.mark.parametrize("compile", [lambda f: f, jm.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_optimizer_takes_labels_by_pattern(compile: Any, labels: Any) -> None:
    net = plain()
    net[2].weight.requires_grad_(False)
    optimizer = jm.optim.Optimizer(net, optax.multi_transform(RULES, labels(net)))
    before = arrays(net)

    def step(net: Any, optimizer: Any) -> Any:
        grads = jm.grad(lambda net: jnp.mean(net(BATCH) ** 2))(net)
        optimizer.step(grads)
        return grads

    grads = compile(step)(net, optimizer)
    same(net[0].bias, before["0.bias"] - 0.1 * grads["0.bias"])
    same(net[2].weight, before["2.weight"])
    assert not np.allclose(net[0].weight, before["0.weight"])


def test_mask_by_pattern_decays_weights_alone() -> None:
    net = plain()
    params = jm.functionalize(net)[1]
    rule = optax.masked(optax.add_decayed_weights(0.5), jm.labels(params, {"*.bias": False, "*": True}))
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    same(updates["0.weight"], 0.5 * params["0.weight"])
    same(updates["0.bias"], np.zeros(4))


@pytest.mark.parametrize("form", FORMS)
def test_optax_measures_and_averages_every_form(form: str) -> None:
    net = plain()
    params = FORMS[form](net)
    norm = np.sqrt(sum(np.sum(np.square(a)) for a in arrays(net).values()))
    same(optax.tree.norm(params), norm)
    same(optax.tree.norm(jax.tree.map(lambda a, b: a - b, params, params)), 0)
    average = optax.incremental_update(jax.tree.map(jnp.zeros_like, params), params, 0.25)
    same(optax.tree.norm(average), 0.75 * norm)


def test_frozen_parameters_are_state_for_optax() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    _, params, state = jm.functionalize(net)
    assert "0.weight" not in params and "0.weight" in state
    assert jax.tree.structure(optax.adam(0.1).init(params)[0].mu) == jax.tree.structure(params)
