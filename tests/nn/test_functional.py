"""Every function against PyTorch's, option by option, with gradients; then what it refuses."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules.nn import functional as F
from tests.rows import params, refusals
from tests.table import Call, Zeros, cotangents, dtype_name, is_float, leaves, to_torch

NOT_IN_DOUBLE = ("grouped_mm", "embedding_bag")  # torch refuses doubles; torch's gradient reads out of bounds
WITH_SINGLE_CONSTANTS = ("hardsigmoid", "binary_cross_entropy")  # in torch's gradients


def in_torch(options: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(torch, value) if key == "dtype" else value for key, value in options.items()}


def theirs(call: Call, arrays: dict[str, np.ndarray]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return torch's results and its gradients."""
    tensors = {key: to_torch(array) for key, array in arrays.items()}
    trained = [key for key in arrays if is_trained(call, key, arrays[key])]
    for tensor in leaves([tensors[key] for key in trained]):
        tensor.requires_grad_()
    outputs = leaves(getattr(torch.nn.functional, call.name)(**tensors, **in_torch(call.options)))
    floating = [output for output in outputs if is_float(output)]
    given = (torch.tensor(c, dtype=x.dtype) for c, x in zip(cotangents(outputs), floating, strict=True))
    pairs = zip(floating, given, strict=True)
    differentiable = [pair for pair in pairs if pair[0].requires_grad]
    if not differentiable:
        return outputs, {}
    torch.autograd.backward(*zip(*differentiable, strict=True))
    return outputs, {key: [tensor.grad for tensor in leaves(tensors[key])] for key in trained}


def is_trained(call: Call, key: str, value: Any) -> bool:
    """Tell whether torch has a gradient with respect to this array."""
    if call.trained is not None:
        return key in call.trained
    return all(map(is_float, leaves(value))) and not key.startswith("running")


def ours(call: Call, arrays: dict[str, Any], wanted: Any) -> tuple[Any, dict[str, Any]]:
    """Return our results and gradients, compiled together."""

    @jax.jit
    def run(arrays: dict[str, Any]) -> Any:
        def function(trained: dict[str, Any]) -> Any:
            result = leaves(getattr(F, call.name)(**{**arrays, **trained}, **call.options))
            return [leaf for leaf in result if is_float(leaf)], result

        outputs, pullback, result = jax.vjp(function, {key: arrays[key] for key in wanted}, has_aux=True)
        return result, pullback([jnp.asarray(c, x.dtype) for c, x in zip(cotangents(outputs), outputs, strict=True)])[0]

    return run(arrays)


def compare(call: Call, arrays: dict[str, Any], tolerance: float) -> None:
    """Run both, and compare values, gradients and types."""
    expected, gradients = theirs(call, arrays)
    result, found = ours(call, arrays, gradients.keys())
    for one, other in zip(result, expected, strict=True):
        assert (one.shape, dtype_name(one)) == (tuple(other.shape), dtype_name(other))
        np.testing.assert_allclose(one, other.detach().numpy(), tolerance, tolerance)
    for key, expected in gradients.items():
        for one, other in zip(leaves(found[key]), expected, strict=True):
            assert other is None or dtype_name(one) == dtype_name(other), key
            np.testing.assert_allclose(one, 0 if other is None else other, tolerance, tolerance, err_msg=key)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("call", params("CALLS"))
def test_result_and_gradients_equal_torch(call: Call) -> None:
    compare(call, call.make(), call.tolerance)


@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="JAX_ENABLE_X64 is not set")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("call", params("CALLS"))
def test_double_precision_equals_torch(call: Call) -> None:
    arrays = call.make()
    if (
        call.name not in NOT_IN_DOUBLE
        and "dtype" not in call.options
        and any(map(is_float, leaves([*arrays.values()])))
    ):
        arrays = jax.tree.map(lambda x: x.astype(np.float64) if is_float(x) else x, arrays)
        compare(call, arrays, 1e-7 if call.name in WITH_SINGLE_CONSTANTS else 1e-9)


@pytest.mark.parametrize("name, args, options, message", refusals("REFUSED_CALLS"))
def test_refusal_is_of_the_class_and_words_of_torch(name: str, args: Any, options: Any, message: Any) -> None:
    def call(functions: Any, make: Callable[[Zeros], Any]) -> Any:
        given = jax.tree.map(lambda value: make(value) if isinstance(value, Zeros) else value, (args, options))
        return getattr(functions, name)(*given[0], **given[1])

    expected, ours = map(re.escape, message if isinstance(message, tuple) else (message, message))
    with pytest.raises(Exception, match=expected) as refusal:  # noqa: B017 - the class is torch's to choose
        call(torch.nn.functional, lambda zeros: torch.zeros(zeros.shape, dtype=getattr(torch, zeros.dtype)))
    with pytest.raises(refusal.type, match=ours):
        call(F, lambda zeros: np.zeros(zeros.shape, zeros.dtype))


def test_mse_loss_warns_of_broadcasting_and_refuses_what_cannot_be() -> None:
    with pytest.warns(UserWarning, match=r"Using a target size \(\[3\]\) that is different to the input size"):
        assert F.mse_loss(jnp.ones((2, 3)), jnp.zeros(3), reduction="none").shape == (2, 3)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match=r"tensor a \(3\) must match .* tensor b \(4\)"):
        F.mse_loss(jnp.ones((2, 3)), jnp.ones(4))


