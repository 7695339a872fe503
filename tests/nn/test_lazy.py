"""Lazy modules: shapes found by a call, by a transform, by shapes alone, or in a state dict."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def mlp(s: Any) -> Any:
    return s.Sequential(s.LazyLinear(8), s.ReLU(), s.LazyLinear(2, bias=False))


WAYS = {
    "call": lambda net: net(X),
    "jm.jit": lambda net: jm.jit(net)(X),
    "jm.jit as argument": lambda net: jm.jit(lambda net, x: net(x))(net, X),
    "jm.grad": lambda net: jm.grad(lambda net: net(X).sum())(net)["0.weight"],
    "jm.jit(jm.grad)": lambda net: jm.jit(jm.grad(lambda net: net(X).sum()))(net)["2.weight"],
    "jm.backward": lambda net: jm.backward(lambda: net(X).sum(), net),
    "jm.vmap": lambda net: jm.vmap(net)(X),
    "jm.eval_shape": lambda net: jm.eval_shape(net, X),
    "jax.eval_shape": lambda net: jax.eval_shape(net, X),
    "jax.jit": lambda net: jax.jit(lambda x: net(x))(X),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_use_finds_shapes_and_draws_the_weights_of_torch(way: str) -> None:
    jm.manual_seed(3)
    torch.manual_seed(3)
    net, theirs = mlp(nn), mlp(torch.nn)
    box = net[0].weight
    theirs(torch.tensor(X))
    WAYS[way](net)
    assert repr(net) == repr(theirs) and type(net[0]) is nn.Linear
    assert net[0].weight is box and type(box) is nn.Parameter
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], tensor.numpy())
    np.testing.assert_allclose(net(X), theirs(torch.tensor(X)).detach(), 1e-5, 1e-6)


def test_a_step_with_an_optimizer_made_before_the_shapes_trains_every_parameter() -> None:
    net = mlp(nn)
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)

    @jm.jit
    def step(net: nn.Module, optimizer: jm.optim.Optimizer) -> jax.Array:
        loss, grads = jm.value_and_grad(lambda net: (net(X) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    first = step(net, optimizer)
    before = {name: np.array(p) for name, p in net.named_parameters()}
    assert step(net, optimizer) < first
    assert all((before[name] != p).any() for name, p in net.named_parameters())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_find_their_shapes_apart(twin: Callable[[Any], Any]) -> None:
    net = mlp(nn)
    other = twin(net)
    other(X)
    assert type(other[0]) is nn.Linear and not other[0]._forward_pre_hooks
    assert isinstance(net[0], nn.LazyLinear) and isinstance(net[0].weight, nn.UninitializedParameter)


LAYERS = [
    *[(f"LazyConv{r}d", (6, 3), dict(groups=2, padding="same"), (2, 4, *[5] * r)) for r in (1, 2, 3)],
    *[(f"LazyConvTranspose{r}d", (6, 2), dict(stride=2, bias=False), (4, *[3] * r)) for r in (1, 2, 3)],
    *[(f"LazyBatchNorm{r}d", (), dict(momentum=0.3), (3, 4, *[2] * r)) for r in (1, 2, 3)],
    *[(f"LazyInstanceNorm{r}d", (), dict(bias=False), (3, 4, *[2] * r)) for r in (1, 2, 3)],
    ("LazyBatchNorm1d", (), dict(affine=False), (3, 4)),
    ("LazyBatchNorm2d", (), dict(track_running_stats=False), (3, 4, 2, 2)),
]


@pytest.mark.parametrize("name, args, kwargs, shape", LAYERS)
def test_every_lazy_layer_becomes_what_it_becomes_in_torch(
    name: str, args: Any, kwargs: Any, shape: tuple[int, ...], both: Callable[..., None]
) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def script(s: Any) -> Any:
        net = getattr(s, name)(*args, **kwargs)
        before = repr(net), [repr(value) for key, value in net.state_dict().items() if "num" not in key]
        output = net(s.array(x))
        return before, output, net, net.state_dict()

    both(script)


@pytest.mark.parametrize("name, args, kwargs, shape", [LAYERS[1], LAYERS[4], LAYERS[7], LAYERS[10]])
def test_lazy_layers_load_and_find_shapes_under_transforms(name: str, args: Any, kwargs: Any, shape: Any) -> None:
    x = np.ones(shape, np.float32)
    nets = [getattr(nn, name)(*args, **kwargs) for _ in range(4)]
    nets[0](x)
    state = nets[0].state_dict()
    nets[1].load_state_dict(state)
    assert not nets[1].has_uninitialized_params()
    jm.jit(nets[2])(x)
    nets[3].to(jnp.bfloat16)(jnp.asarray(x, jnp.bfloat16))
    for net in nets[1:3]:
        assert [value.shape for value in net.state_dict().values()] == [value.shape for value in state.values()]
    assert nets[3].weight.dtype == jnp.bfloat16 and type(nets[2]) is type(nets[0])


LOADS = {
    "into": "net = lazy(); net.load_state_dict(made().state_dict()); out = str(net), type(net[0].weight)",
    "into and call": "net = lazy(); net.load_state_dict(made().state_dict()); net(x); out = net.state_dict(), str(net)",
    "out of": "out = list(lazy().state_dict()), [repr(v) for v in lazy().state_dict().values()]",
    "lazy into lazy": "net = lazy(); net.load_state_dict(lazy().state_dict()); out = repr(net)",
    "types": "net = lazy(); out = [isinstance(p, s.UninitializedParameter) for p in net.parameters()]",
    "uninitialized": "net = lazy(); out = net[0].has_uninitialized_params(), repr(net[0].weight)",
    "moved": "net = lazy().half(); out = net[0].weight.dtype",
    "hooks": "net = lazy(); net(x); out = len(net[0]._forward_pre_hooks), hasattr(net[0], '_load_hook')",
}


@pytest.mark.parametrize("statement", LOADS.values(), ids=LOADS.keys())
def test_state_dicts_in_and_out_are_those_of_torch(statement: str, both: Callable[..., None]) -> None:
    def script(s: Any) -> Any:
        def made() -> Any:
            net = mlp(s)
            net(s.array(X))
            return net

        scope = {"s": s, "lazy": lambda: mlp(s), "made": made, "x": s.array(X), "out": None}
        exec(statement, scope)
        return scope["out"]

    both(script)


REFUSED: dict[str, tuple[str, Any]] = {
    "load": ("net = mlp(s); net(x); net.load_state_dict(mlp(s).state_dict())", RuntimeError),
    "shape": ("mlp(s)[0].weight.shape", RuntimeError),
    "groups": ("s.LazyConv1d(4, 3, groups=2)(s.array(X[None]))", ValueError),
    "axes": ("s.LazyConv2d(4, 3)(x)", RuntimeError),
    "features": ("net = s.LazyLinear(4, bias=False); net.weight.materialize((4, 7)); net(x)", AssertionError),
}


@pytest.mark.parametrize("statement, raises", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_are_those_of_torch(statement: str, raises: Any, both: Callable[..., None]) -> None:
    both(lambda s: exec(statement, {"s": s, "mlp": mlp, "x": s.array(X), "X": X}), raises)


def test_a_value_that_is_not_there_is_not_read() -> None:
    net = mlp(nn)
    for use in (lambda: net[0].weight + 1, lambda: net[0].weight.value, lambda: jnp.sum(net[0].weight)):
        with pytest.raises(ValueError, match="Attempted to use an uninitialized parameter"):
            use()
    for take in (jm.functionalize, jax.tree.leaves):
        with pytest.raises(RuntimeError, match="Sequential has uninitialized parameters, which have no arrays yet"):
            take(net)


def test_a_failed_load_leaves_the_module_lazy() -> None:
    net = mlp(nn)
    made = mlp(nn)
    made(X)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict({**made.state_dict(), "extra": np.ones(3)})
    assert all(isinstance(p, nn.UninitializedParameter) for p in net.parameters())
    net(X)
    assert type(net[2]) is nn.Linear


def test_a_module_of_the_users_own_is_lazy_in_the_same_way(both: Callable[..., None]) -> None:
    def script(s: Any) -> Any:
        class Scale(s.modules.lazy.LazyModuleMixin, s.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = s.UninitializedParameter()
                self.register_buffer("count", s.UninitializedBuffer())

            def initialize_parameters(self, input: Any) -> None:
                self.scale.materialize((input.shape[-1],))
                self.count.materialize(2)
                s.init.ones_(self.scale)

            def forward(self, input: Any) -> Any:
                return input * self.scale.reshape(1, -1)

        net = Scale()
        uninitialized = isinstance(net.count, s.UninitializedBuffer), net.has_uninitialized_params()
        output = net(s.array(X))
        return uninitialized, output, list(net.state_dict()), tuple(net.count.shape), repr(net)

    both(script)
