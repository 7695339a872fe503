"""Affine and bilinear maps."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array, as_array_or_none
from jaxmodules._typing import Array, ArrayLike


def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    r"""Apply an affine map to the last axis.

    .. math:: y = x A^T + b

    Args:
        input: any number of leading axes, then ``in_features``.
        weight: ``(out_features, in_features)`` or ``(in_features,)``.
        bias: anything that broadcasts to the result, commonly ``(out_features,)``.

    Shape:
        ``(*, in_features) -> (*, out_features)``; without the last axis for a one-dimensional ``weight``.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(4)).shape
        (2, 4)
    """
    input, weight, bias = as_array(input), as_array(weight), as_array_or_none(bias)
    _check_linear(input, weight, bias)
    return _linear(input, weight, bias)


def bilinear(input1: ArrayLike, input2: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    r"""Apply a bilinear map to the last axes of two arrays.

    .. math:: y_k = x_1^T A_k x_2 + b_k

    Args:
        input1: leading axes, then ``in1_features``.
        input2: the same leading axes, then ``in2_features``.
        weight: ``(out_features, in1_features, in2_features)``.
        bias: ``(out_features,)``.

    Shape:
        ``(*, in1_features), (*, in2_features) -> (*, out_features)``

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.bilinear(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((5, 3, 4))).shape
        (2, 5)
    """
    input1, input2, weight, bias = as_array(input1), as_array(input2), as_array(weight), as_array_or_none(bias)
    _check_bilinear(input1, input2, weight, bias)
    return _bilinear(input1, input2, weight, bias)


@partial(jax.jit, inline=True)
def _linear(input: Array, weight: Array, bias: Array | None) -> Array:
    output = lax.dot_general(input, weight, (((input.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    return output if bias is None else output + jnp.broadcast_to(bias, output.shape)


@partial(jax.jit, inline=True)
def _bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None) -> Array:
    output = jnp.einsum("...i,oij,...j->...o", input1, weight, input2)
    return output if bias is None else output + jnp.broadcast_to(bias, output.shape)


def _check_linear(input: Array, weight: Array, bias: Array | None) -> None:
    if input.ndim == 0 or weight.ndim == 0:
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {input.ndim}D and {weight.ndim}D"
        )
    if weight.ndim > 2:
        raise RuntimeError(f"linear() expects a weight with <= 2 dimensions, but it is {weight.ndim}D")
    if weight.ndim == 1 and bias is not None:
        raise RuntimeError(f"linear() with a bias expects weight to be a matrix, got a {weight.ndim}-D array")
    if input.dtype != weight.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {input.dtype} != {weight.dtype}")
    if input.shape[-1] != weight.shape[-1]:
        rows = input.size // max(input.shape[-1], 1)
        other = "x".join(map(str, reversed(weight.shape)))
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{input.shape[-1]} and {other}):"
            f" expected an input with {weight.shape[-1]} features in its last axis, got shape {list(input.shape)}"
        )
    if bias is not None:
        _check_bias(bias, (*input.shape[:-1], weight.shape[0]))


def _check_bias(bias: Array, target: tuple[int, ...]) -> None:
    for axis, (size, wanted) in enumerate(zip(reversed(bias.shape), reversed(target), strict=False)):
        if size not in (1, wanted):
            raise RuntimeError(
                f"The expanded size of the tensor ({wanted}) must match the existing size ({size}) at non-singleton"
                f" dimension {len(target) - 1 - axis}.  Target sizes: {list(target)}.  Tensor sizes: {list(bias.shape)}"
            )
    if bias.ndim > len(target):
        raise RuntimeError(f"linear(): expected a bias that broadcasts to {list(target)}, got {list(bias.shape)}")


def _check_bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None) -> None:
    if not input1.dtype == input2.dtype == weight.dtype:
        raise RuntimeError(
            "All tensors must have the same dtype, got"
            f" input1: {input1.dtype}, input2: {input2.dtype}, weight: {weight.dtype}"
        )
    if input1.ndim != input2.ndim:
        raise RuntimeError(f"bilinear(): input dimensions do not match: got {input1.ndim} and {input2.ndim}")
    if weight.ndim != 3:
        raise RuntimeError(f"bilinear(): expected a 3-dimensional weight, got weight of size {list(weight.shape)}")
    for axis, (size1, size2) in enumerate(zip(input1.shape[:-1], input2.shape[:-1], strict=True)):
        if size1 != size2:
            raise RuntimeError(
                f"bilinear(): input batch dimensions do not match at dim {axis}: got {size1} and {size2}"
            )
    for name, size, wanted in (
        ("input1", input1.shape[-1], weight.shape[1]),
        ("input2", input2.shape[-1], weight.shape[2]),
        ("bias", weight.shape[0] if bias is None else bias.shape[0], weight.shape[0]),
    ):
        if size != wanted:
            raise RuntimeError(f"bilinear(): {name} size does not match weight size: got {size} but expected {wanted}")
