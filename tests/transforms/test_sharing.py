"""Blocks of equal structure share one trace, and nobody can tell but by the clock."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

WIDTH = 4
DEPTH = 6
traces: list[Any] = []


@pytest.fixture(autouse=True)
def no_traces() -> None:
    traces.clear()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.drop = nn.Dropout(0.4)
        self.scale = 0.5

    def forward(self, x: Any, *others: Any) -> Any:
        traces.append(self)
        return x + self.scale * self.drop(jnp.tanh(self.norm(self.fc(x))))


class WithMask(Block):
    def forward(self, x: Any, mask: Any) -> Any:
        assert mask.any()  # control flow on the values of a constant
        return super().forward(x) * mask


class TwoAreOne(Block):
    def forward(self, x: Any, y: Any) -> Any:
        return super().forward(x) if x is y else super().forward(y)


class ReturnsMore(Block):
    def forward(self, x: Any) -> Any:
        return super().forward(x), None, 2


class Counts(Block):
    def forward(self, x: Any) -> Any:
        self.scale = self.scale + 0.25
        return super().forward(x)


class Reads(Block):
    """Reads a weight of another module."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + jnp.sum(self.other[0].weight)


class Net(nn.Module):
    def __init__(self, block: type[Block] = Block, call: Callable[..., Any] = lambda block, x: block(x)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 1)
        self.call = call
        for layer in self.blocks:
            layer.other = [self.head]

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x)


MASK = np.array([[1.0, 0.0, 1.0, 1.0]], np.float32)
CALLS: list[tuple[type[Block], Callable[..., Any], int]] = [
    (Block, lambda block, x: block(x), 2),
    (WithMask, lambda block, x: block(x, MASK), 2),
    (TwoAreOne, lambda block, x: block(x, x), 2),
    (TwoAreOne, lambda block, x: block(x, 2 * x), 2),
    (ReturnsMore, lambda block, x: (lambda y, none, two: y * two)(*block(x)), 2),
    (Counts, lambda block, x: block(x), DEPTH),
    (Reads, lambda block, x: block(x), DEPTH + 1),
]


def batch(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (3, WIDTH))


def step(net: Net, x: Any) -> Any:
    return jm.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)


def ran(function: Callable[..., Any], block: type[Block], call: Callable[..., Any], x: Any) -> Any:
    jm.manual_seed(3)
    net = Net(block, call)
    return function(net, x), net.state_dict(), jax.random.key_data(jm.random.next_key())


def assert_close(ours: Any, expected: Any) -> None:
    """Compare relative to the largest number of all: a bias before a norm has no gradient but what rounding leaves."""
    largest = max(float(np.abs(np.asarray(leaf)).max()) for leaf in jax.tree.leaves(expected[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * largest), ours, expected)


@pytest.mark.parametrize(("block", "call", "expected"), CALLS)
def test_shared_blocks_compute_what_eager_ones_do(block: Any, call: Any, expected: int, key: jax.Array) -> None:
    eager = ran(step, block, call, batch(key))
    traces.clear()
    shared = ran(jm.jit(step), block, call, batch(key))
    assert len(traces) <= expected + 1
    assert_close(shared, eager)


def test_deep_model_is_traced_as_a_shallow_one(key: jax.Array) -> None:
    jm.jit(step)(Net(), batch(key))
    assert len(traces) == 2


def test_blocks_that_differ_are_traced_apart(key: jax.Array) -> None:
    net = Net()
    net.blocks[3].scale = 0.75
    net.blocks[4].norm.eval()
    jm.jit(step)(net, batch(key))
    assert len(traces) == 4


def test_hooks_run_for_every_block(key: jax.Array) -> None:
    net, names = Net(), []
    for block in net.blocks:
        block.fc.register_forward_hook(lambda module, args, output: names.append(id(module)))
    jm.jit(lambda net, x: net(x))(net, batch(key))
    assert names == [id(block.fc) for block in net.blocks]


def test_closed_over_traced_values_are_each_blocks_own(key: jax.Array) -> None:
    class Scaled(Block):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * scales[-1]

    scales: list[Any] = []

    def call(block: Block, x: Any) -> Any:
        scales.append(jnp.max(x))
        return block(x)

    net = Net(Scaled, call).eval()
    expected = net(batch(key))
    np.testing.assert_allclose(jm.jit(lambda net, x: net(x))(net, batch(key)), expected, rtol=1e-5)


def test_eager_gradients_are_not_shared(key: jax.Array) -> None:
    step(Net(), batch(key))
    assert len(traces) == DEPTH


def test_a_block_called_again_and_again_accumulates(key: jax.Array) -> None:
    def twice(net: Net, x: Any) -> Any:
        return net(net.blocks[0](x))

    jm.manual_seed(3)
    eager, compiled = Net(), Net()
    compiled.load_state_dict(eager.state_dict())
    jm.manual_seed(4)
    expected = twice(eager, batch(key))
    jm.manual_seed(4)
    np.testing.assert_allclose(jm.jit(twice)(compiled, batch(key)), expected, rtol=1e-5)
    assert int(compiled.blocks[0].norm.num_batches_tracked) == 2


def test_profiles_show_every_block(key: jax.Array) -> None:
    text = jm.jit(lambda net, x: net(x)).lower(Net(), batch(key)).as_text(debug_info=True)
    assert all(f"Net/{number}/" in text for number in range(DEPTH))


def test_sharing_under_vmap_and_functionalize(key: jax.Array) -> None:
    net = Net().eval()
    apply, params, state = jm.functionalize(net)
    x = jax.random.normal(key, (5, 3, WIDTH))
    expected = jnp.stack([net(one) for one in x])
    traces.clear()
    mapped = jax.jit(jax.vmap(lambda x: apply(params, state, x)[0]))(x)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5)
    np.testing.assert_allclose(jm.jit(jm.vmap(net))(x), expected, rtol=1e-5)


def test_an_error_in_a_shared_block_is_the_blocks_own(key: jax.Array) -> None:
    net = Net()
    net.blocks[4].fc = nn.Linear(WIDTH + 1, WIDTH)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        jm.jit(lambda net, x: net(x))(net, batch(key))
    assert not any(isinstance(p.value, jax.core.Tracer) for p in net.parameters())


def test_values_collected_in_a_list_are_every_blocks(key: jax.Array) -> None:
    class Collects(Block):
        def forward(self, x: Any) -> Any:
            y = super().forward(x)
            losses.append(jnp.mean(y))
            return y

    losses: list[Any] = []

    def total(net: Net, x: Any) -> Any:
        losses.clear()
        F.relu(net(x))
        return sum(losses)

    net = Net(Collects).eval()
    expected = total(net, batch(key))
    np.testing.assert_allclose(jm.jit(total)(net, batch(key)), expected, rtol=1e-5)
