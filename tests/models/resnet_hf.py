"""ResNet (He et al., 2016) under the names of Hugging Face's ``ResNetForImageClassification``."""

from dataclasses import dataclass

import jax

from jaxmodules import nn


@dataclass(frozen=True)
class ResNetConfig:
    """The settings of ResNet by their names in ``config.json``; the defaults are those of ResNet-50."""

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    num_labels: int = 2


class ResNetConvLayer(nn.Module):
    """A convolution that keeps the size of an image of stride 1, normalised over the batch."""

    def __init__(self, channels: int, out_channels: int, size: int = 3, stride: int = 1, is_last: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.Identity() if is_last else nn.ReLU()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.activation(self.normalization(self.convolution(x)))


class ResNetShortCut(nn.Module):
    """Map the input of a layer to the size and the channels of its output."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.normalization(self.convolution(x))


class ResNetLayer(nn.Module):
    """Two convolutions, or three around a narrow middle, added to their input."""

    def __init__(self, channels: int, out_channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        is_same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if is_same else ResNetShortCut(channels, out_channels, stride)
        if config.layer_type == "basic":
            self.layer = nn.Sequential(
                ResNetConvLayer(channels, out_channels, stride=stride),
                ResNetConvLayer(out_channels, out_channels, is_last=True),
            )
        else:
            middle = out_channels // 4
            first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
            self.layer = nn.Sequential(
                ResNetConvLayer(channels, middle, size=1, stride=first),
                ResNetConvLayer(middle, middle, stride=second),
                ResNetConvLayer(middle, out_channels, size=1, is_last=True),
            )
        self.activation = nn.ReLU()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.activation(self.layer(x) + self.shortcut(x))


class ResNetStage(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int, depth: int, config: ResNetConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ResNetLayer(channels, out_channels, stride, config),
            *(ResNetLayer(out_channels, out_channels, 1, config) for _ in range(depth - 1)),
        )

    def forward(self, x: jax.Array) -> jax.Array:
        return self.layers(x)


class ResNetEmbeddings(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = ResNetConvLayer(config.num_channels, config.embedding_size, size=7, stride=2)
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: jax.Array) -> jax.Array:
        return self.pooler(self.embedder(pixel_values))


class ResNetEncoder(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = (config.embedding_size, *config.hidden_sizes)
        strides = (2 if config.downsample_in_first_stage else 1, *[2] * (len(config.depths) - 1))
        self.stages = nn.ModuleList(
            ResNetStage(channels, out_channels, stride, depth, config)
            for channels, out_channels, stride, depth in zip(widths, widths[1:], strides, config.depths, strict=False)
        )

    def forward(self, x: jax.Array) -> jax.Array:
        for stage in self.stages:
            x = stage(x)
        return x


class ResNetModel(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = ResNetEmbeddings(config)
        self.encoder = ResNetEncoder(config)
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, pixel_values: jax.Array) -> jax.Array:
        return self.pooler(self.encoder(self.embedder(pixel_values)))


class ResNetForImageClassification(nn.Module):
    """A classifier of images, ``(B, C, H, W) -> (B, num_labels)``."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.resnet = ResNetModel(config)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(config.hidden_sizes[-1], config.num_labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: jax.Array) -> jax.Array:
        return self.classifier(self.resnet(pixel_values))
