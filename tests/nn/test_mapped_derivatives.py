"""Functions with derivative rules of their own, mapped along any axis within jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F


def recurrent(name: str) -> Callable[[jax.Array], jax.Array]:
    jm.manual_seed(0)
    layer = getattr(nn, name)(4, 5)
    return lambda x: layer(x)[0]


def ctc(x: jax.Array) -> jax.Array:
    targets, lengths = jnp.array([[1, 2], [2, 1]]), (jnp.array([6, 6]), jnp.array([2, 2]))
    return F.ctc_loss(F.log_softmax(x, -1), targets, *lengths, reduction="none")


CASES: dict[str, tuple[Callable[[jax.Array], jax.Array], tuple[int, ...]]] = {
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (1, 3, 6, 8)),
    "max_pool2d, large": (lambda x: F.max_pool2d(x, 7, 1), (1, 2, 8, 9)),
    "max_pool2d, tiles": (lambda x: F.max_pool2d(x, 8), (1, 2, 8, 16)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (3, 4)), (1, 3, 7, 9)),
    "max_unpool2d": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (1, 3, 6, 8)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, jnp.arange(1.0, 4), None, True), (5, 3, 4)),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), (3, 5, 6)),
    "interpolate": (lambda x: F.interpolate(x, size=(7, 9), mode="bilinear"), (1, 3, 4, 5)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, 2 * x, x, is_causal=True), (2, 3, 5, 4)),
    "RNN": (recurrent("RNN"), (3, 2, 4)),
    "LSTM": (recurrent("LSTM"), (3, 2, 4)),
    "GRU": (recurrent("GRU"), (3, 2, 4)),
    "ctc_loss": (ctc, (6, 2, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_a_mapped_call_is_that_of_the_loop(name: str) -> None:
    function, shape = CASES[name]
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((7, *shape)), jnp.float32)
    scale = jnp.asarray(random.standard_normal((7, *jax.eval_shape(function, x[0]).shape)), jnp.float32)
    pulled = jax.jit(lambda x, scale: jax.value_and_grad(lambda x: jnp.vdot(function(x), scale))(x))
    expected = [pulled(*pair) for pair in zip(x, scale, strict=True)]
    for axis in (0, len(shape)):

        @jax.jit
        def mapped(x: jax.Array, axis: int = axis) -> tuple[jax.Array, jax.Array]:
            def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                values = jax.vmap(jnp.vdot)(jax.vmap(jax.jit(function), in_axes=axis)(x), scale)
                return values.sum(), values

            gradient, values = jax.grad(total, has_aux=True)(x)
            return values, gradient

        values, gradient = mapped(jnp.moveaxis(x, 0, axis))
        np.testing.assert_allclose(values, jnp.stack([value for value, _ in expected]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            jnp.moveaxis(gradient, axis, 0), jnp.stack([slope for _, slope in expected]), rtol=1e-4, atol=1e-5
        )
