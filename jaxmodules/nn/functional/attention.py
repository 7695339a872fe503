"""Scaled dot-product attention."""

import math
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, is_floating, scalar_type
from jaxmodules._typing import Array, ArrayLike, Shape
from jaxmodules.nn.functional.dropout import dropout

portable: ContextVar[bool] = ContextVar("portable", default=False)
"""Whether a program is traced for other machines and other versions of JAX, which may lack this one's kernels."""


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    r"""Average values, weighted by how well their keys match the query.

    .. math:: \mathrm{softmax}\left(\frac{Q K^T}{\sqrt{E}} + M\right) V

    Scores, softmax and sums of short floating point types run in ``float32``. A query whose keys are all masked out
    gets zeros. On an NVIDIA GPU, calls in ``bfloat16`` and ``float16`` without mask and dropout run cuDNN's flash
    kernel (Dao, 2023), which like PyTorch's has first derivatives in reverse mode only.

    Args:
        query: ``(*, L, E)``.
        key: ``(*, S, E)``.
        value: ``(*, S, Ev)``.
        attn_mask: broadcasts to ``(*, L, S)``; true where a key takes part, or numbers to add to the scores.
        dropout_p: probability of a weight to be zeroed; applied also in evaluation, so pass 0 there.
        is_causal: whether query ``i`` sees only keys up to ``i``.
        scale: multiplies the scores, :math:`1 / \sqrt{E}` by default.
        enable_gqa: whether heads (axis -3) of ``key`` and ``value`` each serve a group of heads of ``query``
            (Ainslie et al., 2023).

    Shape:
        ``(*, L, E), (*, S, E), (*, S, Ev) -> (*, L, Ev)``; leading axes broadcast.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together, or a mask is given and ``is_causal`` set.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.scaled_dot_product_attention(jnp.ones((2, 3, 4)), jnp.ones((2, 5, 4)), jnp.ones((2, 5, 6))).shape
        (2, 3, 6)
    """
    query, key, value, mask = as_array(query), as_array(key), as_array(value), as_array_or_none(attn_mask)
    query, key, value, mask = cast("scaled_dot_product_attention", query, key, value, mask)
    _check_types(query, key, value, mask)
    if mask is not None and is_causal:
        raise RuntimeError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True:"
            " leave one of them out"
        )
    check_attention(query, key, value, mask, enable_gqa)
    if dropout_p > 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    if mask is None and dropout_p <= 0 and isinstance(scale, float) and _flash_applies(query, key, value, is_causal):
        return _flash_or_plain(query, key, value, scale, is_causal)
    weights = attention_weights(query, key, mask, scale, is_causal)
    return average_values(dropout(weights, max(dropout_p, 0.0)), value)


@partial(jax.jit, static_argnames=("scale", "is_causal"), inline=True)
def _flash_or_plain(query: Array, key: Array, value: Array, scale: float, is_causal: bool) -> Array:
    """Run cuDNN's kernel where the program is compiled for an NVIDIA GPU, and the plain formula elsewhere."""

    def plain(query: Array, key: Array, value: Array) -> Array:
        return average_values(attention_weights(query, key, None, scale, is_causal), value)

    def flash(query: Array, key: Array, value: Array) -> Array:
        # vmap of the kernel fails unless it maps all three, which what is never taken makes sure of
        never = query.ravel()[0] + key.ravel()[0] + value.ravel()[0]
        q, k, v = (jnp.where(False, never, x) for x in (query, key, value))
        q, k, v = (x.reshape(-1, *x.shape[-3:]).swapaxes(1, 2) for x in (q, k, v))  # (N, L, H, E)
        output = jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=is_causal, implementation="cudnn")
        return output.swapaxes(1, 2).reshape(query.shape)

    return lax.platform_dependent(query, key, value, cuda=flash, default=plain)


def _flash_applies(query: Array, key: Array, value: Array, is_causal: bool) -> bool:
    """Tell whether cuDNN has a kernel for these; never without a GPU, where asking JAX for one raises."""
    if query.dtype not in (jnp.bfloat16, np.float16) or jax.default_backend() != "gpu" or portable.get():
        return False
    if query.ndim < 3 or key.shape != value.shape or query.shape[:-3] != key.shape[:-3] or not query.size * key.size:
        return False
    heads, length, features = query.shape[-3:]
    fits = features <= 128 and features % 8 == 0 and heads % key.shape[-3] == 0
    if is_causal:
        fits = fits and length == key.shape[-2]
    return fits and float(getattr(jax.local_devices()[0], "compute_capability", 0)) >= 8.0


@partial(jax.jit, static_argnames=("is_causal", "is_safe"), inline=True)
def attention_weights(
    query: Array, key: Array, mask: Array | None, scale: Array | float, is_causal: bool, is_safe: bool = True
) -> Array:
    """Return the weights ``(*, L, S)``, those of a row without keys being zeros where ``is_safe``, else NaN."""
    dtype = accumulation_dtype(query.dtype)
    scores = _batched("...le,...se->...ls", query, key, dtype) * jnp.asarray(scale, dtype)
    if scores.shape[-1] == 0:
        return scores.astype(query.dtype)
    alive = None
    if is_causal:
        rows, columns = (lax.broadcasted_iota(np.int32, scores.shape[-2:], axis) for axis in (0, 1))
        mask = rows >= columns
    elif mask is not None and is_safe:
        mask, alive = _open_dead_rows(jnp.atleast_1d(mask))
    if mask is not None:
        mask = jnp.broadcast_to(mask, scores.shape)
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == np.bool_ else scores + mask.astype(dtype)
    weights = _softmax(scores).astype(query.dtype)
    return weights if alive is None else jnp.where(jnp.broadcast_to(alive, weights.shape), weights, 0)


