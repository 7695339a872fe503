"""Every function against PyTorch's, option by option, with gradients; then what it refuses."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules.nn import functional as F


def ints(high: int, *shape: int, low: int = 0) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(low, high, shape)


def positive(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.uniform(0.5, 2.0, shape).astype(np.float32)


def shares(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def steps(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Few distinct values, so that windows hold ties."""
    return lambda rng: rng.integers(0, 3, shape).astype(np.float32)


def full(value: Any, *shape: int, dtype: Any = np.int64) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.full(shape, value, dtype)


@dataclass
class Call:
    """A call of one function: arrays as shapes or recipes, and plain options."""

    name: str
    arrays: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-5

    def make(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {
            key: recipe(rng) if callable(recipe) else rng.standard_normal(recipe).astype(np.float32)
            for key, recipe in self.arrays.items()
        }

    def __str__(self) -> str:
        shapes = [f"{key}{list(value.shape)}" for key, value in self.make().items()]
        return f"{self.name}({', '.join(shapes + [f'{k}={v}' for k, v in self.options.items()])})".replace(" ", "")


IMAGES = (2, 3, 7, 8)
CALLS = [
    Call("linear", dict(input=(3, 4), weight=(5, 4), bias=(5,))),
    Call("linear", dict(input=(2, 3, 4), weight=(5, 4))),
    Call("linear", dict(input=(4,), weight=(5, 4), bias=(5,))),
    Call("linear", dict(input=(3, 4), weight=(4,))),
    Call("linear", dict(input=(3, 4), weight=(5, 4), bias=(1,))),
    Call("linear", dict(input=(0, 4), weight=(5, 4), bias=(5,))),
    Call("bilinear", dict(input1=(2, 3), input2=(2, 4), weight=(5, 3, 4), bias=(5,))),
    Call("bilinear", dict(input1=(2, 6, 3), input2=(2, 6, 4), weight=(5, 3, 4))),
    Call("conv1d", dict(input=(2, 4, 9), weight=(6, 2, 3), bias=(6,)), dict(stride=2, padding=1, groups=2)),
    Call("conv1d", dict(input=(4, 9), weight=(6, 4, 4)), dict(padding="same", dilation=2)),
    Call("conv2d", dict(input=IMAGES, weight=(4, 3, 3, 2), bias=(4,))),
    Call("conv2d", dict(input=(3, 7, 8), weight=(4, 3, 3, 2), bias=(4,)), dict(stride=(2, 1), padding=(1, 2))),
    Call("conv2d", dict(input=IMAGES, weight=(6, 1, 3, 3)), dict(groups=3, dilation=(2, 1), padding="valid")),
    Call("conv2d", dict(input=IMAGES, weight=(4, 3, 4, 3)), dict(padding="same", stride=[1, 1])),
    Call("conv2d", dict(input=(0, 3, 7, 8), weight=(4, 3, 3, 2), bias=(4,))),
    Call("conv3d", dict(input=(1, 2, 4, 5, 4), weight=(3, 2, 2, 3, 2), bias=(3,)), dict(padding=(1, 0, 1))),
    Call("conv3d", dict(input=(2, 4, 5, 4), weight=(2, 1, 2, 2, 2)), dict(groups=2, stride=2)),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(1, 2, 0, 1), value=1.5)),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-1, 2))),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(3, 2), mode="reflect")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(5, -1, 1, 2), mode="replicate")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(4, 2), mode="circular")),
    Call("max_pool2d", dict(input=IMAGES), dict(kernel_size=2)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=3, stride=2, padding=1)),
    Call("max_pool2d", dict(input=steps(3, 7, 8)), dict(kernel_size=(3, 2), stride=(1, 2), ceil_mode=True)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=2, dilation=(2, 3), stride=1)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=3, padding=1, return_indices=True)),
    Call("max_pool2d", dict(input=(3, 7, 8)), dict(kernel_size=2, stride=3, ceil_mode=True, return_indices=True)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=(6, 7), stride=1)),
    Call("max_pool2d", dict(input=ints(9, 2, 3, 7, 8)), dict(kernel_size=2, stride=())),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=2)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=3, stride=2, padding=1)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=(3, 2), stride=3, padding=1, ceil_mode=True)),
    Call("avg_pool2d", dict(input=(3, 7, 8)), dict(kernel_size=2, stride=3, ceil_mode=True, count_include_pad=False)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=2, divisor_override=3)),
    Call("avg_pool2d", dict(input=ints(9, 2, 3, 7, 8, low=-9)), dict(kernel_size=2)),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=1)),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=(3, 5))),
    Call("adaptive_avg_pool2d", dict(input=(3, 7, 8)), dict(output_size=(None, 4))),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=(9, 16))),
    Call("relu", dict(input=steps(3, 4)), dict(inplace=False)),
    Call("relu", dict(input=ints(5, 3, 4, low=-5))),
    Call("sigmoid", dict(input=(3, 4))),
    Call("sigmoid", dict(input=ints(5, 3))),
    Call("tanh", dict(input=(3, 4))),
    Call("leaky_relu", dict(input=(3, 4))),
    Call("leaky_relu", dict(input=full(0.0, 3, dtype=np.float32)), dict(negative_slope=0.3)),
    Call("prelu", dict(input=(2, 3, 4), weight=(3,))),
    Call("prelu", dict(input=(2, 3), weight=(1,))),
    Call("prelu", dict(input=(3,), weight=())),
    Call("softmax", dict(input=(2, 3, 4)), dict(dim=1)),
    Call("softmax", dict(input=(2, 3)), dict(dim=-1, dtype="float32")),
    Call("softmax", dict(input=ints(5, 2, 3)), dict(dim=-1, dtype="float32")),
    Call("log_softmax", dict(input=(2, 3, 4)), dict(dim=-2)),
    Call("log_softmax", dict(input=()), dict(dim=0)),
    Call("log_softmax", dict(input=(2, 0)), dict(dim=1)),
    Call("batch_norm", dict(input=(4, 3), running_mean=(3,), running_var=positive(3), weight=(3,), bias=(3,))),
    Call("batch_norm", dict(input=IMAGES, running_mean=(3,), running_var=positive(3)), dict(eps=0.1)),
    Call("batch_norm", dict(input=IMAGES, weight=(3,), bias=(3,)),
         dict(running_mean=None, running_var=None, training=True)),
    Call("batch_norm", dict(input=(4, 3, 5), weight=(3,)), dict(running_mean=None, running_var=None, training=True)),
    Call("layer_norm", dict(input=(2, 3, 4), weight=(4,), bias=(4,)), dict(normalized_shape=(4,))),
    Call("layer_norm", dict(input=(2, 3, 4), weight=(3, 4)), dict(normalized_shape=[3, 4], eps=0.1)),
    Call("layer_norm", dict(input=(2, 3)), dict(normalized_shape=(3,))),
    Call("dropout", dict(input=(3, 4)), dict(p=0.5, training=False)),
    Call("dropout", dict(input=(3, 4)), dict(p=0.0)),
    Call("dropout", dict(input=(3, 4)), dict(p=1.0)),
    *[
        Call("cross_entropy", dict(input=(4, 5), target=ints(5, 4), **weights), dict(reduction=r, label_smoothing=s))
        for r in ("none", "mean", "sum")
        for weights in ({}, dict(weight=positive(5)))
        for s in (0.0, 0.2)
    ],
    *[
        Call("cross_entropy", dict(input=(4, 5), target=shares(4, 5), **weights), dict(reduction=r, label_smoothing=s))
        for r in ("none", "mean", "sum")
        for weights, s in (({}, 0.0), (dict(weight=positive(5)), 0.2))
    ],
    Call("cross_entropy", dict(input=(4, 5), target=ints(5, 4), weight=positive(5)), dict(ignore_index=1)),
    Call("cross_entropy", dict(input=(4, 5), target=ints(5, 4)), dict(ignore_index=1, label_smoothing=0.1)),
    Call("cross_entropy", dict(input=(4, 5), target=full(-100, 4))),
    Call("cross_entropy", dict(input=(4, 5), target=full(-100, 4)), dict(label_smoothing=0.1)),
    Call("cross_entropy", dict(input=(2, 5, 3), target=ints(5, 2, 3)), dict(reduction="none")),
    Call("cross_entropy", dict(input=(2, 5, 3, 2), target=ints(5, 2, 3, 2), weight=positive(5))),
    Call("cross_entropy", dict(input=(2, 5, 3, 2), target=(2, 5, 3, 2)), dict(label_smoothing=0.1)),
    Call("cross_entropy", dict(input=(5,), target=ints(5))),
    Call("cross_entropy", dict(input=(5,), target=shares(5), weight=positive(5))),
    Call("cross_entropy", dict(input=(0, 5), target=ints(5, 0))),
    Call("nll_loss", dict(input=(4, 5), target=ints(5, 4))),
    Call("nll_loss", dict(input=(4, 5), target=ints(5, 4), weight=positive(5)), dict(ignore_index=1)),
    Call("nll_loss", dict(input=(4, 5), target=full(7, 4)), dict(ignore_index=7, reduction="sum")),
    Call("nll_loss", dict(input=(2, 5, 3, 2), target=ints(5, 2, 3, 2)), dict(reduction="none")),
    Call("nll_loss", dict(input=(2, 5, 3, 2, 2), target=ints(5, 2, 3, 2, 2))),
    Call("nll_loss", dict(input=(5,), target=ints(5)), dict(reduction="none")),
    *[Call("mse_loss", dict(input=(3, 4), target=(3, 4)), dict(reduction=r)) for r in ("none", "mean", "sum")],
    *[
        Call("mse_loss", dict(input=(3, 4), target=(3, 4), weight=positive(3, 4)), dict(reduction=r))
        for r in ("none", "mean", "sum")
    ],
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=2)),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=-1, scale_grad_by_freq=True)),
    Call("embedding", dict(input=ints(5), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=1.0)),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=0.5, norm_type=1.0, sparse=False)),
]  # fmt: skip


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple | list) else result


