"""Linear layers."""

import math
from typing import Any

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init
from jaxmodules.nn.modules.lazy import LazyModuleMixin
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, UninitializedParameter
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
        if device is not None:
            self.to(device)
        self.reset_parameters()

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


class NonDynamicallyQuantizableLinear(Linear):
    """Apply an affine map, as :class:`Linear` does; the output projection of attention has this name in PyTorch.

    Examples:
        >>> NonDynamicallyQuantizableLinear(2, 3)
        NonDynamicallyQuantizableLinear(in_features=2, out_features=3, bias=True)
    """


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
        if device is not None:
            self.to(device)
        self.reset_parameters()

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


class LazyLinear(LazyModuleMixin, Linear):
    """A :class:`Linear` that finds ``in_features`` from the first input; see :class:`LazyModuleMixin`.

    Args:
        out_features: size of the last axis of the output.
        bias: whether to add a learnable bias.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(*, in_features) -> (*, out_features)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> layer = nn.LazyLinear(4)
        >>> layer(jnp.ones((2, 3))).shape
        (2, 4)
        >>> layer
        Linear(in_features=3, out_features=4, bias=True)
    """

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: DType | None = None) -> None:
        super().__init__(0, 0, False)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_features = out_features
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw new values, once there are shapes."""
        if not self.has_uninitialized_params() and self.in_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Array) -> None:
        """Take ``in_features`` from the last axis of ``input``."""
        if self.has_uninitialized_params():
            self.in_features = input.shape[-1]
            self.weight.materialize((self.out_features, self.in_features))
            if self.bias is not None:
                self.bias.materialize((self.out_features,))
            self.reset_parameters()
        if self.in_features == 0:  # the weight came from a state dict
            if input.shape[-1] != self.weight.shape[-1]:
                raise AssertionError(
                    f"The in_features inferred from input: {input.shape[-1]} is not equal to in_features from"
                    f" self.weight: {self.weight.shape[-1]}"
                )
            self.in_features = input.shape[-1]
