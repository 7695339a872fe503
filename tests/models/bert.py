"""BERT (Devlin et al., 2019) under the names of Hugging Face's implementation: its weights load as they are."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmodules import nn
from jaxmodules.nn import functional as F


@dataclass(frozen=True)
class BertConfig:
    """The settings of BERT by their names in ``config.json``; the defaults are those of the base model."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0


class BertEmbeddings(nn.Module):
    """The sum of what a token is, where it stands and in which of the two sentences, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: jax.Array, token_type_ids: jax.Array | None) -> jax.Array:
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = x + self.position_embeddings(jnp.arange(input_ids.shape[1])[None])
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads,"
                f" got {config.hidden_size} and {config.num_attention_heads}"
            )
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (project(x).reshape(heads).swapaxes(1, 2) for project in (self.query, self.key, self.value))
        dropout = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return y.swapaxes(1, 2).reshape(x.shape)


class BertResidual(nn.Module):
    """Map what a sublayer computed to the width of its input and add it; called ``BertOutput`` there."""

    def __init__(self, features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertResidual(config.hidden_size, config)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = nn.GELU()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.intermediate_act_fn(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertResidual(config.intermediate_size, config)

    def forward(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPooler(nn.Module):
    """Summarise a sequence by its first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.activation(self.dense(x[:, 0]))


class BertModel(nn.Module):
    """The encoder, ``(B, T) -> (B, T, hidden_size), (B, hidden_size)``; without a pooler the second is ``None``."""

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None

    def forward(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        mask = None if attention_mask is None else attention_mask.astype(bool)[:, None, None]  # (B, 1, 1, S)
        x = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return x, None if self.pooler is None else self.pooler(x)


class BertPredictionHeadTransform(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = nn.GELU()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.LayerNorm(self.transform_act_fn(self.dense(x)))


class BertLMPredictionHead(nn.Module):
    """Scores of the tokens; the bias has two names in checkpoints, ``bias`` and ``decoder.bias``."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(jnp.zeros(config.vocab_size, jnp.float32))
        self.decoder.bias = self.bias

    def forward(self, x: jax.Array) -> jax.Array:
        return self.decoder(self.transform(x))


class BertOnlyMLMHead(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.predictions(x)


class BertPreTrainingHeads(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, x: jax.Array, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.predictions(x), self.seq_relationship(pooled)


class BertForMaskedLM(nn.Module):
    """BERT that fills in words, ``(B, T) -> (B, T, vocab_size)``, its output layer tied to the word embedding."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        init_weights(self, config)

    def forward(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None
    ) -> jax.Array:
        x, _ = self.bert(input_ids, attention_mask, token_type_ids)
        return self.cls(x)


class BertForPreTraining(nn.Module):
    """BERT with both of its original heads, ``(B, T) -> (B, T, vocab_size), (B, 2)``."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.cls = BertPreTrainingHeads(config)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        init_weights(self, config)

    def forward(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return self.cls(*self.bert(input_ids, attention_mask, token_type_ids))


def init_weights(net: nn.Module, config: BertConfig) -> None:
    """Draw matrices from a normal distribution; biases and the embedding of padding are zero."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
