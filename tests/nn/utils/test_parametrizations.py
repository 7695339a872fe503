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
