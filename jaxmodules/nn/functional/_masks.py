"""Masks of multi-head attention, as PyTorch checks and converts them."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._shapes import as_array, is_floating
from jaxmodules._typing import Array, ArrayLike, DType


def canonical_mask(
    mask: ArrayLike | None,
    mask_name: str,
    other: ArrayLike | None,
    other_name: str,
    target_type: DType,
) -> Array | None:
    """Return a mask that is added to scores: minus infinity where a boolean mask is true; floats as they are.

    Args:
        mask: the mask, or ``None``.
        mask_name: its name in messages.
        other: a mask whose type should be the same, or ``None``.
        other_name: its name in messages.
        target_type: the type of a mask made of a boolean one.

    Raises:
        AssertionError: if the mask is neither boolean nor of a floating point type.
    """
    if mask is None:
        return None
    mask = as_array(mask)
    if mask.dtype != np.bool_ and not is_floating(mask.dtype):
        raise AssertionError(f"only bool and floating types of {mask_name} are supported, got {mask.dtype}")
    if other is not None and as_array(other).dtype != mask.dtype:
        warnings.warn(
            f"Support for mismatched {mask_name} and {other_name} is deprecated. Use same type for both instead.",
            stacklevel=3,
        )
    if is_floating(mask.dtype):
        return mask
    if not is_floating(target_type):
        raise RuntimeError(f"value cannot be converted to type {target_type} without overflow: -inf of {mask_name}")
    return _minus_infinity(mask, target_type)


@partial(jax.jit, static_argnames="dtype", inline=True)
def _minus_infinity(mask: Array, dtype: DType) -> Array:
    return jnp.where(mask, jnp.array(-jnp.inf, dtype), jnp.array(0, dtype))


@partial(jax.jit, static_argnames=("num_heads", "extra"), inline=True)
def merge_masks(
    attn_mask: Array | None, key_padding_mask: Array | None, num_heads: int, extra: int = 0
) -> Array | None:
    """Add up an attention and a padding mask; both let the ``extra`` last keys be seen.

    Shape:
        ``(L, S)`` or ``(N * num_heads, L, S)``, ``(N, S)`` ``-> (1 or N, 1 or num_heads, 1 or L, S + extra)``
    """
    if attn_mask is not None:
        heads = 1 if attn_mask.ndim == 2 else num_heads
        batch = 1 if attn_mask.ndim == 2 else attn_mask.shape[0] // num_heads
        attn_mask = _pad(attn_mask.reshape(batch, heads, *attn_mask.shape[-2:]), extra)
    if key_padding_mask is not None:
        key_padding_mask = _pad(key_padding_mask[:, None, None, :], extra)
    if attn_mask is None or key_padding_mask is None:
        return key_padding_mask if attn_mask is None else attn_mask
    return attn_mask + key_padding_mask


def check_dimensions(
    query: Array, key: Array, value: Array, key_padding_mask: Array | None, attn_mask: Array | None, num_heads: int
) -> bool:
    """Check how many axes everything has; return whether there is a batch.

    Raises:
        AssertionError: if the axes do not fit together.
    """
    if query.ndim not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {query.ndim}-D query tensor"
        )
    is_batched = query.ndim == 3
    kind = "batched (3-D)" if is_batched else "unbatched (2-D)"
    if key.ndim != query.ndim or value.ndim != query.ndim:
        raise AssertionError(
            f"For {kind} `query`, expected `key` and `value` to be {query.ndim}-D"
            f" but found {key.ndim}-D and {value.ndim}-D tensors respectively"
        )
    if key_padding_mask is not None and key_padding_mask.ndim != query.ndim - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {query.ndim - 1}-D"
            f" but found {key_padding_mask.ndim}-D tensor instead"
        )
    if attn_mask is None:
        return is_batched
    if attn_mask.ndim not in (2, 3):
        raise AssertionError(
            f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D"
            f" but found {attn_mask.ndim}-D tensor instead"
        )
    expected = (num_heads, query.shape[0], key.shape[0])
    if not is_batched and attn_mask.ndim == 3 and attn_mask.shape != expected:
        raise AssertionError(f"Expected `attn_mask` shape to be {expected} but got {attn_mask.shape}")
    return is_batched


def check_mask_shape(attn_mask: Array | None, expected: tuple[int, int, int]) -> None:
    """Check a mask of scores against ``(N * num_heads, L, S)``, or its last two axes.

    Raises:
        RuntimeError: if the sizes differ.
    """
    if attn_mask is not None and attn_mask.shape != expected[3 - attn_mask.ndim :]:
        raise RuntimeError(
            f"The shape of the {attn_mask.ndim}D attn_mask is {attn_mask.shape},"
            f" but should be {expected[3 - attn_mask.ndim :]}."
        )


def check_padding_shape(key_padding_mask: Array, batch: int, length: int, extra: int) -> None:
    """Check a padding mask that will grow by ``extra`` against ``(batch, length)``.

    Raises:
        AssertionError: if the sizes differ.
    """
    found = (key_padding_mask.shape[0], key_padding_mask.shape[1] + extra)
    for axis, (size, wanted) in enumerate(zip(found, (batch, length), strict=True)):
        if size != wanted:
            raise AssertionError(f"Expected key_padded_mask.shape[{axis}] to be {wanted}, but got {size}")


def _pad(mask: Array, extra: int) -> Array:
    return jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, extra)]) if extra else mask
