"""The listings of PyTorch's tutorials on ``torch.func``, in their jaxmodules form; the values are PyTorch's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own forward mode
func = torch.func
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.standard_normal((5, 1, 6, 6)).astype(np.float32), RNG.integers(0, 3, 5)
WEIGHT, BIAS, X = (RNG.standard_normal(s).astype(np.float32) for s in [(3, 4), (3,), (4,)])
ROWS = RNG.standard_normal((5, 4)).astype(np.float32)
WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])


def t(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


def close(ours: Any, theirs: Any) -> None:
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (ours, theirs))
    for (path, a), (other, b) in zip(ours, theirs, strict=True):
        assert path == other
        np.testing.assert_allclose(a, b.detach(), rtol=1e-3, atol=1e-5, err_msg=str(path))


def cnn(n: Any) -> Any:
    return n.Sequential(n.Conv2d(1, 2, 3), n.ReLU(), n.MaxPool2d(2), n.Flatten(), n.Linear(8, 3))


def pair(make: Any = cnn) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, {n: p.detach() for n, p in theirs.named_parameters()}


# Per-sample gradients


def sample_loss(net: Any, image: Any, label: Any) -> Any:
    return F.cross_entropy(net(image[None]), label[None])


@WRAPS
def test_per_sample_gradients(wrap: Any) -> None:
    ours, theirs, params = pair()

    def their_loss(params: Any, image: Any, label: Any) -> Any:
        return torch.nn.functional.cross_entropy(func.functional_call(theirs, params, image[None]), label[None])

    per_sample = wrap(jm.vmap(jm.grad(sample_loss), in_axes=(None, 0, 0)))(ours, IMAGES, LABELS)
    close(per_sample, func.vmap(func.grad(their_loss), (None, 0, 0))(params, t(IMAGES), t(LABELS)))


# Jacobians and Hessians


def predict(weight: Any, bias: Any, x: Any) -> Any:
    return jnp.tanh(F.linear(x, weight, bias))


def their_predict(weight: Any, bias: Any, x: Any) -> Any:
    return torch.nn.functional.linear(x, weight, bias).tanh()


ALL = tuple(map(jnp.asarray, (WEIGHT, BIAS, X)))
THEIRS = tuple(map(t, (WEIGHT, BIAS, X)))
LISTINGS: dict[str, Any] = {
    "jacrev": lambda m, f, args: m.jacrev(f, argnums=2)(*args),
    "jacfwd": lambda m, f, args: m.jacfwd(f, argnums=2)(*args),
    "of the parameters": lambda m, f, args: m.jacrev(f, argnums=(0, 1))(*args),
    "hessian": lambda m, f, args: m.hessian(f, argnums=2)(*args),
    "forward over forward": lambda m, f, args: m.jacfwd(m.jacfwd(f, argnums=2), argnums=2)(*args),
    "reverse over reverse": lambda m, f, args: m.jacrev(m.jacrev(f, argnums=2), argnums=2)(*args),
    "reverse over forward": lambda m, f, args: m.jacrev(m.jacfwd(f, argnums=2), argnums=2)(*args),
    "chunks": lambda m, f, args: m.jacrev(f, argnums=2, chunk_size=1)(*args),
    "sum of a batch": lambda m, f, args: m.jacrev(lambda x: f(*args[:2], x).sum(0))(args[2][None]),
    "vjp": lambda m, f, args: m.vjp(f, *args)[1](f(*args)),
    "vjp of a part": lambda m, f, args: m.vjp(lambda x: f(*args[:2], x), args[2])[1](args[1]),
    "jvp": lambda m, f, args: m.jvp(f, args, args),
    "jvp of a part": lambda m, f, args: m.jvp(lambda x: f(*args[:2], x), (args[2],), (args[2],)),
    "nested grad": lambda m, f, args: m.grad(lambda x: m.grad(lambda x: f(*args[:2], x).sum())(x).sum())(args[2]),
    "forward over reverse product": lambda m, f, args: m.jvp(
        m.grad(lambda x: f(*args[:2], x).sum()), (args[2],), (args[2],)
    )[1],
    "reverse over reverse product": lambda m, f, args: m.vjp(m.grad(lambda x: f(*args[:2], x).sum()), args[2])[1](
        args[2]
    ),
    "has_aux": lambda m, f, args: m.jacrev(lambda *a: (f(*a), f(*a)), has_aux=True)(*args),
}


@pytest.mark.parametrize("kind", LISTINGS)
@WRAPS
def test_jacobians_hessians_and_the_tour(kind: str, wrap: Any) -> None:
    run = LISTINGS[kind]
    close(wrap(lambda args: run(jm, predict, args))(ALL), run(func, their_predict, THEIRS))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])
def test_batched_jacobians(name: str) -> None:
    ours = jm.vmap(getattr(jm, name)(predict, argnums=2), in_axes=(None, None, 0))(*ALL[:2], ROWS)
    close(ours, func.vmap(getattr(func, name)(their_predict, argnums=2), (None, None, 0))(*THEIRS[:2], t(ROWS)))


@WRAPS
@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_jacobian_of_each_sample_by_the_parameters_of_a_module(name: str, wrap: Any) -> None:
    ours, theirs, params = pair(lambda n: n.Sequential(n.Linear(4, 3), n.Tanh(), n.Linear(3, 2)))
    rows = wrap(jm.vmap(getattr(jm, name)(lambda net, x: net(x)), in_axes=(None, 0)))(ours, ROWS)
    each = getattr(func, name)(lambda p, x: func.functional_call(theirs, p, x))
    close(rows, func.vmap(each, (None, 0))(params, t(ROWS)))


# Model ensembling


def test_ensemble() -> None:
    pairs = [pair() for _ in range(3)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(ours for ours, _, _ in pairs))
    expected = torch.stack([theirs(t(IMAGES)) for _, theirs, _ in pairs])
    close(jm.vmap(lambda net, x: net(x), in_axes=(0, None))(stacked, IMAGES), expected)
    params = {
        n: jnp.stack([ours.get_parameter(n).value for ours, _, _ in pairs]) for n, _ in stacked.named_parameters()
    }
    call = jm.vmap(lambda p, x: jm.functional_call(pairs[0][0], p, (x,)), in_axes=(0, None))
    close(call(params, IMAGES), expected)


def test_gradients_of_an_ensemble() -> None:
    pairs = [pair() for _ in range(2)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(ours for ours, _, _ in pairs))
    grads = jm.jit(jm.vmap(jm.grad(lambda net, x: jnp.sum(net(x) ** 2)), in_axes=(0, None)))(stacked, IMAGES)
    for i, (_, theirs, _) in enumerate(pairs):
        theirs(t(IMAGES)).pow(2).sum().backward()
        close({n: g[i] for n, g in grads.items()}, {n: p.grad for n, p in theirs.named_parameters()})


# Neural tangent kernels


def their_kernel(theirs: Any, params: Any) -> torch.Tensor:
    jacobian = func.vmap(func.jacrev(lambda p, x: func.functional_call(theirs, p, x[None])[0]), (None, 0))
    flat = [j.flatten(2) for j in jacobian(params, t(IMAGES)).values()]
    return sum(torch.einsum("Naf,Mbf->NMab", j, j) for j in flat)


@WRAPS
def test_neural_tangent_kernel_by_contraction_of_jacobians(wrap: Any) -> None:
    ours, theirs, params = pair()

    def kernel(net: Any, x: Any) -> Any:
        jacobian = jm.vmap(jm.jacrev(lambda net, x: net(x[None])[0]), in_axes=(None, 0))(net, x)
        flat = [j.reshape(*j.shape[:2], -1) for j in jacobian.values()]
        return sum(jnp.einsum("Naf,Mbf->NMab", j, j) for j in flat)

    close(wrap(kernel)(ours, IMAGES), their_kernel(theirs, params))


@WRAPS
def test_neural_tangent_kernel_by_products(wrap: Any) -> None:
    ours, theirs, params = pair()

    def entry(net: Any, x1: Any, x2: Any) -> Any:
        _, pullback = jm.vjp(lambda net: net(x1[None])[0], net)

        def row(cotangent: Any) -> Any:
            return jm.jvp(lambda net: net(x2[None])[0], (net,), pullback(cotangent))[1]

        return jm.vmap(row)(jnp.eye(3, dtype=jnp.float32))

    kernel = wrap(jm.vmap(jm.vmap(entry, (None, None, 0)), (None, 0, None)))
    close(kernel(ours, IMAGES, IMAGES), their_kernel(theirs, params))
