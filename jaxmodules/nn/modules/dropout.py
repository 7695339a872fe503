"""Dropout layers."""

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.functional.dropout import check_probability
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
        check_probability(p)
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


class Dropout1d(_DropoutNd):
    """Zero channels of one spatial axis at random in training, see :func:`~jaxmodules.nn.functional.dropout1d`.

    Shape:
        ``(N, C, L) -> (N, C, L)``, or without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Dropout1d(0.2)(jnp.ones((20, 16, 32))).shape
        (20, 16, 32)
    """

    def forward(self, input: Array) -> Array:
        """Drop channels of ``input`` in training."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """Zero channels of two spatial axes at random in training, see :func:`~jaxmodules.nn.functional.dropout2d`.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Dropout2d(0.2)(jnp.ones((2, 16, 8, 8))).shape
        (2, 16, 8, 8)
    """

    def forward(self, input: Array) -> Array:
        """Drop channels of ``input`` in training."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """Zero channels of three spatial axes at random in training, see :func:`~jaxmodules.nn.functional.dropout3d`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)``, or without ``N``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Dropout3d(0.2)(jnp.ones((2, 16, 4, 8, 8))).shape
        (2, 16, 4, 8, 8)
    """

    def forward(self, input: Array) -> Array:
        """Drop channels of ``input`` in training."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """Saturate elements at random in training, for networks with :class:`SELU`.

    See :func:`~jaxmodules.nn.functional.alpha_dropout`; arguments are those of :class:`_DropoutNd`.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.AlphaDropout(0.2).eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def forward(self, input: Array) -> Array:
        """Saturate elements of ``input`` in training."""
        return F.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_DropoutNd):
    """Saturate whole channels at random in training, as :class:`AlphaDropout` does with elements.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.FeatureAlphaDropout(0.2)(jnp.ones((20, 16, 4, 32, 32))).shape
        (20, 16, 4, 32, 32)
    """

    def forward(self, input: Array) -> Array:
        """Saturate channels of ``input`` in training."""
        return F.feature_alpha_dropout(input, self.p, self.training)
