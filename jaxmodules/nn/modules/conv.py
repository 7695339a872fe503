"""Convolution layers and their transposes."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxmodules._shapes import as_array, ntuple, same_padding
from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.conv import conv_nd, conv_transpose_nd
from jaxmodules.nn.modules.lazy import LazyModuleMixin
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, UninitializedParameter
from jaxmodules.random import blank

_Mode = Literal["zeros", "reflect", "replicate", "circular"]

_PADDINGS = ("same", "valid")
_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    r"""Shared body of the layers that convolve: what they store, draw, check and show.

    Attributes:
        weight: ``(out_channels, in_channels / groups, *kernel_size)``, the first two the other way round
            (``(in_channels, out_channels / groups, *kernel_size)``) if ``transposed``; drawn from
            :math:`U(-\sqrt{k}, \sqrt{k})`, :math:`1 / k` the number of elements of ``weight[0]``.
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
    padding_mode: _Mode = "zeros"
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] | Literal["same", "valid"],
        dilation: tuple[int, ...],
        transposed: bool,
        output_padding: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: _Mode,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.transposed = transposed
        self.output_padding = output_padding
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_settings()
        self._reversed_padding_repeated_twice = self._padding_for_pad()
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = Parameter(blank((first, second // groups, *kernel_size), dtype))
        self.register_parameter("bias", Parameter(blank((out_channels,), dtype)) if bias else None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
            init.uniform_(self.bias, -bound, bound)

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
            return (0, 0) * len(self.kernel_size)
        if self.padding == "same":
            pairs = same_padding(self.kernel_size, self.dilation)
        else:
            pairs = tuple((size, size) for size in self.padding)
        return tuple(size for pair in reversed(pairs) for size in pair)


class _DirectConvNd(_ConvNd):
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

    Attributes and errors are those of :class:`_ConvNd`.
    """

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
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        rank = self._rank
        super().__init__(
            in_channels,
            out_channels,
            ntuple(kernel_size, rank, "kernel_size"),
            ntuple(stride, rank, "stride"),
            padding if isinstance(padding, str) else ntuple(padding, rank, "padding"),
            ntuple(dilation, rank, "dilation"),
            False,
            (0,) * rank,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Array) -> Array:
        """Convolve ``input``."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Array, weight: Any, bias: Any) -> Array:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return conv_nd(input, weight, bias, self.stride, padding, self.dilation, self.groups, rank=self._rank)


class _ConvTransposeNd(_ConvNd):
    r"""Shared body of :class:`ConvTranspose1d`, :class:`ConvTranspose2d` and :class:`ConvTranspose3d`.

    The transpose of :class:`Conv1d` and its siblings with the same settings, also known as fractionally strided
    convolution (Zeiler et al., 2010, *Deconvolutional Networks*).

    .. math:: y_{n,o,s t + d k} = b_o + \sum_{i} x_{n,i,t}\, w_{i,o,k}

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: size of the kernel, per axis or one for all.
        stride: distance between the kernels in the output.
        padding: elements cropped from both ends of each axis of the output.
        output_padding: elements added to the far end of each axis; less than the stride or the dilation.
        groups: number of blocks that the channels are split into.
        bias: whether to add a learnable bias to each channel.
        dilation: distance between the kernel's elements.
        padding_mode: only ``'zeros'``.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Attributes and errors are those of :class:`_ConvNd`.
    """

    padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f'Only "zeros" padding mode is supported for {type(self).__name__}, got padding_mode={padding_mode!r}'
            )
        rank = self._rank
        super().__init__(
            in_channels,
            out_channels,
            ntuple(kernel_size, rank, "kernel_size"),
            ntuple(stride, rank, "stride"),
            ntuple(padding, rank, "padding"),
            ntuple(dilation, rank, "dilation"),
            True,
            ntuple(output_padding, rank, "output_padding"),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Array, output_size: Sequence[int] | None = None) -> Array:
        """Transpose the convolution; ``output_size`` (with or without leading axes) overrides ``output_padding``."""
        stride, padding, dilation = self.stride, self.padding, self.dilation
        extra = self._output_padding(input, output_size, stride, padding, self.kernel_size, self._rank, dilation)
        settings = stride, padding, extra, self.groups, dilation
        return conv_transpose_nd(input, self.weight, self.bias, *settings, rank=self._rank)

    def _output_padding(
        self,
        input: Array,
        output_size: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        kernel_size: Sequence[int],
        num_spatial_dims: int,
        dilation: Sequence[int] | None = None,
    ) -> Sequence[int]:
        if output_size is None:
            return self.output_padding
        shape, rank = as_array(input).shape, num_spatial_dims
        leading = 2 if len(shape) == rank + 2 else 1
        if len(output_size) not in (rank, leading + rank):
            raise ValueError(
                f"ConvTranspose{rank}D: for {len(shape)}D input, output_size must have {rank} or {leading + rank}"
                f" elements (got {len(output_size)})"
            )
        output_size = output_size[-rank:]
        axes = zip(shape[leading:], stride, padding, kernel_size, dilation or (1,) * rank, strict=False)
        lowest = [(size - 1) * s - 2 * p + d * (k - 1) + 1 for size, s, p, k, d in axes]
        highest = [size + s - 1 for size, s in zip(lowest, stride, strict=True)]
        if not all(low <= size <= high for low, size, high in zip(lowest, output_size, highest, strict=True)):
            raise ValueError(
                f"requested an output size of {output_size}, but valid sizes range"
                f" from {lowest} to {highest} (for an input of {list(shape[leading:])})"
            )
        return [size - low for size, low in zip(output_size, lowest, strict=True)]


class Conv1d(_DirectConvNd):
    """Convolve signals; arguments are those of :class:`_DirectConvNd`.

    Shape:
        ``(N, C_in, L) -> (N, C_out, L_out)`` or ``(C_in, L) -> (C_out, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 24)
    """

    _rank = 1


class Conv2d(_DirectConvNd):
    """Convolve images; arguments are those of :class:`_DirectConvNd`.

    Shape:
        ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)`` or ``(C_in, H, W) -> (C_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv2d(3, 8, 3, padding="same")(jnp.ones((2, 3, 5, 5))).shape
        (2, 8, 5, 5)
    """

    _rank = 2


class Conv3d(_DirectConvNd):
    """Convolve volumes; arguments are those of :class:`_DirectConvNd`.

    Shape:
        ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Conv3d(2, 4, (1, 3, 3))(jnp.ones((1, 2, 5, 5, 5))).shape
        (1, 4, 5, 3, 3)
    """

    _rank = 3


class ConvTranspose1d(_ConvTransposeNd):
    """Transpose a convolution of signals; arguments are those of :class:`_ConvTransposeNd`.

    Shape:
        ``(N, C_in, L) -> (N, C_out, L_out)`` or ``(C_in, L) -> (C_out, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConvTranspose1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 6)), output_size=[14]).shape
        (20, 33, 14)
    """

    _rank = 1


class ConvTranspose2d(_ConvTransposeNd):
    """Transpose a convolution of images; arguments are those of :class:`_ConvTransposeNd`.

    Shape:
        ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)`` or ``(C_in, H, W) -> (C_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(jnp.ones((2, 3, 5, 5))).shape
        (2, 8, 10, 10)
    """

    _rank = 2


class ConvTranspose3d(_ConvTransposeNd):
    """Transpose a convolution of volumes; arguments are those of :class:`_ConvTransposeNd`.

    Shape:
        ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConvTranspose3d(2, 4, (1, 3, 3))(jnp.ones((1, 2, 3, 3, 3))).shape
        (1, 4, 3, 5, 5)
    """

    _rank = 3


class _LazyConvNd(LazyModuleMixin, _ConvNd):
    """Let a convolution find ``in_channels`` from the first input; see :class:`LazyModuleMixin`."""

    weight: Any
    bias: Any

    def reset_parameters(self) -> None:
        """Draw new values, once there are shapes."""
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Array, *args: Any, **kwargs: Any) -> None:
        """Take ``in_channels`` from ``input``.

        Raises:
            RuntimeError: if ``input`` has a wrong number of axes.
            ValueError: if ``groups`` does not divide its channels.
        """
        if not self.has_uninitialized_params():
            return
        channels = self._get_in_channels(input)
        if channels % self.groups != 0:
            raise ValueError(f"in_channels must be divisible by groups, got {channels} and {self.groups}")
        self.in_channels = channels
        ends = (channels, self.out_channels) if self.transposed else (self.out_channels, channels)
        self.weight.materialize((ends[0], ends[1] // self.groups, *self.kernel_size))
        if self.bias is not None:
            self.bias.materialize((self.out_channels,))
        self.reset_parameters()

    def _await_shapes(self, out_channels: int, bias: bool, device: Any, dtype: DType | None) -> None:
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_channels = out_channels
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def _get_in_channels(self, input: Array) -> int:
        rank = self._get_num_spatial_dims()
        if len(input.shape) not in (rank + 1, rank + 2):
            raise RuntimeError(
                f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {type(self).__name__}, but got"
                f" input of size: {list(input.shape)}"
            )
        return input.shape[-rank - 1]

    def _get_num_spatial_dims(self) -> int:
        return self._rank


class _LazyDirectConvNd(_LazyConvNd):
    """Settings of the lazy convolutions; those of :class:`Conv1d` without ``in_channels``."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same", "valid"] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(0, 0, kernel_size, stride, padding, dilation, groups, False, padding_mode)
        self._await_shapes(out_channels, bias, device, dtype)


class _LazyConvTransposeNd(_LazyConvNd):
    """Settings of the lazy transposed convolutions; those of :class:`ConvTranspose1d` without ``in_channels``."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(0, 0, kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        self._await_shapes(out_channels, bias, device, dtype)


class LazyConv1d(_LazyDirectConvNd, Conv1d):
    """A :class:`Conv1d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, L) -> (N, C_out, L_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConv1d(4, 3)(jnp.ones((2, 3, 9))).shape
        (2, 4, 7)
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyDirectConvNd, Conv2d):
    """A :class:`Conv2d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConv2d(4, 3)(jnp.ones((2, 3, 9, 9))).shape
        (2, 4, 7, 7)
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyDirectConvNd, Conv3d):
    """A :class:`Conv3d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConv3d(4, 3)(jnp.ones((2, 3, 5, 5, 5))).shape
        (2, 4, 3, 3, 3)
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTransposeNd, ConvTranspose1d):
    """A :class:`ConvTranspose1d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, L) -> (N, C_out, L_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConvTranspose1d(4, 3)(jnp.ones((2, 3, 9))).shape
        (2, 4, 11)
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTransposeNd, ConvTranspose2d):
    """A :class:`ConvTranspose2d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, H, W) -> (N, C_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConvTranspose2d(4, 3)(jnp.ones((2, 3, 9, 9))).shape
        (2, 4, 11, 11)
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTransposeNd, ConvTranspose3d):
    """A :class:`ConvTranspose3d` that finds ``in_channels`` from the first input.

    Shape:
        ``(N, C_in, D, H, W) -> (N, C_out, D_out, H_out, W_out)``, or both without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyConvTranspose3d(4, 3)(jnp.ones((2, 3, 5, 5, 5))).shape
        (2, 4, 7, 7, 7)
    """

    cls_to_become = ConvTranspose3d
