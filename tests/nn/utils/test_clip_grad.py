"""Gradient clipping against torch, eagerly and compiled, and for dicts of gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_

Check = Callable[..., None]
GRADIENTS = {
    "some": [[1.0, -3.0, 2.0], [[0.0, 7.0]], None, [0.5]],
    "small": [[1e-3], [[2e-3]]],
    "nan": [[1.0, float("nan")], [2.0]],
    "infinite": [[1.0, float("inf")], [2.0]],
    "zero": [[0.0, 0.0]],
    "empty": [[], [3.0, 4.0]],
    "none": [None],
    "nothing": [],
}


def boxes(s: Any, case: str) -> list[Any]:
    """Make parameters with gradients."""
    made = []
    for gradient in GRADIENTS[case]:
        made.append(s.Parameter(s.array([0.0] if gradient is None else gradient)))
        made[-1].grad = None if gradient is None else s.array(gradient)
    return made


def gradients(parameters: list[Any]) -> list[Any]:
    return [p.grad for p in parameters]


@pytest.mark.parametrize("norm_type", [2, 1, 3, 0.5, 0, "inf", float("inf"), -1.0])
@pytest.mark.parametrize("case", GRADIENTS)
def test_clip_grad_norm(both: Check, case: str, norm_type: Any) -> None:
    if case == "empty":
        norm_type = 2  # an empty array has no largest element

    def script(s):
        parameters = boxes(s, case)
        return [s.utils.clip_grad_norm_(parameters, 1.5, norm_type), gradients(parameters)]

    both(script)


@pytest.mark.parametrize("case", [case for case in GRADIENTS if case not in ("none", "nothing")])
def test_clip_grad_value(both: Check, case: str) -> None:
    def script(s):
        parameters = boxes(s, case)
        return [s.utils.clip_grad_value_((p for p in parameters), 1.5), gradients(parameters)]

    both(script)


def test_clip_grad_value_of_no_gradient_does_nothing() -> None:
    clip_grad_value_([nn.Parameter(jnp.zeros(2))], 1.0)  # torch trips over an internal assertion


FORMS = {
    "one parameter": "out = [clip_grad_norm_(p[0], 1.0), clip_grad_value_(p[1], 2), clip_grads_with_norm_(p[3], 1, t)]",
    "a generator": "out = clip_grad_norm_((q for q in p), 1.0)",
    "foreach": "out = [clip_grad_norm_(p, 1.0, foreach=f) for f in (None, True, False)]",
    "given norm": "out = clip_grads_with_norm_(iter(p), 2.0, s.array(4.0))",
    "total norm": "out = [get_total_norm([q.grad for q in p if q.grad is not None], n) for n in (1, 2, 'inf')]",
    "total norm of one": "out = get_total_norm(p[0].grad)",
    "total norm of none": "out = get_total_norm([])",
}


@pytest.mark.parametrize("form", FORMS)
def test_arguments(both: Check, form: str) -> None:
    def script(s):
        scope = {"p": boxes(s, "some"), "s": s, "t": s.array(2.0), "out": None, **vars(s.utils)}
        exec(FORMS[form], scope)
        return [scope["out"], gradients(scope["p"])]

    both(script)


REFUSED = {
    "nan": (RuntimeError, "clip_grad_norm_(boxes(s, 'nan'), 1.0, error_if_nonfinite=True)"),
    "infinite": (RuntimeError, "clip_grad_norm_(boxes(s, 'infinite'), 1.0, norm_type=1, error_if_nonfinite=True)"),
    "empty generator": (UserWarning, "clip_grad_norm_((p for p in []), 1.0)"),
    "deprecated name": (FutureWarning, "clip_grad_norm(boxes(s, 'some'), 1.0)"),
    "integers": (RuntimeError, "get_total_norm([s.array([1, 2])])"),
    "no largest": (RuntimeError, "get_total_norm([s.array([])], 'inf')"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(case: str, libraries: Any) -> None:
    error, expression = REFUSED[case]
    ends = {"integers": "Expected a floating point", "no largest": "the operation does not have an identity"}
    match = ends.get(case, {"nan": "2.0.*non-finite", "infinite": "1.0.*non-finite"}.get(case, "grad"))
    for s in libraries:
        with pytest.raises(error, match=match):
            eval(expression, {"s": s, "boxes": boxes, **vars(s.utils)})


def test_short_floats(both: Check) -> None:
    def script(s):
        net, q = s.Linear(3, 1, bias=False).bfloat16(), s.Parameter(s.array([0.0, 0.0]))
        p = net.weight
        p.grad, q.grad = p.data * 0 + 1, s.array([1.0, 1.0])
        return [s.utils.clip_grad_norm_([p, q], 1.0), s.utils.clip_grad_norm_(p, 0.5), p.grad, q.grad]

    both(script)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_loop(compiled: bool) -> None:
    net, x = nn.Linear(3, 2), jnp.ones((4, 3), jnp.float32)
    optimizer = jm.optim.SGD(net.parameters(), lr=1.0)
    before = {name: p.value for name, p in net.named_parameters()}
    expected, _ = optax.clip_by_global_norm(0.5).update(jm.grad(lambda net: 9 * net(x).sum())(net), optax.EmptyState())

    def step(net, optimizer, x):
        optimizer.zero_grad()
        loss = jm.backward(lambda: 9 * net(x).sum(), net)
        norm = clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        return loss, norm

    _, norm = (jm.jit(step) if compiled else step)(net, optimizer, x)
    assert float(norm) > 0.5 and not isinstance(net.weight.grad, jax.core.Tracer)
    for name, p in net.named_parameters():
        np.testing.assert_allclose(before[name] - p.value, expected[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(p.grad, expected[name], rtol=1e-4)


def test_dict_of_gradients_in_a_compiled_step() -> None:
    net, x = nn.Linear(3, 2), jnp.ones((4, 3), jnp.float32)

    @jm.jit
    def clipped(net, x):
        grads = jm.grad(lambda net: 9 * net(x).sum())(net)
        by_norm, total = clip_grad_norm_(grads, 0.5)
        return by_norm, clip_grads_with_norm_(grads, 0.5, total), clip_grad_value_(grads, 1.0), grads

    by_norm, by_given_norm, by_value, grads = clipped(net, x)
    expected, _ = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())
    for name, gradient in grads.items():
        np.testing.assert_allclose(by_norm[name], expected[name], rtol=1e-4)
        np.testing.assert_array_equal(by_given_norm[name], by_norm[name])
        np.testing.assert_array_equal(by_value[name], jnp.clip(gradient, -1, 1))


def test_gradients_of_two_modules_have_one_norm() -> None:
    parts = ({"weight": jnp.array([3.0]), "bias": jnp.array([0.0])}, {"weight": jnp.array([4.0])})
    (one, other), norm = clip_grad_norm_(parts, 1.0)
    assert float(norm) == 5.0
    assert list(one) == ["weight", "bias"]
    np.testing.assert_allclose([one["weight"][0], other["weight"][0]], [0.6, 0.8], rtol=1e-6)


CLIPS = ["clip_grad_norm_(p, 0.5)", "clip_grad_norm_(p, 0.5, 'inf')", "clip_grad_value_(p, 0.1)"]


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clipped_step_is_that_of_torch(clip: str) -> None:
    net, oracle = nn.Linear(2, 1), torch.nn.Linear(2, 1)
    oracle.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in net.state_dict().items()})
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    its_optimizer = torch.optim.Adam(oracle.parameters(), lr=0.1)

    @jm.jit
    def step(net, optimizer, x):
        optimizer.zero_grad()
        jm.backward(lambda: (net(x) ** 2).sum(), net)
        norm = eval(clip, {"p": net.parameters(), **vars(nn.utils)})
        optimizer.step()
        return norm

    for scale in (1.0, 1e-3, 10.0):
        norm = step(net, optimizer, np.full((3, 2), scale, np.float32))
        its_optimizer.zero_grad()
        (oracle(torch.full((3, 2), scale)) ** 2).sum().backward()
        its_norm = eval(clip, {"p": oracle.parameters(), **vars(torch.nn.utils)})
        its_optimizer.step()
        np.testing.assert_allclose(norm or 0, float(its_norm or 0), rtol=1e-5)
    np.testing.assert_allclose(net.weight.numpy(), oracle.weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_value_of_the_norm_is_not_known_in_a_compiled_function() -> None:
    weight = nn.Parameter(jnp.zeros(2))
    weight.grad = jnp.ones(2)
    with pytest.raises(RuntimeError, match="error_if_nonfinite=True looks at the value"):
        jm.jit(lambda weight: clip_grad_norm_(weight, 1.0, error_if_nonfinite=True))(weight)
