"""Instance normalisation layers."""

import warnings
from typing import Any, ClassVar

from jaxmodules._typing import Array, DType
from jaxmodules.nn import functional as F
from jaxmodules.nn.functional.normalization import instance_norm_stats
from jaxmodules.nn.modules.batchnorm import _LazyNormBase, _NormBase


class _InstanceNorm(_NormBase):
    r"""Normalise every channel of every sample by its own mean and variance (Ulyanov et al., 2016).

    .. math:: y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    The statistics are those of the input; with ``track_running_stats`` the running ones move towards their average
    in training and are used in evaluation. ``_rank`` counts spatial axes.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: share of the newest batch in the running statistics; ``None`` keeps them as they are.
        affine: whether to scale and shift each channel by learnable parameters.
        track_running_stats: whether to keep running statistics, which evaluation then uses.
        device: where parameters and buffers live.
        dtype: type of the parameters and buffers, ``float32`` by default.
        bias: whether ``affine`` includes the shift.
    """

    _rank: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Array) -> Array:
        """Normalise ``input``."""
        self._check_input_dim(input)
        self._check_channels(input)
        unbatched = input.ndim == self._get_no_batch_dim()
        return self._handle_no_batch_input(input) if unbatched else self._apply_instance_norm(input)

    def _check_input_dim(self, input: Array) -> None:
        unbatched = self._rank + 1
        if input.ndim not in (unbatched, unbatched + 1):
            raise ValueError(f"expected {unbatched}D or {unbatched + 1}D input (got {input.ndim}D input)")

    def _check_channels(self, input: Array) -> None:
        dim = input.ndim - self._get_no_batch_dim()
        if input.shape[dim] == self.num_features:
            return
        if self.affine:
            raise ValueError(
                f"expected input's size at dim={dim} to match num_features"
                f" ({self.num_features}), but got: {input.shape[dim]}."
            )
        warnings.warn(
            f"input's size at dim={dim} does not match num_features. You can silence this warning by not passing in"
            " num_features, which is not used because affine=False",
            stacklevel=3,
        )

    def _get_no_batch_dim(self) -> int:
        return self._rank + 1

    def _handle_no_batch_input(self, input: Array) -> Array:
        return self._apply_instance_norm(input[None])[0]

    def _apply_instance_norm(self, input: Array) -> Array:
        stored = (self.running_mean, self.running_var, self.weight, self.bias)
        if not (self.training and self.track_running_stats):
            return F.instance_norm(input, *stored, not self.track_running_stats, eps=self.eps)
        momentum = 0.0 if self.momentum is None else self.momentum
        output, self.running_mean, self.running_var = instance_norm_stats(input, *stored, momentum, self.eps)
        return output

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        # before version 1 all layers tracked running statistics
        if local_metadata.get("version") is None and not self.track_running_stats:
            old = [prefix + name for name in ("running_mean", "running_var") if prefix + name in state_dict]
            if old:
                args[-1].append(self._old_checkpoint(old))
            for name in old:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _old_checkpoint(self, names: list[str]) -> str:
        listed, kind = " and ".join(f'"{name}"' for name in names), type(self).__name__
        return (
            f"Unexpected running stats buffer(s) {listed} for {kind} with track_running_stats=False. If state_dict is"
            f" a checkpoint saved before 0.4.0, this may be expected because {kind} does not track running stats by"
            " default since 0.4.0. Please remove these keys from state_dict. If the running stats are actually needed,"
            f" instead set track_running_stats=True in {kind} to enable them. See the documentation of {kind} for"
            " details."
        )


class InstanceNorm1d(_InstanceNorm):
    """Normalise the channels of signals; arguments are those of :class:`_InstanceNorm`.

    Shape:
        ``(N, C, L) -> (N, C, L)`` or ``(C, L) -> (C, L)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.InstanceNorm1d(100)(jnp.ones((20, 100, 40))).shape
        (20, 100, 40)
    """

    _rank = 1


class InstanceNorm2d(_InstanceNorm):
    """Normalise the channels of images; arguments are those of :class:`_InstanceNorm`.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)`` or ``(C, H, W) -> (C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.InstanceNorm2d(3, affine=True)(jnp.ones((2, 3, 5, 4))).shape
        (2, 3, 5, 4)
    """

    _rank = 2


class InstanceNorm3d(_InstanceNorm):
    """Normalise the channels of volumes; arguments are those of :class:`_InstanceNorm`.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)`` or ``(C, D, H, W) -> (C, D, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.InstanceNorm3d(3)(jnp.ones((3, 5, 4, 2))).shape
        (3, 5, 4, 2)
    """

    _rank = 3


class LazyInstanceNorm1d(_LazyNormBase, InstanceNorm1d):
    """An :class:`InstanceNorm1d` that finds ``num_features`` from the first input.

    Parameters and running statistics are there unless told otherwise, unlike with the class it becomes.

    Shape:
        ``(N, C, L) -> (N, C, L)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyInstanceNorm1d()(jnp.ones((4, 3, 5))).shape
        (4, 3, 5)
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyNormBase, InstanceNorm2d):
    """An :class:`InstanceNorm2d` that finds ``num_features`` from the first input.

    Parameters and running statistics are there unless told otherwise, unlike with the class it becomes.

    Shape:
        ``(N, C, H, W) -> (N, C, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyInstanceNorm2d()(jnp.ones((4, 3, 5, 5))).shape
        (4, 3, 5, 5)
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyNormBase, InstanceNorm3d):
    """An :class:`InstanceNorm3d` that finds ``num_features`` from the first input.

    Parameters and running statistics are there unless told otherwise, unlike with the class it becomes.

    Shape:
        ``(N, C, D, H, W) -> (N, C, D, H, W)``

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.LazyInstanceNorm3d()(jnp.ones((4, 3, 2, 2, 2))).shape
        (4, 3, 2, 2, 2)
    """

    cls_to_become = InstanceNorm3d
