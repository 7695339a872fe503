"""Llama (Touvron et al., 2023) under the names of Hugging Face's ``LlamaForCausalLM``: its weights load as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F


@dataclass(frozen=True)
class LlamaConfig:
    """The settings of Llama by their names in ``config.json``; the defaults are those of the 7B model."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    head_dim: int | None = None
    rope_parameters: Mapping[str, Any] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    @property
    def features(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class LlamaRotaryEmbedding(nn.Module):
    """Turn positions into the cosines and sines that rotate queries and keys (Su et al., 2021).

    The frequencies are no buffer, as files have none, and a model in ``bfloat16`` needs them in full.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.features = config.features
        self.settings = dict(config.rope_parameters or {})

    def forward(self, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        angles = position_ids[..., None] * self.frequencies()[None, None]  # (B, L, E / 2)
        angles = jnp.concatenate([angles, angles], axis=-1)
        return jnp.cos(angles), jnp.sin(angles)

    def frequencies(self) -> np.ndarray:
        """Return the angle per position of each pair; Llama 3 turns the slow ones, made for short texts, slower."""
        rope = self.settings
        exponents = np.arange(0, self.features, 2, dtype=np.float32) / self.features
        inv_freq = 1 / rope.get("rope_theta", 10000.0) ** exponents
        kind = rope.get("rope_type", "default")
        if kind == "default":
            return inv_freq
        if kind != "llama3":
            raise ValueError(f"expected the rope_type 'default' or 'llama3', got {kind!r}")
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * inv_freq / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return inv_freq * (kept + (1 - kept) / np.float32(rope["factor"]))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate each pair of features, which lie half the features apart, by the angle of its position."""
    cos, sin = (part[:, None].astype(x.dtype) for part in (cos, sin))  # (B, 1, L, E): the same for all heads
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


class KeyValueCache(nn.Module):
    """Keep the keys and values of earlier tokens, ``(B, heads, length, E)``; no part of a state dict."""

    def __init__(self, shape: tuple[int, ...], dtype: jnp.dtype) -> None:
        super().__init__()
        self.register_buffer("keys", jnp.zeros(shape, dtype), persistent=False)
        self.register_buffer("values", jnp.zeros(shape, dtype), persistent=False)

    def forward(self, key: jax.Array, value: jax.Array, start: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        self.keys = jax.lax.dynamic_update_slice_in_dim(self.keys, key.astype(self.keys.dtype), start, axis=2)
        self.values = jax.lax.dynamic_update_slice_in_dim(self.values, value.astype(self.keys.dtype), start, axis=2)
        return self.keys, self.values


class LlamaAttention(nn.Module):
    """Attention in which a head of keys and values serves a group of heads of queries."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.features
        self.num_groups = config.num_key_value_heads or config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.num_groups * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.num_groups * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=False)
        self.cache = None

    def forward(
        self, x: jax.Array, rotation: tuple[jax.Array, jax.Array], mask: jax.Array | None, start: jax.Array | int
    ) -> jax.Array:
        heads = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (
            project(x).reshape(heads).swapaxes(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        if self.cache is not None:
            key, value = self.cache(key, value, start)
        y = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)
        return self.o_proj(y.swapaxes(1, 2).reshape(*x.shape[:2], -1))


class LlamaMLP(nn.Module):
    """The gated feed-forward layer SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        mask: jax.Array | None = None,
        start: jax.Array | int = 0,
    ) -> jax.Array:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, start)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        start: jax.Array | int = 0,
    ) -> jax.Array:
        places = start + jnp.arange(input_ids.shape[1])
        if position_ids is None:
            position_ids = places[None]
        mask = None
        cache = self.layers[0].self_attn.cache
        if cache is not None:
            if attention_mask is not None:
                raise ValueError(
                    "expected no attention_mask beside a cache: give sequences of one length, without padding"
                )
            mask = jnp.arange(cache.keys.shape[2])[None, None, None] <= places[None, None, :, None]  # (1, 1, L, S)
        elif attention_mask is not None:  # (B, S), zero where a token is padding
            causal = jnp.tri(input_ids.shape[1], dtype=bool)
            mask = causal[None, None] & attention_mask.astype(bool)[:, None, None]  # (B, 1, L, S)
        rotation = self.rotary_emb(position_ids)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, rotation, mask, start)
        return self.norm(x)


class LlamaForCausalLM(nn.Module):
    """A causal language model, ``(B, T) -> (B, T, vocab_size)``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)

    def forward(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        start: jax.Array | int = 0,
    ) -> jax.Array:
        return self.lm_head(self.model(input_ids, attention_mask, position_ids, start))

    def allocate_cache(self, batch_size: int, length: int) -> None:
        """Make room for the keys and values of that many tokens; after it, calls say at which one they ``start``."""
        for layer in self.model.layers:
            attention = layer.self_attn
            shape = (batch_size, attention.num_groups, length, attention.head_dim)
            attention.cache = KeyValueCache(shape, attention.k_proj.weight.dtype)

    def generate(self, input_ids: jax.Array, max_new_tokens: int) -> jax.Array:
        """Continue each sequence by what is likeliest, one token after the other."""
        length = input_ids.shape[1]

        def extend(token: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self(token[:, None], start=place)[:, -1].argmax(-1), token

        first = self(input_ids)[:, -1].argmax(-1)
        _, tokens = jm.scan(extend, first, jnp.arange(length, length + max_new_tokens))
        return jnp.concatenate([input_ids, tokens.T], axis=1)
