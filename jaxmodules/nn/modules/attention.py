"""Multi-head attention."""

from typing import Any

import jax.numpy as jnp

from jaxmodules._typing import Array, DType
from jaxmodules.nn import init
from jaxmodules.nn.functional.multihead import Projections, multi_head_attention
from jaxmodules.nn.modules.linear import NonDynamicallyQuantizableLinear
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class MultiheadAttention(Module):
    r"""Attend with several heads, each on its own projection of queries, keys and values (Vaswani et al., 2017).

    .. math:: \mathrm{concat}(h_1, \dots, h_n) W^O, \quad h_i = \mathrm{attention}(Q W_i^Q, K W_i^K, V W_i^V)

    Training and evaluation run the same code. PyTorch has another path for evaluation without gradients, which
    differs in rows of the weights where every key is masked out.

    Args:
        embed_dim: size :math:`E` of queries and outputs.
        num_heads: number of heads, a divisor of ``embed_dim``.
        dropout: probability of a weight to be zeroed in training.
        bias: whether the projections have a learnable bias.
        add_bias_kv: whether to add a learnable key and value to the sequence.
        add_zero_attn: whether to add a key and a value of zeros.
        kdim: size of the keys, ``embed_dim`` by default.
        vdim: size of the values, ``embed_dim`` by default.
        batch_first: whether arrays with a batch are ``(N, L, E)``.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(L, N, E), (S, N, kdim), (S, N, vdim) -> (L, N, E), (N, L, S)``, or all without ``N``

    Attributes:
        in_proj_weight: ``(3E, E)``, or ``None`` where ``kdim`` or ``vdim`` differ; drawn by ``xavier_uniform_``.
        q_proj_weight: ``(E, E)`` in that case, and ``k_proj_weight``, ``v_proj_weight``: ``(E, kdim)``, ``(E, vdim)``.
        in_proj_bias: ``(3E,)``, zeros at first.
        out_proj: the linear layer after the heads.
        bias_k: ``(1, 1, E)``, and ``bias_v``, with ``add_bias_kv``; drawn by ``xavier_normal_``.

    Raises:
        ValueError: if a size is not positive.
        AssertionError: if ``num_heads`` does not divide ``embed_dim``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> x = jnp.ones((2, 5, 8))
        >>> output, weights = nn.MultiheadAttention(8, 4, batch_first=True)(x, x, x)
        >>> output.shape, weights.shape
        ((2, 5, 8), (2, 5, 5))
    """

    embed_dim: int
    kdim: int
    vdim: int
    num_heads: int
    dropout: float
    batch_first: bool
    head_dim: int
    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    out_proj: NonDynamicallyQuantizableLinear
    bias_k: Parameter | None
    bias_v: Parameter | None
    add_zero_attn: bool

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0,"
                f" got embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError(
                f"embed_dim must be divisible by num_heads, got embed_dim={embed_dim} and num_heads={num_heads}"
            )
        shapes = {"q_proj_weight": embed_dim, "k_proj_weight": self.kdim, "v_proj_weight": self.vdim}
        if self._qkv_same_embed_dim:
            self.in_proj_weight = Parameter(blank((3 * embed_dim, embed_dim), dtype))
        for name, size in shapes.items():
            separate = None if self._qkv_same_embed_dim else Parameter(blank((embed_dim, size), dtype))
            self.register_parameter(name, separate)
        if not self._qkv_same_embed_dim:
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", Parameter(blank((3 * embed_dim,), dtype)) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        self.bias_k = Parameter(blank((1, 1, embed_dim), dtype)) if add_bias_kv else None
        self.bias_v = Parameter(blank((1, 1, embed_dim), dtype)) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        if device is not None:
            self.to(device)
        self._reset_parameters()

    def forward(
        self,
        query: Array,
        key: Array,
        value: Array,
        key_padding_mask: Array | None = None,
        need_weights: bool = True,
        attn_mask: Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Array, Array | None]:
        """Attend; see :func:`~jaxmodules.nn.functional.multi_head_attention_forward` for the arguments."""
        return multi_head_attention(
            query, key, value, self._projections(), self.embed_dim, self.num_heads,
            self.dropout if self.training else 0.0, key_padding_mask, attn_mask, need_weights, average_attn_weights,
            is_causal, self.add_zero_attn, batch_first=self.batch_first,
        )  # fmt: skip

    def merge_masks(
        self, attn_mask: Array | None, key_padding_mask: Array | None, query: Array
    ) -> tuple[Array | None, int | None]:
        """Return the sum of the masks, or the one given, and its kind: 1 for padding only, else 2; or two ``None``.

        Args:
            attn_mask: ``(L, L)`` or ``(N * num_heads, L, L)``.
            key_padding_mask: ``(N, L)``.
            query: ``(N, L, E)``.
        """
        if attn_mask is None:
            return key_padding_mask, None if key_padding_mask is None else 1
        batch, length, _ = query.shape
        shape = (batch, self.num_heads, length, length)
        merged = attn_mask.reshape(shape) if attn_mask.ndim == 3 else jnp.broadcast_to(attn_mask, shape)
        if key_padding_mask is not None:
            merged = merged + jnp.broadcast_to(key_padding_mask.reshape(batch, 1, 1, length), shape)
        return merged, 2

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_qkv_same_embed_dim": True, **state})  # PyTorch 1.1 had no such attribute

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.constant_(self.in_proj_bias, 0.0)
            init.constant_(self.out_proj.bias, 0.0)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def _projections(self) -> Projections:
        separate = None if self._qkv_same_embed_dim else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = self.in_proj_bias, self.bias_k, self.bias_v
        return Projections(self.in_proj_weight, separate, *biases, self.out_proj.weight, self.out_proj.bias)
