"""The models of the comparison, written once for both libraries that have ``torch.nn``'s names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """A model and a batch: ``build`` takes a library's ``nn`` and returns a model that maps ``x`` to scores."""

    name: str
    title: str
    build: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    classes: int

    def make_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels, the same for every library."""
        random = np.random.RandomState(0)
        x = random.standard_normal(self.input_shape).astype(np.float32)
        return x, random.randint(0, self.classes, self.input_shape[0])


def _mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def _lenet(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def _transformer(nn: Any) -> Any:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 4)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.encoder(x).mean(1))

    return Classifier()


def _lstm(nn: Any) -> Any:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(128, 256, batch_first=True)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0].mean(1))

    return Classifier()


def _resnet18(nn: Any) -> Any:
    class Block(nn.Module):
        def __init__(self, in_channels: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU()
            self.downsample = None
            if stride != 1 or in_channels != channels:
                shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

        def forward(self, x: Any) -> Any:
            shortcut = x if self.downsample is None else self.downsample(x)
            return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)

    stages = [Block(i, o, s) for i, o, stride in STAGES for i, s in ((i, stride), (o, 1))]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))  # channels in and out, stride

TASKS = [
    Task("MLP", "784-512-512-10, batch 128", _mlp, (128, 784), 10),
    Task("Transformer", "encoder, 4 layers of 256, 4 heads, 128 tokens, batch 8", _transformer, (8, 128, 256), 10),
    Task("LSTM", "128 to 256, 64 steps, batch 32", _lstm, (32, 64, 128), 10),
    Task("LeNet", "28x28, batch 64", _lenet, (64, 1, 28, 28), 10),
    Task("ResNet-18", "32x32, batch 32", _resnet18, (32, 3, 32, 32), 10),
]  # fmt: skip
