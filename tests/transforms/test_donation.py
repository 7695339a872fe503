"""``jm.jit(donate=True)``: exactly what is overwritten is given away."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, arrays, assert_arrays, multiply, plain, same


def train(net: Any, optimizer: Any, x: Any) -> Any:
    loss, grads = jm.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)
    optimizer.step(grads)
    return loss


def deleted(held: dict[str, Any]) -> set[str]:
    return {name for name, array in held.items() if array.is_deleted()}


def test_exactly_the_written_arrays_are_deleted() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    compiled, x = jm.jit(net, donate=True), jnp.asarray(BATCH)
    for _ in range(2):
        held = dict(net.state_dict())
        compiled(x)
        assert deleted(held) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not x.is_deleted()


def test_nothing_is_deleted_where_nothing_is_written() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    held = dict(net.state_dict())
    jm.jit(net, donate=True)(BATCH)
    assert not deleted(held)


def test_frozen_parameters_are_not_deleted() -> None:
    net = plain()
    net[0].requires_grad_(False)
    optimizer = jm.optim.Adam(net.parameters())
    step = jm.jit(train, donate=True)
    step(net, optimizer, BATCH)
    held = dict(net.state_dict())
    step(net, optimizer, BATCH)
    assert deleted(held) == {"2.weight", "2.bias"}


def test_results_are_those_without_donation() -> None:
    nets = [plain(), plain()]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1] = copy.deepcopy(nets[1])
    for net, donate in zip(nets, (False, True), strict=True):
        optimizer, step = jm.optim.Adam(net.parameters(), lr=0.1), jm.jit(train, donate=donate)
        for _ in range(4):
            step(net, optimizer, BATCH)
    assert_arrays(arrays(nets[1]), arrays(nets[0]))


def test_tied_parameter_is_given_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    optimizer, step = jm.optim.SGD(net.parameters(), lr=0.1), jm.jit(train, donate=True)
    for _ in range(3):
        step(net, optimizer, BATCH)
    assert net[1].weight is net[0].weight and np.isfinite(net[0].weight.numpy()).all()


@pytest.mark.parametrize("donate", [False, True])
def test_boxes_that_share_an_array_part_ways(donate: bool) -> None:
    shared = jnp.ones(3)
    net = Custom(multiply, other=nn.Parameter(shared))
    net.weight.value = shared
    optimizer = jm.optim.SGD(net.parameters(), lr=1.0)
    step = jm.jit(
        lambda net, optimizer: optimizer.step(jm.grad(lambda n: (n(X) + 2 * n.other).sum())(net)), donate=donate
    )
    for _ in range(2):
        step(net, optimizer)
    same(net.weight, 1 - 2 * X)
    same(net.other, jnp.full(3, -3.0))


def test_buffers_that_share_an_array_part_ways() -> None:
    shared = jnp.zeros(3)
    nets = nn.ModuleList([Custom(accumulate), Custom(accumulate)])
    for net in nets:
        net.total = shared
    compiled = jm.jit(lambda nets, x: (nets[0](x), nets[1](2 * x)), donate=True)
    for _ in range(2):
        compiled(nets, X)
    same([net.total for net in nets], [2 * X, 4 * X])


def test_only_one_of_two_boxes_that_share_an_array_is_written() -> None:
    shared = jnp.ones(3)
    net = Custom(lambda module, x: accumulate(module, x) + module.weight)
    net.weight.value = net.total = shared
    compiled = jm.jit(net, donate=True)
    for i in range(1, 4):
        same(compiled(X), (1 + i * X) + 1)
    same(net.weight, shared)


def test_array_that_is_state_and_argument_stays() -> None:
    net = Custom(accumulate)
    compiled, x = jm.jit(net, donate=True), jnp.asarray(X)
    net.total = x
    same(compiled(x), 2 * X * net.weight)
    assert not x.is_deleted()
    net.total = x
    same(compiled(x), 2 * X * net.weight)


def test_copy_in_the_same_memory_is_state_and_argument() -> None:
    net = Custom(accumulate)
    x = jnp.asarray(X)
    net.total = jax.device_put(x, x.sharding)
    same(jm.jit(net, donate=True)(x), 2 * X * net.weight)


def test_argument_arrays_are_never_given_away() -> None:
    net = Custom(accumulate)
    compiled, x = jm.jit(net, donate=True), jnp.asarray(X)
    for _ in range(2):
        compiled(x)
    assert not x.is_deleted()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_are_safe(copier: Any) -> None:
    net = plain()
    optimizer, step = jm.optim.Adam(net.parameters()), jm.jit(train, donate=True)
    step(net, optimizer, BATCH)
    net_copy, optimizer_copy = copier((net, optimizer))
    step(net, optimizer, BATCH)
    step(net_copy, optimizer_copy, BATCH)
    assert_arrays(arrays(net_copy), arrays(net))


def test_swapped_values_come_back_swapped() -> None:
    net = Custom(multiply, other=nn.Parameter(-X))

    def swap(net: Any) -> None:
        net.weight.value, net.other.value = net.other.value, net.weight.value

    compiled, weight = jm.jit(swap, donate=True), net.weight.numpy().copy()
    for _ in range(3):
        compiled(net)
    same(net.weight, -X)
    same(net.other, weight)


def test_old_value_can_be_returned() -> None:
    net = Custom(lambda module, x: (module.total, accumulate(module, x))[0])
    compiled = jm.jit(net, donate=True)
    same([compiled(X) for _ in range(3)], [0 * X, X, 2 * X])


def test_returned_array_survives_the_next_call() -> None:
    net = Custom(lambda module, x: (accumulate(module, x), module.total)[1])
    compiled = jm.jit(net, donate=True)
    first = compiled(X)
    compiled(X)
    same(first, X)


def test_gradients_are_given_away_where_they_are_overwritten() -> None:
    net = Custom(multiply)
    step = jm.jit(lambda net, x: jm.backward(lambda: net(x).sum(), net), donate=True)
    for i in range(1, 4):
        step(net, X)
        same(net.weight.grad, i * X)


def test_written_slots_that_depend_on_the_shape() -> None:
    def body(module: Any, x: Any) -> Any:
        if x.shape[0] == 2:
            module.total = module.total + x.sum()
        else:
            module.weight.value = module.weight.value + x.sum()
        return module.weight * module.total

    net, eager = Custom(body), Custom(body)
    compiled = jm.jit(net, donate=True)
    for x in (jnp.ones(2), jnp.ones(3), jnp.ones(2), jnp.ones(4), jnp.ones(2), jnp.ones(3)):
        same(compiled(x), eager(x))
    assert_arrays(arrays(net), arrays(eager))


def dropout_step() -> Any:
    net = nn.Dropout(0.5)
    compiled = jm.jit(net, donate=True)
    compiled(BATCH)
    return compiled


def test_cloned_generator_survives() -> None:
    compiled = dropout_step()
    clone, twin = jm.default_generator.clone_state(), copy.deepcopy(jm.default_generator)
    compiled(BATCH)
    same(jax.random.bits(clone.next_key()), jax.random.bits(twin.next_key()))


def test_random_state_is_put_back_after_fork_rng() -> None:
    compiled = dropout_step()
    with jm.fork_rng():
        first = compiled(BATCH)
    same(compiled(BATCH), first)


def test_key_bound_by_the_user_survives() -> None:
    compiled, key = dropout_step(), jax.random.key(0)
    with jm.fork_rng(key):
        first = compiled(BATCH)
    with jm.fork_rng(key):
        same(compiled(BATCH), first)


def test_key_of_a_generator_argument_survives_outside() -> None:
    key = jax.random.key_data(jax.random.key(0))
    generator = jm.Generator().set_key(key)
    draw = jm.jit(lambda generator: jm.rand(2, generator=generator), donate=True)
    draw(generator)
    draw(generator)
    assert not key.is_deleted()


@pytest.mark.parametrize("donate", [False, True])
def test_nested_compiled_functions_with_donation(donate: bool) -> None:
    net = Custom(accumulate)
    inner = jm.jit(lambda net, x: net(x) + 1, donate=True)
    outer = jm.jit(lambda net, x: inner(net, x) + inner(net, x), donate=donate)
    for _ in range(2):
        outer(net, X)
    same(net.total, 4 * X)
