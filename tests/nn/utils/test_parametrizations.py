"""Weight norm, spectral norm and orthogonal matrices against torch: values, gradients, training, files."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
Q = nn.utils.parametrizations

LAYERS = {
    "Linear": lambda s: s.Linear(4, 3),
    "wide": lambda s: s.Linear(2, 5),
    "square": lambda s: s.Linear(3, 3),
    "Conv2d": lambda s: s.Conv2d(2, 3, 2),
}
KINDS = {
    "weight_norm": "weight_norm(m)",
    "weight_norm, whole": "weight_norm(m, dim=None)",
    "weight_norm, last": "weight_norm(m, dim=1)",
    "weight_norm, from the back": "weight_norm(m, dim=-2)",
    "weight_norm, bias": "weight_norm(m, 'bias')",
    "spectral_norm": "spectral_norm(m)",
    "spectral_norm, iterations": "spectral_norm(m, n_power_iterations=3, eps=1e-3)",
    "spectral_norm, dim": "spectral_norm(m, dim=-1)",
    "spectral_norm, vector": "spectral_norm(m, 'bias')",
    "orthogonal": "orthogonal(m)",
    "matrix_exp": "orthogonal(m, orthogonal_map='matrix_exp')",
    "cayley": "orthogonal(m, orthogonal_map='cayley')",
    "householder": "orthogonal(m, orthogonal_map='householder')",
    "matrix_exp, plain": "orthogonal(m, orthogonal_map='matrix_exp', use_trivialization=False)",
    "cayley, plain": "orthogonal(m, orthogonal_map='cayley', use_trivialization=False)",
    "householder, plain": "orthogonal(m, orthogonal_map='householder', use_trivialization=False)",
}


def apply(s: Any, kind: str, m: Any) -> Any:
    return eval(KINDS[kind], {"m": m, **vars(s.utils.parametrizations)})


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_torchs(both: Check, kind: str, layer: str) -> None:
    def script(s):
        m = apply(s, kind, LAYERS[layer](s))
        values = [m, m.weight, m.bias]
        m.eval()
        return [*values, m.weight, m.weight, m]

    both(script)


@pytest.mark.parametrize("layer", ["Linear", "wide", "square"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_torchs(kind: str, layer: str) -> None:
    jm.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = apply(nn, kind, LAYERS[layer](nn)), apply(torch.nn, kind, LAYERS[layer](torch.nn))
    weights = np.arange(ours.weight.size, dtype=np.float32).reshape(ours.weight.shape)
    for net in (ours, theirs):
        net.eval()
    grads = jm.grad(lambda net: (net.weight * weights).sum() + (net.bias**2).sum())(ours)
    ((theirs.weight * torch.tensor(weights)).sum() + (theirs.bias**2).sum()).backward()
    for name, parameter in theirs.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        np.testing.assert_allclose(grads[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "cayley", "householder"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_is_torchs(kind: str, compiled: bool) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    ours, theirs = apply(nn, kind, nn.Linear(4, 3)), apply(torch.nn, kind, torch.nn.Linear(4, 3))
    our_optimizer = jm.optim.SGD(ours.parameters(), lr=0.05)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)

    def step(net, optimizer, x):
        optimizer.step(jm.grad(lambda net: (net(x) ** 2).sum())(net))

    step = jm.jit(step) if compiled else step
    for _ in range(3):
        step(ours, our_optimizer, jnp.asarray(x))
        their_optimizer.zero_grad()
        (theirs(torch.tensor(x)) ** 2).sum().backward()
        their_optimizer.step()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


REFUSED = {
    "spectral norm of nothing": (ValueError, "spectral_norm(m, 'missing')"),
    "spectral norm of a number": (ValueError, "spectral_norm(m, 'in_features')"),
    "spectral norm without iterations": (ValueError, "spectral_norm(m, n_power_iterations=0)"),
    "spectral norm of no axis": (IndexError, "spectral_norm(m, dim=2)"),
    "spectral norm of no axis from the back": (IndexError, "spectral_norm(m, dim=-3)"),
    "weight norm of nothing": (ValueError, "weight_norm(m, 'missing')"),
    "orthogonal nothing": (ValueError, "orthogonal(m, 'missing')"),
    "orthogonal vector": (ValueError, "orthogonal(m, 'bias')"),
    "unknown map": (ValueError, "orthogonal(m, orthogonal_map='exp')"),
    "assigning another shape": (ValueError, "setattr(orthogonal(m), 'weight', s.array([[1.0]]))"),
    "assigning to plain cayley": (
        NotImplementedError,
        "setattr(orthogonal(m, orthogonal_map='cayley', use_trivialization=False), 'weight', m.weight)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(both: Check, case: str) -> None:
    error, expression = REFUSED[case]
    both(lambda s: eval(expression, {"m": s.Linear(3, 2), "s": s, **vars(s.utils.parametrizations)}), raises=error)


ASSIGNED = {
    "any": "s.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])",
    "orthogonal already": "s.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])",
}


@pytest.mark.parametrize("kind", ["orthogonal", "matrix_exp", "householder, plain", "weight_norm", "spectral_norm"])
@pytest.mark.parametrize("value", ASSIGNED)
def test_assignment_is_torchs(both: Check, kind: str, value: str) -> None:
    def script(s):
        m = apply(s, kind, s.Linear(2, 3)).eval()
        m.weight = eval(ASSIGNED[value], {"s": s})
        return [m, m.weight]

    both(script)


def test_unitary_matrix_of_complex_numbers() -> None:
    net = nn.Module()
    net.weight = nn.Parameter(jnp.arange(9.0).reshape(3, 3) + 1j * jnp.eye(3))
    with pytest.raises(ValueError, match="householder parametrization does not support complex"):
        Q.orthogonal(net, orthogonal_map="householder")
    weight = Q.orthogonal(net).weight
    np.testing.assert_allclose(weight @ weight.conj().T, np.eye(3), atol=1e-5)


def test_power_iteration_runs_in_training_only() -> None:
    net = Q.spectral_norm(nn.Linear(4, 3)).eval()
    listed = net.parametrizations.weight[0]
    before = listed._u
    assert net.weight is not None and listed._u is before
    jm.jit(lambda net: net.weight)(net.train())
    assert not np.array_equal(listed._u, before)


def test_file_of_the_older_weight_norm_loads(both: Check) -> None:
    def script(s):
        new = s.Sequential(s.utils.parametrizations.weight_norm(s.Linear(2, 3)))
        old = {"0.bias": s.array([1.0, 2.0, 3.0]), "0.weight_g": s.array([[1.0], [2.0], [3.0]])}
        old["0.weight_v"] = s.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
        return [str(new.load_state_dict(old)), new[0].weight, new]

    both(script)


def test_short_floats_keep_their_dtype() -> None:
    for kind in (Q.weight_norm, Q.spectral_norm):
        net = kind(nn.Linear(4, 3, dtype=jnp.bfloat16))
        assert net.weight.dtype == jnp.bfloat16 and net(jnp.ones((1, 4), jnp.bfloat16)).dtype == jnp.bfloat16