def _open_dead_rows(mask: Array) -> tuple[Array, Array]:
    """Let rows that see no key see all, so that softmax has derivatives there; tell which rows are not of these."""
    is_bool = mask.dtype == np.bool_
    alive = jnp.any(mask if is_bool else mask != -jnp.inf, -1, keepdims=True)
    # not where() of bools, which ONNX's runtime does not have
    return mask | ~alive if is_bool else jnp.where(alive, mask, jnp.zeros((), mask.dtype)), alive


@partial(jax.jit, inline=True)
def average_values(weights: Array, value: Array) -> Array:
    """Return the averages ``(*, L, Ev)`` of the values."""
    return _batched("...ls,...sv->...lv", weights, value, accumulation_dtype(value.dtype)).astype(value.dtype)


def _batched(equation: str, queries: Array, keys: Array, dtype: np.dtype) -> Array:
    """Multiply matrices; a head of ``keys`` serves a group of heads of ``queries``, folded into its rows."""
    heads, groups = (x.shape[-3] if x.ndim > 2 else 1 for x in (queries, keys))
    if groups != heads and 1 < groups < heads:
        *lead, _, rows, columns = queries.shape
        result = _batched(equation, queries.reshape(*lead, groups, heads // groups * rows, columns), keys, dtype)
        return result.reshape(*result.shape[:-3], heads, rows, result.shape[-1])
    ndim = max(queries.ndim, keys.ndim)
    queries, keys = (x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in (queries, keys))
    return jnp.einsum(equation, queries, keys, preferred_element_type=dtype)


@jax.custom_jvp
def _softmax(scores: Array) -> Array:
    powers = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = _softmax(*primals)
    weighted = weights * tangents[0]
    # not the product with a difference, which XLA compiles to more passes over memory
    return weights, weighted - weights * weighted.sum(-1, keepdims=True)


def _check_types(query: Array, key: Array, value: Array, mask: Array | None) -> None:
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got"
            f" query.dim: {query.ndim} key.dim: {key.ndim} and value.dim: {value.ndim} instead."
        )
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got"
            f" query.dtype: {query.dtype} key.dtype: {key.dtype} and value.dtype: {value.dtype} instead."
        )
    if jnp.issubdtype(query.dtype, np.complexfloating):
        raise NotImplementedError(f'"softmax_lastdim_kernel_impl" not implemented for {query.dtype.name!r}')
    if not is_floating(query.dtype):
        raise RuntimeError(
            f"expected scalar type Float but found {scalar_type(query.dtype)}: convert query, key and value first"
        )
    if mask is not None and mask.dtype not in (np.bool_, np.float32, query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got"
            f" attn_mask.dtype: {mask.dtype} and  query.dtype: {query.dtype} instead."
        )


def check_attention(query: Array, key: Array, value: Array, mask: Array | None, is_grouped: bool = False) -> None:
    """Check that shapes fit together; where ``is_grouped``, heads of query in groups.

    Raises:
        RuntimeError: if they do not.
        IndexError: if there is no axis of heads to group.
    """
    if is_grouped:
        _check_groups(query, key, value)
    queries, keys, values = (x.shape[:-3] if is_grouped else x.shape[:-2] for x in (query, key, value))
    lead = _broadcast(queries, keys)
    (length, features), (source, wanted) = query.shape[-2:], key.shape[-2:]
    for rows, columns, others in ((length, features, (wanted, source)), (length, source, value.shape[-2:])):
        if columns != others[0]:
            raise RuntimeError(
                f"Expected size for first two dimensions of batch2 tensor to be: [{math.prod(lead)}, {columns}]"
                f" but got: [{math.prod(lead)}, {others[0]}]. mat1 and mat2 shapes cannot be multiplied"
                f" ({rows}x{columns} and {others[0]}x{others[1]})"
            )
    _broadcast(lead, values)
    if mask is None:
        return
    scores = (*lead, *query.shape[-3:-2], length, source) if is_grouped else (*lead, length, source)
    if _broadcast(scores, mask.shape) != scores:
        raise RuntimeError(
            f"output with shape {list(scores)} doesn't match the broadcast shape"
            f" {list(_broadcast(scores, mask.shape))}: attn_mask must broadcast to the scores"
        )


def _check_groups(query: Array, key: Array, value: Array) -> None:
    ndim = min(query.ndim, key.ndim, value.ndim)
    if ndim < 3:
        raise IndexError(f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}], but got -3)")
    heads, others = query.shape[-3], (key.shape[-3], value.shape[-3])
    if any(other == 0 or heads % other for other in others):
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query,"
            f" but got {others[0]} and {others[1]} for {heads}"
        )


def _broadcast(one: Shape, other: Shape) -> Shape:
    ndim = max(len(one), len(other))
    pairs = zip((1,) * (ndim - len(one)) + one, (1,) * (ndim - len(other)) + other, strict=True)
    sizes = []
    for axis, (size, wanted) in enumerate(pairs):
        if size != wanted and 1 not in (size, wanted):
            raise RuntimeError(
                f"The size of tensor a ({size}) must match the size of tensor b ({wanted})"
                f" at non-singleton dimension {axis}"
            )
        sizes.append(wanted if size == 1 else size)
    return tuple(sizes)
