"""Convolution layers."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxmodules._shapes import ntuple, same_padding
from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.conv import conv_nd
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank

_PADDINGS = ("same", "valid")
_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    r"""Shared body of :class:`Conv1d`, :class:`Conv2d` and :class:`Conv3d`; ``_rank`` counts spatial axes.

    .. math:: y_{n,o} = b_o + \sum_{i} w_{o,i} \star x_{n,i}

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: size of the kernel, per axis or one for all.
        stride: step of the window.
        padding: zeros at both ends of each axis, ``'valid'`` (none) or ``'same'`` (the output keeps the size).
        dilation: distance between the kernel's elements.
        groups: number of blocks that the channels are split into.
        bias: whether to add a learnable bias to each channel.
        padding_mode: what to pad with: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Attributes:
        weight: ``(out_channels, in_channels / groups, *kernel_size)``, drawn from
            :math:`U(-\sqrt{k}, \sqrt{k})`, :math:`k = groups / (in\_channels \prod kernel\_size)`.
        bias: ``(out_channels,)``, drawn from the same.

    Raises:
        ValueError: if ``groups`` does not divide the channels, or a padding is unknown or can't be.
    """

    _rank: ClassVar[int]

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | Literal["same", "valid"]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same", "valid"] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        rank = self._rank
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = ntuple(kernel_size, rank, "kernel_size")
        self.stride = ntuple(stride, rank, "stride")
        self.padding = padding if isinstance(padding, str) else ntuple(padding, rank, "padding")
        self.dilation = ntuple(dilation, rank, "dilation")
        self.transposed = False
        self.output_padding = (0,) * rank
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_settings()
        self._reversed_padding_repeated_twice = self._padding_for_pad()
        self.weight = Parameter(blank((out_channels, in_channels // groups, *self.kernel_size), dtype))
        self.register_parameter("bias", Parameter(blank((out_channels,), dtype)) if bias else None)
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Array) -> Array:
        """Convolve ``input``."""
        return self._conv_forward(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the settings that differ from their defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * len(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * len(self.dilation):
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * len(self.output_padding):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text

    def _conv_forward(self, input: Array, weight: Any, bias: Any) -> Array:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return conv_nd(input, weight, bias, self.stride, padding, self.dilation, self.groups, rank=self._rank)

    def _check_settings(self) -> None:
        if self.groups <= 0:
            raise ValueError(f"groups must be a positive integer, got groups={self.groups}")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups != 0:
                raise ValueError(f"{name} must be divisible by groups, got {getattr(self, name)} and {self.groups}")
        if isinstance(self.padding, str) and self.padding not in _PADDINGS:
            raise ValueError(f"Invalid padding string {self.padding!r}, should be one of {_PADDINGS}")
        if self.padding == "same" and any(step != 1 for step in self.stride):
            raise ValueError(f"padding='same' is not supported for strided convolutions, got stride={self.stride}")
        if self.padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {_MODES}, but got padding_mode='{self.padding_mode}'")

    def _padding_for_pad(self) -> tuple[int, ...]:
        """Return the padding as ``F.pad`` takes it: pairs, the last axis first."""
        if self.padding == "valid":
            return (0, 0) * self._rank
        if self.padding == "same":
            pairs = same_padding(self.kernel_size, self.dilation)
        else:
            pairs = tuple((size, size) for size in self.padding)
        return tuple(size for pair in reversed(pairs) for size in pair)


class Conv1d(_ConvNd):
    """Convolve signals; arguments are those of :class:`_ConvNd`.

    Shape:
        ``(N, C_in, L) -> (N, C_out, L_out)`` or ``(C_in, L) -> (C_out, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 24)
    """

    _rank = 1


class Conv2d(_ConvNd):
    """Convolve images; arguments are those of :class:`_ConvNd`.

    Shape:
        ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)`` or ``(C_in, H, W) -> (C_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv2d(3, 8, 3, padding="same")(jnp.ones((2, 3, 5, 5))).shape
        (2, 8, 5, 5)
    """

    _rank = 2


class Conv3d(_ConvNd):
    """Convolve volumes; arguments are those of :class:`_ConvNd`.

    Shape:
        ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv3d(2, 4, (1, 3, 3))(jnp.ones((1, 2, 5, 5, 5))).shape
        (1, 4, 5, 3, 3)
    """

    _rank = 3
