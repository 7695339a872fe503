"""What the table can't say of pooling: special values, random windows, round trips, gradients of gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F

SPECIAL = [
    ("max_pool1d", 1, dict(kernel_size=3, stride=2, padding=1, return_indices=True)),
    ("max_pool2d", 2, dict(kernel_size=2, stride=1, padding=1, dilation=2, return_indices=True)),
    ("max_pool3d", 3, dict(kernel_size=2, return_indices=True)),
    ("adaptive_max_pool1d", 1, dict(output_size=4, return_indices=True)),
    ("adaptive_max_pool2d", 2, dict(output_size=(3, 2), return_indices=True)),
    ("adaptive_max_pool3d", 3, dict(output_size=2, return_indices=True)),
    ("adaptive_max_pool1d", 1, dict(output_size=1, return_indices=True)),
    ("adaptive_max_pool3d", 3, dict(output_size=(4, 2, 3), return_indices=True)),
    ("max_pool2d", 2, dict(kernel_size=5)),
    ("max_pool2d", 2, dict(kernel_size=4, stride=1, padding=2)),
    ("adaptive_avg_pool2d", 2, dict(output_size=(3, 2))),
    ("avg_pool2d", 2, dict(kernel_size=3, stride=2, padding=1)),
    ("lp_pool2d", 2, dict(norm_type=2, kernel_size=2)),
    ("fractional_max_pool2d", 2, dict(kernel_size=2, output_size=3, return_indices=True)),
    ("fractional_max_pool3d", 3, dict(kernel_size=2, output_size=2, return_indices=True)),
]


def images(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("name, rank, options", SPECIAL)
def test_nan_infinities_and_ties_come_out_as_in_torch(name: str, rank: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([0, 1, 2, np.nan, -np.inf, np.inf], (2, 3, *(5,) * rank), p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    x[0, 0] = -np.inf
    arrays = dict(input=x.astype(np.float32))
    if "fractional" in name:
        arrays["_random_samples"] = rng.random((2, 3, rank)).astype(np.float32)
    theirs = getattr(torch.nn.functional, name)(**jax.tree.map(torch.tensor, arrays), **options)
    ours = getattr(F, name)(**arrays, **options)
    jax.tree.map(np.testing.assert_array_equal, ours, jax.tree.map(lambda t: t.numpy(), theirs))


@pytest.mark.parametrize("rank, window", [(1, (3, 2, 1)), (2, (2, 2, 0)), (3, (2, 2, 1))])
def test_unpooling_puts_back_what_pooling_took(rank: int, window: tuple[int, int, int]) -> None:
    x = images(2, 3, *(7, 6, 5)[:rank])
    values, indices = getattr(F, f"max_pool{rank}d")(x, *window, return_indices=True)
    back = getattr(F, f"max_unpool{rank}d")(values, indices, *window, output_size=x.shape)
    kept = np.zeros(x.shape, bool).reshape(6, -1)
    np.put_along_axis(kept, np.asarray(indices).reshape(6, -1), True, axis=1)
    np.testing.assert_array_equal(back, np.where(kept.reshape(x.shape), x, 0))


def test_the_last_of_elements_with_one_index_stays_and_all_have_its_gradient() -> None:
    values, indices = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[1, 5, 1, 5]])
    output, pullback = jax.vjp(lambda values: F.max_unpool1d(values, indices, 2), values)
    assert output.tolist() == [[0, 3, 0, 0, 0, 4, 0, 0]]
    assert pullback(jnp.arange(8.0)[None])[0].tolist() == [[1, 5, 1, 5]]


def test_indices_out_of_range_raise_where_known_and_give_nan_where_traced() -> None:
    values = jnp.ones((2, 1, 2, 2))
    for wrong in (16, -1):
        indices = jnp.array([[[[0, 1], [2, 3]]], [[[4, wrong], [6, 7]]]])
        with pytest.raises(
            RuntimeError, match=rf"Found an invalid max index: {wrong} \(output volumes are of size 4x4"
        ):
            F.max_unpool2d(values, indices, 2)
        traced = jax.jit(lambda indices: F.max_unpool2d(values, indices, 2))(indices)
        assert jnp.isfinite(traced[0]).all() and jnp.isnan(traced[1]).any()


def test_fractional_windows_follow_the_seed_and_differ_between_calls_samples_and_channels() -> None:
    net, x = nn.FractionalMaxPool2d(3, output_ratio=0.3, return_indices=True), jnp.ones((2, 3, 46, 47))
    jm.manual_seed(3)
    first, second = net(x)[1], net(x)[1]
    jm.manual_seed(3)
    again = net(x)[1]
    assert (first == again).all() and (first != second).any()
    assert len(np.unique(np.asarray(first).reshape(6, -1), axis=0)) == 6


def test_fractional_windows_differ_between_calls_of_a_compiled_function() -> None:
    net, x = nn.FractionalMaxPool3d(2, output_size=5, return_indices=True), jnp.ones((2, 3, 17, 16, 15))
    compiled = jm.jit(lambda net, x: net(x)[1])
    jm.manual_seed(3)
    first, second = compiled(net, x), compiled(net, x)
    jm.manual_seed(3)
    assert (first != second).any() and (first == compiled(net, x)).all()


def test_fractional_windows_are_within_the_input_and_in_order() -> None:
    x = jnp.broadcast_to(jnp.arange(40.0)[:, None] * 40 + jnp.arange(40.0)[None], (64, 3, 40, 40))
    rows, columns = jnp.divmod(F.fractional_max_pool2d(x, 3, output_size=13), 40)
    for places in (jnp.moveaxis(rows, 2, -1), columns):
        steps = np.diff(np.asarray(places))
        assert places.min() >= 2 and (places[..., -1] == 39).all() and set(np.unique(steps)) <= {2, 3, 4}


def test_stored_random_samples_are_a_buffer() -> None:
    samples = np.full((2, 3, 2), 0.5, np.float32)
    net, x = nn.FractionalMaxPool2d(2, 3, _random_samples=samples), images(2, 3, 8, 8)
    assert list(net.state_dict()) == ["_random_samples"]
    np.testing.assert_array_equal(net(x), net(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool1d(x[0], 2),
        lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0],
        lambda x: F.max_pool2d(x, (4, 6), 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.lp_pool2d(x, 4, 2),
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: F.fractional_max_pool2d(x, 2, 3, _random_samples=jnp.full((1, 2, 2), 0.3)),
        lambda x: F.max_unpool2d(x, jnp.arange(80).reshape(2, 4, 10)[..., :6] % 40, 2),
    ],
)
def test_second_derivatives_agree_forward_and_reverse(function: Callable[[jax.Array], jax.Array]) -> None:
    x, along = images(2, 4, 6), jnp.sin(jnp.arange(48.0)).reshape(2, 4, 6)
    gradient = jax.grad(lambda x: (function(x) ** 3).sum())
    forward = jax.jit(lambda x: jax.jvp(gradient, (x,), (along,))[1])(x)
    reverse = jax.jit(jax.grad(lambda x: jnp.vdot(gradient(x), along)))(x)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-4)
    assert jnp.isfinite(forward).all()


WINDOWS = [
    ("max_pool2d", (7, 9), dict(kernel_size=2)),
    ("max_pool2d", (7, 8), dict(kernel_size=3, stride=2, padding=1)),
    ("max_pool2d", (9, 7), dict(kernel_size=(2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2))),
    ("max_pool2d", (12, 14), dict(kernel_size=(6, 7))),
    ("max_pool1d", (11,), dict(kernel_size=4, stride=3, ceil_mode=True)),
    ("max_pool3d", (5, 4, 6), dict(kernel_size=2, stride=1, padding=1)),
    ("avg_pool2d", (7, 8), dict(kernel_size=3, stride=2, padding=1)),
    ("avg_pool2d", (9, 9), dict(kernel_size=5, stride=1, padding=2, count_include_pad=False)),
    ("avg_pool2d", (8, 8), dict(kernel_size=4)),
    ("avg_pool3d", (5, 4, 6), dict(kernel_size=2, stride=3, padding=1)),
    ("adaptive_max_pool2d", (13, 10), dict(output_size=(6, 7))),
    ("adaptive_avg_pool2d", (13, 10), dict(output_size=(6, 7))),
]


@pytest.mark.parametrize("name, plane, options", WINDOWS)
def test_gradients_go_where_torch_sends_them_in_both_modes(
    name: str, plane: tuple[int, ...], options: dict[str, Any]
) -> None:
    x = np.random.default_rng(0).integers(0, 3, (2, 3, *plane)).astype(np.float32)
    source = torch.tensor(x, requires_grad=True)
    theirs = getattr(torch.nn.functional, name)(source, **options)
    weights = np.sin(np.arange(theirs.numel(), dtype=np.float32)).reshape(theirs.shape)
    (expected,) = torch.autograd.grad(theirs, source, torch.tensor(weights))
    function = jax.jit(lambda x: jax.vjp(lambda x: getattr(F, name)(x, **options), x)[1](jnp.asarray(weights))[0])
    np.testing.assert_allclose(function(x), expected.numpy(), rtol=1e-5, atol=1e-6)
    mapped = jax.jit(jax.vmap(jax.grad(lambda x: jnp.vdot(getattr(F, name)(x, **options), weights[0]))))(x)
    np.testing.assert_allclose(mapped[0], expected[0].numpy(), rtol=1e-5, atol=1e-6)
    along = np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    tangent = jax.jit(lambda x, t: jax.jvp(lambda x: getattr(F, name)(x, **options), (x,), (t,))[1])(x, along)
    np.testing.assert_allclose(np.vdot(tangent, weights), np.vdot(expected.numpy(), along), rtol=1e-4, atol=1e-4)


def test_double_precision_and_wide_indices_are_kept() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 8, 8)))
        values, indices = F.max_pool2d(x, 2, return_indices=True)
        assert values.dtype == jnp.float64 and indices.dtype == jnp.int64
        assert F.adaptive_max_pool2d(x, 3, return_indices=True)[1].dtype == jnp.int64
        assert F.fractional_max_pool2d(x, 2, 3, return_indices=True)[1].dtype == jnp.int64
        assert F.max_unpool2d(values, indices, 2).dtype == jnp.float64
        assert F.lp_pool2d(x, 2.5, 2).dtype == F.adaptive_avg_pool2d(x, 3).dtype == jnp.float64
