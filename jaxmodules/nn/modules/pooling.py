"""Pooling layers."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module

_Sizes = int | Sequence[int]


class _MaxPoolNd(Module):
    """Shared body of the max-pooling layers; subclasses name their function.

    Args:
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: minus infinities at both ends of each axis, at most half a window.
        dilation: distance between the window's elements.
        return_indices: also return where the elements came from, counted through the flattened plane.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
    """

    _function: ClassVar[Callable[..., Any]]

    kernel_size: _Sizes
    stride: _Sizes
    padding: _Sizes
    dilation: _Sizes
    return_indices: bool
    ceil_mode: bool

    def __init__(
        self,
        kernel_size: _Sizes,
        stride: _Sizes | None = None,
        padding: _Sizes = 0,
        dilation: _Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Array) -> Array | tuple[Array, Array]:
        """Pool ``input``."""
        settings = (self.kernel_size, self.stride, self.padding, self.dilation)
        return self._function(input, *settings, ceil_mode=self.ceil_mode, return_indices=self.return_indices)

    def extra_repr(self) -> str:
        """Show the window."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool2d(_MaxPoolNd):
    """Take the largest element of every window of an image; arguments are those of :class:`_MaxPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` or ``(C, H, W) -> (C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MaxPool2d(3, stride=2)(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 15)
    """

    _function = staticmethod(F.max_pool2d)


class _AvgPoolNd(Module):
    """Shared body of the average-pooling layers; what is not common to all ranks is in the subclasses."""

    kernel_size: _Sizes
    stride: _Sizes
    padding: _Sizes
    ceil_mode: bool
    count_include_pad: bool

    def extra_repr(self) -> str:
        """Show the window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPoolNd):
    """Average every window of an image.

    Args:
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: zeros at both ends of each axis, at most half a window.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        count_include_pad: whether the zeros count as elements of the window.
        divisor_override: divide the sum by this instead of the number of elements.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` or ``(C, H, W) -> (C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AvgPool2d((3, 2), stride=(2, 1))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 31)
    """

    divisor_override: int | None

    def __init__(
        self,
        kernel_size: _Sizes,
        stride: _Sizes | None = None,
        padding: _Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Array) -> Array:
        """Pool ``input``."""
        window = (self.kernel_size, self.stride, self.padding)
        return F.avg_pool2d(input, *window, self.ceil_mode, self.count_include_pad, self.divisor_override)


class _AdaptiveAvgPoolNd(Module):
    """Shared body of the adaptive average-pooling layers; subclasses name their function.

    Args:
        output_size: per axis or one for all; ``None`` keeps an axis as it is.
    """

    _function: ClassVar[Callable[..., Any]]

    output_size: int | None | Sequence[int | None]

    def __init__(self, output_size: int | None | Sequence[int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Array) -> Array:
        """Pool ``input``."""
        return self._function(input, self.output_size)

    def extra_repr(self) -> str:
        """Show the size of the output."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Average an image to a given size; arguments are those of :class:`_AdaptiveAvgPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, *output_size)`` or ``(C, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveAvgPool2d((5, None))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 9)
    """

    _function = staticmethod(F.adaptive_avg_pool2d)
