"""The Vision Transformer (Dosovitskiy et al., 2021) under the names of Hugging Face's ``ViTForImageClassification``."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmodules import nn
from jaxmodules.nn import functional as F


@dataclass(frozen=True)
class ViTConfig:
    """The settings of ViT by their names in ``config.json``; the defaults are those of ViT-B/16."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    num_labels: int = 2


class ViTPatchEmbeddings(nn.Module):
    """Cut images into patches and map each to a vector, ``(B, C, H, W) -> (B, patches, hidden_size)``."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, pixel_values: jax.Array) -> jax.Array:
        x = self.projection(pixel_values)
        return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


class ViTEmbeddings(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.grid = config.image_size // config.patch_size
        self.patch_size = config.patch_size
        self.cls_token = nn.Parameter(jnp.empty((1, 1, config.hidden_size), jnp.float32))
        self.position_embeddings = nn.Parameter(jnp.empty((1, self.grid**2 + 1, config.hidden_size), jnp.float32))
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        nn.init.trunc_normal_(self.cls_token, std=config.initializer_range)
        nn.init.trunc_normal_(self.position_embeddings, std=config.initializer_range)

    def forward(self, pixel_values: jax.Array, interpolate_pos_encoding: bool) -> jax.Array:
        positions = self.position_embeddings.value
        grid = tuple(size // self.patch_size for size in pixel_values.shape[2:])
        if grid != (self.grid, self.grid):
            if not interpolate_pos_encoding:
                size = self.grid * self.patch_size
                raise ValueError(
                    f"expected images of {size} by {size} pixels, got shape {pixel_values.shape}:"
                    " resize them, or set interpolate_pos_encoding"
                )
            positions = self.interpolate(positions, grid)
        patches = self.patch_embeddings(pixel_values)
        first = jnp.broadcast_to(self.cls_token.value, (patches.shape[0], 1, patches.shape[2]))
        return self.dropout(jnp.concatenate([first, patches], axis=1) + positions)

    def interpolate(self, positions: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        """Stretch what was learnt for one size of image to another."""
        first, rest = positions[:, :1], positions[:, 1:]
        rest = rest.reshape(1, self.grid, self.grid, -1).transpose(0, 3, 1, 2)
        rest = F.interpolate(rest, size=grid, mode="bicubic", align_corners=False)
        return jnp.concatenate([first, rest.reshape(*rest.shape[:2], -1).swapaxes(1, 2)], axis=1)


class ViTAttention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (
            project(x).reshape(heads).swapaxes(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.o_proj(y.swapaxes(1, 2).reshape(x.shape))


class ViTMLP(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.activation_fn = nn.GELU()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.activation_fn(self.fc1(x)))


class ViTLayer(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = ViTAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: jax.Array) -> jax.Array:
        x = x + self.dropout(self.attention(self.layernorm_before(x)))
        return x + self.dropout(self.mlp(self.layernorm_after(x)))


class ViTModel(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = ViTEmbeddings(config)
        self.layers = nn.ModuleList([ViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: jax.Array, interpolate_pos_encoding: bool = False) -> jax.Array:
        x = self.embeddings(pixel_values, interpolate_pos_encoding)
        for layer in self.layers:
            x = layer(x)
        return self.layernorm(x)


class ViTForImageClassification(nn.Module):
    """A classifier of images by their class token, ``(B, C, H, W) -> (B, num_labels)``."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vit = ViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixel_values: jax.Array, interpolate_pos_encoding: bool = False) -> jax.Array:
        return self.classifier(self.vit(pixel_values, interpolate_pos_encoding)[:, 0])
