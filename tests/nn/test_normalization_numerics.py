"""Normalisation to the last digits: large means, and derivatives of every order and direction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as torch_functional

from jaxmodules.nn import functional

FAR = 1e4  # how far from zero, in standard deviations
KINDS: dict[str, Callable[..., Any]] = {
    "batch": lambda F, x, weight, bias: F.batch_norm(x, None, None, weight, bias, True),
    "instance": lambda F, x, weight, bias: F.instance_norm(x, None, None, weight, bias),
    "group": lambda F, x, weight, bias: F.group_norm(x, 2, weight, bias),
    "layer": lambda F, x, weight, bias: F.layer_norm(x.swapaxes(1, 2), (4,), weight, bias).swapaxes(1, 2),
    "batch, plain": lambda F, x, weight, bias: F.batch_norm(x, None, None, None, None, True),
    "group, plain": lambda F, x, weight, bias: F.group_norm(x, 2),
}


def operands(shape: tuple[int, ...] = (3, 4, 5)) -> list[np.ndarray]:
    """Return input, weight and bias."""
    random = np.random.default_rng(0)
    return [random.standard_normal(size).astype(np.float32) for size in (shape, (4,), (4,))]


@pytest.mark.parametrize("kind", KINDS)
def test_large_means_cost_no_digits(kind: str) -> None:
    x, weight, bias = operands((8, 4, 64))
    x += np.float32(FAR)
    wanted = KINDS[kind](torch_functional, *(torch.from_numpy(a).double() for a in (x, weight, bias)))
    theirs = KINDS[kind](torch_functional, *map(torch.from_numpy, (x, weight, bias)))
    ours = KINDS[kind](functional, x, weight, bias)
    last_digit = np.spacing(np.float32(FAR))  # of the mean
    allowed = max((theirs - wanted).abs().max().item(), last_digit)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2 * allowed)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_torch_in_every_direction(kind: str) -> None:
    arrays, along = operands(), [np.cos(array) for array in operands()]
    doubles = [tuple(torch.from_numpy(array).double() for array in group) for group in (arrays, along)]
    _, wanted = torch.autograd.functional.jvp(lambda *a: KINDS[kind](torch_functional, *a), *doubles)
    _, ours = jax.jit(lambda x, t: jax.jvp(lambda *a: KINDS[kind](functional, *a), x, t))(arrays, along)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_those_of_torch(kind: str) -> None:
    def curvature(F: Any, grad: Any, sin: Any, *arrays: Any) -> Any:
        def slope(*arrays: Any) -> Any:
            slopes = grad(lambda *a: (sin(KINDS[kind](F, *a)) ** 2).sum(), (0, 1, 2))(*arrays)
            return sum((sin(part) ** 2).sum() for part in slopes)

        return grad(slope, (0, 1, 2))(*arrays)

    doubles = [torch.from_numpy(array).double() for array in operands()]
    wanted = curvature(torch_functional, torch.func.grad, torch.sin, *doubles)
    ours = jax.jit(lambda *a: curvature(functional, jax.grad, jnp.sin, *a))(*operands())
    for array, expected in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4 * max(expected.abs().max().item(), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_mapped_function_are_those_of_each(kind: str) -> None:
    x, weight, bias = operands((2, 3, 4, 5))
    gradient = jax.grad(lambda *a: jnp.sin(KINDS[kind](functional, *a)).sum(), (0, 1))
    mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(x, weight, bias)
    for i in range(2):
        for ours, wanted in zip(mapped, jax.jit(gradient)(x[i], weight, bias), strict=True):
            np.testing.assert_allclose(ours[i], wanted, rtol=1e-5, atol=1e-6)
