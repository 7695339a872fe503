"""Multi-head attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodules._autocast import cast, cast_tree
from jaxmodules._shapes import as_array, as_array_or_none
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn.functional._masks import (
    canonical_mask,
    check_dimensions,
    check_mask_shape,
    check_padding_shape,
    merge_masks,
)
from jaxmodules.nn.functional.attention import (
    attention_weights,
    average_values,
    check_attention,
    scaled_dot_product_attention,
)
from jaxmodules.nn.functional.dropout import dropout
from jaxmodules.nn.functional.linear import linear


class Projections(NamedTuple):
    """The parameters of multi-head attention, by PyTorch's names.

    The projections of query, key and value are in one array, ``packed``, or in three.
    """

    packed: ArrayLike | None
    separate: Sequence[ArrayLike | None] | None
    bias: ArrayLike | None
    bias_k: ArrayLike | None
    bias_v: ArrayLike | None
    out_weight: ArrayLike
    out_bias: ArrayLike | None


def multi_head_attention_forward(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: ArrayLike | None,
    in_proj_bias: ArrayLike | None,
    bias_k: ArrayLike | None,
    bias_v: ArrayLike | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: ArrayLike,
    out_proj_bias: ArrayLike | None,
    training: bool = True,
    key_padding_mask: ArrayLike | None = None,
    need_weights: bool = True,
    attn_mask: ArrayLike | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: ArrayLike | None = None,
    k_proj_weight: ArrayLike | None = None,
    v_proj_weight: ArrayLike | None = None,
    static_k: ArrayLike | None = None,
    static_v: ArrayLike | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Array, Array | None]:
    r"""Attend with several heads, each on its own projection of queries, keys and values.

    .. math:: \mathrm{concat}(h_1, \dots, h_n) W^O, \quad h_i = \mathrm{attention}(Q W_i^Q, K W_i^K, V W_i^V)

    Args:
        query: ``(L, N, E)`` or ``(L, E)``.
        key: ``(S, N, Ek)`` or ``(S, Ek)``.
        value: ``(S, N, Ev)`` or ``(S, Ev)``. What is the same object as ``key`` is projected together with it.
        embed_dim_to_check: the expected :math:`E`.
        num_heads: number of heads, a divisor of :math:`E`.
        in_proj_weight: ``(3E, E)``, the projections of all three, unless ``use_separate_proj_weight``.
        in_proj_bias: ``(3E,)``.
        bias_k: ``(1, 1, E)``, one more key after the projected ones.
        bias_v: ``(1, 1, E)``, its value.
        add_zero_attn: whether to add a key and a value of zeros.
        dropout_p: probability of a weight to be zeroed in training.
        out_proj_weight: ``(E, E)``.
        out_proj_bias: ``(E,)``.
        training: whether to drop weights.
        key_padding_mask: ``(N, S)`` or ``(S,)``; true for keys to leave out, or numbers to add to the scores.
        need_weights: whether to return the weights, too.
        attn_mask: ``(L, S)`` or ``(N * num_heads, L, S)``; true for what must not be seen, or numbers to add.
        use_separate_proj_weight: whether to take the next three weights instead of ``in_proj_weight``.
        q_proj_weight: ``(E, E)``.
        k_proj_weight: ``(E, Ek)``.
        v_proj_weight: ``(E, Ev)``.
        static_k: ``(N * num_heads, S, E / num_heads)``, used in place of the projected keys.
        static_v: ``(N * num_heads, S, E / num_heads)``, used in place of the projected values.
        average_attn_weights: whether to average the returned weights over the heads.
        is_causal: says that ``attn_mask``, which has to be given, is the causal one, so that it need not be read.

    Shape:
        Output as ``query``; weights ``(N, L, S)`` or ``(N, num_heads, L, S)``, without ``N`` as the query.

    Raises:
        AssertionError: if shapes do not fit together, or an argument lacks its counterpart.
        RuntimeError: if a mask is missing or of the wrong shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> x, weight = jnp.ones((5, 2, 4)), jnp.ones((12, 4))
        >>> output, weights = F.multi_head_attention_forward(
        ...     x, x, x, 4, 2, weight, None, None, None, False, 0.0, jnp.ones((4, 4)), None
        ... )
        >>> output.shape, weights.shape
        ((5, 2, 4), (2, 5, 5))
    """
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    return multi_head_attention(
        query,
        key,
        value,
        Projections(in_proj_weight, separate, in_proj_bias, bias_k, bias_v, out_proj_weight, out_proj_bias),
        embed_dim_to_check,
        num_heads,
        dropout_p if training else 0.0,
        key_padding_mask,
        attn_mask,
        need_weights,
        average_attn_weights,
        is_causal,
        add_zero_attn,
        (static_k, static_v),
    )


def multi_head_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    projections: Projections,
    embed_dim: int,
    num_heads: int,
    dropout_p: float,
    key_padding_mask: ArrayLike | None,
    attn_mask: ArrayLike | None,
    need_weights: bool,
    average_attn_weights: bool,
    is_causal: bool,
    add_zero_attn: bool = False,
    static: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    batch_first: bool = False,
) -> tuple[Array, Array | None]:
    """Do the work of :func:`multi_head_attention_forward`, with the batch in either place."""
    inputs = _distinct(query, key, value)
    padding, mask = as_array_or_none(key_padding_mask), as_array_or_none(attn_mask)
    inputs, padding, mask, projections, static = cast_tree(
        "multi_head_attention_forward", (inputs, padding, mask, projections, static)
    )
    is_batched = check_dimensions(*_spread(inputs), padding, mask, num_heads)
    if not is_batched:
        inputs, batch_first = tuple(x[None] for x in inputs), True
        padding = None if padding is None else padding[None]
    q, k, v = _spread(inputs)
    axis = 0 if batch_first else 1
    mask, padding, is_causal = _canonical_masks(mask, padding, is_causal, need_weights, q.dtype)
    _check_sizes(q, k, v, embed_dim, num_heads, projections.separate is not None, axis)
    weights, bias = _input_projections(projections, q.shape[-1], k.shape[-1], v.shape[-1])
    batch = q.shape[axis]
    check_mask_shape(mask, (batch * num_heads, q.shape[1 - axis], k.shape[1 - axis]))
    q, k, v = _project(inputs, weights, bias, num_heads, axis)
    k, v, extra = _extend(k, v, projections, static, add_zero_attn)
    if padding is not None:
        check_padding_shape(padding, batch, k.shape[2], extra)
    mask = merge_masks(mask, padding, num_heads, extra)
    output, weights = _attend(q, k, v, mask, dropout_p, is_causal, need_weights)
    output = _combine(output, as_array(projections.out_weight), as_array_or_none(projections.out_bias), axis)
    if weights is not None:
        (weights,) = cast("softmax", weights.mean(1) if average_attn_weights else weights)
    return (output, weights) if is_batched else (output[0], None if weights is None else weights[0])


def _attend(
    query: Array, key: Array, value: Array, mask: Array | None, dropout_p: float, is_causal: bool, need_weights: bool
) -> tuple[Array, Array | None]:
    """Return the average values of each head, and the weights where needed: NaN in rows without keys, as in PyTorch."""
    if not need_weights:
        return scaled_dot_product_attention(query, key, value, mask, dropout_p, is_causal), None
    check_attention(query, key, value, mask)
    weights = attention_weights(query, key, mask, query.shape[-1] ** -0.5, is_causal=False, is_safe=False)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p)
    return average_values(weights, value), weights


@partial(jax.jit, static_argnames=("num_heads", "axis"), inline=True)
def _project(
    inputs: tuple[Array, ...], weights: tuple[Array, ...], bias: Array | None, num_heads: int, axis: int
) -> list[Array]:
    """Project query, key and value, those that are one array together, and split them into heads, ``(N, H, L, D)``."""
    embed_dim = sum(weight.shape[0] for weight in weights) // 3
    if len(weights) == 1:
        weights = tuple(jnp.split(weights[0], (embed_dim, 2 * embed_dim)[: len(inputs) - 1]))
    else:
        inputs = _spread(inputs)
    projected, start = [], 0
    for x, weight in zip(inputs, weights, strict=True):
        stop = start + weight.shape[0]
        output = linear(x, weight, None if bias is None else bias[start:stop])
        projected += jnp.split(output, weight.shape[0] // embed_dim, -1)
        start = stop
    size = embed_dim // num_heads
    return [x.reshape(*x.shape[:2], num_heads, size).transpose(axis, 2, 1 - axis, 3) for x in projected]


@partial(jax.jit, static_argnames="axis", inline=True)
def _combine(heads: Array, weight: Array, bias: Array | None, axis: int) -> Array:
    joined = heads.transpose((0, 2, 1, 3) if axis == 0 else (2, 0, 1, 3))
    return linear(joined.reshape(*joined.shape[:2], joined.shape[2] * joined.shape[3]), weight, bias)


@partial(jax.jit, static_argnames="add_zero", inline=True)
def _append(keys: Array, bias: Array | None, add_zero: bool) -> Array:
    """Append a learned key, or value, and one of zeros."""
    batch, heads, _, size = keys.shape
    more = [] if bias is None else [jnp.broadcast_to(bias.reshape(1, heads, 1, size), (batch, heads, 1, size))]
    if add_zero:
        more.append(jnp.zeros((batch, heads, 1, size), keys.dtype))
    return jnp.concatenate([keys, *more], 2)


def _extend(
    k: Array, v: Array, projections: Projections, static: tuple[ArrayLike | None, ArrayLike | None], add_zero: bool
) -> tuple[Array, Array, int]:
    """Put static keys and values in, and append the additional ones; return also the number of these."""
    biases = as_array_or_none(projections.bias_k), as_array_or_none(projections.bias_v)
    if (biases[0] is None) != (biases[1] is None):
        given, missing = ("bias_k", "bias_v") if biases[1] is None else ("bias_v", "bias_k")
        raise AssertionError(f"{given} is set but {missing} is None")
    extended = []
    for name, array, other, bias in zip(("key", "value"), (k, v), static, biases, strict=True):
        if other is not None:
            if bias is not None:
                raise AssertionError(f"bias cannot be added to static {name}.")
            array = _check_static(as_array(other), f"static_{name[0]}", array)
        if bias is not None and bias.size != array.shape[1] * array.shape[3]:
            raise RuntimeError(
                f"bias_{name[0]} must have the {array.shape[1] * array.shape[3]} features of the projected {name},"
                f" but got shape {bias.shape}"
            )
        extended.append(array if bias is None and not add_zero else _append(array, bias, add_zero))
    return extended[0], extended[1], int(add_zero) + (biases[0] is not None)


def _check_static(static: Array, name: str, projected: Array) -> Array:
    """Check the shape of static keys or values, and return them as ``(N, H, S, D)``."""
    batch, heads, _, size = projected.shape
    for axis, wanted in ((0, batch * heads), (2, size)):
        if static.shape[axis] != wanted:
            raise AssertionError(f"expecting {name}.size({axis}) of {wanted}, but got {static.shape[axis]}")
    return static.reshape(batch, heads, static.shape[1], size)


def _distinct(query: Any, key: Any, value: Any) -> tuple[Array, ...]:
    """Return query, key and value as arrays, without those that are the one before: they are projected with it."""
    if key is not value:
        return as_array(query), as_array(key), as_array(value)
    return (as_array(query),) if query is key else (as_array(query), as_array(key))


def _spread(inputs: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Return what :func:`_distinct` was given."""
    return inputs[0], inputs[min(1, len(inputs) - 1)], inputs[-1]


