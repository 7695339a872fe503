"""Linear layers."""

import math
from typing import Any

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class Identity(Module):
    """Return the input as it is, whatever the constructor was given.

    Examples:
        >>> from jaxmodules import nn
        >>> nn.Identity(54, unused=True)(3)
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Array) -> Array:
        """Return ``input``."""
        return input


class Linear(Module):
    r"""Apply an affine map to the last axis.

    .. math:: y = x A^T + b

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether to add a learnable :math:`b`.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(*, in_features) -> (*, out_features)``

    Attributes:
        weight: ``(out_features, in_features)``, drawn from :math:`U(-\sqrt{k}, \sqrt{k})`, :math:`k = 1 / in`.
        bias: ``(out_features,)``, drawn from the same.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Linear(20, 30)(jnp.ones((128, 20))).shape
        (128, 30)
    """

    in_features: int
    out_features: int
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(blank((out_features, in_features), dtype))
        self.register_parameter("bias", Parameter(blank((out_features,), dtype)) if bias else None)
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Array) -> Array:
        """Apply the map to ``input``."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    r"""Apply a bilinear map to the last axes of two arrays.

    .. math:: y = x_1^T A x_2 + b

    Args:
        in1_features: size of the last axis of the first input.
        in2_features: size of the last axis of the second input.
        out_features: size of the last axis of the output.
        bias: whether to add a learnable :math:`b`.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(*, in1_features), (*, in2_features) -> (*, out_features)``

    Attributes:
        weight: ``(out_features, in1_features, in2_features)``, drawn from :math:`U(-\sqrt{k}, \sqrt{k})`,
            :math:`k = 1 / in_1`.
        bias: ``(out_features,)``, drawn from the same.

    Raises:
        ValueError: if ``in1_features`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Bilinear(20, 30, 40)(jnp.ones((128, 20)), jnp.ones((128, 30))).shape
        (128, 40)
    """

    in1_features: int
    in2_features: int
    out_features: int
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = Parameter(blank((out_features, in1_features, in2_features), dtype))
        self.register_parameter("bias", Parameter(blank((out_features,), dtype)) if bias else None)
        self.reset_parameters()
        if device is not None:
            self.to(device)

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        if self.in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got (in1_features={self.in1_features})")
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Array, input2: Array) -> Array:
        """Apply the map to both inputs."""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
