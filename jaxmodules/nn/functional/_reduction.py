"""What all losses share: the reduction and its deprecated flags, checks of shapes, and the body of a pointwise loss."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import accumulation_dtype
from jaxmodules._typing import Array, DType


def resolve_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return the reduction that PyTorch's current and deprecated arguments ask for.

    Raises:
        ValueError: if ``reduction`` is unknown.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", stacklevel=3)
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction, expected 'none', 'mean' or 'sum'")
    return reduction


def legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """Translate the deprecated flags of a loss into its ``reduction``, with PyTorch's warning."""
    average, reduces = size_average in (None, True), reduce in (None, True)
    reduction = ("mean" if average else "sum") if reduces else "none"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
        stacklevel=4,
    )
    return reduction


def check_plain_reduction(reduction: str) -> None:
    """Raise where a loss has no deprecated spellings of its reduction.

    Raises:
        ValueError: if ``reduction`` is unknown.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid, expected 'none', 'mean' or 'sum' as reduction")


def reduce_loss(loss: Array, reduction: str) -> Array:
    """Apply ``'none'``, ``'mean'`` or ``'sum'``; the mean of nothing is NaN."""
    if reduction == "mean":
        return loss.sum() / loss.size
    return loss.sum() if reduction == "sum" else loss


@partial(jax.jit, static_argnames=("term", "reduction", "dtype", "flags"), inline=True)
def pointwise_loss(
    term: Callable[..., Array],
    arrays: tuple[Array | None, ...],
    reduction: str,
    dtype: DType,
    settings: tuple[float, ...] = (),
    flags: tuple[bool, ...] = (),
    weight: Array | None = None,
) -> Array:
    """Apply ``term`` to arrays broadcast to one shape, in no less than ``float32``; reduce, and round to ``dtype``.

    With ``weight``, of the shape of the loss, the mean is a weighted one.
    """
    wide = accumulation_dtype(dtype)
    loss = term(*broadcast(arrays, wide), *settings, *flags)
    if weight is not None:
        weight = jnp.broadcast_to(weight.astype(wide), loss.shape)
        loss = loss * weight
    loss = loss.sum() / weight.sum() if reduction == "mean" and weight is not None else reduce_loss(loss, reduction)
    return loss if jnp.issubdtype(dtype, jnp.complexfloating) else loss.astype(dtype)


def broadcast(arrays: tuple[Any, ...], dtype: DType) -> list[Any]:
    """Convert arrays to one type and one shape, keeping ``None``."""
    shape = jnp.broadcast_shapes(*(array.shape for array in arrays if array is not None))
    return [None if array is None else jnp.broadcast_to(array.astype(dtype), shape) for array in arrays]


def clamp_at_zero(value: Array) -> Array:
    """Replace what is negative by 0, with the gradient of what is exactly 0 passing and NaN staying."""
    return jnp.where(value < 0, 0, value)


def common_dtype(*arrays: Array) -> np.dtype:
    """Return the type that arithmetic between the arrays has."""
    dtype = arrays[0].dtype
    for array in arrays[1:]:
        dtype = jnp.promote_types(dtype, array.dtype)
    return np.dtype(dtype)


def floating_dtype(*arrays: Array) -> np.dtype:
    """Return the type that arithmetic between the arrays and a Python float has."""
    dtype = common_dtype(*arrays)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else np.dtype(np.float32)


def check_mean(dtype: DType, reduction: str) -> None:
    """Raise where the mean of integers is asked for.

    Raises:
        RuntimeError: if ``dtype`` holds integers and ``reduction`` is ``'mean'``.
    """
    if reduction == "mean" and not jnp.issubdtype(dtype, jnp.inexact):
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype."
            f" Got: {np.dtype(dtype).name} (convert the arrays first: input.astype(jnp.float32))"
        )


def check_broadcast(input: Array | jax.ShapeDtypeStruct, target: Array | jax.ShapeDtypeStruct) -> None:
    """Raise PyTorch's error where two shapes do not broadcast.

    Raises:
        RuntimeError: if they do not.
    """
    ndim = max(input.ndim, target.ndim)
    for axis in range(1, min(input.ndim, target.ndim) + 1):
        first, second = input.shape[-axis], target.shape[-axis]
        if first != second and 1 not in (first, second):
            raise RuntimeError(
                f"The size of tensor a ({first}) must match the size of tensor b ({second})"
                f" at non-singleton dimension {ndim - axis}"
            )


def check_fits(value: Array, shape: tuple[int, ...], name: str) -> None:
    """Raise if ``value`` would make an array of ``shape`` larger.

    Raises:
        RuntimeError: if it does not broadcast to ``shape``.
    """
    joint = jnp.broadcast_shapes(value.shape, shape)
    if joint != shape:
        raise RuntimeError(
            f"output with shape {list(shape)} doesn't match the broadcast shape {list(joint)}:"
            f" expected a {name} that broadcasts to {list(shape)}, got {list(value.shape)}"
        )


def check_sizes(input: Array, target: Array) -> None:
    """Warn if two arrays are going to be broadcast, and raise if they can't be.

    Raises:
        RuntimeError: if the shapes do not broadcast.
    """
    if target.shape != input.shape:
        warnings.warn(
            f"Using a target size ({list(target.shape)}) that is different to the input size ({list(input.shape)})."
            " This will likely lead to incorrect results due to broadcasting."
            " Please ensure they have the same size.",
            stacklevel=3,
        )
    check_broadcast(input, target)


def check_weights(input: Array, weight: Array | None) -> None:
    """Raise if there are weights and they are not one for each element.

    Raises:
        ValueError: if the shapes differ.
    """
    if weight is not None and weight.shape != input.shape:
        raise ValueError(
            f"Weights and input must have the same size, got {list(weight.shape)} and {list(input.shape)}."
        )
