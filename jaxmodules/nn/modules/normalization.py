"""Normalisation layers that need no batch."""

import operator
from collections.abc import Sequence
from typing import Any

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class LayerNorm(Module):
    r"""Normalise every sample by its mean and variance over the last axes.

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Args:
        normalized_shape: sizes of the trailing axes that the statistics run over; an int is one axis.
        eps: added to the variance.
        elementwise_affine: whether to scale and shift by learnable parameters.
        bias: whether ``elementwise_affine`` includes the shift.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(*, *normalized_shape) -> (*, *normalized_shape)``

    Attributes:
        weight: the scale, of ``normalized_shape``, ones at first.
        bias: the shift, of ``normalized_shape``, zeros at first.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LayerNorm([5, 10, 10])(jnp.ones((20, 5, 10, 10))).shape
        (20, 5, 10, 10)
    """

    normalized_shape: tuple[int, ...]
    eps: float
    elementwise_affine: bool
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.normalized_shape = tuple(operator.index(size) for size in sizes)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.register_parameter("weight", Parameter(blank(shape, dtype)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(blank(shape, dtype)) if elementwise_affine and bias else None)
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_parameters(self) -> None:
        """Set the scale to ones and the shift to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )
