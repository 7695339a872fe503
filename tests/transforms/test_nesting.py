"""Transforms in each other, around and inside JAX's own; exceptions in any of them leave everything as it was."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.random import next_key
from tests.transforms.helpers import (
    BATCH,
    Custom,
    X,
    accumulate,
    assert_arrays,
    assert_clean,
    multiply,
    plain,
    same,
)


def loss(net: Any, x: Any) -> Any:
    return jnp.mean(net(x) ** 2)


def pure_loss(params: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return jnp.mean((hidden @ params["2.weight"].T + params["2.bias"][None]) ** 2)


def gradient(net: Any, x: Any) -> Any:
    return jm.grad(loss)(net, x)


GRADIENTS: dict[str, Any] = {
    "jm.grad": gradient,
    "jm.jit(jm.grad)": jm.jit(jm.grad(loss)),
    "jm.jit of jm.grad": jm.jit(gradient),
    "jm.jit in jm.jit": jm.jit(lambda net, x: jm.jit(gradient)(net, x)),
    "jm.grad(jm.jit)": jm.grad(jm.jit(loss)),
    "jm.jit(jm.grad(jm.jit))": jm.jit(jm.grad(jm.jit(loss))),
    "jm.grad of a jitted net": jm.grad(lambda net, x: jnp.mean(jm.jit(net)(x) ** 2)),
    "jm.grad of a jitted closure": jm.grad(lambda net, x: jm.jit(lambda x: loss(net, x))(x)),
    "jm.grad of jax.checkpoint": jm.grad(lambda net, x: jax.checkpoint(lambda x: loss(net, x))(x)),
    "jm.grad of jax.jit": jm.grad(lambda net, x: jax.jit(lambda x: loss(net, x))(x)),
    "jax.jit of a pytree": lambda net, x: dict_of(net, jax.jit(jax.grad(loss))(net, x)),
    "jax.grad of a pytree": lambda net, x: dict_of(net, jax.grad(loss)(net, x)),
    "jm.jit(jax.grad of a pytree)": lambda net, x: dict_of(net, jm.jit(lambda n, x: jax.grad(loss)(n, x))(net, x)),
    "jm.vmap inside": jm.grad(lambda net, x: jnp.mean(jm.vmap(net)(x) ** 2)),
    "jax.vmap inside": jm.jit(jm.grad(lambda net, x: jnp.mean(jax.vmap(net)(x) ** 2))),
    "lax.map inside": jm.jit(jm.grad(lambda net, x: jnp.mean(jax.lax.map(net, x) ** 2))),
    "scan inside": jm.jit(
        jm.grad(lambda net, x: jax.lax.scan(lambda c, row: (c + jnp.mean(net(row) ** 2), None), 0.0, x)[0] / len(x))
    ),
    "cond inside": jm.jit(
        jm.grad(lambda net, x: jax.lax.cond(x.sum() > -99, lambda x: loss(net, x), lambda x: 0.0 * x[0, 0], x))
    ),
    "apply": lambda net, x: jax.grad(lambda p: jnp.mean(jm.functionalize(net)[0](p, {}, x)[0] ** 2))(
        jm.functionalize(net)[1]
    ),
    "jm.jit(jax.grad(apply))": jm.jit(
        lambda net, x: jax.grad(lambda p: jnp.mean(jm.functionalize(net)[0](p, {}, x)[0] ** 2))(
            {k: p.value for k, p in net.named_parameters()}
        )
    ),
    "functional_call": lambda net, x: jax.jit(
        jax.grad(lambda p: jnp.mean(jm.functional_call(net, p, x) ** 2))
    )({k: p.value for k, p in net.named_parameters()}),
    "backward": lambda net, x: backward_of(net, x),
    "jm.jit of backward": lambda net, x: jm.jit(backward_of)(net, x),
}  # fmt: skip


def dict_of(net: Any, grads: Any) -> Any:
    assert isinstance(grads, nn.Module)
    return {name: p.value for name, p in grads.named_parameters()}


def backward_of(net: Any, x: Any) -> Any:
    net.zero_grad()
    jm.backward(lambda: loss(net, x), net)
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradient_is_that_of_plain_jax(kind: str) -> None:
    net = plain()
    expected = jax.grad(pure_loss)({name: p.value for name, p in net.named_parameters()}, BATCH)
    for _ in range(2):
        ours = GRADIENTS[kind](net, jnp.asarray(BATCH))
        assert_arrays({k: ours[k] for k in sorted(ours)}, expected)
    assert_clean(net)


@pytest.mark.parametrize("outer", [jm.jit, jax.jit], ids=["jm.jit", "jax.jit"])
def test_hessian_is_that_of_plain_jax(outer: Any) -> None:
    apply, params, state = jm.functionalize(plain())
    ours = outer(jax.jacfwd(jax.grad(lambda p: jnp.mean(apply(p, state, BATCH)[0] ** 2))))(params)
    theirs = jax.jit(jax.hessian(pure_loss))(params, BATCH)
    for name in params:
        assert_arrays(dict(sorted(ours[name].items())), theirs[name])


def test_gradient_of_a_gradient() -> None:
    net = Custom(lambda module, x: (module.weight**3 * x).sum())
    outer = jm.grad(lambda net: sum(g.sum() for g in jm.grad(lambda n: n(X))(net).values()))
    same(outer(net)["weight"], 6 * net.weight.value * X)
    same(jm.jit(outer)(net)["weight"], 6 * net.weight.value * X)


def test_gradient_of_a_training_step() -> None:
    net = Custom(lambda module, x: (module.weight**2 * x).sum())

    def after_step(net: Any, rate: Any) -> Any:
        net.weight.value = net.weight.value - rate * jm.grad(lambda n: n(X))(net)["weight"]
        return net(X)

    before = net.weight.value
    expected = jax.grad(lambda rate: ((before - rate * 2 * before * X) ** 2 * X).sum())(0.1)
    same(jm.jit(jm.grad(after_step, argnums=1))(net, 0.1), expected)
    same(net.weight, before - 0.2 * before * X)


def test_per_sample_gradients() -> None:
    net = plain()
    params = {name: p.value for name, p in net.named_parameters()}
    theirs = jax.vmap(jax.grad(pure_loss), (None, 0))(params, BATCH[:, None])
    for transform in (jax.vmap, jm.vmap):
        ours = transform(lambda x: jm.grad(loss)(net, x[None]))(BATCH)
        assert_arrays(dict(sorted(ours.items())), theirs)


INNER: dict[str, Any] = {
    "checkpoint": lambda module, x: jax.checkpoint(module.block)(x),
    "checkpoint of forward": lambda module, x: jax.checkpoint(module.block.forward)(x),
    "jit": lambda module, x: jax.jit(module.block)(x),
    "cond": lambda module, x: jax.lax.cond(x.sum() > -99, module.block, module.other, x),
    "switch": lambda module, x: jax.lax.switch(1, [module.other, module.block], x),
    "map": lambda module, x: jax.lax.map(module.block, x),
    "vmap": lambda module, x: jax.vmap(module.block)(x),
    "fori_loop": lambda module, x: jax.lax.fori_loop(0, 1, lambda i, c: module.block(c), x),
    "while_loop": lambda module, x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (1, module.block(x)), (0, x))[1],
    "eval_shape": lambda module, x: jnp.zeros(jax.eval_shape(module.block, x).shape) + module.block(x),
    "stored": lambda module, x: module.stored(x),
}  # fmt: skip


def with_inner(kind: str) -> Custom:
    net = Custom(lambda module, x: INNER[kind](module, x), block=nn.Linear(3, 3), other=nn.Linear(3, 3))
    object.__setattr__(net, "stored", jax.checkpoint(net.block))
    return net


@pytest.mark.parametrize("kind", INNER)
def test_layers_are_functions_for_jax_inside_a_transform(kind: str) -> None:
    net = with_inner(kind)
    programs = [jm.jit(net), jm.jit(lambda net, x: net(x) * 1)]
    same(programs[0](BATCH), net.block(BATCH))
    net.block.weight.data.mul_(2)
    same(programs[1](net, BATCH), net.block(BATCH))
    apply, params, state = jm.functionalize(net)
    same(jax.jit(apply)(params, state, BATCH)[0], net.block(BATCH))


@pytest.mark.parametrize("kind", [k for k in INNER if k != "while_loop"])
def test_layers_are_functions_for_jax_under_grad(kind: str) -> None:
    net = with_inner(kind)
    for _ in range(2):
        ours = jm.grad(lambda net: jnp.sum(net(BATCH) ** 2))(net)
        theirs = jm.grad(lambda block: jnp.sum(block(BATCH) ** 2))(net.block)
        same(ours["block.weight"], theirs["weight"])
        net.block.weight.data.mul_(2)


def test_mode_is_honoured_by_a_checkpointed_layer() -> None:
    net = Custom(lambda module, x: jax.checkpoint(module.block)(x), block=nn.Sequential(nn.Dropout(1.0)))
    compiled = jm.jit(net)
    same(compiled(BATCH), 0 * BATCH)
    net.eval()
    same(compiled(BATCH), BATCH)


@pytest.mark.parametrize("inner", [jm.jit, lambda f: f], ids=["jm.jit", "plain"])
def test_state_passes_through_nested_compiled_functions(inner: Any) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    run = inner(lambda net, x: net(x))
    outer = jm.jit(lambda net, x: run(net, run(net, x)))
    first = outer(net, BATCH)
    assert int(net[0].num_batches_tracked) == 2
    assert not jnp.array_equal(outer(net, BATCH), first)


def test_inner_function_is_traced_once_for_the_same_structure() -> None:
    calls: list[int] = []

    def block(net: Any, x: Any) -> Any:
        calls.append(1)
        return net(x)

    inner, nets = jm.jit(block), nn.ModuleList([nn.Linear(3, 3) for _ in range(5)])
    outer = jm.jit(lambda nets, x: [x := inner(net, x) for net in nets][-1])
    same(outer(nets, BATCH), nn.Sequential(*nets)(BATCH))
    assert len(calls) == 1


class Stop(BaseException):
    pass


FAILURES: dict[str, tuple[Any, Any]] = {
    "Exception": (ValueError("stop"), ValueError),
    "KeyboardInterrupt": (KeyboardInterrupt("stop"), KeyboardInterrupt),
    "BaseException": (Stop("stop"), Stop),
    "shape": (None, TypeError),
    "concretization": (False, jax.errors.TracerBoolConversionError),
}
RUNS: dict[str, Any] = {
    "jm.jit": lambda net: jm.jit(net)(X),
    "donated": lambda net: jm.jit(net, donate=True)(X),
    "lower": lambda net: jm.jit(net).lower(X),
    "nested": lambda net: jm.jit(lambda net, x: jm.jit(net)(x))(net, X),
    "jm.grad": lambda net: jm.grad(lambda net, x: net(x).sum())(net, jnp.asarray(X)),
    "jm.jit(jm.grad)": lambda net: jm.jit(jm.grad(lambda net: net(jnp.asarray(X)).sum()))(net),
    "jm.vmap": lambda net: jm.vmap(lambda x: net(x))(jnp.asarray(BATCH)),
    "jm.eval_shape": lambda net: jm.eval_shape(net, X),
    "backward": lambda net: jm.backward(lambda: net(jnp.asarray(X)).sum(), net),
    "apply": lambda net: jax.jit(jm.functionalize(net)[0])({"weight": X}, {"total": X}, X, rng=jax.random.key(0)),
    "functional_call": lambda net: jm.functional_call(net, {"weight": -X, "total": X}, X),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", ["Exception", "KeyboardInterrupt", "BaseException", "shape"])
def test_exceptions_put_everything_back(kind: str, run: str) -> None:
    error, expected = FAILURES[kind]

    def body(module: Any, x: Any) -> Any:
        if module.fails:
            module.weight.value = module.weight.value * 2
            accumulate(module, x)
            if error is None:
                return module.weight.value + jnp.ones(7)
            raise error
        return x * module.weight

    net = Custom(body, fails=True)
    boxes = {name: id(p.value) for name, p in net.named_parameters()} | {"total": id(net.total)}
    state = jm.get_rng_state()
    with pytest.raises(expected, match="stop|incompatible shapes"):
        RUNS[run](net)
    assert_clean(net)
    assert run == "jm.grad" or boxes == {n: id(p.value) for n, p in net.named_parameters()} | {"total": id(net.total)}
    np.testing.assert_array_equal(jm.get_rng_state(), state)
    net.fails = False
    RUNS[run](net)
    same(jm.jit(net)(X), net(X))


def test_random_binding_is_undone_after_an_exception() -> None:
    def body(module: Any, x: Any) -> Any:
        next_key()
        raise ValueError("stop")

    net, before = Custom(body), jm.random.current_generator()
    for run in (
        lambda: jm.jit(net)(X),
        lambda: jax.jit(lambda: jm.functionalize(net)[0]({"weight": X}, {"total": X}, X, rng=jax.random.key(0)))(),
    ):
        with pytest.raises(ValueError, match="stop"):
            run()
        assert jm.random.current_generator() is before


@pytest.mark.parametrize("caught", ["inner", "outer"])
def test_exception_in_an_inner_trace_may_be_caught(caught: str) -> None:
    def fail(net: Any, x: Any) -> Any:
        accumulate(net, x)
        raise ValueError("stop")

    def outer(net: Any, x: Any) -> Any:
        accumulate(net, x)
        try:
            jm.jit(fail)(net, x)
        except ValueError:
            pass
        return accumulate(net, x)

    net = Custom(multiply)
    jm.jit(outer)(net, X)
    same(net.total, 2 * X)
    assert_clean(net)


def test_python_control_flow_on_traced_values_is_jax_error() -> None:
    net = Custom(lambda module, x: x if module.weight.value.sum() > 0 else -x)
    with pytest.raises(jax.errors.TracerBoolConversionError, match="boolean conversion of traced array"):
        jm.jit(net)(X)
    same(net(X), X)
    assert_clean(net)


CHECKED: dict[str, Any] = {
    "jm.jit": lambda net: jm.jit(net)(BATCH),
    "donated": lambda net: jm.jit(net, donate=True)(BATCH),
    "jm.grad": lambda net: jm.grad(lambda net: jnp.sum(net(BATCH)))(net),
    "jm.jit(jm.grad)": lambda net: jm.jit(jm.grad(lambda net: jnp.sum(net(BATCH))))(net),
    "nested": lambda net: jm.jit(lambda net, x: jm.jit(net)(x))(net, BATCH),
    "apply": lambda net: jax.jit(jm.functionalize(net)[0])(*jm.functionalize(net)[1:], BATCH),
    "pytree": lambda net: jax.jit(lambda net: jax.tree.map(lambda leaf: leaf + 1, net))(net),
    "jm.eval_shape": lambda net: jm.eval_shape(net, BATCH),
    "backward": lambda net: jm.jit(lambda net: jm.backward(lambda: jnp.sum(net(BATCH)), net))(net),
    "raw jit": lambda net: jax.jit(lambda x: jm.functional_call(net.eval(), {}, x))(BATCH),
    "vmap": lambda net: jm.vmap(net[0])(BATCH),
}


@pytest.mark.parametrize("kind", CHECKED)
def test_jax_finds_no_leaks(kind: str) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with jax.checking_leaks():
        CHECKED[kind](net)
    assert_clean(net)
