"""What a function under ``jm.jit`` writes is written back: buffers, parameters, gradients, optimizers, generators."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import (
    BATCH,
    Custom,
    X,
    accumulate,
    arrays,
    assert_arrays,
    assert_clean,
    counted,
    mlp,
    multiply,
    plain,
    same,
)


def in_place(net: Any, x: Any) -> None:
    net.weight.data[0] = x[1]
    net.weight.data[1:] += 1
    net.weight.data *= 2


def by_method(net: Any, x: Any) -> None:
    net.weight.data.add_(x, alpha=2).clamp_(max=7.0)


def by_numpy(net: Any, x: Any) -> None:
    net.total = np.array([4.0, 5.0, 6.0], np.float32)


def by_buffer(net: Any, x: Any) -> None:
    net.total = nn.Buffer(x * 3)


WRITES: dict[str, Any] = {
    "value": lambda net, x: setattr(net.weight, "value", x),
    "data": lambda net, x: setattr(net.weight, "data", x * 2),
    "in place": in_place,
    "method": by_method,
    "item": lambda net, x: net.weight.__setitem__(slice(0, 2), x[1:]),
    "buffer": lambda net, x: setattr(net, "total", x),
    "buffer dict": lambda net, x: net._buffers.__setitem__("total", x),
    "numpy": by_numpy,
    "Buffer": by_buffer,
    "load_state_dict": lambda net, x: net.load_state_dict({"weight": x, "total": 2 * x}),
    "update": lambda net, x: jm.update(net, {"weight": x}, {"total": 3 * x}),
    "init": lambda net, x: nn.init.ones_(net.weight),
    "twice": lambda net, x: (accumulate(net, x), accumulate(net, x)),
    "to dtype": lambda net, x: net.to(jnp.bfloat16),
    "in grad": lambda net, x: jm.grad(lambda net: accumulate(net, x).sum())(net),
    "in vmap": lambda net, x: jm.vmap(lambda y: accumulate(net, x) * y)(x),
    "in jit": lambda net, x: jm.jit(accumulate)(net, x),
    "in apply": lambda net, x: jm.update(net, {}, jm.functionalize(net)[0]({"weight": x}, {"total": x}, x)[1]),
}


@pytest.mark.parametrize("kind", WRITES)
def test_writes_are_those_of_eager_code(kind: str) -> None:
    nets = [Custom(accumulate), Custom(accumulate)]
    compiled = jm.jit(lambda net, x: (WRITES[kind](net, x), None)[1])
    for _ in range(2):
        WRITES[kind](nets[0], jnp.asarray(X))
        compiled(nets[1], X)
    assert_arrays(arrays(nets[1]), arrays(nets[0]))
    assert_clean(nets[1])


def test_numpy_write_is_a_jax_array_afterwards() -> None:
    net = Custom(accumulate)
    jm.jit(by_numpy)(net, X)
    assert isinstance(net.total, jax.Array)


def test_batch_norm_buffers() -> None:
    nets = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    compiled = jm.jit(nets[1])
    for net in (nets[0], nets[0], compiled, compiled):
        net(BATCH)
    assert_arrays(arrays(nets[1]), arrays(nets[0]))
    assert int(nets[1].num_batches_tracked) == 2


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda net: jm.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda net: jm.optim.Adam(net.parameters(), lr=0.1),
    "AdamW": lambda net: jm.optim.AdamW(net.named_parameters(), lr=0.1),
    "groups": lambda net: jm.optim.Adam([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.5}]),
}


def torch_step(net: Any, optimizer: Any, x: Any) -> Any:
    optimizer.zero_grad()
    loss = jm.backward(lambda: jnp.mean(net(x) ** 2), net)
    optimizer.step()
    return loss


def jax_step(net: Any, optimizer: Any, x: Any) -> Any:
    loss, grads = jm.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)
    optimizer.step(grads)
    return loss


@pytest.mark.parametrize("step", [torch_step, jax_step], ids=["torch", "jax"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_step_is_that_of_eager_code(kind: str, step: Any) -> None:
    nets = [plain(), plain()]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, run in zip(nets, (step, jm.jit(step)), strict=True):
        optimizer = OPTIMIZERS[kind](net)
        for _ in range(3):
            run(net, optimizer, BATCH)
    assert_arrays(arrays(nets[1]), arrays(nets[0]))


def test_training_step_is_traced_once() -> None:
    function, net = counted(jax_step), plain()
    optimizer, step = jm.optim.Adam(net.parameters()), jm.jit(function)
    for _ in range(4):
        step(net, optimizer, BATCH)
    assert len(function.calls) == 1


def test_torch_step_settles_on_few_programs() -> None:
    function, net = counted(torch_step), plain()
    optimizer, step = jm.optim.Adam(net.parameters()), jm.jit(function)
    for _ in range(2):
        step(net, optimizer, BATCH)
    settled = len(function.calls)
    for _ in range(3):
        step(net, optimizer, BATCH)
    assert len(function.calls) == settled <= 4


def test_closure_step_needs_no_arguments() -> None:
    net = plain()
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    step = jm.jit(lambda x: jax_step(net, optimizer, x))
    losses = [float(step(BATCH)) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_accumulate_and_are_cleared(set_to_none: bool) -> None:
    net = Custom(multiply)
    add = jm.jit(lambda net, x: jm.backward(lambda: net(x).sum(), net))
    clear = jm.jit(lambda net: net.zero_grad(set_to_none=set_to_none))
    for _ in range(2):
        add(net, X)
        add(net, X)
        same(net.weight.grad, 2 * X)
        clear(net)
        assert net.weight.grad is None if set_to_none else not net.weight.grad.any()


def test_gradient_is_read_and_scaled() -> None:
    net = Custom(multiply)
    net.weight.grad = jnp.asarray(X)

    def scale(net: Any) -> Any:
        net.weight.grad = net.weight.grad * 3
        return net.weight.grad.sum()

    compiled = jm.jit(scale)
    same([compiled(net), compiled(net)], [18.0, 54.0])


def test_gradients_in_nested_compiled_functions() -> None:
    net = Custom(multiply)
    inner = jm.jit(lambda net, x: jm.backward(lambda: net(x).sum(), net))
    outer = jm.jit(lambda net, x: inner(net, x) + inner(net, x))
    for i in (1, 2):
        outer(net, X)
        same(net.weight.grad, 2 * i * X)
        assert_clean(net)


def test_generator_arguments_advance() -> None:
    def draw(generator: Any) -> Any:
        return jm.rand(2, generator=generator), jm.randn(2, generator=generator)

    generators = [jm.Generator().manual_seed(3) for _ in range(2)]
    compiled = jm.jit(draw)
    first, again = compiled(generators[0]), compiled(generators[1])
    same(first, again)
    assert not jnp.array_equal(compiled(generators[0])[0], first[0])


def test_structure_written_while_traced_stays() -> None:
    net = Custom(lambda module, x: (setattr(module, "seen", x.shape), x)[1])
    jm.jit(net)(X)
    assert net.seen == (3,)


def test_writes_of_one_object_given_twice() -> None:
    net = Custom(accumulate)
    jm.jit(lambda a, b, x: (a(x), b(x)))(net, net, X)
    same(net.total, 2 * X)


def test_batch_norm_momentum_none_counts_batches() -> None:
    nets = [nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)]
    compiled = jm.jit(nets[1])
    for scale in (1.0, 2.0, 3.0):
        nets[0](BATCH * scale)
        compiled(BATCH * scale)
    assert_arrays(arrays(nets[1]), arrays(nets[0]))


def test_whole_net_in_training() -> None:
    net = mlp()
    optimizer = jm.optim.AdamW(net.parameters(), lr=0.05)
    step = jm.jit(jax_step, donate=True)
    losses = [float(step(net, optimizer, BATCH)) for _ in range(20)]
    assert min(losses[-5:]) < losses[0]
    assert_clean(net)
