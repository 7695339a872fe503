"""Activation layers."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn import init as initialisers
from jaxmodules.nn.modules.attention import MultiheadAttention as MultiheadAttention
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.random import blank


class _Elementwise(Module):
    """An activation without settings; subclasses name their function."""

    _function: ClassVar[Callable[..., Array]]

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return self._function(input)


class Sigmoid(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.sigmoid` to every element."""

    _function = staticmethod(F.sigmoid)


class Tanh(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.tanh` to every element."""

    _function = staticmethod(F.tanh)


class LogSigmoid(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.logsigmoid` to every element."""

    _function = staticmethod(F.logsigmoid)


class Softsign(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.softsign` to every element."""

    _function = staticmethod(F.softsign)


class Tanhshrink(_Elementwise):
    """Apply :func:`~jaxmodules.nn.functional.tanhshrink` to every element."""

    _function = staticmethod(F.tanhshrink)


class _Inplace(_Elementwise):
    """An activation that PyTorch can compute in place; subclasses name their function.

    Args:
        inplace: accepted for PyTorch's sake; the result is always new.
    """

    inplace: bool

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return self._function(input, inplace=self.inplace)


class Hardsigmoid(_Inplace):
    """Apply :func:`~jaxmodules.nn.functional.hardsigmoid` to every element; see :class:`_Inplace` for the argument."""

    _function = staticmethod(F.hardsigmoid)


class Hardswish(_Inplace):
    """Apply :func:`~jaxmodules.nn.functional.hardswish` to every element; see :class:`_Inplace` for the argument."""

    _function = staticmethod(F.hardswish)


class _ShownInplace(_Inplace):
    def extra_repr(self) -> str:
        """Show ``inplace`` where it is set."""
        return "inplace=True" if self.inplace else ""


class ReLU(_ShownInplace):
    """Apply :func:`~jaxmodules.nn.functional.relu` to every element; see :class:`_Inplace` for the argument.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    _function = staticmethod(F.relu)


class SiLU(_ShownInplace):
    """Apply :func:`~jaxmodules.nn.functional.silu` to every element; see :class:`_Inplace` for the argument."""

    _function = staticmethod(F.silu)


class Mish(_ShownInplace):
    """Apply :func:`~jaxmodules.nn.functional.mish` to every element; see :class:`_Inplace` for the argument."""

    _function = staticmethod(F.mish)


class SELU(_ShownInplace):
    """Apply :func:`~jaxmodules.nn.functional.selu` to every element; see :class:`_Inplace` for the argument."""

    _function = staticmethod(F.selu)


class Threshold(Module):
    """Replace elements by :func:`~jaxmodules.nn.functional.threshold`.

    Args:
        threshold: what an element has to exceed to be kept.
        value: what stands in for the others.
        inplace: accepted for PyTorch's sake; the result is always new.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Threshold(1.0, 20.0)(jnp.array([0.5, 2.0])).tolist()
        [20.0, 2.0]
    """

    threshold: float
    value: float
    inplace: bool

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"threshold={self.threshold}, value={self.value}{_inplace(self)}"


class RReLU(Module):
    """Apply :func:`~jaxmodules.nn.functional.rrelu`, whose slopes are random in training, to every element.

    Args:
        lower: the smallest slope.
        upper: the largest slope.
        inplace: accepted for PyTorch's sake; the result is always new.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.RReLU(0.25, 0.75).eval()(jnp.array([-4.0, 2.0])).tolist()
        [-2.0, 2.0]
    """

    lower: float
    upper: float
    inplace: bool

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"lower={self.lower}, upper={self.upper}{_inplace(self)}"


class Hardtanh(Module):
    """Cut elements off by :func:`~jaxmodules.nn.functional.hardtanh`.

    Args:
        min_val: the smallest value of the result.
        max_val: the largest value of the result.
        inplace: accepted for PyTorch's sake; the result is always new.
        min_value: deprecated, see ``min_val``.
        max_value: deprecated, see ``max_val``.

    Shape:
        ``(*) -> (*)``

    Raises:
        AssertionError: if ``max_val`` is not above ``min_val``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Hardtanh(-2.0, 2.0)(jnp.array([-3.0, 0.5])).tolist()
        [-2.0, 0.5]
    """

    min_val: float
    max_val: float
    inplace: bool

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__()
        for old, given in (("min", min_value), ("max", max_value)):
            if given is not None:
                warnings.warn(
                    f"keyword argument `{old}_value` is deprecated and renamed to `{old}_val`",
                    FutureWarning,
                    stacklevel=2,
                )
        self.min_val = min_val if min_value is None else min_value
        self.max_val = max_val if max_value is None else max_value
        self.inplace = inplace
        if self.max_val <= self.min_val:
            raise AssertionError(f"max_val ({self.max_val}) must be greater than min_val ({self.min_val})")

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"min_val={self.min_val}, max_val={self.max_val}{_inplace(self)}"


class ReLU6(Hardtanh):
    """Cut elements off at 0 and 6; see :class:`_Inplace` for the argument."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """Show ``inplace`` where it is set."""
        return "inplace=True" if self.inplace else ""


class _Exponential(_Elementwise):
    """An activation that is exponential left of zero; subclasses name their function.

    Args:
        alpha: the limit far left of zero, negated.
        inplace: accepted for PyTorch's sake; the result is always new.
    """

    alpha: float
    inplace: bool

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return self._function(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"alpha={self.alpha}{_inplace(self)}"


class ELU(_Exponential):
    """Apply :func:`~jaxmodules.nn.functional.elu` to every element; arguments are those of :class:`_Exponential`."""

    _function = staticmethod(F.elu)


class CELU(_Exponential):
    """Apply :func:`~jaxmodules.nn.functional.celu` to every element; arguments are those of :class:`_Exponential`."""

    _function = staticmethod(F.celu)


class GLU(Module):
    """Gate one half of an axis by the other, see :func:`~jaxmodules.nn.functional.glu`.

    Args:
        dim: the axis to split, of even size.

    Shape:
        ``(*, N, *) -> (*, N / 2, *)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.GLU()(jnp.ones((4, 2))).shape
        (4, 1)
    """

    dim: int

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Show the axis."""
        return f"dim={self.dim}"


class GELU(Module):
    """Apply :func:`~jaxmodules.nn.functional.gelu` to every element.

    Args:
        approximate: ``'none'`` or ``'tanh'``.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> from jaxmodules import nn
        >>> nn.GELU()(0.0).item()
        0.0
    """

    approximate: str

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Show the approximation."""
        return f"approximate={self.approximate!r}"


class _Shrink(_Elementwise):
    """An activation that is zero around zero; subclasses name their function.

    Args:
        lambd: the largest magnitude that becomes zero.
    """

    lambd: float

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return self._function(input, self.lambd)

    def extra_repr(self) -> str:
        """Show the setting."""
        return str(self.lambd)


class Hardshrink(_Shrink):
    """Apply :func:`~jaxmodules.nn.functional.hardshrink` to every element; see :class:`_Shrink` for the argument."""

    _function = staticmethod(F.hardshrink)


class Softshrink(_Shrink):
    """Apply :func:`~jaxmodules.nn.functional.softshrink` to every element; see :class:`_Shrink` for the argument."""

    _function = staticmethod(F.softshrink)


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
        return f"negative_slope={self.negative_slope}{_inplace(self)}"


class Softplus(Module):
    """Apply :func:`~jaxmodules.nn.functional.softplus` to every element.

    Args:
        beta: how sharp the turn at zero is.
        threshold: where ``beta * input`` is above it, the input is returned.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Softplus()(jnp.array([-200.0, 200.0])).tolist()
        [0.0, 200.0]
    """

    beta: float
    threshold: float

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Array) -> Array:
        """Apply the function to every element of ``input``."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"beta={self.beta}, threshold={self.threshold}"


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
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every slope back to ``init``."""
        initialisers.constant_(self.weight, self.init)

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Show the number of slopes."""
        return f"num_parameters={self.num_parameters}"


class _Shares(_Elementwise):
    """A function along one axis; subclasses name it.

    Args:
        dim: the axis. Leaving it out is deprecated, as in PyTorch.
    """

    dim: int | None = None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        return self._function(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        """Show the axis."""
        return f"dim={self.dim}"


class Softmax(_Shares):
    """Turn scores into probabilities along one axis, see :func:`~jaxmodules.nn.functional.softmax`.

    The argument is that of :class:`_Shares`.

    Shape:
        ``(*) -> (*)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Softmax(dim=1)(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    _function = staticmethod(F.softmax)


class Softmin(_Shares):
    """Apply :class:`Softmax` to the negated scores; the argument is the same."""

    _function = staticmethod(F.softmin)


class LogSoftmax(_Shares):
    """Compute the logarithm of :class:`Softmax` without overflow; the argument is the same."""

    _function = staticmethod(F.log_softmax)


class Softmax2d(Module):
    """Apply :class:`Softmax` to the channels at each place.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``, or without ``N``

    Raises:
        ValueError: if the input has another number of axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Softmax2d()(jnp.zeros((2, 1, 1))).tolist()
        [[[0.5]], [[0.5]]]
    """

    def forward(self, input: Array) -> Array:
        """Apply the function to ``input``."""
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.ndim}D instead")
        return F.softmax(input, -3, _stacklevel=5)


def _inplace(module: Any) -> str:
    return ", inplace=True" if module.inplace else ""
