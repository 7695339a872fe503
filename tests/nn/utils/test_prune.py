"""Pruning against torch: masks, state, repeated pruning, refusals; and in every transform."""

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
prune = nn.utils.prune


def pruned(*statements: str) -> Any:
    """Make a script that runs statements about a layer ``m`` and returns all that can be seen of it."""

    def script(s):
        functions = vars(importlib.import_module(f"{s.nn.__name__}.utils.prune"))  # torch's is not there by itself
        scope = {"m": s.Linear(4, 3), "c": s.Conv2d(4, 3, 2), "s": s, "out": [], **functions}
        for statement in statements:
            exec(statement, scope)
        m, c = scope["m"], scope["c"]
        y = m(s.array([[1.0, 2.0, 3.0, 4.0]]))
        tables = list(m._parameters), list(m._buffers), functions["is_pruned"](m)
        return [scope["out"], m, m.weight, m.bias, c, c.weight, y, tables]

    return script


SCRIPTS = {
    "not": ["out = is_pruned(m)"],
    "identity": ["identity(m, 'weight')"],
    "random": ["random_unstructured(m, 'weight', 5)"],
    "random share": ["random_unstructured(m, 'weight', 0.3)", "random_unstructured(c, 'weight', 0.5)"],
    "random none": ["random_unstructured(m, 'weight', 0)"],
    "random all": ["random_unstructured(m, 'weight', 1.0)"],
    "l1": ["l1_unstructured(m, 'weight', 5)", "l1_unstructured(m, 'bias', amount=0.4)"],
    "l1 by scores": ["l1_unstructured(m, 'weight', 4, s.array([[1.0, 4, 2, 3], [-9, -8, 0, 12], [5, 6, 7, 11]]))"],
    "random channels": ["random_structured(m, 'weight', 2, 1)", "random_structured(c, 'weight', 0.5, -3)"],
    "random channels, none": ["random_structured(m, 'weight', 0, 1)"],
    "random channels, all": ["random_structured(m, 'weight', 1.0, 0)"],
    "ln": ["ln_structured(m, 'weight', 1, 2, 0)", "ln_structured(c, 'weight', 0.5, 1, 1)"],
    "ln of orders": [
        "x = m.weight.data",
        "orders = 1, 2, 3.5, float('inf'), -float('inf'), 'fro'",
        "out = [LnStructured(2, n, d).prune(x) for n in orders for d in (0, -1)]",
    ],
    "ln of matrices": ["out = [LnStructured(2, n, 0).prune(c.weight.data[:, :, 0]) for n in ('fro', 'nuc', 2)]"],
    "ln by scores": ["ln_structured(m, 'weight', 1, 2, 0, s.array([[1.0] * 4, [0.0] * 4, [2.0] * 4]))"],
    "ln none": ["ln_structured(m, 'weight', 0, 2, 0)"],
    "custom": ["custom_from_mask(m, 'bias', s.array([0, 1, 0]))"],
    "custom of truth values": ["custom_from_mask(m, 'bias', s.array([True, False, True]))"],
    "l1 twice": ["l1_unstructured(m, 'weight', 3)", "l1_unstructured(m, 'weight', 0.5)"],
    "random twice": ["random_unstructured(m, 'weight', 3)", "random_unstructured(m, 'weight', 4)"],
    "three times": [
        "l1_unstructured(m, 'weight', 3)",
        "ln_structured(m, 'weight', 1, 2, 1)",
        "random_structured(m, 'weight', 1, 0)",
        "out = [type(h) for h in next(iter(m._forward_pre_hooks.values()))]",
    ],
    "channels twice": ["ln_structured(c, 'weight', 1, 2, 1)", "ln_structured(c, 'weight', 0.5, 1, 1)"],
    "custom on top": ["l1_unstructured(m, 'bias', 1)", "custom_from_mask(m, 'bias', s.array([1.0, 0, 1]))"],
    "removed": ["l1_unstructured(m, 'weight', 5)", "w = m.weight_orig", "remove(m, 'weight')", "out = m.weight is w"],
    "removed after two": [
        "l1_unstructured(m, 'weight', 3)",
        "random_unstructured(m, 'weight', 3)",
        "m.weight_orig.data += 1",
        "remove(m, 'weight')",
        "out = len(m._forward_pre_hooks)",
    ],
    "removed by the method": [
        "h = L1Unstructured.apply(m, 'weight', 3)",
        "h.remove(m)",
        "m._forward_pre_hooks.clear()",
    ],
    "global": ["out = global_unstructured([(m, 'weight'), (c, 'weight')], L1Unstructured, amount=10)"],
    "global, random": ["global_unstructured(((m, 'weight'), (m, 'bias')), RandomUnstructured, amount=0.4)"],
    "global twice": [
        "l1_unstructured(m, 'weight', 3)",
        "global_unstructured([(m, 'weight'), (c, 'weight')], L1Unstructured, amount=0.3)",
    ],
    "global by scores": [
        "scores = {(m, 'bias'): s.array([0.1, 100.0, 0.2])}",
        "global_unstructured([(m, 'weight'), (m, 'bias')], L1Unstructured, scores, amount=4)",
    ],
    "an array": [
        "x = s.array([[3.0, -1.0], [0.5, 2.0]])",
        "mask = s.array([[1.0, 1.0], [0.0, 1.0]])",
        "one, two = L1Unstructured(1), L1Unstructured(2)",
        "out = [one.prune(x), two.prune(x, mask), one.prune(x, None, -1 / x)]",
    ],
    "updated before the next call": ["l1_unstructured(m, 'weight', 5)", "m.weight_orig.data *= 2", "m(m.weight[:1])"],
    "containers": [
        "a, b = L1Unstructured(1), RandomStructured(1, 0)",
        "a._tensor_name = b._tensor_name = 'weight'",
        "p = PruningContainer(a)",
        "p.add_pruning_method(b)",
        "out = [len(p), [type(h) for h in p], p[0] is a, type(p[1]), p._tensor_name, a.PRUNING_TYPE, b.PRUNING_TYPE]",
    ],
}

