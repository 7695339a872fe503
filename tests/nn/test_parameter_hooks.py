"""Hooks of parameters against torch: what they get, what their results do, how often they run, and what copies keep."""

import copy
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
X = np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float32)


def backward(s: Any, net: Any, fn: Any) -> None:
    """Add the gradient of ``fn()`` to the ``.grad`` of the parameters."""
    if s.nn is nn:
        jm.backward(fn, net)
    else:
        fn().backward()


def hooked(*statements: str) -> Any:
    """Make a script that registers hooks by statements, runs two backward passes, and returns gradients and a log."""

    def script(s):
        net, log = s.Linear(3, 2), []
        scope = {"net": net, "w": net.weight, "log": log, "s": s}
        for statement in statements:
            exec(statement, scope)
        for _ in range(2):
            backward(s, net, lambda: (net(s.array(X)) ** 2).sum())
        return [net.weight.grad, net.bias.grad, log]

    return script


SCRIPTS = {
    "sees the gradient": ["w.register_hook(lambda g: log.append(g))"],
    "replaces it": ["w.register_hook(lambda g: g * 3)"],
    "hands on what it returns": ["w.register_hook(lambda g: g * 3)", "w.register_hook(lambda g: log.append(g))"],
    "runs in order": ["w.register_hook(lambda g: g + 1)", "w.register_hook(lambda g: g * 3)"],
    "is removed": ["w.register_hook(lambda g: g * 3).remove()"],
    "several parameters": ["w.register_hook(lambda g: g * 3)", "net.bias.register_hook(lambda g: g - 1)"],
    "runs after accumulation": ["w.register_post_accumulate_grad_hook(lambda p: log.append(p.grad * 1))"],
    "both kinds": [
        "w.register_post_accumulate_grad_hook(lambda p: log.append(p.grad * 1))",
        "w.register_hook(lambda g: g * 3)",
    ],
    "clears the gradient": ["w.register_post_accumulate_grad_hook(lambda p: setattr(p, 'grad', None))"],
    "steps": ["w.register_post_accumulate_grad_hook(lambda p: [p.data.sub_(0.1 * p.grad), None][1])"],
}
REFUSED = {
    "number": ("w.register_hook(lambda g: 1.0)", TypeError),
    "text": ("w.register_hook(lambda g: 'a')", TypeError),
    "tuple": ("w.register_hook(lambda g: (g,))", TypeError),
    "another shape": ("w.register_hook(lambda g: g[0])", RuntimeError),
    "an array after accumulation": ("w.register_post_accumulate_grad_hook(lambda p: p.grad)", RuntimeError),
    "a result after accumulation": ("w.register_post_accumulate_grad_hook(lambda p: 3)", TypeError),
    "frozen": ("w.requires_grad_(False).register_hook(print)", RuntimeError),
    "frozen, after accumulation": (
        "w.requires_grad_(False).register_post_accumulate_grad_hook(print)",
        RuntimeError,
    ),
}
FIRST_WORDS = {
    TypeError: "expected Variable, but hook returned",
    RuntimeError: "hook .* has changed|hooks should return None|cannot register a hook",
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_hook_does_what_torch_does(both: Check, case: str) -> None:
    both(hooked(*SCRIPTS[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_uses_are_refused(libraries: Any, case: str) -> None:
    statement, error = REFUSED[case]
    for library in libraries:
        with pytest.raises(error, match=FIRST_WORDS[error]):
            hooked(statement)(library)


def loss(net: Any) -> Any:
    return (net(X) ** 2).sum()


def functional(net: Any, transform: Any) -> Any:
    apply, params, state = jm.functionalize(net)
    return transform(lambda params: (apply(params, state, X)[0] ** 2).sum())(params)


def by_name(net: Any, transform: Any) -> Any:
    params = {name: p.value for name, p in net.named_parameters()}
    return transform(lambda params: (jm.functional_call(net, params, X) ** 2).sum())(params)


TRANSFORMS = {
    "grad": lambda net: jm.grad(loss)(net),
    "value_and_grad": lambda net: jm.value_and_grad(loss)(net)[1],
    "jit of grad": lambda net: jm.jit(jm.grad(loss))(net),
    "grad of jit": lambda net: jm.grad(jm.jit(loss))(net),
    "checkpoint": lambda net: jm.grad(lambda net: jax.checkpoint(lambda x: (net(x) ** 2).sum())(X))(net),
    "sum over calls": lambda net: jm.grad(lambda net: sum((net(x[None]) ** 2).sum() for x in X))(net),
    "grad of vmap": lambda net: jm.grad(lambda net: (jm.vmap(net)(X) ** 2).sum())(net),
    "functionalize": lambda net: functional(net, jax.grad),
    "jit of functionalize": lambda net: functional(net, lambda f: jax.jit(jax.grad(f))),
    "functional_call": lambda net: by_name(net, jax.grad),
    "vjp": lambda net: jm.vjp(loss, net)[1](jnp.ones(()))[0],
    "jacrev": lambda net: jm.jacrev(loss)(net),
}


@pytest.mark.parametrize("case", TRANSFORMS)
def test_hook_gets_the_total_gradient_once(case: str) -> None:
    net = nn.Linear(3, 2)
    plain = jm.grad(loss)(net)
    net.weight.register_hook(lambda g: g * g + 1)
    found = TRANSFORMS[case](net)
    np.testing.assert_allclose(found["weight"], plain["weight"] ** 2 + 1, rtol=1e-5)
    np.testing.assert_allclose(found["bias"], plain["bias"], rtol=1e-5)


def test_each_differentiation_runs_the_hook() -> None:
    weight = nn.Parameter(jnp.ones(()))
    weight.register_hook(lambda g: g * 2)
    assert float(jm.grad(jm.grad(lambda w: w**3))(weight)) == 24


def test_hook_does_not_run_where_its_parameter_is_not_differentiated() -> None:
    net, log = nn.Linear(3, 2), []
    net.weight.register_hook(lambda g: log.append("weight"))
    jm.grad(lambda x: net(x).sum())(X)
    jax.jvp(net, (X,), (X,))
    assert log == []


def test_tied_parameter_has_one_gradient(both: Check) -> None:
    def script(s):
        net, log = s.Sequential(s.Linear(3, 3), s.Linear(3, 3)), []
        net[1].weight = net[0].weight
        net[0].weight.register_hook(lambda g: log.append(g))
        backward(s, net, lambda: (net(s.array(X)) ** 2).sum())
        return log

    both(script)


def descend(p: Any) -> None:
    """Take a step and forget the gradient, as optimizers fused into the backward pass do."""
    p.data.sub_(0.1 * p.grad)
    p.grad = None


def test_accumulation_hook_steps_in_a_compiled_function() -> None:
    nets = [nn.Linear(3, 2), nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        for p in net.parameters():
            p.register_post_accumulate_grad_hook(
                lambda p: [p.data.sub_(0.1 * p.grad), setattr(p, "grad", None)][0:0] or None
            )
    step = jm.jit(lambda net: jm.backward(lambda: loss(net), net))
    for _ in range(2):
        step(nets[0])
        jm.backward(lambda: loss(nets[1]), nets[1])
    np.testing.assert_allclose(nets[0].weight.value, nets[1].weight.value, rtol=1e-5)
    assert nets[0].weight.grad is None


def test_hook_added_between_compiled_calls_is_honoured() -> None:
    net, traces = nn.Linear(3, 2), []
    step = jm.jit(lambda net: [traces.append(1), jm.grad(loss)(net)][1])
    plain = step(net)["weight"]
    for _ in range(2):
        with net.weight.register_hook(lambda g: g * 2):
            np.testing.assert_allclose(step(net)["weight"], 2 * plain)
        np.testing.assert_array_equal(step(net)["weight"], plain)
    assert len(traces) == 3


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["copy", "pickle"])
def test_copies_have_no_hooks(twin: Any) -> None:
    weight = nn.Parameter(jnp.ones(2))
    weight.register_hook(lambda g: g * 2)
    weight.register_post_accumulate_grad_hook(print)
    other = twin(weight)
    assert not other._backward_hooks and not other._post_accumulate_grad_hooks
    assert float(jm.grad(lambda w: w.sum())(weight)[0]) == 2


def test_module_made_from_leaves_keeps_the_hooks() -> None:
    net = nn.Linear(3, 2)
    plain = jm.grad(loss)(net)["weight"]
    net.weight.register_hook(lambda g: g * 2)
    twin = jax.tree.map(lambda a: a, net)
    np.testing.assert_allclose(jm.grad(loss)(twin)["weight"], 2 * plain)
