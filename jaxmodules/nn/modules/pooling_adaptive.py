"""Pooling layers that give an output of a chosen size."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class _AdaptiveMaxPoolNd(Module):
    """Shared body of the adaptive max-pooling layers; subclasses name their function.

    Args:
        output_size: per axis or one for all; ``None`` keeps an axis of an image or a volume as it is.
        return_indices: also return where the elements came from, counted through the flattened plane.
    """

    _function: ClassVar[Callable[..., Any]]

    output_size: int | None | Sequence[int | None]
    return_indices: bool

    def __init__(self, output_size: int | None | Sequence[int | None], return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Array) -> Array | tuple[Array, Array]:
        """Pool ``input``."""
        return self._function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """Show the size of the output."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """Take the largest elements of a signal, to a given length; arguments are those of :class:`_AdaptiveMaxPoolNd`.

    Shape:
        ``(N, C, L) -> (N, C, output_size)`` or ``(C, L) -> (C, output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveMaxPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """Take the largest elements of an image, to a given size; arguments are those of :class:`_AdaptiveMaxPoolNd`.

    Shape:
        ``(N, C, H, W) -> (N, C, *output_size)`` or ``(C, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveMaxPool2d((5, None))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 9)
    """

    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """Take the largest elements of a volume, to a given size; arguments are those of :class:`_AdaptiveMaxPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, *output_size)`` or ``(C, D, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveMaxPool3d((3, None, 2))(jnp.ones((1, 6, 8, 9, 7))).shape
        (1, 6, 3, 9, 2)
    """

    _function = staticmethod(F.adaptive_max_pool3d)


class _AdaptiveAvgPoolNd(Module):
    """Shared body of the adaptive average-pooling layers; subclasses name their function.

    Args:
        output_size: per axis or one for all; ``None`` keeps an axis of an image or a volume as it is.
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


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Average a signal to a given length; arguments are those of :class:`_AdaptiveAvgPoolNd`.

    Shape:
        ``(N, C, L) -> (N, C, output_size)`` or ``(C, L) -> (C, output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveAvgPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_avg_pool1d)


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


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Average a volume to a given size; arguments are those of :class:`_AdaptiveAvgPoolNd`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, *output_size)`` or ``(C, D, H, W) -> (C, *output_size)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AdaptiveAvgPool3d((3, None, 2))(jnp.ones((1, 6, 8, 9, 7))).shape
        (1, 6, 3, 9, 2)
    """

    _function = staticmethod(F.adaptive_avg_pool3d)
