"""Resampling layers."""

from collections.abc import Sequence
from typing import Any

from jaxmodules._typing import Array
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules.module import Module


class Upsample(Module):
    """Resample the spatial axes of signals, images or volumes to a size, or by a factor.

    Args:
        size: the spatial sizes of the output, one for all or one each.
        scale_factor: the factors of the spatial sizes, one for all or one each, instead of ``size``.
        mode: ``"nearest"``, ``"linear"``, ``"bilinear"``, ``"bicubic"``, ``"trilinear"``, or another of those that
            :func:`~jaxmodules.nn.functional.interpolate` takes.
        align_corners: whether the centres of the corner elements coincide, rather than their outer corners.
        recompute_scale_factor: whether positions follow from the sizes instead of ``scale_factor`` itself.

    Shape:
        ``(N, C, *) -> (N, C, *size)``, where ``size`` is ``int(input_size * scale_factor)`` if not given

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.Upsample(scale_factor=2, mode="bilinear")(jnp.ones((1, 3, 4, 5))).shape
        (1, 3, 8, 10)
    """

    name: str
    size: int | Sequence[int] | None
    scale_factor: float | tuple[float, ...] | None
    mode: str
    align_corners: bool | None
    recompute_scale_factor: bool | None

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        if isinstance(scale_factor, tuple):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Array) -> Array:
        """Resample ``input``."""
        settings = (self.size, self.scale_factor, self.mode, self.align_corners)
        return F.interpolate(input, *settings, recompute_scale_factor=self.recompute_scale_factor)

    def extra_repr(self) -> str:
        """Show the size or the factor, and the mode."""
        size = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{size}, mode={self.mode!r}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled layer; old ones did not say how they meant ``scale_factor``."""
        super().__setstate__({"recompute_scale_factor": True} | state)


class UpsamplingNearest2d(Upsample):
    """Repeat the elements of an image; :class:`Upsample` with ``mode="nearest"``, and deprecated in its favour.

    Args:
        size: the sizes of the output, one for both or one each.
        scale_factor: the factors of the sizes, one for both or one each, instead of ``size``.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.UpsamplingNearest2d(scale_factor=2)(jnp.array([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | tuple[float, ...] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Interpolate an image between its corner elements; deprecated in favour of :class:`Upsample`.

    It is :class:`Upsample` with ``mode="bilinear", align_corners=True``.

    Args:
        size: the sizes of the output, one for both or one each.
        scale_factor: the factors of the sizes, one for both or one each, instead of ``size``.

    Shape:
        ``(N, C, H, W) -> (N, C, H_out, W_out)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.UpsamplingBilinear2d(size=(1, 3))(jnp.array([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.5, 2.0]]]]
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | tuple[float, ...] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
