"""``remat``: less is kept for the backward pass, and nothing happens twice. Its state: see ``test_crossing``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, assert_arrays, same

WIDE = jnp.asarray(np.random.default_rng(0).standard_normal((64, 32)), jnp.float32)


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32), nn.Dropout(0.1))


def scanned(wrap: Any) -> int:
    """Return the bytes that a compiled scan over blocks keeps."""
    nets = nn.ModuleList([block() for _ in range(8)])
    run = jm.grad(lambda nets, x: jm.scan(lambda x, b: (wrap(b)(x), None), x, nets)[0].sum())
    return jm.jit(run).lower(nets, WIDE).compile().memory_analysis().temp_size_in_bytes


def test_less_is_kept_for_the_backward_pass() -> None:
    everything = jax.checkpoint_policies.everything_saveable
    nothing, saved, plain = scanned(jm.remat), scanned(lambda b: jm.remat(b, policy=everything)), scanned(lambda b: b)
    assert nothing < 0.6 * plain
    assert saved > 0.9 * plain


class Decorated(nn.Module):
    """A block whose forward is rematerialised for every instance."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    @jm.remat
    def forward(self, x: Any, scale: float = 1.0) -> Any:
        return jnp.tanh(self.drop(self.norm(x))) * scale


class Undecorated(Decorated):
    """The same without."""

    def forward(self, x: Any, scale: float = 1.0) -> Any:
        return jnp.tanh(self.drop(self.norm(x))) * scale


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_decorated_forward(wrap: Any) -> None:
    results = []
    for kind in (Decorated, Undecorated):
        jm.manual_seed(0)
        net = kind()
        out = net(BATCH, scale=2.0)
        loss, grads = wrap(jm.value_and_grad(lambda net: net(BATCH, 2.0).sum()))(net)
        state = {name: np.array(value) for name, value in net.state_dict().items()}
        results.append({"out": out, "loss": loss, **dict(sorted(grads.items())), **state})
        assert int(net.norm.num_batches_tracked) == 2
    assert_arrays(*results)


def test_function_is_traced_once_and_computed_twice() -> None:
    traced: list[int] = []
    computed: list[int] = []

    @jm.remat
    def loud(x: Any) -> Any:
        traced.append(1)
        jax.debug.callback(lambda: computed.append(1))
        return jnp.sin(jnp.sin(x))

    jm.jit(jm.grad(loud))(1.0)
    jax.effects_barrier()
    assert (len(traced), len(computed)) == (1, 2)


def test_static_arguments() -> None:
    net = nn.Linear(3, 3)
    run = jm.remat(lambda net, x, negate, *, bias: -net(x) if negate else net(x) + bias, static_argnums=(2,))
    gradient = jm.jit(jm.grad(lambda net: run(net, BATCH, True, bias=1.0).sum()))(net)
    same(gradient["bias"], [-4.0] * 3)
    with pytest.raises(jax.errors.TracerBoolConversionError, match="bool"):
        jm.grad(lambda net: jm.remat(run.__wrapped__)(net, BATCH, jnp.array(True), bias=1.0).sum())(net)


def test_policy_is_that_of_jax() -> None:
    jaxprs = []
    for policy in (jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.nothing_saveable):
        run = jm.remat(lambda x: jnp.sin(x @ x), policy=policy)
        jaxprs.append(str(jax.make_jaxpr(jax.grad(lambda x: run(x).sum()))(jnp.ones((3, 3)))).count("dot_general"))  # noqa: B023
    assert jaxprs[0] == jaxprs[1] - 1


def test_outside_a_gradient_it_is_the_function_itself() -> None:
    net = nn.Linear(3, 3)
    same(jm.remat(net)(BATCH), net(BATCH))
    assert jm.remat(lambda net: net)(net) is net


def test_own_objects_come_back_as_themselves() -> None:
    net = nn.Linear(3, 3)
    found = []
    jm.grad(lambda x: (out := jm.remat(lambda x: (net, net.weight, x * 2))(x), found.append(out[:2]))[0][2])(1.0)
    assert found[0][0] is net and found[0][1] is net.weight


def test_checkpoint_is_a_package_and_a_function(tmp_path: Any) -> None:
    assert jm.grad(jm.checkpoint(lambda x: x**3, prevent_cse=False))(2.0) == 12.0
    jm.checkpoint.save({"x": jnp.ones(2)}, tmp_path / "x.safetensors")
    same(jm.checkpoint.load(tmp_path / "x.safetensors")["x"], jnp.ones(2))


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="remat expects a function or a Module, got 3"):
        jm.remat(3)