@pytest.mark.parametrize("ndim, axis", [(0, 0), (1, 0), (2, 1), (3, 0), (4, 1)])
def test_softmax_without_dim_warns_and_chooses_the_axis_of_torch(ndim: int, axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2)[:ndim]).astype(np.float32)
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax has been deprecated"):
        chosen = F.softmax(x)
    np.testing.assert_array_equal(chosen, F.softmax(x, axis))


@pytest.mark.parametrize("flags", [(None, False), (False, None), (True, True), (False, False)])
def test_deprecated_reduction_flags_mean_what_they_did(flags: tuple[bool | None, bool | None]) -> None:
    options = dict(zip(("size_average", "reduce"), flags, strict=True))
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.nn.functional.mse_loss(torch.tensor(x), torch.zeros(4, 3), **options)
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated, please use reduction="):
        np.testing.assert_allclose(F.mse_loss(x, jnp.zeros((4, 3)), **options), expected, rtol=1e-6)
    with pytest.warns(UserWarning, match="reduction='elementwise_mean' is deprecated"):
        F.mse_loss(x, x, reduction="elementwise_mean")


def test_labels_out_of_range_raise_where_known_and_give_nan_where_traced() -> None:
    scores, table = jnp.zeros((2, 3)), jnp.zeros((4, 3))
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            F.cross_entropy(scores, np.array([0, wrong]))
        assert jnp.isnan(jax.jit(F.cross_entropy)(scores, np.array([0, wrong])))
    for wrong in (4, -1):
        with pytest.raises(IndexError, match=f"index out of range in self.*{wrong}"):
            F.embedding(np.array([wrong]), table)
        assert jnp.isnan(jax.jit(F.embedding)(np.array([wrong]), table)).all()


def test_max_pool_passes_nan_and_its_place_on() -> None:
    x = np.zeros((1, 1, 4, 6), np.float32)
    x[0, 0, 1, 1:3], x[0, 0, 2, 2], x[0, 0, 3, 5] = np.nan, np.nan, -np.inf
    x[0, 0, :2, 4:] = -np.inf
    values, places = F.max_pool2d(x, 3, 1, return_indices=True)
    expected, wanted = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 1, return_indices=True)
    np.testing.assert_array_equal(values, expected.numpy())
    np.testing.assert_array_equal(places, wanted.numpy())
    np.testing.assert_array_equal(F.max_pool2d(x, 3, 1), expected.numpy())


def test_dropout_keeps_the_mean_and_the_gradient_follows_the_mask() -> None:
    x = jnp.ones((100, 100), jnp.float32)
    output, gradient = jax.value_and_grad(lambda x: F.dropout(x, 0.25).sum())(x)
    assert set(np.unique(gradient).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert abs(output / x.size - 1) < 0.05
    assert not (F.dropout(x) == F.dropout(x)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_come_out_as_they_went_in_and_sum_in_float32(dtype: str) -> None:
    x = (1 + np.random.default_rng(0).standard_normal((16, 4, 8, 8)) / 8).astype(dtype)
    weight = np.ones((4, 4, 3, 3), dtype)
    for function in (
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.layer_norm(x, (8, 8), jnp.ones((8, 8), jnp.float32)),
        lambda x: F.avg_pool2d(x, 8),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.log_softmax(x.reshape(16, -1), 1),
        lambda x: F.cross_entropy(x.reshape(16, -1), np.arange(16)),
        lambda x: F.conv2d(x, jnp.asarray(weight, x.dtype)),
    ):
        short, long = function(x), function(x.astype(np.float32))
        assert short.dtype == x.dtype
        np.testing.assert_allclose(short.astype(np.float32), long, rtol=0.01, atol=0.02)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, dilation=2, return_indices=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: F.conv2d(x, np.ones((2, 3, 3, 3), np.float32), padding="same"),
        lambda x: F.layer_norm(x, (8,)),
        lambda x: F.batch_norm(x, np.zeros(3, np.float32), np.ones(3, np.float32)),
    ],
)
def test_vmap_equals_a_loop(function: Callable[[jax.Array], Any]) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3, 7, 8)).astype(np.float32))
    mapped = jax.jit(jax.vmap(function))(x)
    looped = jax.tree.map(lambda *parts: jnp.stack(parts), *map(function, x))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 1e-6, 1e-6), mapped, looped)


def test_double_precision_is_kept() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3, 6, 6)))
        for function in (
            lambda x: F.batch_norm(x, jnp.zeros(3), jnp.ones(3), training=True),
            lambda x: F.avg_pool2d(x, 2),
            lambda x: F.dropout(x, 0.5),
            lambda x: F.leaky_relu(x),
            lambda x: F.cross_entropy(x, jnp.zeros((4, 6, 6), int), label_smoothing=0.1),
        ):
            assert function(x).dtype == jnp.float64
        assert F.max_pool2d(x, 2, return_indices=True)[1].dtype == jnp.int64


def test_second_derivatives_agree_forward_and_reverse() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32))
    for function in (
        lambda x: (F.batch_norm(x, None, None, training=True) ** 3).sum(),
        lambda x: (F.layer_norm(x, (3,)) ** 3).sum(),
        lambda x: (F.max_pool2d(x[None], 2) ** 3).sum(),
        lambda x: F.cross_entropy(x, np.array([0, 1, 2, 0])),
        lambda x: (F.embedding(np.array([1, 1, 3]), x, scale_grad_by_freq=True) ** 2).sum(),
    ):
        forward, reverse = jax.jacfwd(jax.jacrev(function))(x), jax.jacrev(jax.jacrev(function))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-4)
