"""Normalisation layers that need no batch."""

import operator
from collections.abc import Sequence
from typing import Any

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.functional.normalization import cross_map_lrn
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class _ResponseNorm(Module):
    """Shared body of the layers that divide by a power of the mean square of neighbouring channels.

    Args:
        size: number of neighbouring channels.
        alpha: factor of the mean square.
        beta: exponent.
        k: added to the mean square.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class LocalResponseNorm(_ResponseNorm):
    r"""Divide every element by a power of the mean square of its neighbours in other channels.

    .. math:: y_c = x_c \Bigl(k + \frac{\alpha}{n} \sum_{c' = c - \lfloor n/2 \rfloor}^{c + \lfloor (n-1)/2 \rfloor}
              x_{c'}^2\Bigr)^{-\beta}

    Arguments are those of :class:`_ResponseNorm`.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LocalResponseNorm(2)(jnp.ones((32, 5, 24, 24))).shape
        (32, 5, 24, 24)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class CrossMapLRN2d(_ResponseNorm):
    """Normalise as :class:`LocalResponseNorm` does, with the windows of Torch 7, which PyTorch keeps for old models.

    Arguments are those of :class:`_ResponseNorm`.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CrossMapLRN2d(3)(jnp.ones((2, 5, 4, 4))).shape
        (2, 5, 4, 4)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        return cross_map_lrn(input, self.size, self.alpha, self.beta, self.k)


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
        self.normalized_shape = _sizes(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.register_parameter("weight", Parameter(blank(shape, dtype)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(blank(shape, dtype)) if elementwise_affine and bias else None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

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


class GroupNorm(Module):
    r"""Normalise every group of channels of every sample by its mean and variance (Wu and He, 2018).

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Args:
        num_groups: number of groups of consecutive channels.
        num_channels: number of channels, a multiple of ``num_groups``.
        eps: added to the variance.
        affine: whether to scale and shift each channel by learnable parameters.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.
        bias: whether ``affine`` includes the shift.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Attributes:
        weight: the scale, ``(num_channels,)``, ones at first.
        bias: the shift, ``(num_channels,)``, zeros at first.

    Raises:
        ValueError: if ``num_groups`` does not divide ``num_channels``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.GroupNorm(3, 6)(jnp.ones((20, 6, 10, 10))).shape
        (20, 6, 10, 10)
    """

    num_groups: int
    num_channels: int
    eps: float
    affine: bool
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        channels = blank((num_channels,), dtype)
        self.register_parameter("weight", Parameter(channels) if affine else None)
        self.register_parameter("bias", Parameter(channels) if affine and bias else None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to ones and the shift to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    r"""Divide every sample by the root of its mean square over the last axes (Zhang and Sennrich, 2019).

    .. math:: y = \gamma\,\frac{x}{\sqrt{\frac1n \sum_i x_i^2 + \epsilon}}

    Args:
        normalized_shape: sizes of the trailing axes that the mean runs over; an int is one axis.
        eps: added to the mean square; by default the machine epsilon of the type that is computed in.
        elementwise_affine: whether to scale by learnable parameters.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(*, *normalized_shape) -> (*, *normalized_shape)``

    Attributes:
        weight: the scale, of ``normalized_shape``, ones at first.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.RMSNorm([2, 3])(jnp.ones((2, 2, 3))).shape
        (2, 2, 3)
    """

    normalized_shape: tuple[int, ...]
    eps: float | None
    elementwise_affine: bool
    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _sizes(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        weight = Parameter(blank(self.normalized_shape, dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to ones."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, x: Array) -> Array:
        """Normalise ``x``."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


def _sizes(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    return tuple(operator.index(size) for size in sizes)
