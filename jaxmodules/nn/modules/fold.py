"""Layers between images and their sliding blocks."""

from collections.abc import Sequence

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class Fold(Module):
    """Add the blocks in columns up at the places that :class:`Unfold` copied them from.

    Elements of blocks that overlap are summed, so ``fold(unfold(x))`` is ``x`` times the number of blocks at
    each place.

    Args:
        output_size: height and width of the images, or one for both.
        kernel_size: size of the blocks.
        dilation: distance between a block's elements.
        padding: elements at both ends of each axis that are dropped.
        stride: distance between blocks.

    Shape:
        ``(N, C * prod(kernel_size), L) -> (N, C, *output_size)``, or both without ``N``

    Raises:
        RuntimeError: on a call, if the sizes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Fold(output_size=(4, 5), kernel_size=(2, 2))(jnp.ones((1, 3 * 2 * 2, 12))).shape
        (1, 3, 4, 5)
    """

    output_size: int | Sequence[int]
    kernel_size: int | Sequence[int]
    dilation: int | Sequence[int]
    padding: int | Sequence[int]
    stride: int | Sequence[int]

    def __init__(
        self,
        output_size: int | Sequence[int],
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Array) -> Array:
        """Fold ``input``."""
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class Unfold(Module):
    """Copy every block that a sliding kernel sees into a column.

    Args:
        kernel_size: size of the blocks, per axis or one for both.
        dilation: distance between a block's elements.
        padding: zeros at both ends of each axis.
        stride: distance between blocks.

    Shape:
        ``(N, C, H, W) -> (N, C * prod(kernel_size), L)``, ``L`` the number of blocks, or both without ``N``

    Raises:
        RuntimeError: on a call, if the sizes do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Unfold(kernel_size=(2, 3))(jnp.ones((2, 5, 3, 4))).shape
        (2, 30, 4)
    """

    kernel_size: int | Sequence[int]
    dilation: int | Sequence[int]
    padding: int | Sequence[int]
    stride: int | Sequence[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Array) -> Array:
        """Unfold ``input``."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
