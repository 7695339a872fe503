"""Which elements a pruning method may prune, and the masks it makes."""

import numbers
from typing import Any

import jax.numpy as jnp

from jaxmodules._typing import Array


def prunable(method: Any, t: Array, mask: Array) -> Any:
    """Return an index of what a further method may prune."""
    if method.PRUNING_TYPE == "unstructured":
        return mask == 1
    if method.PRUNING_TYPE == "global":
        return (slice(None),) * t.ndim
    if method.PRUNING_TYPE != "structured":
        raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
    if not hasattr(method, "dim"):
        raise AttributeError('Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.')
    dim = method.dim + t.ndim if method.dim < 0 else method.dim
    if dim < 0:
        raise IndexError(f"Index is out of bounds for tensor with dimensions {t.ndim}")
    kept = mask.sum([axis for axis in range(t.ndim) if axis != dim]) != 0
    return (*(slice(None),) * dim, kept)


def without(mask: Array, places: Array) -> Array:
    """Return a mask with zeros at some places, counted in the flattened array."""
    return mask.reshape(-1).at[places].set(0).reshape(mask.shape)


def keep_channels(mask: Array, kept: Array, t: Array, dim: int) -> Array:
    """Return a mask with zeros in all channels along ``dim`` that are not kept."""
    others = [axis for axis in range(t.ndim) if axis != dim % t.ndim]
    channels = jnp.broadcast_to(jnp.expand_dims(kept, others), t.shape)
    return channels.astype(t.dtype) * mask.astype(t.dtype)


def channel_norms(t: Array, n: Any, dim: int) -> Array:
    """Return the norm of order ``n`` of each channel along ``dim``."""
    others = t.ndim - 1
    if n == "fro" and others <= 2:
        n = 2
    rows = jnp.moveaxis(t, dim, 0)
    if not isinstance(n, str):
        return jnp.linalg.norm(rows.reshape(rows.shape[0], -1), n, axis=1)
    if n not in ("fro", "nuc"):
        raise RuntimeError(f"linalg.matrix_norm: Order {n} not supported.")
    if others != 2:
        axes = " ".join(str(axis) for axis in range(t.ndim) if axis != dim % t.ndim)
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {axes}")
    return jnp.linalg.norm(rows, n, axis=(1, 2))


def validate_pruning_amount_init(amount: Any) -> None:
    """Raise unless ``amount`` is a number of elements or a share."""
    if not isinstance(amount, numbers.Real):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    if float(amount) < 0 or (not isinstance(amount, numbers.Integral) and float(amount) > 1):
        raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")


def compute_nparams_toprune(amount: float, tensor_size: int) -> int:
    """Return how many of ``tensor_size`` elements ``amount`` means."""
    return int(amount) if isinstance(amount, numbers.Integral) else round(amount * tensor_size)


def validate_pruning_amount(amount: float, tensor_size: int) -> None:
    """Raise if ``amount`` is a number of elements, and there are fewer."""
    if isinstance(amount, numbers.Integral) and amount > tensor_size:
        raise ValueError(f"amount={amount} should be smaller than the number of parameters to prune={tensor_size}")


def number_of_channels(amount: float, t: Array, dim: int) -> int:
    """Return how many channels along ``dim`` the ``amount`` means; an error is raised if there are none or less."""
    size = f"torch.Size({list(t.shape)})"
    if t.ndim <= 1:
        raise ValueError(
            f"Structured pruning can only be applied to multidimensional tensors. Found tensor of shape {size} with"
            f" {t.ndim} dims"
        )
    if dim >= t.ndim:
        raise IndexError(f"Invalid index {dim} for tensor of size {size}")
    count = compute_nparams_toprune(amount, t.shape[dim])
    validate_pruning_amount(count, t.shape[dim])
    return count
