"""The models under test: a row names ours, the reference, both at a small size, and a batch."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch

from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.models import alexnet, bert, gpt2, llama, resnet, resnet_hf, torchvision_models, vit

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # read when transformers is imported

Batch = dict[str, np.ndarray]


def classification_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return F.cross_entropy(logits, labels)


def causal_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Score each token's prediction of the next."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def pretraining_loss(output: tuple[jax.Array, jax.Array], labels: jax.Array, next_sentence_label: jax.Array) -> Any:
    """Score the words filled in and whether the sentences follow each other."""
    words, relation = output
    return F.cross_entropy(words.reshape(-1, words.shape[-1]), labels.reshape(-1)) + F.cross_entropy(
        relation, next_sentence_label
    )


def hf_loss(net: Any, inputs: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    return net(**inputs, **labels).loss


def plain_loss(net: Any, inputs: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(net(**inputs), labels["labels"])


@dataclass(frozen=True, eq=False)
class Case:
    """One model: how to build ours and theirs with the same settings, what goes in, and how it is scored."""

    name: str
    ours: Callable[..., nn.Module]
    theirs: Callable[..., torch.nn.Module]
    settings: dict[str, Any]
    inputs: Callable[[np.random.RandomState], Batch]
    labels: Callable[[Batch, np.random.RandomState], Batch]
    loss: Callable[..., jax.Array] = classification_loss
    their_loss: Callable[..., torch.Tensor] = hf_loss
    optimizer: tuple[str, dict[str, Any]] = ("AdamW", {"lr": 1e-3, "eps": 1e-4})
    published: dict[str, Any] = field(default_factory=dict)  # the settings of a size that has a checkpoint
    tolerance: float = 1e-4  # of gradients
    seed: int = 0  # of the batch

    def __str__(self) -> str:
        return self.name


def ported(model: Callable[..., Any], config: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the settings alone."""
    return lambda **settings: model(config(**settings))


def reference(module: str, name: str, **fixed: Any) -> Callable[..., Any]:
    """Return a function of the settings alone, which imports the model (that takes seconds) when it is called."""

    def build(**settings: Any) -> Any:
        model = getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)
        return model(model.config_class(**settings, **fixed))

    return build


def text(rng: np.random.RandomState) -> Batch:
    """Return three sequences, two of them padded."""
    mask = (np.arange(9) < np.array([[9], [7], [4]])).astype(np.int64)
    return {"input_ids": rng.randint(1, 50, (3, 9)) * mask, "attention_mask": mask}


def text_pairs(rng: np.random.RandomState) -> Batch:
    return text(rng) | {"token_type_ids": rng.randint(0, 2, (3, 9))}


def images(size: int, name: str = "pixel_values") -> Callable[[np.random.RandomState], Batch]:
    return lambda rng: {name: rng.standard_normal((4, 3, size, size)).astype(np.float32)}


def next_tokens(inputs: Batch, rng: np.random.RandomState) -> Batch:
    return {"labels": np.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)}


def words_and_relation(inputs: Batch, rng: np.random.RandomState) -> Batch:
    hidden = rng.rand(3, 9) < 0.5
    return {"labels": np.where(hidden, rng.randint(0, 50, (3, 9)), -100), "next_sentence_label": np.array([0, 1, 1])}


def classes(inputs: Batch, rng: np.random.RandomState) -> Batch:
    return {"labels": np.array([1, 3, 0, 4])}


SGD = ("SGD", {"lr": 0.005, "momentum": 0.9, "weight_decay": 1e-4})
EAGER = {"attn_implementation": "eager"}

CASES = [
    Case(
        "GPT-2",
        ported(gpt2.GPT2LMHeadModel, gpt2.GPT2Config),
        reference("gpt2", "GPT2LMHeadModel", **EAGER),
        dict(
            vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=3, initializer_range=0.3,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
        text, next_tokens, causal_loss,
    ),
    Case(
        "BERT",
        ported(bert.BertForPreTraining, bert.BertConfig),
        reference("bert", "BertForPreTraining", **EAGER),
        dict(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=16, initializer_range=0.3, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        text_pairs, words_and_relation, pretraining_loss,
    ),
    Case(
        "Llama",
        ported(llama.LlamaForCausalLM, llama.LlamaConfig),
        reference("llama", "LlamaForCausalLM", **EAGER),
        dict(
            vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3,
        ),
        text, next_tokens, causal_loss,
    ),
    Case(
        "ViT",
        ported(vit.ViTForImageClassification, vit.ViTConfig),
        reference("vit", "ViTForImageClassification", **EAGER),
        dict(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12,
            patch_size=4, num_labels=5, initializer_range=0.3,
        ),
        images(12), classes,
    ),
    Case(
        "ResNet of Hugging Face",
        ported(resnet_hf.ResNetForImageClassification, resnet_hf.ResNetConfig),
        reference("resnet", "ResNetForImageClassification"),
        dict(embedding_size=8, hidden_sizes=(16, 32), depths=(2, 2), num_labels=5),
        images(24), classes, optimizer=SGD,
    ),
    Case(
        "ResNet-50", resnet.ResNet, torchvision_models.ResNet, dict(layers=(3, 4, 6, 3), num_classes=5, width=4),
        images(64, "x"), classes, their_loss=plain_loss, optimizer=SGD,
        published=dict(layers=(3, 4, 6, 3)), tolerance=3e-4,  # as far as PyTorch itself is from double precision
        seed=2,  # of a batch that leaves no unit so close to zero that rounding decides its slope
    ),
    Case(
        "AlexNet", alexnet.AlexNet, torchvision_models.AlexNet, dict(num_classes=5, dropout=0.0, width=16),
        images(63, "x"), classes, their_loss=plain_loss, optimizer=SGD,
    ),
]  # fmt: skip


def disturb(net: torch.nn.Module) -> None:
    """Give every parameter and statistic values of its own, the ones and zeros of new layers included."""
    with torch.no_grad():
        for value in net.parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value), alpha=0.1)
        for name, value in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.add_(torch.rand_like(value), alpha=0.3)
