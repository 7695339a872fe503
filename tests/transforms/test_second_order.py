"""Derivatives of derivatives, and derivatives in other transforms: state, random draws and cost come out right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, assert_arrays, assert_clean, plain, same
from tests.transforms.test_derivatives import assert_trees, call, square, tangents_of

WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Tanh())


def by_names(tree: Any, names: Any) -> Any:
    return {name: tree[name] for name in names}


# One function of a JAX-like module `m`, a differentiable `f(p, x)`, `p`, `x` and a tangent `t` of `p`.
NESTS: dict[str, Any] = {
    "jvp(grad)": lambda m, f, p, x, t: m.jvp(m.grad(f), (p, x), (t, x)),
    "vjp(grad)": lambda m, f, p, x, t: m.vjp(lambda x: m.grad(f)(p, x), x)[1](t),
    "grad(grad)": lambda m, f, p, x, t: m.grad(lambda p, x: sum(g.sum() for g in m.grad(f)(p, x).values()))(p, x),
    "grad(vjp)": lambda m, f, p, x, t: m.grad(lambda x: jnp.sum((r := m.vjp(f, p, x))[1](r[0])[1]))(x),
    "grad(jvp)": lambda m, f, p, x, t: m.grad(lambda p, x: m.jvp(f, (p, x), (t, x))[1])(p, x),
    "jvp(jvp)": lambda m, f, p, x, t: m.jvp(lambda p, x: m.jvp(f, (p, x), (t, x))[1], (p, x), (t, x)),
    "jacfwd(jacrev)": lambda m, f, p, x, t: m.jacfwd(m.jacrev(f))(p, x),
    "jacrev(jacrev)": lambda m, f, p, x, t: m.jacrev(m.jacrev(f), 1)(p, x),
    "jacrev(jacfwd)": lambda m, f, p, x, t: m.jacrev(m.jacfwd(f))(p, x),
    "jvp(hessian)": lambda m, f, p, x, t: m.jvp(lambda p: m.hessian(f, 1)(p, x), (p,), (t,)),
    "grad(jacrev)": lambda m, f, p, x, t: m.grad(lambda p, x: jnp.sum(m.jacrev(f, 1)(p, x) ** 2))(p, x),
    "linearize(grad)": lambda m, f, p, x, t: m.linearize(m.grad(f), p, x)[1](t, x),
    "jvp(jit(grad))": lambda m, f, p, x, t: m.jvp(m.jit(m.grad(f)), (p, x), (t, x)),
    "jacfwd(jit)": lambda m, f, p, x, t: m.jacfwd(m.jit(f))(p, x),
}


@pytest.mark.parametrize("nest", NESTS)
@WRAPS
def test_nests_are_those_of_jax_on_dicts_and_write_once(nest: str, wrap: Any) -> None:
    net = normed()
    apply, params, state = jm.functionalize(net)
    tangent, x = tangents_of(net), jnp.asarray(BATCH)
    ours = wrap(lambda net, x: NESTS[nest](jm, square, net, x, tangent))(net, x)
    theirs = NESTS[nest](jax, lambda p, x: jnp.sum(apply(p, state, x)[0] ** 2), params, x, tangent)
    assert_trees(ours, theirs)
    assert_arrays(by_names(dict(net.named_buffers()), state), apply(params, state, x)[1])
    assert_clean(net)


MAPPED: dict[str, Any] = {
    "jacrev": lambda m, f, p, t: m.vmap(m.jacrev(f), (None, 0))(p, BATCH),
    "jacfwd": lambda m, f, p, t: m.vmap(m.jacfwd(f, 1), (None, 0))(p, BATCH),
    "jvp": lambda m, f, p, t: m.vmap(lambda p, x: m.jvp(f, (p, x), (t, x)), (None, 0))(p, BATCH),
    "jvp of grad": lambda m, f, p, t: m.vmap(lambda x: m.jvp(m.grad(lambda x: f(p, x)[0]), (x,), (x,)))(BATCH),
    "vjp": lambda m, f, p, t: m.vmap(lambda p, x: m.vjp(f, p, x)[1](jnp.ones(1, jnp.float32)), (None, 0))(p, BATCH),
    "laplacian": lambda m, f, p, t: m.vmap(lambda x: jnp.trace(m.hessian(lambda x: f(p, x)[0])(x)))(BATCH),
    "of mapped": lambda m, f, p, t: m.jacfwd(lambda p, x: m.vmap(f, (None, 0))(p, x))(p, BATCH),
}


@pytest.mark.parametrize("kind", MAPPED)
@WRAPS
def test_vmap_of_derivatives(kind: str, wrap: Any) -> None:
    net = plain()
    apply, params, state = jm.functionalize(net)
    ours = wrap(lambda net: MAPPED[kind](jm, call, net, tangents_of(net)))(net)
    theirs = MAPPED[kind](jax, lambda p, x: apply(p, state, x)[0], params, tangents_of(net))
    assert_trees(ours, theirs)


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_vmap_says_how_derivatives_draw(name: str) -> None:
    net = nn.Dropout(0.5)
    x = jnp.ones((4, 16), jnp.float32)
    jacobians = jm.vmap(getattr(jm, name)(net), randomness="different")(x)
    masks = {tuple(np.diag(j).tolist()) for j in jacobians}
    assert len(masks) == 4 and set().union(*masks) == {0.0, 2.0}
    same(*jm.vmap(getattr(jm, name)(net), randomness="same")(x)[:2])
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        jm.vmap(getattr(jm, name)(net))(x)


@pytest.mark.parametrize("outer", [jax.jit, jax.vmap], ids=["jax.jit", "jax.vmap"])
@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])
def test_draw_in_a_foreign_transform_asks_for_a_key(name: str, outer: Any) -> None:
    net = nn.Dropout(0.5)
    with pytest.raises(RuntimeError, match="a random operation ran under a JAX transformation with no key bound"):
        outer(getattr(jm, name)(lambda x: jnp.sum(net(x))))(jnp.ones((2, 3), jnp.float32))


FOREIGN: dict[str, Any] = {
    "jax.jit": lambda f, x: jax.jit(f)(x),
    "jax.vmap": lambda f, x: jax.vmap(f)(x),
    "jax.jacfwd": lambda f, x: jax.jacfwd(f)(x[0]),
    "jax.hessian": lambda f, x: jax.hessian(f)(x[0]),
    "lax.map": lambda f, x: jax.lax.map(f, x),
    "lax.scan": lambda f, x: jax.lax.scan(lambda c, x: (c + 1, f(x)), 0, x),
    "lax.cond": lambda f, x: jax.lax.cond(x.sum() > -99, f, lambda x: jnp.zeros((1, 3), jnp.float32), x[0]),
    "jax.checkpoint": lambda f, x: jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(x)))(x[0]),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_jacobians_inside_transforms_of_jax(name: str, kind: str) -> None:
    net = plain()
    apply, params, state = jm.functionalize(net)
    ours = FOREIGN[kind](getattr(jm, name)(lambda x: net(x)), jnp.asarray(BATCH))
    theirs = FOREIGN[kind](getattr(jax, name)(lambda x: apply(params, state, x)[0]), jnp.asarray(BATCH))
    assert_trees(ours, theirs)
    assert_clean(net)


@WRAPS
def test_gradient_through_an_inner_update_is_that_of_torch(wrap: Any) -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    ours = plain()
    ours.load_state_dict(theirs.state_dict())

    def adapted(m: Any, call: Any, params: Any, x: Any) -> Any:
        for _ in range(2):
            grads = m.grad(lambda p: (call(p, x) ** 2).mean())(params)
            params = {name: p - 0.1 * grads[name] for name, p in params.items()}
        return (call(params, x) ** 2).sum()

    def meta_loss(net: Any, x: Any) -> Any:
        params = {name: p.value for name, p in net.named_parameters()}
        return adapted(jm, lambda p, x: jm.functional_call(net, p, (x,)), params, x)

    params = {name: p.detach() for name, p in theirs.named_parameters()}
    expected = torch.func.grad(
        lambda p, x: adapted(torch.func, lambda p, x: torch.func.functional_call(theirs, p, (x,)), p, x)
    )(params, torch.tensor(BATCH))
    got = wrap(jm.grad(meta_loss))(ours, jnp.asarray(BATCH))
    for name, gradient in expected.items():
        np.testing.assert_allclose(got[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)


@jax.custom_vjp
def fixed_point(weight: Any, x: Any) -> Any:
    """Solve ``z = tanh(weight z + x)``."""
    return jax.lax.fori_loop(0, 60, lambda _, z: jnp.tanh(weight @ z + x), jnp.zeros_like(x))


def _solve(weight: Any, x: Any) -> Any:
    z = fixed_point(weight, x)
    return z, (weight, x, z)


def _solve_adjoint(kept: Any, cotangent: Any) -> Any:
    weight, x, z = kept
    _, pullback = jax.vjp(lambda w, x, z: jnp.tanh(w @ z + x), weight, x, z)
    adjoint = jax.lax.fori_loop(0, 60, lambda _, a: cotangent + pullback(a)[2], jnp.zeros_like(z))
    return pullback(adjoint)[:2]


fixed_point.defvjp(_solve, _solve_adjoint)


@WRAPS
@pytest.mark.parametrize("name", ["grad", "jacrev"])
def test_implicit_layer(name: str, wrap: Any) -> None:
    net = Custom(lambda module, x: fixed_point(jnp.diag(module.weight.value / 9), x))

    def unrolled(weight: Any) -> Any:
        z = jnp.zeros(3, jnp.float32)
        for _ in range(60):
            z = jnp.tanh(jnp.diag(weight / 9) @ z + X)
        return jnp.sum(z)

    ours = wrap(getattr(jm, name)(lambda net: jnp.sum(net(jnp.asarray(X)))))(net)
    np.testing.assert_allclose(ours["weight"], jax.grad(unrolled)(net.weight.value), rtol=1e-4)


def test_writes_in_forward_over_reverse_happen_once() -> None:
    net = Custom(accumulate)
    jm.jvp(jm.grad(lambda net, x: jnp.sum(net(x) ** 2)), (net, X), (None, X))
    same(net.total, X)
    jm.hessian(lambda net: jnp.sum(jm.jit(net)(X)))(net)
    same(net.total, 2 * X)
    assert_clean(net)


def test_a_write_that_differs_between_the_elements_of_vmap_is_refused() -> None:
    net = Custom(accumulate)
    with pytest.raises(RuntimeError, match="'total' of a shared module was written with a value that differs"):
        jm.vmap(jm.jacrev(lambda x: net(x)))(BATCH)
    assert_clean(net)


@pytest.mark.parametrize("name", ["jvp", "vjp", "jacrev", "jacfwd", "hessian"])
def test_exception_leaves_everything_as_it_was(name: str) -> None:
    def fail(module: Any, x: Any) -> Any:
        module.total = module.total + x * module.weight
        raise KeyboardInterrupt

    net = Custom(fail)
    function = lambda net: net(X)  # noqa: E731
    runs = {
        "jvp": lambda: jm.jvp(function, (net,), ({"weight": X},)),
        "vjp": lambda: jm.vjp(function, net),
    }
    with pytest.raises(KeyboardInterrupt, match="^$"):
        runs.get(name, lambda: getattr(jm, name)(function)(net))()
    same(net.total, np.zeros(3))
    assert_clean(net)


PROGRAMS: dict[str, Any] = {
    "jvp": lambda m, f, p, x, t: m.jvp(f, (p, x), (t, x), has_aux=True),
    "vjp": lambda m, f, p, x, t: (r := m.vjp(f, p, x, has_aux=True))[1](jnp.ones((4, 2), jnp.float32)) + (r[2],),
    "jacrev": lambda m, f, p, x, t: m.jacrev(f, has_aux=True)(p, x),
    "jacfwd": lambda m, f, p, x, t: m.jacfwd(f, has_aux=True)(p, x),
    "hessian": lambda m, f, p, x, t: m.hessian(f, has_aux=True)(p, x),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_costs_what_plain_jax_costs(name: str) -> None:
    net, x = normed(), jnp.asarray(BATCH)
    apply, params, state = jm.functionalize(net)
    tangent = tangents_of(net)
    ours = jm.jit(lambda net, x: PROGRAMS[name](jm, lambda net, x: (net(x), None), net, x, tangent)).lower(net, x)
    theirs = jax.jit(lambda p, s, x: PROGRAMS[name](jax, lambda p, x: apply(p, s, x), p, x, tangent))
    costs = [lowered.compile().cost_analysis()["flops"] for lowered in (ours, theirs.lower(params, state, x))]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)
