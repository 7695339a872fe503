"""``jvp``, ``linearize``, ``vjp``, ``jacrev``, ``jacfwd`` and ``hessian``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, assert_clean, counted, mlp, multiply, plain, same

WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])


def call(net: Any, x: Any) -> Any:
    return net(x)


def square(net: Any, x: Any) -> Any:
    return jnp.sum(net(x) ** 2)


def assert_trees(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        expected = dict(jax.tree_util.tree_leaves_with_path(theirs))[path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-4, err_msg=str(path))


def tangents_of(net: Any) -> dict[str, Any]:
    return {n: jnp.cos(jnp.arange(p.numel(), dtype=p.dtype)).reshape(p.shape) for n, p in net.named_parameters()}


def products(module: Any, function: Any, primals: Any, tangents: Any, cotangent: Any) -> Any:
    """Return what the three transforms that evaluate products with the Jacobian give."""
    value, pullback = module.vjp(function, *primals)
    _, pushforward = module.linearize(function, *primals)
    return module.jvp(function, primals, tangents), value, pullback(cotangent), pushforward(*tangents)


@WRAPS
def test_products_are_those_of_jax_on_dicts(wrap: Any) -> None:
    net = plain()
    apply, params, state = jm.functionalize(net)
    tangents, cotangent = (tangents_of(net), jnp.sin(BATCH)), jnp.cos(jnp.arange(4, dtype=jnp.float32))[:, None]
    ours = wrap(lambda net, x: products(jm, call, (net, x), tangents, cotangent))(net, jnp.asarray(BATCH))
    theirs = products(jax, lambda p, x: apply(p, state, x)[0], (params, jnp.asarray(BATCH)), tangents, cotangent)
    assert_trees(ours, theirs)


MATRICES = pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])


@WRAPS
@MATRICES
@pytest.mark.parametrize("argnums", [0, 1, -1, (1, 0)], ids=str)
def test_jacobians_are_those_of_jax_on_dicts(name: str, argnums: Any, wrap: Any) -> None:
    net = plain()
    apply, params, state = jm.functionalize(net)
    ours = wrap(getattr(jm, name)(call, argnums))(net, jnp.asarray(BATCH[:2]))
    theirs = getattr(jax, name)(lambda p, x: apply(p, state, x)[0], argnums)(params, jnp.asarray(BATCH[:2]))
    assert_trees(ours, theirs)


@MATRICES
def test_jacobians_are_dicts_in_the_order_of_the_parameters(name: str) -> None:
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    jacobian = getattr(jm, name)(call)(net, jnp.ones(1, jnp.float32))
    names = [name for name, _ in net.named_parameters()]
    assert list(jacobian) == names
    if name == "hessian":
        assert all(list(row) == names for row in jacobian.values())


@MATRICES
@WRAPS
def test_pytrees_in_and_out(name: str, wrap: Any) -> None:
    net = Custom(multiply)
    args = {"net": [net, nn.Parameter(X)], "x": jnp.asarray(X)}

    def function(tree: Any) -> Any:
        out = tree["net"][0](tree["x"]) * tree["net"][1]
        return {"out": out, "sums": (jnp.sum(out), jnp.sum(out**2))}

    def theirs(tree: Any) -> Any:
        return function({"net": [lambda x: x * tree["net"][0]["weight"], tree["net"][1]], "x": tree["x"]})

    plain_args = {"net": [{"weight": net.weight.value}, jnp.asarray(X)], "x": jnp.asarray(X)}
    assert_trees(wrap(getattr(jm, name)(function))(args), getattr(jax, name)(theirs)(plain_args))


@MATRICES
@WRAPS
def test_function_is_called_once_and_its_writes_stay(name: str, wrap: Any) -> None:
    net = mlp()
    once = counted(lambda net, x: jnp.sum(net(x) ** 2, 1))
    state = jm.get_rng_state()
    wrap(getattr(jm, name)(once))(net, jnp.asarray(BATCH))
    ours = {n: np.asarray(b) for n, b in net.named_buffers()}, np.asarray(jm.get_rng_state())
    assert len(once.calls) == 1
    assert_clean(net)
    net[1].reset_running_stats()
    jm.set_rng_state(state)
    net(BATCH)
    assert_trees(ours, ({n: np.asarray(b) for n, b in net.named_buffers()}, np.asarray(jm.get_rng_state())))


@MATRICES
def test_draws_are_the_same_in_every_row_and_column(name: str) -> None:
    net = nn.Dropout(0.5)
    x = jnp.ones((2, 8), jnp.float32)
    state = jm.get_rng_state()
    mask = net(x) / x
    jm.set_rng_state(state)
    jacobian = getattr(jm, name)(lambda x: net(x) * x / 2)(x)
    expected = np.einsum("ij,ik,jl->ijkl", mask, np.eye(2), np.eye(8))
    if name == "hessian":
        expected = np.einsum("ijkl,km,ln->ijklmn", expected, np.eye(2), np.eye(8))
    same(jacobian, expected)


ONES = np.ones(3, np.float32)
AUX: dict[str, Any] = {
    "jvp": lambda f, net, x: jm.jvp(f, (net, x), (None, ONES), has_aux=True)[1:],
    "vjp": lambda f, net, x: ((r := jm.vjp(f, net, x, has_aux=True))[1](ONES)[1], r[2]),
    "linearize": lambda f, net, x: ((r := jm.linearize(f, net, x, has_aux=True))[1](None, ONES), r[2]),
    "jacrev": lambda f, net, x: ((r := jm.jacrev(f, 1, has_aux=True)(net, x))[0].sum(1), r[1]),
    "jacfwd": lambda f, net, x: ((r := jm.jacfwd(f, 1, has_aux=True)(net, x))[0].sum(1), r[1]),
}


@WRAPS
@pytest.mark.parametrize("name", AUX)
def test_auxiliary_output(name: str, wrap: Any) -> None:
    net = Custom(accumulate)
    function = lambda net, x: (net(x), {"net": net, "total": net.total})  # noqa: E731
    derivative, aux = wrap(lambda net, x: AUX[name](function, net, x))(net, jnp.asarray(X))
    same(derivative, net.weight.value)
    same(aux["total"], X)
    assert aux["net"] is net


def test_auxiliary_output_must_be_there() -> None:
    with pytest.raises(TypeError, match="expected function with aux output to return a two-element tuple, but got"):
        jm.jacrev(call, has_aux=True)(Custom(multiply), X)


def test_none_is_a_tangent_of_zeros() -> None:
    net = plain()
    tangents = tangents_of(net)
    some = {**tangents, "0.bias": None}
    zeros = {**tangents, "0.bias": jnp.zeros(4, jnp.float32)}
    same(jm.jvp(call, (net, BATCH), (some, None))[1], jm.jvp(call, (net, BATCH), (zeros, np.zeros_like(BATCH)))[1])
    same(jm.jvp(lambda net, n: net(BATCH) * n, (net, 3), (None, None))[1], np.zeros((4, 1)))


def test_frozen_parameters_have_no_derivatives() -> None:
    net = plain()
    net[0].requires_grad_(False)
    assert list(jm.jacrev(call)(net, BATCH)) == ["2.weight", "2.bias"]
    assert list(jm.vjp(call, net, BATCH)[1](jnp.ones((4, 1), jnp.float32))[0]) == ["2.weight", "2.bias"]
    with pytest.raises(TypeError, match=r"trainable parameters: unexpected 0\.bias, 0\.weight"):
        jm.jvp(call, (net, BATCH), (tangents_of(net), None))


def test_tied_parameter_is_one() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    w, x = net[0].weight.value, jnp.array([[1.0, 2.0]], jnp.float32)
    ours = jm.hessian(square)(net, x)
    assert list(ours) == ["0.weight"]
    same(ours["0.weight"]["0.weight"], jax.hessian(lambda w: jnp.sum((x @ w.T @ w.T) ** 2))(w))


def test_module_in_the_closure_is_a_constant_whose_writes_stay() -> None:
    net = Custom(accumulate)
    same(jm.jacfwd(net)(jnp.asarray(X)), jnp.diag(net.total * 0 + net.weight.value))
    same(net.total, X)
    same(jm.vjp(lambda x: net(x), jnp.asarray(X))[1](jnp.ones(3, jnp.float32))[0], net.weight.value)
    same(net.total, 2 * X)


def test_parameter_returned_is_its_array() -> None:
    net = Custom(multiply)
    same(jm.jacrev(lambda net: net.weight)(net)["weight"], np.eye(3))
    same(jm.grad(lambda box: box)(nn.Parameter(jnp.ones((), jnp.float32))), 1.0)


def test_pullback_serves_often_and_under_jit() -> None:
    net = plain()
    _, pullback = jm.vjp(call, net, BATCH)
    first = pullback(jnp.ones((4, 1), jnp.float32))
    net[0].weight.data.zero_()
    for again in (pullback(jnp.ones((4, 1), jnp.float32)), jax.jit(pullback)(jnp.ones((4, 1), jnp.float32))):
        assert_trees(again, first)
    back = jax.jit(lambda pullback, c: pullback(c))(pullback, jnp.ones((4, 1), jnp.float32))
    assert_trees(back, first)
    rows = jax.vmap(pullback)(jnp.eye(4, dtype=jnp.float32)[:, :, None])
    assert_trees(jax.tree.map(lambda r: r.sum(0), rows), first)


def test_compiled_function_may_return_a_pullback() -> None:
    net = plain()
    value, pullback = jm.jit(lambda net, x: jm.vjp(call, net, x))(net, BATCH)
    assert_trees(pullback(jnp.ones_like(value)), jm.vjp(call, net, BATCH)[1](jnp.ones_like(value)))


@pytest.mark.parametrize("size", [1, 3, 100])
@WRAPS
def test_jacobian_in_chunks(size: int, wrap: Any) -> None:
    net = plain()
    function = lambda net, x: {"a": net(x), "b": (jnp.sum(x), net(x) ** 2)}  # noqa: E731
    ours = wrap(jm.jacrev(function, (0, 1), chunk_size=size))(net, jnp.asarray(BATCH))
    assert_trees(ours, wrap(jm.jacrev(function, (0, 1)))(net, jnp.asarray(BATCH)))


NET = {"weight": X}
WRONG: dict[str, tuple[Any, Any, str]] = {
    "a tangent left out": (
        lambda net: jm.jvp(lambda net: net(X), (net,), ({},)),
        TypeError,
        r"the tangent of args\[0\] does not fit its trainable parameters: missing weight",
    ),
    "an unknown name": (
        lambda net: jm.jvp(lambda net: net(X), (net,), ({**NET, "bias": X},)),
        TypeError,
        r"the tangent of args\[0\] does not fit its trainable parameters: unexpected bias",
    ),
    "no dict": (
        lambda net: jm.jvp(lambda net: net(X), (net,), (X,)),
        TypeError,
        r"the tangent of the module args\[0\] must be a dict of arrays by parameter name",
    ),
    "another shape": (
        lambda net: jm.jvp(lambda net: net(X), (net,), ({"weight": X[:2]},)),
        ValueError,
        r"different primal and tangent shapes: args\[0\]\['weight'\] has shape \(3,\), its tangent \(2,\)",
    ),
    "another dtype": (
        lambda net: jm.jvp(lambda net: net(X), (net,), ({"weight": np.ones(3, np.int32)},)),
        TypeError,
        r"dtypes must be equal.*: for args\[0\]\['weight'\] expected float32, got int32",
    ),
    "another structure": (
        lambda net: jm.jvp(lambda net, t: net(t["x"]), (net, {"x": X}), (NET, [X])),
        TypeError,
        r"must have the same tree structure .*the tangent of args\[1\] has another",
    ),
    "another number": (
        lambda net: jm.jvp(call, (net, X), (NET,)),
        TypeError,
        "expected one tangent for each of the 2 arguments, got 1",
    ),
    "no tuple": (lambda net: jm.jvp(call, net, NET), TypeError, "must be tuples or lists; found Custom and dict"),
    "one parameter, two tangents": (
        lambda net: jm.jvp(lambda a, b: a(X), (net, net), (NET, {"weight": 2 * X})),
        ValueError,
        r"two tangents for one parameter, which is given twice: the second is that of args\[1\]\['weight'\]",
    ),
    "an integer, forward": (lambda net: jm.jacfwd(call, 1)(net, 3), TypeError, "jacfwd requires real-valued inputs"),
    "an integer, reverse": (
        lambda net: jm.jacrev(call, 1)(net, 3),
        TypeError,
        "jacrev requires real- or complex-valued inputs",
    ),
    "argnums": (lambda net: jm.hessian(call, 2)(net, X), TypeError, "argnums names argument 2, but the call has 2"),
    "an optimizer": (
        lambda net: jm.vjp(lambda o: 0.0, jm.optim.SGD(net.parameters(), lr=0.1)),
        TypeError,
        "expected modules, parameters and arrays to differentiate",
    ),
    "chunks": (
        lambda net: jm.jacrev(call, chunk_size=0)(net, X),
        ValueError,
        "jacrev: `chunk_size` should be greater than 0",
    ),
    "a cotangent": (
        lambda net: jm.vjp(call, net, X)[1](jnp.ones(2, jnp.float32)),
        ValueError,
        r"got float32\[2\], but expected float32\[3\]",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_says_what_is_wrong(kind: str) -> None:
    run, error, match = WRONG[kind]
    net = Custom(multiply)
    with pytest.raises(error, match=match):
        run(net)
    assert_clean(net)
