"""The transformer: encoder, decoder and their layers.

Training and evaluation run the same code: PyTorch's fast path for evaluation without gradients, which makes zeros of
the encoder's output at padded positions, has no counterpart here.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxmodules._device import move, parse_device
from jaxmodules._shapes import as_array, host_value, is_floating
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional._masks import canonical_mask
from jaxmodules.nn.modules.activation import GELU, ReLU
from jaxmodules.nn.modules.attention import MultiheadAttention
from jaxmodules.nn.modules.container import ModuleList
from jaxmodules.nn.modules.dropout import Dropout
from jaxmodules.nn.modules.linear import Linear
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.modules.normalization import LayerNorm
from jaxmodules.random import to_jax

Activation = str | Callable[[Array], Array]


class Transformer(Module):
    r"""Turn a source and a target sequence into features of the target (Vaswani et al., 2017).

    Args:
        d_model: number of features.
        nhead: number of heads of every attention.
        num_encoder_layers: number of layers of the encoder.
        num_decoder_layers: number of layers of the decoder.
        dim_feedforward: number of hidden features between the two linear layers.
        dropout: probability of every dropout.
        activation: between the two linear layers: ``"relu"``, ``"gelu"`` or a function.
        custom_encoder: used in place of a :class:`TransformerEncoder`.
        custom_decoder: used in place of a :class:`TransformerDecoder`.
        layer_norm_eps: added to the variances.
        batch_first: whether arrays with a batch are ``(N, S, E)``.
        norm_first: whether to normalise before attention and linear layers instead of after.
        bias: whether linear layers and normalisations have a learnable shift.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(S, N, E), (T, N, E) -> (T, N, E)``, or all without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        >>> net(jnp.ones((2, 5, 8)), jnp.ones((2, 3, 8))).shape
        (2, 3, 8)
    """

    d_model: int
    nhead: int
    batch_first: bool
    encoder: Module
    decoder: Module

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        settings = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        if custom_encoder is None:
            layer = TransformerEncoderLayer(*settings, device=device, dtype=dtype)
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
            custom_encoder = TransformerEncoder(layer, num_encoder_layers, norm)
        self.encoder = custom_encoder
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*settings, device=device, dtype=dtype)
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
            custom_decoder = TransformerDecoder(layer, num_decoder_layers, norm)
        self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: Array,
        tgt: Array,
        src_mask: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Array:
        """Encode ``src``, and decode ``tgt`` with it; a true element of a boolean mask must not be seen.

        Args:
            src: the source sequence.
            tgt: the target sequence.
            src_mask: ``(S, S)`` or ``(N * nhead, S, S)``, of the attention in the encoder.
            tgt_mask: ``(T, T)`` or ``(N * nhead, T, T)``, of the attention in the decoder.
            memory_mask: ``(T, S)`` or ``(N * nhead, T, S)``, of the decoder's attention to the encoder.
            src_key_padding_mask: ``(N, S)``, elements of ``src`` to leave out.
            tgt_key_padding_mask: ``(N, T)``, elements of ``tgt`` to leave out.
            memory_key_padding_mask: ``(N, S)``, elements of the encoder's output to leave out.
            src_is_causal: says that ``src_mask`` is causal; found out where ``None``.
            tgt_is_causal: says that ``tgt_mask`` is causal; found out where ``None``.
            memory_is_causal: says that ``memory_mask`` is causal.

        Raises:
            RuntimeError: if the batches or the numbers of features differ.
        """
        _check_pair(src, tgt, self.batch_first, self.d_model)
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: DType | None = None) -> Array:
        """Return a causal mask ``(sz, sz)``: zeros, and minus infinity above the diagonal.

        Examples:
            >>> from jaxmodules import nn
            >>> nn.Transformer.generate_square_subsequent_mask(2).tolist()
            [[0.0, -inf], [0.0, 0.0]]
        """
        return _generate_square_subsequent_mask(sz, device, dtype)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)


class TransformerEncoder(Module):
    """Apply copies of a layer, one after the other.

    The copies start with the same parameters, as PyTorch's do: draw others, where training needs them.

    Args:
        encoder_layer: the layer to copy.
        num_layers: number of copies.
        norm: applied at the end.
        enable_nested_tensor: accepted for PyTorch's sake; set without being possible, it warns as there.
        mask_check: accepted for PyTorch's sake.

    Shape:
        ``(S, N, E) -> (S, N, E)``, or as the layer takes it

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerEncoder(layer, num_layers=2)(jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    layers: ModuleList
    num_layers: int
    norm: Module | None
    enable_nested_tensor: bool
    use_nested_tensor: bool
    mask_check: bool

    def __init__(
        self,
        encoder_layer: Any,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _get_clones(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check
        reason = _why_not_nested(encoder_layer)
        if enable_nested_tensor and reason:
            warnings.warn(
                f"enable_nested_tensor is True, but self.use_nested_tensor is False because encoder_layer{reason}",
                stacklevel=2,
            )
            self.use_nested_tensor = False

    def forward(
        self,
        src: Array,
        mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool | None = None,
    ) -> Array:
        """Apply the layers to ``src``; the masks are those of :meth:`Transformer.forward`."""
        padding = canonical_mask(src_key_padding_mask, "src_key_padding_mask", mask, "mask", src.dtype)
        mask = canonical_mask(mask, "mask", None, "", src.dtype)
        is_causal = _detect_is_causal_mask(mask, is_causal, _get_seq_len(src, self.layers[0].self_attn.batch_first))
        for layer in self.layers:
            src = layer(src, src_mask=mask, is_causal=is_causal, src_key_padding_mask=padding)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Apply copies of a layer, one after the other; arguments are those of :class:`TransformerEncoder`.

    Shape:
        ``(T, N, E), (S, N, E) -> (T, N, E)``, or as the layer takes it

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerDecoder(layer, num_layers=2)(jnp.ones((2, 3, 8)), jnp.ones((2, 5, 8))).shape
        (2, 3, 8)
    """

    layers: ModuleList
    num_layers: int
    norm: Module | None

    def __init__(self, decoder_layer: Any, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _get_clones(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Array,
        memory: Array,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Array:
        """Apply the layers to ``tgt``, given the encoder's output; masks are those of :meth:`Transformer.forward`."""
        length = _get_seq_len(tgt, self.layers[0].self_attn.batch_first)
        options = dict(
            tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, memory_is_causal=memory_is_causal,
            tgt_is_causal=_detect_is_causal_mask(tgt_mask, tgt_is_causal, length),
        )  # fmt: skip
        for layer in self.layers:
            tgt = layer(tgt, memory, **options)
        return tgt if self.norm is None else self.norm(tgt)


class _TransformerLayer(Module):
    """The sublayers common to encoder and decoder.

    Args:
        d_model: number of features.
        nhead: number of heads.
        dim_feedforward: number of hidden features between the two linear layers.
        dropout: probability of every dropout.
        activation: between the two linear layers: ``"relu"``, ``"gelu"`` or a function.
        layer_norm_eps: added to the variances.
        batch_first: whether arrays with a batch are ``(N, S, E)``.
        norm_first: whether to normalise before attention and linear layers (Xiong et al., 2020) instead of after.
        bias: whether linear layers and normalisations have a learnable shift.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.
    """

    _attentions: ClassVar[tuple[str, ...]]

    self_attn: MultiheadAttention
    linear1: Linear
    dropout: Dropout
    linear2: Linear
    norm_first: bool
    norm1: LayerNorm
    norm2: LayerNorm
    dropout1: Dropout
    dropout2: Dropout
    activation: Callable[[Array], Array]
    activation_relu_or_gelu: int

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        for name in self._attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        self.norm_first = norm_first
        sublayers = range(1, len(self._attentions) + 2)
        for i in sublayers:
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype))
        for i in sublayers:
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _get_activation_fn(activation) if isinstance(activation, str) else activation
        if len(self._attentions) == 1:  # the decoder's layer has no such attribute
            is_relu = self.activation is F.relu or isinstance(self.activation, ReLU)
            is_gelu = self.activation is F.gelu or isinstance(self.activation, GELU)
            self.activation_relu_or_gelu = 1 if is_relu else 2 if is_gelu else 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "activation"):  # as in files of old versions of PyTorch
            self.activation = F.relu

    def _residual(self, x: Array, norm: Module, block: Callable[[Array], Array]) -> Array:
        return x + block(norm(x)) if self.norm_first else norm(x + block(x))

    def _sa_block(
        self, x: Array, attn_mask: Array | None, key_padding_mask: Array | None, is_causal: bool = False
    ) -> Array:
        options = dict(attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False, is_causal=is_causal)
        return self.dropout1(self.self_attn(x, x, x, **options)[0])


