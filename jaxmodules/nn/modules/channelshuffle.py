"""A layer that rearranges channels."""

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class ChannelShuffle(Module):
    """Interleave groups of channels (Zhang et al., 2017, `arXiv:1707.01083`).

    Args:
        groups: number of blocks that the channels are split into.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Raises:
        RuntimeError: on a call, if ``groups`` does not divide the channels.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ChannelShuffle(2)(jnp.arange(4).reshape(1, 4, 1)).ravel().tolist()
        [0, 2, 1, 3]
    """

    groups: int

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Array) -> Array:
        """Shuffle ``input``."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """Show the number of groups."""
        return f"groups={self.groups}"
