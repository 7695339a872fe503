"""Distance layers."""

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class PairwiseDistance(Module):
    """Compute distances between vectors, see :func:`~jaxmodules.nn.functional.pairwise_distance`.

    Args:
        p: the exponent of the norm; the attribute is called ``norm``.
        eps: added to every difference.
        keepdim: whether to keep the last axis, with size 1.

    Shape:
        ``(*, D), (*, D) -> (*)``, or ``(*, 1)`` with ``keepdim``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.PairwiseDistance()(jnp.ones((100, 128)), jnp.zeros((100, 128))).shape
        (100,)
    """

    norm: float
    eps: float
    keepdim: bool

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Array, x2: Array) -> Array:
        """Compute the distances between ``x1`` and ``x2``."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """Compute cosines of angles between vectors, see :func:`~jaxmodules.nn.functional.cosine_similarity`.

    Args:
        dim: the axis of the vectors.
        eps: the smallest length to divide by.

    Shape:
        ``(*, D, *), (*, D, *) -> (*, *)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CosineSimilarity(dim=1)(jnp.ones((100, 128)), jnp.ones((100, 128))).shape
        (100,)
    """

    dim: int
    eps: float

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Array, x2: Array) -> Array:
        """Compute the similarities of ``x1`` and ``x2``."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)