class TransformerEncoderLayer(_TransformerLayer):
    """Apply self-attention, then two linear layers, with residual connections and normalisation.

    Arguments are those of :class:`_TransformerLayer`.

    Shape:
        ``(S, N, E) -> (S, N, E)``, or without ``N``

    Attributes:
        activation_relu_or_gelu: 1 or 2 where ``activation`` is one of these, else 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16)(jnp.ones((5, 2, 8))).shape
        (5, 2, 8)
    """

    _attentions = ("self_attn",)

    def forward(
        self,
        src: Array,
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        """Apply the layer to ``src``; the masks are those of :meth:`Transformer.forward`."""
        padding = canonical_mask(src_key_padding_mask, "src_key_padding_mask", src_mask, "src_mask", src.dtype)
        mask = canonical_mask(src_mask, "src_mask", None, "", src.dtype)
        x = self._residual(src, self.norm1, lambda x: self._sa_block(x, mask, padding, is_causal=is_causal))
        return self._residual(x, self.norm2, self._ff_block)

    def _ff_block(self, x: Array) -> Array:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerDecoderLayer(_TransformerLayer):
    """Apply self-attention, attention to the encoder's output, then two linear layers, as the encoder's layer does.

    Arguments are those of :class:`_TransformerLayer`.

    Shape:
        ``(T, N, E), (S, N, E) -> (T, N, E)``, or without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> layer = nn.TransformerDecoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> layer(jnp.ones((3, 2, 8)), jnp.ones((5, 2, 8))).shape
        (3, 2, 8)
    """

    _attentions = ("self_attn", "multihead_attn")

    multihead_attn: MultiheadAttention
    norm3: LayerNorm
    dropout3: Dropout

    def forward(
        self,
        tgt: Array,
        memory: Array,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Array:
        """Apply the layer to ``tgt``, given the encoder's output; masks are those of :meth:`Transformer.forward`."""
        own = tgt_mask, tgt_key_padding_mask, tgt_is_causal
        other = memory_mask, memory_key_padding_mask, memory_is_causal
        x = self._residual(tgt, self.norm1, lambda x: self._sa_block(x, *own))
        x = self._residual(x, self.norm2, lambda x: self._mha_block(x, memory, *other))
        return self._residual(x, self.norm3, self._ff_block)

    def _mha_block(
        self, x: Array, mem: Array, attn_mask: Array | None, key_padding_mask: Array | None, is_causal: bool = False
    ) -> Array:
        options = dict(attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False, is_causal=is_causal)
        return self.dropout2(self.multihead_attn(x, mem, mem, **options)[0])

    def _ff_block(self, x: Array) -> Array:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def _get_clones(module: Module, N: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(N)])


def _get_activation_fn(activation: str) -> Callable[[Array], Array]:
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return F.relu if activation == "relu" else F.gelu


def _get_seq_len(src: Array, batch_first: bool) -> int:
    return src.shape[1 if src.ndim != 2 and batch_first else 0]


def _generate_square_subsequent_mask(sz: int, device: Any = None, dtype: DType | None = None) -> Array:
    mask = _causal(sz, np.dtype(np.float32 if dtype is None else dtype))
    return move(to_jax(mask), parse_device(device))


def _causal(sz: int, dtype: np.dtype) -> Any:
    numpy = np if isinstance(sz, int | np.integer) else jnp  # a symbol, where a program is exported for all sizes
    return numpy.triu(numpy.full((sz, sz), -np.inf).astype(dtype), 1)


def _detect_is_causal_mask(mask: ArrayLike | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Return the hint, or without one whether the mask, where its values can be known, is the causal one."""
    if is_causal is not None or mask is None:
        return is_causal is True
    mask = as_array(mask)
    size = mask.shape[-2] if size is None else size
    if mask.shape != (size, size) or not (is_floating(mask.dtype) or mask.dtype == np.bool_):
        return False
    values = host_value(mask)
    return values is not None and bool((values == _causal(size, values.dtype)).all())


def _why_not_nested(layer: Any) -> str:
    """Say why PyTorch would not convert the input of an encoder of such layers to a nested tensor."""
    if not isinstance(layer, TransformerEncoderLayer):
        return " was not TransformerEncoderLayer"
    attention = layer.self_attn
    reasons = {
        ".norm_first was True": layer.norm_first,
        ".self_attn.batch_first was not True(use batch_first for better inference performance)":
            not attention.batch_first,
        ".self_attn._qkv_same_embed_dim was not True": not attention._qkv_same_embed_dim,
        ".self_attn was passed bias=False": attention.in_proj_bias is None,
        ".activation_relu_or_gelu was not True": not layer.activation_relu_or_gelu,
        ".norm1.eps was not equal to encoder_layer.norm2.eps": layer.norm1.eps != layer.norm2.eps,
        ".self_attn.num_heads is odd": attention.num_heads % 2 == 1,
    }  # fmt: skip
    return next((reason for reason, holds in reasons.items() if holds), "")


def _check_pair(src: Array, tgt: Array, batch_first: bool, d_model: int) -> None:
    axis = 0 if batch_first else 1
    if src.ndim == 3 and src.shape[axis] != tgt.shape[axis]:
        raise RuntimeError(
            "the batch number of src and tgt must be equal,"
            f" got {src.shape[axis]} and {tgt.shape[axis]} in axis {axis} (batch_first={batch_first})"
        )
    if src.shape[-1] != d_model or tgt.shape[-1] != d_model:
        raise RuntimeError(
            f"the feature number of src and tgt must be equal to d_model ({d_model}),"
            f" got {src.shape[-1]} and {tgt.shape[-1]}"
        )
