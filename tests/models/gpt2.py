"""GPT-2 (Radford et al., 2019) under the names of Hugging Face's ``GPT2LMHeadModel``: its weights load as they are."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmodules import nn
from jaxmodules.nn import functional as F


@dataclass(frozen=True)
class GPT2Config:
    """The settings of GPT-2 by their names in ``config.json``; the defaults are those of the smallest model."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02


class Conv1D(nn.Module):
    """A linear layer whose weight is stored ``(in, out)``, as in the TensorFlow original."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(jnp.empty((nx, nf), jnp.float32))
        self.bias = nn.Parameter(jnp.zeros(nf, jnp.float32))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: jax.Array) -> jax.Array:
        return F.linear(x, self.weight.T, self.bias)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"


class GPT2Attention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {config.n_embd} and {config.n_head}")
        self.num_heads = config.n_head
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (part.reshape(heads).swapaxes(1, 2) for part in jnp.split(self.c_attn(x), 3, axis=-1))
        dropout = self.attn_dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=mask is None)
        return self.resid_dropout(self.c_proj(y.swapaxes(1, 2).reshape(x.shape)))


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, inner)
        self.act = nn.GELU(approximate="tanh")  # called gelu_new there
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([GPT2Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None, position_ids: jax.Array | None = None
    ) -> jax.Array:
        if position_ids is None:
            position_ids = jnp.arange(input_ids.shape[1])[None]
        mask = None
        if attention_mask is not None:  # (B, S), zero where a token is padding
            causal = jnp.tri(input_ids.shape[1], dtype=bool)
            mask = causal[None, None] & attention_mask.astype(bool)[:, None, None]  # (B, 1, L, S)
        x = self.drop(self.wte(input_ids) + self.wpe(position_ids))
        for block in self.h:
            x = block(x, mask)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    """A causal language model, ``(B, T) -> (B, T, vocab_size)``, its output layer tied to the token embedding."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self.apply(self._init_weights)

    def forward(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None, position_ids: jax.Array | None = None
    ) -> jax.Array:
        return self.lm_head(self.transformer(input_ids, attention_mask, position_ids))

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, Conv1D | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, GPT2Attention | GPT2MLP):  # keeps the variance of the residual stream from growing
            nn.init.normal_(module.c_proj.weight, std=std / (2 * self.config.n_layer) ** 0.5)
