"""Layers that trade channels for resolution."""

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class PixelShuffle(Module):
    """Spread channels over blocks of pixels (Shi et al., 2016, `arXiv:1609.05158`).

    Args:
        upscale_factor: side of the blocks, ``r``.

    Shape:
        ``(*, C * r * r, H, W) -> (*, C, H * r, W * r)``

    Raises:
        RuntimeError: on a call, if the channels are not a multiple of ``r * r``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape
        (1, 1, 12, 12)
    """

    upscale_factor: int

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Array) -> Array:
        """Shuffle ``input``."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Gather blocks of pixels in channels: the inverse of :class:`PixelShuffle`.

    Args:
        downscale_factor: side of the blocks, ``r``.

    Shape:
        ``(*, C, H * r, W * r) -> (*, C * r * r, H, W)``

    Raises:
        RuntimeError: on a call, if height or width is not a multiple of ``r``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.PixelUnshuffle(3)(jnp.ones((1, 1, 12, 12))).shape
        (1, 9, 4, 4)
    """

    downscale_factor: int

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Array) -> Array:
        """Unshuffle ``input``."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"downscale_factor={self.downscale_factor}"
