"""Padding layers."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class _PadNd(Module):
    """Shared body of all layers that pad; ``_rank`` counts the axes padded.

    Args:
        padding: elements to add to each end, one number for all, or
            ``(left, right)``, ``(left, right, top, bottom)`` or ``(left, right, top, bottom, front, back)``;
            negative numbers crop.

    Raises:
        RuntimeError: on a call, if a size is too large for the mode or crops more than there is.
        NotImplementedError: on a call, if the mode can't pad an input with so many axes.
    """

    _rank: ClassVar[int]

    padding: tuple[int, ...]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = _repeat(padding, 2 * self._rank)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    """Pad with the other end of the input; arguments are those of :class:`_PadNd`.

    Raises:
        ValueError: on a call, if the input has not one or two axes more than are padded.
    """

    def forward(self, input: Array) -> Array:
        """Pad ``input``."""
        self._check_input_dim(input)
        return F.pad(input, self.padding, "circular")

    def _check_input_dim(self, input: Array) -> None:
        ndim, rank = as_array(input).ndim, self._rank
        if ndim not in (rank + 1, rank + 2):
            raise ValueError(f"expected {rank + 1}D or {rank + 2}D input (got {ndim}D input)")


class _ConstantPadNd(_PadNd):
    """Pad with one value.

    Args:
        padding: see :class:`_PadNd`.
        value: what to pad with.
    """

    value: float

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Array) -> Array:
        """Pad ``input``."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """Show the sizes and the value."""
        return f"padding={self.padding}, value={self.value}"


class _ReflectionPadNd(_PadNd):
    """Pad with the input mirrored at its first and last elements; arguments are those of :class:`_PadNd`."""

    def forward(self, input: Array) -> Array:
        """Pad ``input``."""
        return F.pad(input, self.padding, "reflect")


class _ReplicationPadNd(_PadNd):
    """Pad with the first and last elements; arguments are those of :class:`_PadNd`."""

    def forward(self, input: Array) -> Array:
        """Pad ``input``."""
        return F.pad(input, self.padding, "replicate")


class _ZeroPadNd(_ConstantPadNd):
    """Pad with zeros; arguments are those of :class:`_PadNd`."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.padding}"


class CircularPad1d(_CircularPadNd):
    """Pad signals with their other end; arguments are those of :class:`_CircularPadNd`.

    Shape:
        ``(*, W) -> (*, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CircularPad1d(1)(jnp.arange(3.0)[None]).tolist()
        [[2.0, 0.0, 1.0, 2.0, 0.0]]
    """

    _rank = 1


class CircularPad2d(_CircularPadNd):
    """Pad images with their other end; arguments are those of :class:`_CircularPadNd`.

    Shape:
        ``(*, H, W) -> (*, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CircularPad2d((1, 1, 2, 0))(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 6, 6)
    """

    _rank = 2


class CircularPad3d(_CircularPadNd):
    """Pad volumes with their other end; arguments are those of :class:`_CircularPadNd`.

    Shape:
        ``(*, D, H, W) -> (*, D + front + back, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.CircularPad3d(1)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 6, 6, 6)
    """

    _rank = 3


class ConstantPad1d(_ConstantPadNd):
    """Pad signals with one value; arguments are those of :class:`_ConstantPadNd`.

    Shape:
        ``(*, W) -> (*, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConstantPad1d((2, 0), 3.5)(jnp.zeros((1, 1))).tolist()
        [[3.5, 3.5, 0.0]]
    """

    _rank = 1


class ConstantPad2d(_ConstantPadNd):
    """Pad images with one value; arguments are those of :class:`_ConstantPadNd`.

    Shape:
        ``(*, H, W) -> (*, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConstantPad2d((1, 1, 2, 0), 3.5)(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 6, 6)
    """

    _rank = 2


class ConstantPad3d(_ConstantPadNd):
    """Pad volumes with one value; arguments are those of :class:`_ConstantPadNd`.

    Shape:
        ``(*, D, H, W) -> (*, D + front + back, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ConstantPad3d(1, 3.5)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 6, 6, 6)
    """

    _rank = 3


class ReflectionPad1d(_ReflectionPadNd):
    """Pad signals with their mirror image; arguments are those of :class:`_ReflectionPadNd`.

    Shape:
        ``(*, W) -> (*, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReflectionPad1d(2)(jnp.arange(3.0)[None]).tolist()
        [[2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0]]
    """

    _rank = 1


class ReflectionPad2d(_ReflectionPadNd):
    """Pad images with their mirror image; arguments are those of :class:`_ReflectionPadNd`.

    Shape:
        ``(*, H, W) -> (*, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReflectionPad2d((1, 1, 2, 0))(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 6, 6)
    """

    _rank = 2


class ReflectionPad3d(_ReflectionPadNd):
    """Pad volumes with their mirror image; arguments are those of :class:`_ReflectionPadNd`.

    Shape:
        ``(*, D, H, W) -> (*, D + front + back, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReflectionPad3d(1)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 6, 6, 6)
    """

    _rank = 3


class ReplicationPad1d(_ReplicationPadNd):
    """Pad signals with their edges; arguments are those of :class:`_ReplicationPadNd`.

    Shape:
        ``(*, W) -> (*, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReplicationPad1d((0, 2))(jnp.arange(3.0)[None]).tolist()
        [[0.0, 1.0, 2.0, 2.0, 2.0]]
    """

    _rank = 1


class ReplicationPad2d(_ReplicationPadNd):
    """Pad images with their edges; arguments are those of :class:`_ReplicationPadNd`.

    Shape:
        ``(*, H, W) -> (*, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReplicationPad2d((1, 1, 2, 0))(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 6, 6)
    """

    _rank = 2


class ReplicationPad3d(_ReplicationPadNd):
    """Pad volumes with their edges; arguments are those of :class:`_ReplicationPadNd`.

    Shape:
        ``(*, D, H, W) -> (*, D + front + back, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ReplicationPad3d(1)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 6, 6, 6)
    """

    _rank = 3


class ZeroPad1d(_ZeroPadNd, ConstantPad1d):
    """Pad signals with zeros; arguments are those of :class:`_ZeroPadNd`.

    Shape:
        ``(*, W) -> (*, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ZeroPad1d((1, -1))(jnp.ones((1, 3))).tolist()
        [[0.0, 1.0, 1.0]]
    """


class ZeroPad2d(_ZeroPadNd, ConstantPad2d):
    """Pad images with zeros; arguments are those of :class:`_ZeroPadNd`.

    Shape:
        ``(*, H, W) -> (*, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ZeroPad2d((1, 1, 2, 0))(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 6, 6)
    """


class ZeroPad3d(_ZeroPadNd, ConstantPad3d):
    """Pad volumes with zeros; arguments are those of :class:`_ZeroPadNd`.

    Shape:
        ``(*, D, H, W) -> (*, D + front + back, H + top + bottom, W + left + right)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.ZeroPad3d(1)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 6, 6, 6)
    """


def _repeat(value: Any, count: int) -> tuple[int, ...]:
    """Repeat one number; take a sequence as it is, as PyTorch does: ``F.pad`` checks it."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * count
