"""Small models, written once for both libraries: weights, outputs, gradients and one compiled training step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.utils.prune

import jaxmodules as jm
from jaxmodules import nn

THEIRS = SimpleNamespace(
    nn=torch.nn,
    prune=torch.nn.utils.prune,
    array=torch.tensor,
    cat=torch.cat,
    ones=torch.ones,
    transpose=torch.transpose,
    chunk=torch.chunk,
)
OURS = SimpleNamespace(
    nn=nn,
    prune=nn.utils.prune,
    array=jnp.asarray,
    cat=jnp.concatenate,
    ones=lambda *shape: jnp.ones(shape),
    transpose=jnp.swapaxes,
    chunk=jnp.split,
)


def bottleneck(t: Any) -> Any:
    class Bottleneck(t.nn.Module):
        def __init__(self, channels, planes, groups):
            super().__init__()
            self.conv1 = t.nn.Conv2d(channels, planes, 1, bias=False)
            self.bn1 = t.nn.BatchNorm2d(planes)
            self.conv2 = t.nn.Conv2d(planes, planes, 3, 2, padding=1, groups=groups, bias=False)
            self.bn2 = t.nn.BatchNorm2d(planes, momentum=None)
            self.relu = t.nn.ReLU(inplace=True)
            self.downsample = t.nn.Conv2d(channels, planes, 1, stride=2)
            for module in self.modules():
                if isinstance(module, t.nn.Conv2d):
                    t.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        def forward(self, x):
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(out + self.downsample(x))

    return t.nn.Sequential(
        t.nn.Conv2d(3, 4, 7, 2, 3), t.nn.MaxPool2d(3, 2, 1), Bottleneck(4, 8, groups=4),
        t.nn.AdaptiveAvgPool2d(1), t.nn.Flatten(), t.nn.Linear(8, 5),
    )  # fmt: skip


def unet(t: Any) -> Any:
    class UNet(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.down = t.nn.ModuleList([self.block(2, 4), self.block(4, 8)])
            self.up = t.nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.out = self.block(8, 3)

        def block(self, channels, planes):
            return t.nn.Sequential(
                t.nn.Conv2d(channels, planes, 3, padding=1, padding_mode="reflect"),
                t.nn.GroupNorm(1, planes), t.nn.SiLU(),
            )  # fmt: skip

        def forward(self, x):
            wide = self.down[0](x)
            narrow = self.down[1](t.nn.functional.max_pool2d(wide, 2))
            up = t.nn.functional.interpolate(self.up(narrow), x.shape[2:], mode="bilinear")
            return self.out(t.cat([wide, up], 1))

    return UNet()


def gpt(t: Any) -> Any:
    class Block(t.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm1, self.norm2 = t.nn.LayerNorm(width), t.nn.RMSNorm(width)
            self.qkv, self.proj = t.nn.Linear(width, 3 * width), t.nn.Linear(width, width)
            self.mlp = t.nn.Sequential(
                t.nn.Linear(width, 16), t.nn.GELU(approximate="tanh"), t.nn.Linear(16, width), t.nn.Dropout(0.0)
            )

        def forward(self, x):
            heads = (*x.shape[:2], 2, -1)
            q, k, v = (t.transpose(a.reshape(heads), 1, 2) for a in t.chunk(self.qkv(self.norm1(x)), 3, -1))
            y = t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(t.transpose(y, 1, 2).reshape(x.shape))
            return x + self.mlp(self.norm2(x))

    class GPT(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = t.nn.ModuleDict({"wte": t.nn.Embedding(11, 8), "h": t.nn.Sequential(Block(8), Block(8))})
            self.head = t.nn.Linear(8, 11, bias=False)
            self.head.weight = self.transformer.wte.weight

        def forward(self, index):
            return self.head(self.transformer.h(self.transformer.wte(index)))

    return GPT()


def encoder(t: Any) -> Any:
    class Encoder(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.embedding = t.nn.Parameter(t.ones(1, 1, 8)), t.nn.Embedding(9, 8, padding_idx=0)
            layer = t.nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation="gelu", batch_first=True)
            self.encoder = t.nn.TransformerEncoder(layer, 2)

        def forward(self, index, padding):
            return self.encoder(self.embedding(index) + self.token, src_key_padding_mask=padding)[:, 0]

    return Encoder()


def packed_gru(t: Any) -> Any:
    class Classifier(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = t.nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
            self.head = t.nn.Bilinear(4, 4, 2)

        def forward(self, x):
            packed = t.nn.utils.rnn.pack_padded_sequence(x, [2, 5, 3], batch_first=True, enforce_sorted=False)
            output, h = self.gru(packed)
            output, _ = t.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
            return self.head(h[-2], h[-1]), output

    return Classifier()


def speech(t: Any) -> Any:
    class Speech(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = t.nn.utils.parametrizations.weight_norm(t.nn.Conv1d(3, 4, 3, dilation=2, padding="same"))
            self.rnn = t.nn.LSTM(4, 4, bidirectional=True, batch_first=True)
            self.head = t.nn.Linear(8, 5)
            self.loss = t.nn.CTCLoss(zero_infinity=True)

        def forward(self, x):
            x = t.nn.functional.glu(t.cat([x, self.conv(x)], 1)[:, 1:], dim=1)
            x = t.nn.functional.pad(x, (0, 0, 0, 1))
            scores = self.head(self.rnn(t.transpose(x, 1, 2))[0])
            scores = t.transpose(t.nn.functional.log_softmax(scores, dim=-1), 0, 1)
            labels, lengths, counts = [[1, 2, 2], [3, 1, 0]], [9, 7], [3, 2]
            return self.loss(scores, t.array(labels), t.array(lengths), t.array(counts)), scores

    return Speech()


def gan(t: Any) -> Any:
    spectral_norm = t.nn.utils.parametrizations.spectral_norm
    net = t.nn.Sequential(
        t.nn.ConvTranspose2d(3, 4, 4, bias=False), t.nn.BatchNorm2d(4), t.nn.ReLU(True),
        t.nn.ConvTranspose2d(4, 1, 4, 2, 1), t.nn.Tanh(),
        spectral_norm(t.nn.Conv2d(1, 4, 4, 2, 1)), t.nn.LeakyReLU(0.2, inplace=True),
        spectral_norm(t.nn.Conv2d(4, 1, 4)), t.nn.Sigmoid(),
    )  # fmt: skip
    t.nn.init.normal_(net[1].weight.data, 1.0, 0.02)
    t.prune.l1_unstructured(net[0], "weight", amount=0.3)
    return net


def recommender(t: Any) -> Any:
    class Recommender(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = t.nn.ModuleList([t.nn.EmbeddingBag(7, 4, mode=mode) for mode in ("sum", "mean")])
            self.loss = t.nn.AdaptiveLogSoftmaxWithLoss(4, 9, cutoffs=[3, 6], div_value=2.0)
            self.scale = t.nn.Parameter(t.ones(1, 4))

        def forward(self, index, label):
            users, items = self.bags[0](index), self.bags[1](index.reshape(-1), t.array([0, 2, 7]))
            near = t.nn.functional.cosine_similarity(users, items)
            return [*self.loss(users * self.scale + items, label), near]

    return Recommender()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def labels(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape)


MODELS = [
    (bottleneck, normal(4, 3, 24, 24)),
    (unet, normal(2, 2, 9, 9)),
    (gpt, labels(11, 2, 6)),
    (encoder, labels(9, 2, 4), np.array([[False] * 4, [False, False, True, True]])),
    (packed_gru, normal(3, 5, 3)),
    (speech, normal(2, 3, 9)),
    (gan, normal(3, 3, 1, 1)),
    (recommender, labels(7, 3, 4), labels(9, 3)),
]


def outputs_and_loss(net: Any, *inputs: Any) -> Any:
    """Return the loss, and the outputs that it is made of."""
    outputs = net(*inputs)
    outputs = [outputs] if hasattr(outputs, "shape") else [*outputs]
    return sum(((output - 0.3) ** 2).mean() for output in outputs), outputs


def close(ours: Any, theirs: torch.Tensor, name: str) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), 2e-3, 2e-5, err_msg=name, strict=True)


@pytest.mark.parametrize("build, inputs", [pytest.param(b, x, id=b.__name__) for b, *x in MODELS])
def test_model_trains_as_in_torch(build: Callable[[Any], Any], inputs: list[Any]) -> None:
    ours, theirs = build(OURS), build(THEIRS)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], tensor.numpy(), 1e-6, 1e-7, err_msg=name)

    @jm.jit(donate=True)
    def step(net: nn.Module, optimizer: jm.optim.Optimizer, *inputs: jax.Array) -> Any:
        (_, outputs), grads = jm.value_and_grad(outputs_and_loss, has_aux=True)(net, *inputs)
        optimizer.step(grads)
        return outputs, grads

    outputs, grads = step(ours, jm.optim.SGD(ours.parameters(), lr=0.1), *map(jnp.asarray, inputs))
    loss, expected = outputs_and_loss(theirs, *map(torch.tensor, inputs))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    for output, tensor in zip(outputs, expected, strict=True):
        close(output, tensor, "output")
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        close(grads[name], parameter.grad, name)
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            close(ours.state_dict()[name], tensor, name)
