"""Pooling layers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveAvgPool3d as AdaptiveAvgPool3d
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from jaxmodules.nn.modules.pooling_adaptive import AdaptiveMaxPool3d as AdaptiveMaxPool3d

_Sizes = int | Sequence[int]
_Ratios = float | Sequence[float]


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


class MaxPool1d(_MaxPoolNd):
    """Take the largest element of every window of a signal; arguments are those of :class:`_MaxPoolNd`.

    Shape:
        ``(N, C, L) -> (N, C, L_out)`` or ``(C, L) -> (C, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MaxPool1d(3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 16, 24)
    """

    _function = staticmethod(F.max_pool1d)


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


class MaxPool3d(_MaxPoolNd):
    """Take the largest element of every window of a volume; arguments are those of :class:`_MaxPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)`` or ``(C, D, H, W) -> (C, D_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.MaxPool3d((3, 2, 2), stride=(2, 1, 2))(jnp.ones((2, 3, 10, 9, 8))).shape
        (2, 3, 4, 8, 4)
    """

    _function = staticmethod(F.max_pool3d)


class _MaxUnpoolNd(Module):
    """Shared body of the layers that undo max pooling; subclasses give rank and function.

    Args:
        kernel_size: size of the window that was pooled with, per axis or one for all.
        stride: its step; ``kernel_size`` by default.
        padding: its padding.
    """

    _rank: ClassVar[int]
    _function: ClassVar[Callable[..., Array]]

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __init__(self, kernel_size: _Sizes, stride: _Sizes | None = None, padding: _Sizes = 0) -> None:
        super().__init__()
        self.kernel_size = _repeated(kernel_size, self._rank)
        self.stride = _repeated(stride if stride is not None else kernel_size, self._rank)
        self.padding = _repeated(padding, self._rank)

    def forward(self, input: Array, indices: Array, output_size: Sequence[int] | None = None) -> Array:
        """Put the elements of ``input`` back to their ``indices``, in an array of zeros of ``output_size``."""
        return self._function(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        """Show the window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    """Put the elements of a pooled signal back; arguments are those of :class:`_MaxUnpoolNd`.

    Shape:
        ``(N, C, L), (N, C, L) -> (N, C, L_out)`` or ``(C, L), (C, L) -> (C, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> values, indices = nn.MaxPool1d(2, return_indices=True)(jnp.array([[1.0, 2.0, 4.0, 3.0]]))
        >>> nn.MaxUnpool1d(2)(values, indices).tolist()
        [[0.0, 2.0, 4.0, 0.0]]
    """

    _rank = 1
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpoolNd):
    """Put the elements of a pooled image back; arguments are those of :class:`_MaxUnpoolNd`.

    Shape:
        ``(N, C, H, W), (N, C, H, W) -> (N, C, H_out, W_out)`` or the same without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> values, indices = nn.MaxPool2d(2, return_indices=True)(jnp.ones((1, 3, 7, 6)))
        >>> nn.MaxUnpool2d(2)(values, indices, output_size=(7, 6)).shape
        (1, 3, 7, 6)
    """

    _rank = 2
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpoolNd):
    """Put the elements of a pooled volume back; arguments are those of :class:`_MaxUnpoolNd`.

    Shape:
        ``(N, C, D, H, W), (N, C, D, H, W) -> (N, C, D_out, H_out, W_out)`` or the same without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> values, indices = nn.MaxPool3d(3, stride=2, return_indices=True)(jnp.ones((1, 3, 5, 7, 5)))
        >>> nn.MaxUnpool3d(3, stride=2)(values, indices).shape
        (1, 3, 5, 7, 5)
    """

    _rank = 3
    _function = staticmethod(F.max_unpool3d)


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


class AvgPool1d(_AvgPoolNd):
    """Average every window of a signal.

    Args:
        kernel_size: size of the window.
        stride: step of the window; ``kernel_size`` by default.
        padding: zeros at both ends, at most half a window.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        count_include_pad: whether the zeros count as elements of the window.

    Shape:
        ``(N, C, L) -> (N, C, L_out)`` or ``(C, L) -> (C, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AvgPool1d(3, stride=2)(jnp.arange(1.0, 8.0).reshape(1, 7)).tolist()
        [[2.0, 4.0, 6.0]]
    """

    def __init__(
        self,
        kernel_size: _Sizes,
        stride: _Sizes | None = None,
        padding: _Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = _repeated(kernel_size, 1)
        self.stride = _repeated(stride if stride is not None else kernel_size, 1)
        self.padding = _repeated(padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Array) -> Array:
        """Pool ``input``."""
        window = (self.kernel_size, self.stride, self.padding)
        return F.avg_pool1d(input, *window, self.ceil_mode, self.count_include_pad)


class _DividingAvgPoolNd(_AvgPoolNd):
    """Shared body of the average-pooling layers of images and volumes; subclasses name their function.

    Args:
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        padding: zeros at both ends of each axis, at most half a window.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
        count_include_pad: whether the zeros count as elements of the window.
        divisor_override: divide the sum by this instead of the number of elements.
    """

    _function: ClassVar[Callable[..., Array]]

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
        return self._function(input, *window, self.ceil_mode, self.count_include_pad, self.divisor_override)


class AvgPool2d(_DividingAvgPoolNd):
    """Average every window of an image; arguments are those of :class:`_DividingAvgPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` or ``(C, H, W) -> (C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AvgPool2d((3, 2), stride=(2, 1))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 31)
    """

    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_DividingAvgPoolNd):
    """Average every window of a volume; arguments are those of :class:`_DividingAvgPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)`` or ``(C, D, H, W) -> (C, D_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AvgPool3d((3, 2, 2), stride=(2, 1, 2))(jnp.ones((2, 3, 10, 9, 8))).shape
        (2, 3, 4, 8, 4)
    """

    _function = staticmethod(F.avg_pool3d)


class _FractionalMaxPoolNd(Module):
    """Shared body of the layers that take maxima of random windows; subclasses give rank and function.

    Args:
        kernel_size: size of the window, per axis or one for all.
        output_size: number of windows, per axis or one for all.
        output_ratio: the same, in parts of the input's size, between 0 and 1; give one of the two.
        return_indices: also return where the elements came from, counted through the flattened plane.
        _random_samples: use these random numbers, ``(N, C, rank)``, for every call.

    Raises:
        ValueError: if not exactly one of ``output_size`` and ``output_ratio`` is given, or one is out of range.
    """

    _rank: ClassVar[int]
    _function: ClassVar[Callable[..., Any]]

    kernel_size: tuple[int, ...]
    return_indices: bool
    output_size: tuple[int, ...] | None
    output_ratio: tuple[float, ...] | None
    _random_samples: Array | None

    def __init__(
        self,
        kernel_size: _Sizes,
        output_size: _Sizes | None = None,
        output_ratio: _Ratios | None = None,
        return_indices: bool = False,
        _random_samples: Array | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = _repeated(kernel_size, self._rank)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else _repeated(output_size, self._rank)
        self.output_ratio = None if output_ratio is None else _repeated(output_ratio, self._rank)
        if self._rank == 3 and min(self.kernel_size) <= 0:
            raise ValueError(f"kernel_size must be greater than 0, but got {kernel_size}")
        if output_size is None and output_ratio is None:
            raise ValueError(f"{type(self).__name__} requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError("only one of output_size and output_ratio may be specified")
        if self.output_ratio is not None and not all(0 < ratio < 1 for ratio in self.output_ratio):
            raise ValueError(f"output_ratio must be between 0 and 1 (got {output_ratio})")

    def forward(self, input: Array) -> Array | tuple[Array, Array]:
        """Pool ``input``, with other windows at every call."""
        settings = (self.kernel_size, self.output_size, self.output_ratio, self.return_indices)
        return self._function(input, *settings, _random_samples=self._random_samples)


class FractionalMaxPool2d(_FractionalMaxPoolNd):
    """Take the largest elements of random windows of an image; arguments are those of :class:`_FractionalMaxPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, *output_size)`` or ``(C, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.FractionalMaxPool2d(3, output_ratio=(0.5, 0.6))(jnp.ones((2, 3, 10, 9))).shape
        (2, 3, 5, 5)
    """

    _rank = 2
    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPoolNd):
    """Take the largest elements of random windows of a volume; arguments are those of :class:`_FractionalMaxPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, *output_size)`` or ``(C, D, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.FractionalMaxPool3d(2, output_size=(5, 4, 3))(jnp.ones((2, 3, 10, 9, 8))).shape
        (2, 3, 5, 4, 3)
    """

    _rank = 3
    _function = staticmethod(F.fractional_max_pool3d)


class _LPPoolNd(Module):
    """Shared body of the layers that take the p-norm of every window; subclasses name their function.

    Args:
        norm_type: the power; infinities take the largest and the smallest magnitude.
        kernel_size: size of the window, per axis or one for all.
        stride: step of the window; ``kernel_size`` by default.
        ceil_mode: also use the last window that does not fit in, as long as it starts inside.
    """

    _function: ClassVar[Callable[..., Array]]

    norm_type: float
    kernel_size: _Sizes
    stride: _Sizes | None
    ceil_mode: bool

    def __init__(
        self, norm_type: float, kernel_size: _Sizes, stride: _Sizes | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Array) -> Array:
        """Pool ``input``."""
        return self._function(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        """Show the norm and the window."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPoolNd):
    """Take the p-norm of every window of a signal; arguments are those of :class:`_LPPoolNd`.

    Shape:
        ``(N, C, L) -> (N, C, L_out)`` or ``(C, L) -> (C, L_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LPPool1d(2, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 16, 24)
    """

    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPoolNd):
    """Take the p-norm of every window of an image; arguments are those of :class:`_LPPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)`` or ``(C, H, W) -> (C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LPPool2d(1.2, (3, 2), stride=(2, 1))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 31)
    """

    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPoolNd):
    """Take the p-norm of every window of a volume; arguments are those of :class:`_LPPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D_out, H_out, W_out)`` or ``(C, D, H, W) -> (C, D_out, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LPPool3d(2, 2)(jnp.ones((2, 3, 10, 9, 8))).shape
        (2, 3, 5, 4, 4)
    """

    _function = staticmethod(F.lp_pool3d)


def _repeated(value: Any, rank: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Iterable) else (value,) * rank