def theirs(call: Call, arrays: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Return torch's results, its gradients and the cotangent they answer to."""
    options = {key: getattr(torch, value) if key == "dtype" else value for key, value in call.options.items()}
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    wanted = [key for key, t in tensors.items() if t.is_floating_point() and not untrained(call, key)]
    for key in wanted:
        tensors[key].requires_grad_()
    result = getattr(torch.nn.functional, call.name)(**tensors, **options)
    output = first(result)
    cotangent = np.random.default_rng(1).standard_normal(tuple(output.shape)).astype(np.float32)
    if not output.requires_grad:
        return result, {}, cotangent
    output.backward(torch.tensor(cotangent))
    return result, {key: tensors[key].grad.numpy() for key in wanted}, cotangent


def untrained(call: Call, key: str) -> bool:
    """Tell whether torch has no gradient with respect to this array."""
    return key.startswith("running") or (call.name in ("cross_entropy", "nll_loss", "mse_loss") and key != "input")


def ours(call: Call, arrays: dict[str, Any], wanted: Any, cotangent: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Return our results and gradients, compiled together."""

    @jax.jit
    def run(arrays: dict[str, Any]) -> Any:
        def function(trained: dict[str, Any]) -> Any:
            result = getattr(F, call.name)(**{**arrays, **trained}, **call.options)
            return first(result), result

        output, pullback, result = jax.vjp(function, {key: arrays[key] for key in wanted}, has_aux=True)
        return result, pullback(jnp.asarray(cotangent, output.dtype))[0] if wanted else {}

    return run(arrays)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_result_and_gradients_equal_torch(call: Call) -> None:
    arrays = call.make()
    expected, gradients, cotangent = theirs(call, arrays)
    result, found = ours(call, arrays, gradients.keys(), cotangent)
    for one, other in zip(jax.tree.leaves(result), torch.utils._pytree.tree_leaves(expected), strict=True):
        assert one.shape == tuple(other.shape)
        np.testing.assert_allclose(one, other.detach().numpy(), call.tolerance, call.tolerance)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(found[key], gradient, call.tolerance, call.tolerance, err_msg=key)


@dataclass
class Zeros:
    """Stands for an array of zeros in a row below."""

    shape: tuple[int, ...]
    dtype: str


def z(*shape: int, dtype: str = "float32") -> Zeros:
    return Zeros(shape, dtype)


# a pair of messages is torch's and ours, where torch's is of no use to anybody


REFUSED = [
    ("linear", (z(3, 4), z(5, 3)), {}, "shapes cannot be multiplied (3x4 and 3x5)"),
    ("linear", (z(3, 3), z(5, 3), z(4)), {}, "The expanded size of the tensor (5) must match the existing size (4)"),
    ("linear", (z(3, 3, dtype="int32"), z(5, 3)), {}, "expected m1 and m2 to have the same dtype, but got:"),
    ("linear", (z(), z(5, 3)), {}, "need to be at least 1D, but they are 0D and 2D"),
    ("linear", (z(2, 3), z(4, 5, 3)), {}, "with <= 2 dimensions, but"),
    ("linear", (z(2, 3), z(3), z(2)), {}, "a matrix, got"),
    ("bilinear", (z(2, 3), z(3, 4), z(5, 3, 4)), {}, "batch dimensions do not match at dim 0: got 2 and 3"),
    ("bilinear", (z(2, 2), z(2, 4), z(5, 3, 4)), {}, "input1 size does not match weight size: got 2 but expected 3"),
    ("bilinear", (z(2, 3), z(2, 5), z(5, 3, 4)), {}, "input2 size does not match weight size: got 5 but expected 4"),
    ("bilinear", (z(2, 3), z(4), z(5, 3, 4)), {}, "input dimensions do not match: got 2 and 1"),
    ("bilinear", (z(2, 3), z(2, 4), z(5, 3, 4), z(4)), {}, "bias size does not match weight size: got 4 but expected"),
    ("bilinear", (z(2, 3, dtype="int32"), z(2, 4), z(5, 3, 4)), {}, "All tensors must have the same dtype, got"),
    ("conv2d", (z(3, 5), z(4, 3, 3, 3)), {}, "Expected 3D (unbatched) or 4D (batched) input to conv2d"),
    ("conv1d", (z(5), z(4, 3, 3)), {}, "Expected 2D (unbatched) or 3D (batched) input to conv1d"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 2, 3, 3)), {}, "to have 2 channels, but got 3 channels instead"),
    ("conv2d", (z(2, 3, 2, 2), z(4, 3, 3, 3)), {}, "Kernel size can't be greater than actual input size"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3), z(5)), {}, "expected bias to be 1-dimensional with 4 elements"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=0), "non-positive stride is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding=-1), "negative padding is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(dilation=0), "non-positive dilation is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(groups=0), "non-positive groups is not supported"),
    ("conv2d", (z(2, 4, 5, 5), z(3, 2, 3, 3)), dict(groups=2), "expected weight to be divisible by 2 at dimension 0"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=(1, 2, 3)), "expected stride to be a single integer"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding="foo"), "Invalid padding string: 'foo'"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding="same", stride=2), "not supported for strided conv"),
    ("conv2d", (z(2, 3, 5, 5, dtype="int32"), z(4, 3, 3, 3)), {}, ("expected scalar type", "should be the same")),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=1.5), ("invalid combination", "stride must be an int or")),
    ("pad", (z(3, 4), (1,)), {}, "Padding length must be divisible by 2"),
    ("pad", (z(3, 4), (1, 1) * 3), {}, "Padding length should be less than or equal to two times the input dimension"),
    ("pad", (z(3, 4), (1, 1), "foo"), {}, "Unrecognised padding mode foo"),
    ("pad", (z(3, 4), (1, 1), "reflect", 1.0), {}, 'Padding mode "reflect" doesn\'t take in value argument'),
    ("pad", (z(3, 4), (4, 1), "reflect"), {}, "Padding size should be less than the corresponding input dimension"),
    ("pad", (z(3, 4), (5, 1), "circular"), {}, "Padding value causes wrapping around more than once"),
    ("pad", (z(4), (1, 1), "reflect"), {}, "Padding size 2 is not supported for 1D input tensor"),
    ("pad", (z(3, 4), (-3, -3)), {}, ("narrow(): length must be non-negative", "crops more than there is")),
    ("max_pool2d", (z(3, 5), 2), {}, "non-empty 3D or 4D (batch mode) tensor expected for input"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(padding=2), "pad should be at most half of effective kernel size"),
    ("max_pool2d", (z(2, 3, 5, 5), 3), dict(padding=2, dilation=2), "pad should be smaller than or equal to half"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(padding=-1), "pad must be non-negative, but got pad: -1"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(stride=0), "stride should not be zero"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(dilation=0), "dilation should be greater than zero, but got dilation"),
    ("max_pool2d", (z(2, 3, 5, 5), 6), {}, "Calculated output size: (3x0x0). Output size is too small"),
    ("max_pool2d", (z(2, 0, 5, 5), 2), {}, "tensor with optional 0 dim batch size for input"),
    ("max_pool2d", (z(2, 3, 5, 5), (2, 2, 2)), {}, ("must either be a single int", "to be a single integer value or")),
    ("max_pool2d", (z(2, 3, 5, 5, dtype="bool"), 2), {}, "not implemented for"),
    ("avg_pool2d", (z(3, 5), 2), {}, "Dimension out of range"),
    ("avg_pool2d", (z(2, 3, 5, 5), 2), dict(divisor_override=0), "divisor must be not zero"),
    ("adaptive_avg_pool2d", (z(3, 5), 2), {}, "Expected 3D or 4D tensor, but got [3, 5]"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), (2, 2, 2)), {}, "output_size must be 2"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), (-1, 2)), {}, "elements of output_size must be greater than or equal to 0"),
    ("adaptive_avg_pool2d", (z(2, 3, 0, 5), 2), {}, "Expected input to have non-zero size for non-batch dimensions"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5, dtype="int32"), 2), {}, "not implemented for"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), None), {}, ("has no len()", "output_size must be an int or 2 values")),
    ("relu", (z(3, dtype="bool"),), {}, "Boolean inputs not supported for relu"),
    ("leaky_relu", (z(3, dtype="int32"),), {}, "not implemented for"),
    ("prelu", (z(2, 3), z(2)), {}, "Found parameter numbers = 2 and channel size = 3."),
    ("prelu", (z(3), z(1, 1)), {}, "Expected `weight` to be a scalar or 1D tensor, but got: ndim = 2"),
    ("prelu", (z(3, dtype="int32"), z(1)), {}, "Type promoting not supported"),
    ("prelu", (z(), z(3)), {}, "Not allow zero-dim input tensor"),
    ("softmax", (z(2, 3), 2), {}, "Dimension out of range (expected to be in range of [-2, 1], but got 2)"),
    ("log_softmax", (z(2, 3, dtype="int32"), 1), {}, "not implemented for"),
    ("dropout", (z(3), 1.5), {}, "dropout probability has to be between 0 and 1, but got 1.5"),
    ("dropout", (z(3, dtype="int32"), 0.5), {}, "result type Float can't be cast to the desired output type"),
    ("batch_norm", (z(2, 3), None, None), {}, "running_mean must be defined in evaluation mode"),
    ("batch_norm", (z(2, 3), z(3), None), dict(training=True), "must either both be None or neither be None"),
    ("batch_norm", (z(2, 3), z(4), z(4)), {}, "running_mean should contain 3 elements not 4"),
    ("batch_norm", (z(2, 3), z(3), z(3), z(3), z(4)), {}, "bias should contain 3 elements not 4"),
    ("batch_norm", (z(3), z(3), z(3)), {}, "running_mean should contain 0 elements not 3"),
    ("batch_norm", (z(1, 3, 1), None, None), dict(training=True), "Expected more than 1 value per channel"),
    ("batch_norm", (z(2, 3), z(3), z(3)), dict(training=True, eps=0.0), "eps must be positive during training"),
    ("batch_norm", (z(2, 3), z(3), z(3)), dict(eps=-1.0), "eps must be non-negative, but got -1.0"),
    ("batch_norm", (z(2, 3, dtype="int32"), z(3), z(3)), {}, "not implemented for"),
    ("layer_norm", (z(2, 3), 3), {}, "argument 'normalized_shape'"),
    ("layer_norm", (z(2, 3), ()), {}, "Expected normalized_shape to be at least 1-dimensional"),
    ("layer_norm", (z(2, 3), (4,)), {}, "Given normalized_shape=[4], expected input with shape [*, 4]"),
    ("layer_norm", (z(2, 3), (3,), z(2)), {}, "Expected weight to be of same shape as normalized_shape"),
    ("layer_norm", (z(2, 3, dtype="int32"), (3,)), {}, "not implemented for"),
    ("cross_entropy", (z(2, 3), z(3, dtype="int64")), {}, "Expected input batch_size (2) to match target"),
    ("cross_entropy", (z(2, 3), z(2)), {}, "expected target dtype to be Long or Byte"),
    ("cross_entropy", (z(2, 3), z(2, 4)), {}, "0D or 1D target tensor expected, multi-target not supported"),
    ("cross_entropy", (z(2, 3), z(2, 3, dtype="int64")), {}, "Expected floating point type for target with class prob"),
    ("cross_entropy", (z(2, 3), z(2, 3)), dict(ignore_index=1), "ignore_index is not supported for floating"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64"), z(4)), {}, "either for all 3 classes or no classes"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64")), dict(label_smoothing=2.0), "must be between 0.0 and 1.0. Got: 2"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64")), dict(reduction="foo"), "foo is not a valid value for reduction"),
    ("cross_entropy", (z(2, 3, dtype="int64"), z(2, dtype="int64")), {}, "not implemented for"),
    ("nll_loss", (z(), z(dtype="int64")), {}, "Expected 1 or more dimensions (got 0)"),
    ("nll_loss", (z(3), z(2, dtype="int64")), {}, "For 1D input, 1D target must have size 1, but got target size: 2"),
    ("nll_loss", (z(2, 3, 4), z(2, 5, dtype="int64")), {}, "Expected target size [2, 4], got [2, 5]"),
    ("nll_loss", (z(2, 3, 4, 5), z(2, 4, dtype="int64")), {}, "only batches of spatial targets supported (3D tensors)"),
    ("mse_loss", (z(2, 3), z(2, 3)), dict(reduction="foo"), "foo is not a valid value for reduction"),
    ("mse_loss", (z(2, 3), z(2, 3)), dict(weight=z(3)), "Weights and input must have the same size"),
    ("mse_loss", (z(2, 3, dtype="int32"), z(2, 3, dtype="int32")), {}, "not implemented for"),
    ("embedding", (z(2), z(4, 3)), {}, "Expected tensor for argument #1 'indices' to have one of the following"),
    ("embedding", (z(1, dtype="int32"), z(4)), {}, "'weight' must be 2-D"),
    ("embedding", (z(1, dtype="int32"), z(4, 3)), dict(padding_idx=4), "Padding_idx must be within num_embeddings"),
]  # fmt: skip


@pytest.mark.parametrize("name, args, options, message", REFUSED)
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
    x = jnp.ones((100, 100))
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
        lambda x: F.layer_norm(x, (8, 8), jnp.ones((8, 8))),
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
