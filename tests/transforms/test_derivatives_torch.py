"""Products with Jacobians, Jacobians and Hessians of layers: those of ``torch.func`` through ``functional_call``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

pytestmark = [  # of torch's own forward mode
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
MODELS: dict[str, tuple[Any, Any]] = {
    "mlp": (lambda n: n.Sequential(n.Linear(4, 3), n.Tanh(), n.Linear(3, 2)), ROWS),
    "conv": (lambda n: n.Sequential(n.Conv2d(1, 2, 2), n.GELU(), n.AvgPool2d(2)), ROWS[None, None]),
    "batch norm": (lambda n: n.Sequential(n.Linear(4, 3), n.BatchNorm1d(3)).eval(), ROWS),
    "layer norm": (lambda n: n.Sequential(n.LayerNorm(4), n.SiLU(), n.Linear(4, 2)), ROWS),
    "lstm": (lambda n: First(n.LSTM(4, 3, proj_size=2)), ROWS[:, None]),  # (oneDNN's plain LSTM has no forward mode)
    "attention": (lambda n: Self(n.MultiheadAttention(4, 2, batch_first=True)), ROWS[None]),
    "dropout": (lambda n: n.Sequential(n.Dropout(0.5), n.Linear(4, 2)).eval(), ROWS),
}


class First:
    """Call a layer and take the first of its outputs."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def run(self, x: Any) -> Any:
        return self.layer(x)[0]


class Self(First):
    """Call an attention layer on one sequence."""

    def run(self, x: Any) -> Any:
        return self.layer(x, x, x)[0]


def wrapped(n: Any, model: Any) -> Any:
    """Return the model as one module of ``nn`` or ``torch.nn``."""
    if not isinstance(model, First):
        return model

    class Wrapper(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model.layer

        def forward(self, x: Any) -> Any:
            return model.run(x)

    return Wrapper()


def assert_trees(ours: Any, theirs: Any) -> None:
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (ours, theirs))
    for (path, a), (other, b) in zip(ours, theirs, strict=True):
        assert path == other
        np.testing.assert_allclose(a, b.detach(), rtol=2e-3, atol=2e-5, err_msg=str(path))


def tangents(theirs: Any) -> tuple[Any, Any]:
    drawn = {name: torch.randn_like(p) for name, p in theirs.items()}
    return {name: jnp.asarray(t.numpy()) for name, t in drawn.items()}, drawn


@pytest.mark.parametrize("name", ["jvp", "vjp", "jacrev", "jacfwd", "hessian"])
@pytest.mark.parametrize("kind", MODELS)
def test_derivatives_are_those_of_torch(kind: str, name: str) -> None:
    make, x = MODELS[kind]
    theirs, ours = wrapped(torch.nn, make(torch.nn)), wrapped(nn, make(nn))
    ours.load_state_dict(theirs.state_dict())
    params = {n: p.detach() for n, p in theirs.named_parameters()}
    buffers = dict(theirs.named_buffers())

    def call(net: Any, x: Any) -> Any:
        return net(x) ** 2 if name != "hessian" else (net(x) ** 2).sum()

    def their_call(params: Any, x: Any) -> Any:
        return call(lambda x: torch.func.functional_call(theirs, (params, buffers), (x,)), x)

    tx, (ours_t, theirs_t) = torch.tensor(x), tangents(params)
    if name == "jvp":
        pair = jm.jit(lambda net, x: jm.jvp(call, (net, x), (ours_t, x)))(ours, x)
        assert_trees(pair, torch.func.jvp(their_call, (params, tx), (theirs_t, tx)))
    elif name == "vjp":
        pair = jm.jit(lambda net, x: (r := jm.vjp(call, net, x))[1](r[0]))(ours, x)
        value, pullback = torch.func.vjp(their_call, params, tx)
        assert_trees(pair, pullback(value))
    else:
        argnums = 0 if name == "hessian" else (0, 1)
        pair = jm.jit(getattr(jm, name)(call, argnums))(ours, x)
        assert_trees(pair, getattr(torch.func, name)(their_call, argnums)(params, tx))
