"""What the table can't say of convolutions: ``nn.grad``, sizes chosen at the call, classes, short floats."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import nn
from jaxmodules.nn import functional as F

SETTINGS = [
    (1, {}),
    (1, dict(stride=2, padding=1, dilation=2, groups=2)),
    (2, dict(stride=(2, 1), padding=(0, 2))),
    (2, dict(dilation=[1, 2], groups=2)),
    (3, dict(stride=(1, 2, 1), padding=(1, 0, 1), groups=2)),
]


def operands(rank: int, options: dict[str, Any]) -> list[np.ndarray]:
    """Draw an input, a weight and a gradient of the output."""
    rng = np.random.default_rng(0)
    shapes = [(2, 4, *(6, 5, 5)[:rank]), (6, 4 // options.get("groups", 1), *(2, 3, 2)[:rank])]
    made = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    output = getattr(F, f"conv{rank}d")(*made, **options)
    return [*made, rng.standard_normal(output.shape).astype(np.float32)]


def in_torch(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("rank, options", SETTINGS)
def test_gradients_by_input_and_by_weight_equal_torch(rank: int, options: dict[str, Any]) -> None:
    x, w, g = operands(rank, options)
    for name, given in ((f"conv{rank}d_input", (x.shape, w, g)), (f"conv{rank}d_weight", (x, w.shape, g))):
        expected = getattr(torch.nn.grad, name)(*map(in_torch, given), **options)
        np.testing.assert_allclose(getattr(nn.grad, name)(*given, **options), expected, 2e-5, 2e-5, err_msg=name)


@pytest.mark.parametrize(
    "size, weight, gradient, message",
    [
        ((2, 4, 5, 6), (6, 4, 3, 3), (2, 6, 3, 3), r"expected a grad_output of size \[2, 6, 3, 4\]"),
        ((4, 5, 5), (6, 4, 3, 3), (6, 3, 3), "Expected 4-dimensional input for 4-dimensional weight"),
        ((2, 3, 5, 5), (6, 4, 3, 3), (2, 6, 3, 3), "to have 4 channels, but got 3 channels instead"),
        ((2, 4, 2, 2), (6, 4, 3, 3), (2, 6, 3, 3), "Kernel size can't be greater than actual input size"),
    ],
)
def test_gradients_of_what_can_not_be_are_refused(size: Any, weight: Any, gradient: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"{message}|could not create a primitive"):  # which are oneDNN's words
        torch.nn.grad.conv2d_input(size, torch.zeros(weight), torch.zeros(gradient))
    with pytest.raises(RuntimeError, match=message):
        nn.grad.conv2d_input(size, jnp.zeros(weight), jnp.zeros(gradient))
    with pytest.raises(RuntimeError, match=message):
        nn.grad.conv2d_weight(jnp.zeros(size), weight, jnp.zeros(gradient))


@pytest.mark.parametrize(
    "shape, size, message",
    [
        ((2, 4, 5, 5), (12, 13), r"requested an output size of \(12, 13\), but valid sizes range from \[11, 11\]"),
        ((2, 4, 5, 5), (10, 11), r"valid sizes range from \[11, 11\] to \[12, 12\]"),
        ((2, 4, 5, 5), (11,), r"for 4D input, output_size must have 2 or 4 elements \(got 1\)"),
        ((4, 5, 5), (2, 4, 11, 11), r"for 3D input, output_size must have 2 or 3 elements \(got 4\)"),
    ],
)
def test_output_sizes_that_can_not_be_are_refused(shape: Any, size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.nn.ConvTranspose2d(4, 2, 3, stride=2)(torch.zeros(shape), output_size=size)
    with pytest.raises(ValueError, match=message):
        nn.ConvTranspose2d(4, 2, 3, stride=2)(jnp.zeros(shape), output_size=size)


def test_every_convolution_is_one_of_the_classes_that_torch_tells_them_by() -> None:
    base = nn.modules.conv
    for rank in (1, 2, 3):
        assert issubclass(getattr(nn, f"Conv{rank}d"), base._ConvNd)
        assert issubclass(getattr(nn, f"ConvTranspose{rank}d"), base._ConvTransposeNd)
    assert issubclass(base._ConvTransposeNd, base._ConvNd)


def test_transposing_is_the_gradient_by_the_input() -> None:
    x, w, g = operands(2, dict(stride=2, padding=1))
    ours = F.conv_transpose2d(g, w, stride=2, padding=1)
    np.testing.assert_allclose(ours, nn.grad.conv2d_input(x.shape, w, g, stride=2, padding=1), 1e-5, 1e-5)


def test_folding_sums_short_floats_in_float32_and_blocks_of_flags() -> None:
    columns = jnp.full((1, 16 * 16, 1), 1 + 1 / 128, jnp.bfloat16)
    stacked = F.fold(jnp.broadcast_to(columns, (1, 256, 4)), (17, 17), 16)
    assert stacked.dtype == jnp.bfloat16 and stacked[0, 0, 8, 8] == jnp.bfloat16(4 * (1 + 1 / 128))
    flags = np.eye(4, dtype=bool)[None]
    expected = torch.nn.functional.fold(torch.tensor(flags), 3, 2)
    np.testing.assert_array_equal(F.fold(flags, 3, 2), expected.numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolution_of_long_integers(rank: int) -> None:
    x, w = np.arange(6 * 3**rank).reshape(1, 6, *[3] * rank), np.arange(12 * 2**rank).reshape(6, 2, *[2] * rank)
    options = dict(stride=2, padding=1, output_padding=1, groups=2)
    expected = getattr(torch.nn.functional, f"conv_transpose{rank}d")(torch.tensor(x), torch.tensor(w), **options)
    with jax.enable_x64(True):
        result = getattr(F, f"conv_transpose{rank}d")(jnp.asarray(x), jnp.asarray(w), **options)
        np.testing.assert_array_equal(result, expected.numpy(), strict=True)


def test_second_derivatives_agree_forward_and_reverse() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 3)).astype(np.float32))
    for function in (
        lambda x: (F.conv_transpose2d(x, x[0, :, None], stride=2, padding=1) ** 2).sum(),
        lambda x: (F.pad(x, (2, -1, 1, 2), mode="reflect") ** 3).sum(),
        lambda x: (F.pad(x, (2, 1, 1, 2), mode="circular") ** 3).sum(),
        lambda x: (F.fold(F.unfold(x, 2) ** 2, 3, 2) ** 2).sum(),
    ):
        forward, reverse = jax.jacfwd(jax.jacrev(function))(x), jax.jacrev(jax.jacrev(function))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-4)


def test_none_is_no_input() -> None:
    for library in (torch.nn, nn):
        with pytest.raises(TypeError, match="None"):
            library.Conv2d(3, 3, 3)(None)