def _canonical_masks(
    mask: Array | None, padding: Array | None, is_causal: bool, need_weights: bool, dtype: DType
) -> tuple[Array | None, Array | None, bool]:
    """Return masks to add to the scores; the first is left out where telling that it is causal is enough."""
    padding = canonical_mask(padding, "key_padding_mask", mask, "attn_mask", dtype)
    if is_causal and mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method"
            " `generate_square_subsequent_mask` to create this mask."
        )
    if is_causal and padding is None and not need_weights:
        return None, None, True
    return canonical_mask(mask, "attn_mask", None, "", dtype), padding, False


def _check_sizes(q: Array, k: Array, v: Array, embed_dim: int, num_heads: int, separate: bool, axis: int) -> None:
    if q.shape[-1] != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {q.shape[-1]}")
    if embed_dim % num_heads:
        raise AssertionError(f"embed_dim {embed_dim} not divisible by num_heads {num_heads}")
    if separate and k.shape[:2] != v.shape[:2]:
        raise AssertionError(f"key's sequence and batch dims {k.shape[:2]} do not match value's {v.shape[:2]}")
    if not separate and k.shape != v.shape:
        raise AssertionError(f"key shape {k.shape} does not match value shape {v.shape}")
    if k.shape[axis] != q.shape[axis]:
        sizes = [k.shape[1 - axis], q.shape[axis] * num_heads, embed_dim // num_heads]
        raise RuntimeError(
            f"shape '{sizes}' is invalid for input of size {k.shape[0] * k.shape[1] * embed_dim}:"
            f" query has a batch of {q.shape[axis]}, but key of {k.shape[axis]}"
        )


def _input_projections(projections: Projections, *sizes: int) -> tuple[tuple[Array, ...], Array | None]:
    """Check the weights and the bias that query, key and value of these sizes are projected by."""
    embed_dim, bias = sizes[0], as_array_or_none(projections.bias)
    given = (projections.packed,) if projections.separate is None else projections.separate
    names = ("in_proj_weight",) if projections.separate is None else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = tuple(as_array(weight) for weight in given if weight is not None)
    for name, weight in zip(names, given, strict=True):
        if weight is None:
            raise AssertionError(f"use_separate_proj_weight is {len(names) == 3} but {name} is None")
    if len(names) == 3:
        for name, weight, size in zip(("query", "key", "value"), weights, sizes, strict=True):
            if weight.shape != (embed_dim, size):
                raise AssertionError(f"expecting {name} weights shape of {(embed_dim, size)}, but got {weight.shape}")
    elif weights[0].shape != (3 * embed_dim, embed_dim):
        raise RuntimeError(f"expecting in_proj_weight of shape {(3 * embed_dim, embed_dim)}, got {weights[0].shape}")
    if bias is not None and bias.shape != (3 * embed_dim,):
        error = AssertionError if len(names) == 3 else RuntimeError
        raise error(f"expecting query bias shape of {(embed_dim,)}: in_proj_bias has shape {bias.shape}")
    return weights, bias
