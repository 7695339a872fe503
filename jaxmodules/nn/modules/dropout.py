"""Dropout layers."""

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class _DropoutNd(Module):
    """Settings of the dropout layers.

    Args:
        p: probability of an element to be zeroed.
        inplace: accepted for PyTorch's sake; the result is always new.

    Raises:
        ValueError: if ``p`` is not a probability.
    """

    p: float
    inplace: bool

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    r"""Zero elements at random in training, and scale the others by :math:`1 / (1 - p)`.

    Arguments are those of :class:`_DropoutNd`. The random numbers come from the default generator, or from
    the key that a transform binds.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Dropout(0.2).eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def forward(self, input: Array) -> Array:
        """Drop elements of ``input`` in training."""
        return F.dropout(input, self.p, self.training, self.inplace)
