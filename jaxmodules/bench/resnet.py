"""Measure how long it takes to construct a ResNet-50, initial weights included."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from jaxmodules import nn
from jaxmodules.bench._measure import interleave, peer, ratio
from jaxmodules.bench._table import in_units, judge, show

BAR = 1.5
PARAMETERS = 25_557_032


def build(nn: Any) -> Any:
    """Return torchvision's ResNet-50, layer by layer, built of ``jaxmodules.nn`` or ``torch.nn``."""

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, widens: bool) -> None:
            super().__init__()
            self.conv1 = conv(inputs, width, 1)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = conv(width, width, 3, stride)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = conv(width, 4 * width, 1)
            self.bn3 = nn.BatchNorm2d(4 * width)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if widens:
                self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

        def forward(self, x: Any) -> Any:
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.relu(self.bn2(self.conv2(out)))
            out = self.bn3(self.conv3(out))
            return self.relu(out + (x if self.downsample is None else self.downsample(x)))

    def stage(inputs: int, width: int, blocks: int, stride: int) -> Any:
        rest = (Bottleneck(4 * width, width, 1, False) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(inputs, width, stride, True), *rest)

    class ResNet50(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
            self.layer1 = stage(64, 64, 3, 1)
            self.layer2 = stage(256, 128, 4, 2)
            self.layer3 = stage(512, 256, 6, 2)
            self.layer4 = stage(1024, 512, 3, 2)
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(2048, 1000)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
            return self.fc(x.reshape(x.shape[0], -1))

    return ResNet50()


def run(rounds: int) -> None:
    """Compare the first construction in this process and the later ones."""
    start = time.perf_counter()
    net = build(nn)
    first = {"jaxmodules": time.perf_counter() - start}
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == PARAMETERS, f"expected {PARAMETERS:,} parameters, built {count:,}"
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]

    sides: dict[str, Callable[[], Any]] = {"jaxmodules": lambda: _discard(build(nn))}
    missing = []
    torch = peer("_with_torch")
    if torch is None:
        missing.append("PyTorch")
    else:
        sides["PyTorch"] = lambda: _discard(build(torch.namespace))
    for name, file in {"Flax NNX": "_with_nnx", "Equinox": "_with_equinox"}.items():
        module = peer(file)
        if module is None:
            missing.append(name)
        else:
            sides[name] = lambda module=module: _discard(module.build_layers(layers))
    for name in list(sides)[1:]:
        start = time.perf_counter()
        sides[name]()
        first[name] = time.perf_counter() - start
    pair = {name: sides[name] for name in sides if name in ("jaxmodules", "PyTorch")}
    others = {name: sides[name] for name in sides if name not in pair}  # apart: they leave much garbage behind
    times = interleave(pair, rounds, seconds=0) | interleave(others, rounds, seconds=0)
    rows = []
    for name in sides:
        verdict = "" if "PyTorch" in missing else f"{ratio(times, name, 'PyTorch'):.2f}"
        if name == "jaxmodules" and verdict:
            verdict = judge(float(verdict), BAR)
        rows.append((name, in_units(first[name]), in_units(statistics.median(times[name])), verdict))
    show(
        f"Constructing a ResNet-50, {PARAMETERS:,} parameters",
        ("side", "first time", "again", "again / PyTorch"),
        rows,
        "; ".join(f"{name}: not installed" for name in missing),
    )


def _discard(net: Any) -> None:
    """Drop a network inside the time measured."""
    del net
