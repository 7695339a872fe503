"""Activation layers."""

from collections.abc import Callable
from typing import Any, ClassVar

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init as initialisers
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class _Elementwise(Module):
    """An activation without settings; subclasses name their function."""

    _function: ClassVar[Callable[..., Array]]

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return self._function(input)


class ReLU(Module):
    """Apply :func:`~jaxmodules.nn.functional.relu` to every element.

    Args:
        inplace: accepted for PyTorch's sake; the result is always new.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    inplace: bool

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return F.relu(input, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Show ``inplace`` where it is set."""
        return "inplace=True" if self.inplace else ""


class Sigmoid(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.sigmoid` to every element."""

    _function = staticmethod(F.sigmoid)


class Tanh(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.tanh` to every element."""

    _function = staticmethod(F.tanh)


class LeakyReLU(Module):
    """Apply :func:`~jaxmodules.nn.functional.leaky_relu` to every element.

    Args:
        negative_slope: the slope left of zero.
        inplace: accepted for PyTorch's sake; the result is always new.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LeakyReLU(0.5)(jnp.array([-2.0, 2.0])).tolist()
        [-1.0, 2.0]
    """

    negative_slope: float
    inplace: bool

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"negative_slope={self.negative_slope}{', inplace=True' if self.inplace else ''}"


class PReLU(Module):
    """Apply :func:`~jaxmodules.nn.functional.prelu` with learnable slopes left of zero.

    Args:
        num_parameters: one slope for all channels, or one per channel (axis 1).
        init: the slope at first.
        device: where the slopes live.
        dtype: type of the slopes, ``float32`` by default.

    Shape:
        ``(N, C, *) -> (N, C, *)``

    Attributes:
        weight: ``(num_parameters,)``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.PReLU()(jnp.array([-2.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    num_parameters: int
    init: float
    weight: Parameter

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(blank((num_parameters,), dtype))
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_parameters(self) -> None:
        """Set every slope back to ``init``."""
        initialisers.constant_(self.weight, self.init)

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Show the number of slopes."""
        return f"num_parameters={self.num_parameters}"


class Softmax(Module):
    """Turn scores into probabilities along one axis, see :func:`~jaxmodules.nn.functional.softmax`.

    Args:
        dim: the axis that sums to 1. Leaving it out is deprecated, as in PyTorch.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Softmax(dim=1)(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    dim: int | None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply softmax to ``input``."""
        return F.softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        """Show the axis."""
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """Compute the logarithm of :class:`Softmax` without overflow; arguments are the same."""

    dim: int | None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply log-softmax to ``input``."""
        return F.log_softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        """Show the axis."""
        return f"dim={self.dim}"
