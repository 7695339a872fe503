"""The sweep of the kernels: shapes of layers that people use, from LeNet to ConvNeXt, U-Net, WaveNet and C3D."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]

# What each kind of case needs its inputs' forward pass for: without it, gradients are linear in what comes back.
_LINEAR = ("conv", "conv_transpose", "avg_pool", "adaptive_avg_pool")
FORWARD, INPUT, WEIGHT, BOTH = "forward", "input gradient", "weight gradient", "forward + gradients"


class Case(NamedTuple):
    """One layer: ``kind`` names the function, ``shapes`` are those of its input and weights."""

    group: str
    family: str
    name: str
    kind: str
    shapes: tuple[Shape, ...]
    options: Mapping[str, Any]

    @property
    def measures(self) -> tuple[str, ...]:
        """Return what is measured: each gradient alone, or with the forward pass where that leaves it something."""
        if self.kind not in _LINEAR:
            return FORWARD, BOTH
        return (FORWARD, INPUT, WEIGHT)[: 1 + len(self.shapes)]

    def make_arrays(self) -> list[np.ndarray]:
        """Return input and weights, the same for every side."""
        random = np.random.RandomState(0)
        scales = [1.0, *(math.prod(shape[1:]) ** -0.5 for shape in self.shapes[1:])]
        arrays = [random.standard_normal(shape) * scale for shape, scale in zip(self.shapes, scales, strict=True)]
        return [array.astype(np.float32) for array in arrays]

    def function(self, functional: Any) -> Callable[..., Any]:
        """Return the case as a function of its arrays, for a library that has the names of ``torch.nn.functional``."""
        call = _NORMS.get(self.kind) or _by_rank(f"{self.kind}{len(self.shapes[0]) - 2}d")
        return lambda *arrays: call(functional, *arrays, **self.options)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what tells the case from others: its name, the shapes of input and weight, the options."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes[:2])
        options = [f"{name}={value}" for name, value in self.options.items() if value != _NEUTRAL.get(name)]
        return (self.name, shapes, ", ".join(options)) if options else (self.name, shapes)

    def __str__(self) -> str:
        name, *rest = self.texts
        return f"{self.family}: {name} ({', '.join(rest)})"


_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

_NORMS: dict[str, Callable[..., Any]] = {
    "batch_norm": lambda F, x, weight, bias: F.batch_norm(x, None, None, weight, bias, True),
    "instance_norm": lambda F, x, weight, bias: F.instance_norm(x, None, None, weight, bias),
    "group_norm": lambda F, x, weight, bias, num_groups: F.group_norm(x, num_groups, weight, bias),
    "layer_norm": lambda F, x, weight, bias: F.layer_norm(x, weight.shape, weight, bias),
    "rms_norm": lambda F, x, weight: F.rms_norm(x, weight.shape, weight),
}


def _by_rank(name: str) -> Callable[..., Any]:
    return lambda F, *arrays, **options: getattr(F, name)(*arrays, **options)


def _conv(
    family: str, name: str, input: Shape, outputs: int, kernel: int,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
) -> Case:  # fmt: skip
    weight = (outputs, input[1] // groups, *[kernel] * (len(input) - 2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Case("conv", family, name, "conv", (input, weight), options)


def _transposed(name: str, input: Shape, outputs: int, kernel: int, stride: int, padding: int = 0) -> Case:
    weight = (input[1], outputs, *[kernel] * (len(input) - 2))
    options = {"stride": stride, "padding": padding}
    return Case("conv", "transposed", name, "conv_transpose", (input, weight), options)


def _pool(kind: str, name: str, input: Shape, kernel_size: int, stride: int, padding: int = 0) -> Case:
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return Case("pool", f"{kind} pooling", name, f"{kind}_pool", (input,), options)


def _adaptive(kind: str, name: str, input: Shape, output_size: int) -> Case:
    options = {"output_size": output_size}
    return Case("pool", f"{kind} pooling, adaptive", name, f"adaptive_{kind}_pool", (input,), options)


def _norm(kind: str, name: str, input: Shape, channels: int, **options: Any) -> Case:
    weights = ((channels,),) * (1 if kind == "rms_norm" else 2)
    return Case("norm", kind.replace("_", " "), name, kind, (input, *weights), options)


def _recurrence(mode: str, gates: int, name: str, steps: int, batch: int, inputs: int, width: int) -> Case:
    rows = gates * width
    shapes = (steps, batch, inputs), (rows, inputs), (rows, width), (rows,), (rows,)
    return Case("rnn", mode.removesuffix("_TANH"), name, "recurrence", shapes, {"mode": mode})


CASES = (
    _conv("few channels", "LeNet 1", (64, 1, 28, 28), 6, 5, padding=2),
    _conv("few channels", "LeNet 2", (64, 6, 14, 14), 16, 5),
    _conv("few channels", "CIFAR stem", (64, 3, 32, 32), 16, 3, padding=1),
    _conv("few channels", "AlexNet 1", (8, 3, 224, 224), 64, 11, 4, 2),
    _conv("few channels", "VGG 1", (4, 3, 112, 112), 64, 3, padding=1),
    _conv("few channels", "ResNet stem", (8, 3, 224, 224), 64, 7, 2, 3),
    _conv("few channels", "MobileNet stem", (16, 3, 96, 96), 32, 3, 2, 1),
    _conv("few channels", "ConvNeXt stem", (8, 3, 128, 128), 96, 4, 4),
    _conv("few channels", "U-Net 1", (4, 1, 128, 128), 32, 3, padding=1),
    _conv("direct", "AlexNet 2", (8, 64, 27, 27), 192, 5, padding=2),
    _conv("direct", "AlexNet 3", (8, 192, 13, 13), 384, 3, padding=1),
    _conv("direct", "VGG 2", (4, 64, 112, 112), 64, 3, padding=1),
    _conv("direct", "VGG 4", (8, 256, 28, 28), 256, 3, padding=1),
    _conv("direct", "VGG 5", (8, 512, 14, 14), 512, 3, padding=1),
    _conv("direct", "ResNet 1", (32, 64, 32, 32), 64, 3, padding=1),
    _conv("direct", "ResNet 4", (32, 512, 4, 4), 512, 3, padding=1),
    _conv("direct", "U-Net 2", (4, 32, 128, 128), 32, 3, padding=1),
    _conv("direct", "U-Net decoder", (4, 64, 64, 64), 32, 3, padding=1),
    _conv("strided", "ResNet down", (32, 64, 32, 32), 128, 3, 2, 1),
    _conv("strided", "ResNet shortcut", (16, 256, 28, 28), 512, 1, 2),
    _conv("strided", "ConvNeXt down", (8, 96, 28, 28), 192, 2, 2),
    _conv("1x1", "ResNet reduce", (16, 256, 28, 28), 64, 1),
    _conv("1x1", "ResNet expand", (16, 64, 28, 28), 256, 1),
    _conv("1x1", "MobileNet project", (16, 96, 28, 28), 24, 1),
    _conv("1x1", "U-Net out", (4, 32, 128, 128), 2, 1),
    _conv("depthwise", "MobileNet", (16, 64, 28, 28), 64, 3, padding=1, groups=64),
    _conv("depthwise", "MobileNet down", (16, 64, 56, 56), 64, 3, 2, 1, groups=64),
    _conv("depthwise", "ConvNeXt 28", (8, 96, 28, 28), 96, 7, padding=3, groups=96),
    _conv("depthwise", "ConvNeXt 14", (8, 384, 14, 14), 384, 7, padding=3, groups=384),
    _conv("depthwise", "1d", (8, 128, 512), 128, 7, padding=3, groups=128),
    _conv("depthwise", "3d", (2, 32, 16, 16, 16), 32, 3, padding=1, groups=32),
    _conv("grouped", "ResNeXt", (8, 128, 28, 28), 128, 3, padding=1, groups=32),
    _conv("grouped", "ResNeXt, wide", (8, 512, 14, 14), 512, 3, padding=1, groups=32),
    _conv("grouped", "AlexNet 2, two towers", (8, 96, 27, 27), 256, 5, padding=2, groups=2),
    _conv("dilated", "DeepLab", (4, 128, 28, 28), 128, 3, padding=2, dilation=2),
    _conv("dilated", "WaveNet 4", (8, 32, 4096), 32, 2, dilation=4),
    _conv("dilated", "WaveNet 64", (8, 32, 4096), 32, 2, dilation=64),
    _conv("dilated", "TCN", (16, 64, 512), 64, 3, padding=2, dilation=2),
    _conv("1d", "WaveNet 1", (8, 1, 4096), 32, 2),
    _conv("1d", "WaveNet 1x1", (8, 32, 4096), 32, 1),
    _conv("1d", "audio stem", (8, 1, 16000), 64, 80, 16),
    _conv("1d", "Conv1d text", (16, 128, 256), 128, 5, padding=2),
    _conv("3d", "C3D 1", (4, 1, 16, 32, 32), 16, 3, padding=1),
    _conv("3d", "C3D 2", (4, 16, 16, 32, 32), 32, 3, padding=1),
    _conv("3d", "C3D down", (4, 32, 16, 16, 16), 64, 3, 2, 1),
    _transposed("DCGAN 1", (64, 100, 1, 1), 256, 4, 1),
    _transposed("DCGAN 2", (32, 256, 4, 4), 128, 4, 2, 1),
    _transposed("DCGAN 3", (32, 128, 8, 8), 64, 4, 2, 1),
    _transposed("DCGAN out", (32, 64, 16, 16), 3, 4, 2, 1),
    _transposed("U-Net up", (4, 128, 32, 32), 64, 2, 2),
    _transposed("U-Net up, wide", (4, 64, 64, 64), 32, 2, 2),
    _transposed("audio up", (8, 64, 512), 32, 8, 4, 2),
    _pool("max", "LeNet", (64, 6, 28, 28), 2, 2),
    _pool("max", "VGG", (32, 64, 32, 32), 2, 2),
    _pool("max", "AlexNet", (8, 64, 55, 55), 3, 2),
    _pool("max", "ResNet", (16, 64, 56, 56), 3, 2, 1),
    _pool("max", "same size", (8, 64, 28, 28), 3, 1, 1),
    _pool("max", "1d", (16, 64, 1024), 2, 2),
    _pool("max", "C3D", (4, 32, 16, 32, 32), 2, 2),
    _pool("avg", "DenseNet", (16, 128, 28, 28), 2, 2),
    _pool("avg", "Inception", (8, 192, 28, 28), 3, 1, 1),
    _pool("avg", "3x3, step 2", (16, 64, 56, 56), 3, 2, 1),
    _pool("avg", "1d", (16, 64, 1024), 4, 4),
    _adaptive("avg", "ResNet", (32, 512, 7, 7), 1),
    _adaptive("avg", "pyramid", (4, 256, 30, 30), 6),
    _adaptive("avg", "AlexNet", (8, 256, 13, 13), 6),
    _adaptive("max", "global", (16, 256, 14, 14), 1),
    _adaptive("max", "7x7", (8, 128, 28, 28), 7),
    _norm("batch_norm", "ResNet 1", (32, 64, 32, 32), 64),
    _norm("batch_norm", "ResNet 3", (8, 256, 28, 28), 256),
    _norm("batch_norm", "MLP", (128, 512), 512),
    _norm("batch_norm", "TCN", (16, 64, 512), 64),
    _norm("group_norm", "32 groups", (8, 128, 28, 28), 128, num_groups=32),
    _norm("group_norm", "8 groups", (4, 32, 64, 64), 32, num_groups=8),
    _norm("instance_norm", "style", (4, 32, 64, 64), 32),
    _norm("layer_norm", "small", (8, 128, 256), 256),
    _norm("layer_norm", "BERT", (32, 64, 768), 768),
    _norm("layer_norm", "ViT", (16, 196, 384), 384),
    _norm("layer_norm", "ConvNeXt", (8, 28, 28, 96), 96),
    _norm("rms_norm", "LLaMA", (8, 128, 512), 512),
    _recurrence("LSTM", 4, "128 to 256", 64, 32, 128, 256),
    _recurrence("LSTM", 4, "long, narrow", 200, 16, 64, 64),
    _recurrence("LSTM", 4, "language model", 35, 20, 400, 512),
    _recurrence("GRU", 3, "128 to 256", 64, 32, 128, 256),
    _recurrence("GRU", 3, "speech", 100, 8, 80, 128),
    _recurrence("RNN_TANH", 1, "64 to 128", 64, 32, 64, 128),
)