REFUSED: dict[str, tuple[Any, list[str]]] = {
    "a negative number": (ValueError, ["l1_unstructured(m, 'weight', -1)"]),
    "a share above one": (ValueError, ["random_unstructured(m, 'weight', 1.1)"]),
    "no number": (TypeError, ["random_structured(m, 'weight', 'all', 0)"]),
    "too many": (ValueError, ["l1_unstructured(m, 'weight', 13)"]),
    "too many channels": (ValueError, ["ln_structured(m, 'weight', 5, 2, 1)"]),
    "channels of a vector": (ValueError, ["random_structured(m, 'bias', 1, 0)"]),
    "no such axis": (IndexError, ["ln_structured(m, 'weight', 1, 2, 2)"]),
    "an order of no norm": (RuntimeError, ["ln_structured(m, 'weight', 1, 'nuc', 0)"]),
    "an unknown order": (RuntimeError, ["ln_structured(m, 'weight', 1, 'x', 0)"]),
    "scores of another shape": (AssertionError, ["l1_unstructured(m, 'weight', 1, s.array([1.0]))"]),
    "scores of another shape for an array": (
        AssertionError,
        ["L1Unstructured(1).prune(m.weight.data, importance_scores=s.array([1.0]))"],
    ),
    "a mask of another shape": (AssertionError, ["custom_from_mask(m, 'bias', s.array([1.0]))"]),
    "removing nothing": (ValueError, ["remove(m, 'weight')"]),
    "no such parameter": (AttributeError, ["identity(m, 'missing')"]),
    "global channels": (TypeError, ["global_unstructured([(m, 'weight')], LnStructured, amount=1, n=2)"]),
    "global of no pairs": (TypeError, ["global_unstructured(3, L1Unstructured, amount=1)"]),
    "global by a list": (TypeError, ["global_unstructured([(m, 'bias')], L1Unstructured, [1.0], amount=1)"]),
    "no method in a container": (TypeError, ["p = PruningContainer()", "p.add_pruning_method(3)"]),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_pruning(both: Check, case: str) -> None:
    both(pruned(*SCRIPTS[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(both: Check, case: str) -> None:
    error, statements = REFUSED[case]
    both(pruned(*statements), raises=error)


TOO_MUCH = ["l1_unstructured(net, 'weight', 99)", "custom_from_mask(net, 'weight', s.array([1]))"]


@pytest.mark.parametrize("statement", TOO_MUCH)
@pytest.mark.parametrize("before", [None, "l1_unstructured(net, 'weight', 1)"])
def test_refusal_leaves_the_module_as_it_was(statement: str, before: str | None) -> None:
    net = nn.Linear(2, 2)
    scope = {"net": net, "s": type("S", (), {"array": jnp.asarray}), **vars(prune)}
    if before is not None:
        exec(before, scope)
    names, weight = list(net.state_dict()), jnp.asarray(net.weight)
    with pytest.raises((ValueError, AssertionError), match="amount=99|must match"):
        exec(statement, scope)
    assert list(net.state_dict()) == names
    np.testing.assert_array_equal(net.weight, weight)


def test_container_of_another_parameter_is_refused() -> None:
    one, other = prune.L1Unstructured(1), prune.L1Unstructured(1)
    one._tensor_name, other._tensor_name = "weight", "bias"
    with pytest.raises(ValueError, match="acting on the parameter named 'weight'.*Found 'bias'"):
        prune.PruningContainer(one).add_pruning_method(other)


class EveryOther(prune.BasePruningMethod):
    """Prune every other element; as the tutorial does, but on immutable arrays."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        return default_mask.reshape(-1).at[::2].set(0).reshape(default_mask.shape)


def test_method_of_the_users() -> None:
    net = nn.Linear(3, 2)
    EveryOther.apply(net, "weight")
    assert net.weight_mask.tolist() == [[0, 1, 0], [1, 0, 1]]
    EveryOther.apply(net, "weight")
    assert net.weight_mask.tolist() == [[0, 0, 0], [1, 0, 0]]
    x = jnp.ones((1, 3), jnp.float32)
    np.testing.assert_allclose(jm.jit(net)(x), net(x), rtol=1e-6)
    with pytest.raises(TypeError, match="abstract"):
        prune.BasePruningMethod()


def test_gradient_of_pruned_elements_is_zero() -> None:
    net, x = prune.l1_unstructured(nn.Linear(3, 2), "weight", 3), jnp.ones((4, 3), jnp.float32)
    grads = jm.grad(lambda net: net(x).sum())(net)
    assert list(grads) == ["bias", "weight_orig"]
    np.testing.assert_array_equal(grads["weight_orig"], 4 * net.weight_mask)


def test_pruned_between_compiled_calls() -> None:
    net, x, traces = nn.Linear(3, 2), jnp.ones((4, 3), jnp.float32), []

    @jm.jit
    def apply(net, x):
        traces.append(1)
        return net(x)

    apply(net, x)
    for _ in range(2):
        prune.random_unstructured(net, "weight", 1)
        for _ in range(3):
            np.testing.assert_allclose(apply(net, x), x @ net.weight.T + net.bias.value[None], rtol=1e-5)
    assert len(traces) == 3
    prune.remove(net, "weight")
    np.testing.assert_allclose(apply(net, x), net(x), rtol=1e-6)


def test_pruned_elements_stay_zero_in_training() -> None:
    net, x = prune.l1_unstructured(nn.Linear(3, 2), "weight", 3), jnp.ones((4, 3), jnp.float32)
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    step = jm.jit(lambda net, optimizer: optimizer.step(jm.grad(lambda net: (net(x) ** 2).sum())(net)))
    before = net.weight
    for _ in range(3):
        step(net, optimizer)
    assert (net.weight == 0).sum() == 3 and ((net.weight != before) == (net.weight_mask == 1)).all()


def test_works_in_every_transform() -> None:
    net, x = prune.l1_unstructured(nn.Linear(2, 3), "weight", 3), jnp.ones((4, 2), jnp.float32)
    apply, params, state = jm.functionalize(net)
    assert list(params) == ["bias", "weight_orig"] and list(state) == ["weight_mask"]
    programs = {
        "jax.jit, closure": lambda: jax.jit(lambda x: net(x))(x),
        "jax.jit, argument": lambda: jax.jit(lambda net, x: net(x))(net, x),
        "vmap": lambda: jm.vmap(net)(x),
        "functionalize": lambda: jax.jit(apply)(params, state, x)[0],
        "deepcopy": lambda: copy.deepcopy(net)(x),
        "pickle": lambda: pickle.loads(pickle.dumps(net))(x),
    }
    for name, program in programs.items():
        np.testing.assert_allclose(program(), net(x), rtol=1e-5, err_msg=name)


def test_private_helpers_have_torchs_names(both: Check) -> None:
    def script(s):
        from importlib import import_module

        prune = import_module(f"{s.nn.__name__}.utils.prune")
        prune._validate_pruning_amount_init(0.34)
        prune._validate_pruning_amount(amount=19, tensor_size=20)
        return [prune._compute_nparams_toprune(amount=amount, tensor_size=17) for amount in (0, 10, 0.4, 1.0)]

    both(script)
